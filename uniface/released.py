"""The released networks: configurations that form them exactly, and the importer of their checkpoints.

The official release has no joint model: its reenactment network has no IdT, its swapping network no AttrT and no
attribute embedder. Nothing is unpickled but tensors and the `argparse.Namespace` of training options.
"""

import argparse
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from uniface.config import ModelConfig
from uniface.model import UniFace

PREFIXES = {  # official module class -> where its parameters live in UniFace
    "Encoder_32": "identity_embedder.",
    "Encoder_return_32": "identity_embedder.",
    "Encoder_Pose": "attribute_embedder.",
    "Generator_32": "generator.",
    "Generator_globalatt_return_32": "generator.",
    "Discriminator": "",
}
DEAD = (r"style_mix\.top\.", r"up[12]\.")  # in the official state dicts, never used in the official forward
ATTENTION = {
    "gamma": "alpha",
    "cq.0.weight": "query.weight",
    "ck.0.weight": "key.weight",
    "cv.0.weight": "value.weight",
}


@dataclass
class Report:
    """What an import found."""

    task: str = ""
    used: dict[str, str] = field(default_factory=dict)  # checkpoint entry -> official module class
    ignored: dict[str, str] = field(default_factory=dict)  # checkpoint entry -> why
    dropped: list[str] = field(default_factory=list)  # parameters that the official forward never uses
    parameters: int = 0

    def __str__(self) -> str:
        lines = [f"a released {self.task} network, {self.parameters / 1e6:.2f} M parameters"]
        lines += [f"  used     {entry}: {module}" for entry, module in self.used.items()]
        lines += [f"  ignored  {entry}: {why}" for entry, why in self.ignored.items()]
        lines += [f"  dropped  {name}: never used by the official forward" for name in self.dropped]
        return "\n".join(lines)


def reenactment_config(image_size: int = 256) -> ModelConfig:
    """Encoder_32 + Encoder_Pose + Generator_32: AttrT only, F itself added to the stylemaps, unwarped."""
    return ModelConfig(
        image_size=image_size, use_idt=False, skip_features="output", skip_strides=(8,), skip_warped=False
    )


def swapping_config(image_size: int = 256) -> ModelConfig:
    """Encoder_return_32 + Generator_globalatt_return_32: IdT only, V of full width, logits over sqrt(C)."""
    return ModelConfig(
        image_size=image_size,
        identity_blocks=0,
        use_attrt=False,
        attention_value="full",
        attention_logits="released",
        base_blocks=0,
        skip_strides=(8,),
        skip_stored=False,
    )


def convert(module: str, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Our state dict of one official module, by class name, and the official parameters dropped as dead.

    Names start where UniFace keeps the module ("identity_embedder.", ...); those of the discriminator at its root.
    Buffers of blur kernels are left out: ours are constants. Raises ValueError for a class or a key it does not know.
    """
    if module not in PREFIXES:
        raise ValueError(f"no official module is called {module!r}: use one of {', '.join(PREFIXES)}")
    converted, dropped, pairs = {}, [], {}
    for key, value in state.items():
        if key.endswith(".kernel"):
            continue
        if any(re.match(pattern, key) for pattern in DEAD):
            dropped.append(key)
        elif match := re.fullmatch(r"(.+)\.conv\.(gamma|beta)\.(weight|bias)", key):
            layer, half, kind = match.groups()
            pairs.setdefault((layer, kind), {})[half] = value
        else:
            name, value = _rename(module, key, value)
            converted[name] = value
    for (layer, kind), halves in pairs.items():  # one convolution makes both
        if set(halves) != {"gamma", "beta"}:
            raise ValueError(f"{module} has {layer}.conv.{next(iter(halves))}.{kind} without its other half")
        name, _ = _rename(module, f"{layer}.activate.bias", halves["gamma"])
        name = name.removesuffix("bias") + f"modulation.{kind}"
        converted[name] = torch.cat([halves["gamma"], halves["beta"]])
    return converted, dropped


def _rename(module: str, key: str, value: Tensor) -> tuple[str, Tensor]:
    """Our name, and shape, of one official parameter."""
    prefix = PREFIXES[module]
    if key.startswith("style_mix.") and key.removeprefix("style_mix.") in ATTENTION:
        return "identity_transfer." + ATTENTION[key.removeprefix("style_mix.")], value
    if module == "Encoder_Pose":
        if match := re.fullmatch(r"down(\d)\.0\.(weight|bias)", key):
            return f"{prefix}down.{match[1]}.0.{match[2]}", value
        if match := re.fullmatch(r"up(\d)\.2\.(weight|bias)", key):
            return f"{prefix}up.{7 - int(match[1])}.0.{match[2]}", value  # up7 is the first
        if match := re.fullmatch(r"out2\.2\.(weight|bias)", key):
            return f"{prefix}head.{match[1]}", value
    elif module.startswith("Generator"):
        if key == "decoder.input.input":
            return prefix + "synthesis.constant", value
        if match := re.fullmatch(r"decoder\.convs_latent\.(\d+)\.\d\.(weight|bias)", key):
            return f"{prefix}resizer.layers.{match[1]}.{match[2]}", value
        if match := re.fullmatch(r"decoder\.convs\.(\d+)\.skip\.0\.weight", key):
            return f"{prefix}synthesis.blocks.{match[1]}.skip.conv.weight", value
        if match := re.fullmatch(r"decoder\.(conv1|to_rgb|convs\.\d+\.conv[12])\.(conv\.weight|activate\.bias)", key):
            layer = re.sub(r"^conv1$", "first", match[1]).replace("convs.", "blocks.")
            if match[2] == "activate.bias":
                return f"{prefix}synthesis.{layer}.bias", value
            return f"{prefix}synthesis.{layer}.weight", value.squeeze(0)  # (1, O, I, k, k): one for all samples
    else:
        if match := re.fullmatch(r"final_linear\.([01])\.(weight|bias)", key):
            return f"{'hidden' if match[1] == '0' else 'logit'}.{match[2]}", value
        if match := re.fullmatch(r"(from_rgb|final_conv|convs\.0)\.\d\.(weight|bias)", key):
            return f"{prefix}{'final' if match[1] == 'final_conv' else 'from_rgb'}.{match[2]}", value
        if match := re.fullmatch(r"convs\.(\d+)\.(conv1|conv2|skip)\.\d\.(weight|bias)", key):
            number = int(match[1]) - (module == "Discriminator")  # its convs.0 is from_rgb
            layer = "skip.conv" if match[2] == "skip" else match[2]
            return f"{prefix}blocks.{number}.{layer}.{match[3]}", value
    raise ValueError(f"{module} of the release has no parameter {key!r}: is this another version's checkpoint?")


def build(modules: Mapping[str, Mapping[str, Tensor]]) -> tuple[UniFace, list[str]]:
    """A UniFace in eval mode from official state dicts by module class, and the parameters dropped.

    Raises ValueError if together they are neither the released reenactment nor the released swapping network.
    """
    if "Generator_32" in modules:
        generator, configuration = "Generator_32", reenactment_config
        needed = {"Encoder_32", "Encoder_Pose", generator}
    elif "Generator_globalatt_return_32" in modules:
        generator, configuration = "Generator_globalatt_return_32", swapping_config
        needed = {"Encoder_return_32", generator}
    else:
        raise ValueError(f"no generator among {sorted(modules)}")
    if "decoder.input.input" not in modules[generator]:
        raise ValueError(f"{generator}'s weights have no decoder.input.input: is this another network's checkpoint?")
    config = configuration(8 * modules[generator]["decoder.input.input"].shape[-1])
    if needed - set(modules):
        raise ValueError(f"the released network also needs {sorted(needed - set(modules))}")
    state, dropped = {}, []
    for module in sorted(needed):
        converted, dead = convert(module, modules[module])
        state |= converted
        dropped += [f"{module}:{name}" for name in dead]
    model = UniFace(config)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        first = str(error).splitlines()[1:2] or [str(error)]  # of hundreds; the head only names the class
        raise ValueError(f"the checkpoint does not fit the released networks: {_cut(first[0].strip())}") from error
    return model.eval(), dropped


def _some(names: Iterable[object], most: int = 5) -> str:
    """The first names of many, as text."""
    names = sorted(map(str, names))
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "nothing") + more


def _cut(text: str, most: int = 200) -> str:
    return text if len(text) <= most else text[:most] + " ..."


def _is_safetensors(path: Path) -> bool:
    """Whether the file begins as safetensors files do: the length of a JSON text, then the text."""
    with path.open("rb") as file:
        length, begins = int.from_bytes(file.read(8), "little"), file.read(1)
    return begins == b"{" and length < path.stat().st_size


def import_checkpoint(path: str | Path) -> tuple[UniFace, Report]:
    """Read a released checkpoint (reenact .pt or swap .pt), preferring the averaged (EMA) weights.

    Raises FileNotFoundError, or ValueError saying what the file has instead.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} not found: download the released checkpoint first")
    if _is_safetensors(path):  # which torch.load would read too
        raise ValueError(f"{path} is a safetensors file, no released checkpoint (.pt): ours need no import")
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):  # the training options; nothing else is unpickled
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load lets KeyError, IndexError and others out of a file that is no pickle
        # not its text: it is a page that recommends to load unsafely
        raise ValueError(
            f"{path} is no checkpoint of tensors and options alone: it is damaged, another kind of file, or holds "
            "other objects, which are never unpickled"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}: expected the released dict of state dicts")

    report, chosen = Report(), {}
    for average, plain in (("g_ema", "generator"), ("e_ema", "encoder"), ("e_ema_p", "encoder_p")):
        entry = average if average in content else plain
        if entry in content:
            chosen[entry] = content[entry]
            if entry == average and plain in content:
                report.ignored[plain] = f"{average} has its averaged weights"
    generator = chosen.get("g_ema", chosen.get("generator"))
    if generator is None:
        raise ValueError(f"{path} has {_some(content)}: expected g_ema or generator, and e_ema or encoder")
    for entry, state in chosen.items():
        if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
            raise ValueError(f"{path} has a {type(state).__name__} as {entry}: expected its parameters by name")
    swapping = any(key.startswith("style_mix.") for key in generator)
    report.task = "swapping" if swapping else "reenactment"
    classes = {
        "g": "Generator_globalatt_return_32" if swapping else "Generator_32",
        "e": "Encoder_return_32" if swapping else "Encoder_32",
        "p": "Encoder_Pose",
    }
    modules = {}
    for entry, state in chosen.items():
        if entry.endswith("_p") and swapping:
            report.ignored[entry] = "the released swapping network does not use it"
            continue
        module = classes["p" if entry.endswith("_p") else entry[0]]
        modules[module], report.used[entry] = state, module
    for entry in content:
        if entry not in chosen and entry not in report.ignored:
            report.ignored[str(entry)] = "not part of the generator's side"
    model, report.dropped = build(modules)
    report.parameters = sum(p.numel() for p in model.parameters())
    return model, report
