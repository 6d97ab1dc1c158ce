"""Our modules against numbers that the official modules gave (float64), and against an independent formulation.

The golden part follows the recipe in official.py: fill by official keys, convert, compare every stored array.
"""

import math
from dataclasses import replace
from functools import cache, partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from official import GOLDEN, flow, image, normal, state_dict

from uniface import losses
from uniface.config import ModelConfig
from uniface.discriminator import Discriminator
from uniface.model import UniFace
from uniface.released import build, convert, reenactment_config, swapping_config
from uniface.transfer import resize


def recorded(module: torch.nn.Module, names: dict[str, str], found: dict[str, torch.Tensor], before: bool = False):
    """Hook submodules so that their outputs (inputs if `before`) land in `found` under golden names."""
    for path, name in names.items():
        sub = module.get_submodule(path)
        if before:
            sub.register_forward_pre_hook(lambda _, inputs, name=name: found.update({name: inputs[0]}))
        else:
            sub.register_forward_hook(lambda _, inputs, output, name=name: found.update({name: output}))


def reenactment_arrays(source: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
    modules = {name: state_dict(name) for name in ("Encoder_32", "Encoder_Pose", "Generator_32")}
    model, dropped = build(modules)
    assert sorted(dropped) == [f"Encoder_Pose:up{n}.2.{kind}" for n in (1, 2) for kind in ("bias", "weight")]
    found: dict[str, torch.Tensor] = {}
    encoder = {"from_rgb": "encoder.from_rgb"} | {f"blocks.{n}": f"encoder.block{n}" for n in range(4)}
    encoder["final"] = "encoder.F"
    recorded(model.identity_embedder, encoder, found)
    recorded(model.attribute_embedder, {"head": "attr.out2_upsampled"}, found, before=True)
    with torch.no_grad():
        parts = model.parts(source, target, task="reenactment")  # what the task returns the image of
        found["e2e.image"], found["attr.pre_relu"], found["attr.flow"] = parts.image, parts.z_t, parts.fdf
        found["attr.vector"] = F.relu(found["attr.pre_relu"])  # what the official forward returns
        recorded(model.generator.resizer, {f"layers.{n}": f"gen.ladder{n}" for n in range(10)}, found)
        synthesis = {"first": "gen.conv1"} | {f"blocks.{n}": f"gen.block{n}" for n in range(4)}
        recorded(model.generator.synthesis, synthesis, found)
        found["gen.flow32"] = resize(flow(), 32)
        found["gen.warped"] = model.attribute_transfer(found["encoder.F"], flow())
        found["gen.image"] = model.generator(found["gen.warped"], {8: found["encoder.F"]})
    return found


def swapping_arrays(source: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
    names = ("Encoder_return_32", "Generator_globalatt_return_32")
    model, dropped = build({name: state_dict(name) for name in names})
    assert sorted(name.partition(":")[2] for name in dropped) == ["style_mix.top.0.weight", "style_mix.top.1.bias"]
    found: dict[str, torch.Tensor] = {}
    recorded(model.generator.resizer, {f"layers.{n}": f"swap.ladder{n}" for n in range(8)}, found)
    synthesis = {"first": "swap.conv1"} | {f"blocks.{n}": f"swap.block{n}" for n in range(3)}
    recorded(model.generator.synthesis, synthesis, found)
    recorded(model, {"identity_transfer": "swap.mix"}, found)
    embedder = {"blocks.1": "swap.feat64_target", "blocks.2": "swap.feat32_target", "final": "swap.F_target"}
    recorded(model.identity_embedder, embedder, found)
    with torch.no_grad():
        found["swap.image"] = model(source, target, task="swapping")
        found["swap.F_source"] = found["swap.F_target"][:2]  # swapping embeds source and target as one batch
        found |= {name: found[name][2:] for name in embedder.values()}
        attention = model.identity_transfer.attention(found["swap.F_source"], found["swap.F_target"])
        found["swap.attention_max"] = attention.amax(dim=-1)
    return found


def discriminator_arrays(target: torch.Tensor, fake: torch.Tensor) -> dict[str, torch.Tensor]:
    model = Discriminator(ModelConfig())
    model.load_state_dict(convert("Discriminator", state_dict("Discriminator"))[0])
    found: dict[str, torch.Tensor] = {}
    # The gradient in float64, as the stored one: in float32 a few of the leaky ReLUs' inputs round to the other side of
    # zero on some processors, and each of these moves the gradient of its patch by some thousandths.
    real = target.double().requires_grad_()
    logits = model.double()(real)
    found["disc.logits_target"] = logits.detach()
    real.register_hook(lambda slope: found.update({"disc.r1_grad": slope.detach()}))  # what the penalty squares
    found["disc.r1_penalty"] = losses.gradient_penalty(logits, real).detach().reshape(1)
    model.float()
    recorded(model, {"blocks.5": "disc.features4", "final": "disc.final_conv"}, found)
    with torch.no_grad():
        found["disc.logits_fake"] = model(fake)
    return found


def contextual_arrays() -> dict[str, torch.Tensor]:
    target, fake = (torch.from_numpy(normal(f"cx.{k}", (2, 32, 12, 12))).clamp(min=0) for k in ("target", "fake"))
    fake.requires_grad_()
    loss = losses.contextual(fake, target)
    return {"cx.loss": loss.detach().reshape(1), "cx.grad_fake": torch.autograd.grad(loss, fake)[0]}


@pytest.fixture(scope="module")
def stored():
    with np.load(GOLDEN / "golden_uniface.npz") as file:
        return {name: file[name] for name in file.files}


@pytest.fixture(scope="module")
def computed():
    source, target = image("source"), image("target")
    found = {"input.source[::32]": source[..., ::32, ::32], "input.target[::32]": target[..., ::32, ::32]}
    found["input.flow[::8]"] = flow()[..., ::8, ::8]
    found |= reenactment_arrays(source, target)
    found |= swapping_arrays(source, target)
    found |= discriminator_arrays(target, found["gen.image"])
    return found | contextual_arrays()


def matching_part(full: torch.Tensor, shape: tuple[int, ...]) -> np.ndarray:
    """The strided part of `full` that the golden file stores: strides follow from the two shapes."""
    return full.numpy()[tuple(slice(None, None, a // b) for a, b in zip(full.shape, shape, strict=True))]


def test_every_stored_array_agrees(stored, computed):
    arrays = {name: array for name, array in stored.items() if not name.startswith("stat/")}
    assert len(arrays) >= 55 and set(arrays) == set(computed)
    wrong = {}
    for name, array in arrays.items():
        part = matching_part(computed[name], array.shape)
        assert part.shape == array.shape, name
        error, allowed = np.abs(part - array).max(), 1e-4
        if name.startswith("disc.r1_"):
            error, allowed = error / np.abs(array).max(), 1e-5
        elif name == "e2e.image":
            allowed = 5e-4  # rounding of the flow: the official float32 run differs by 1.2e-4
        elif name.startswith("input."):
            allowed = 0.0
        elif name.startswith("cx."):
            allowed = 1e-4 * np.abs(array).max()
        if error > allowed:
            wrong[name] = (float(error), float(allowed))
    assert not wrong


def test_statistics_of_the_full_tensors_agree(stored, computed):
    for name in (name for name in stored if name.startswith("stat/")):
        full = computed[name.removeprefix("stat/")].double()
        found = [full.mean(), full.std(correction=0), full.abs().max()]
        np.testing.assert_allclose(found, stored[name], rtol=1e-3, atol=1e-4, err_msg=name)


# An independent formulation, in the official style: zero-stuffed resampling, per-sample weights, grouped convolution,
# gamma and beta apart, attention by matrix products. Written on the official keys, so it also tests the importer.


def blurred(x, up=1, down=1, padding=(0, 0)):
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=x.dtype)
    kernel = taps[:, None] * taps[None] / 64 * up**2
    batch, channels, height, width = x.shape
    stuffed = x.new_zeros(batch, channels, height, up, width, up)
    stuffed[:, :, :, 0, :, 0] = x
    padded = F.pad(stuffed.reshape(batch, channels, height * up, width * up), (padding[0], padding[1]) * 2)
    flat = padded.reshape(batch * channels, 1, *padded.shape[2:])
    out = F.conv2d(flat, kernel[None, None])
    return out.reshape(batch, channels, *out.shape[2:])[:, :, ::down, ::down]


def activated(x, bias):
    return F.leaky_relu(x + bias.view(1, -1, 1, 1), 0.2) * math.sqrt(2)


def equal_conv(x, weight, **kwargs):
    return F.conv2d(x, weight / math.sqrt(weight[0].numel()), **kwargs)


def residual_block(x, s, down):
    out = activated(equal_conv(x, s["conv1.0.weight"], padding=1), s["conv1.1.bias"])
    if down:
        out = equal_conv(blurred(out, padding=(2, 2)), s["conv2.1.weight"], stride=2)
        out = activated(out, s["conv2.2.bias"])
        skip = equal_conv(blurred(x, padding=(1, 1)), s["skip.1.weight"], stride=2)
    else:
        out = activated(equal_conv(out, s["conv2.0.weight"], padding=1), s["conv2.1.bias"])
        skip = equal_conv(x, s["skip.0.weight"])
    return (out + skip) / math.sqrt(2)


def under(state, prefix):
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def encoder(x, s, blocks):
    x = activated(equal_conv(x, s["from_rgb.0.weight"]), s["from_rgb.1.bias"])
    features = []
    for n in range(blocks):
        x = residual_block(x, under(s, f"convs.{n}."), down=n < 3)
        features.append(x)
    return activated(equal_conv(x, s["final_conv.0.weight"], padding=1), s["final_conv.1.bias"]), features


def styled(x, stylemap, s, up=False):
    mean = x.flatten(1).mean(1).view(-1, 1, 1, 1)
    variance = x.flatten(1).var(1, correction=0).view(-1, 1, 1, 1)
    gamma = equal_conv(stylemap, s["conv.gamma.weight"], padding=1) + s["conv.gamma.bias"].view(1, -1, 1, 1)
    beta = equal_conv(stylemap, s["conv.beta.weight"], padding=1) + s["conv.beta.bias"].view(1, -1, 1, 1)
    x = (x - mean) / torch.sqrt(variance + 1e-5) * gamma + beta
    batch, channels, height, width = x.shape
    weight = s["conv.weight"].repeat(batch, 1, 1, 1, 1) / math.sqrt(s["conv.weight"][0, 0].numel())
    x = x.reshape(1, batch * channels, height, width)
    if up:
        weight = weight.transpose(1, 2).reshape(-1, weight.shape[1], 3, 3)
        x = F.conv_transpose2d(x, weight, stride=2, groups=batch)
        x = blurred(x.view(batch, -1, *x.shape[2:]), padding=(1, 1)) * 4
    else:
        weight = weight.flatten(0, 1)
        x = F.conv2d(x, weight, padding=weight.shape[-1] // 2, groups=batch)
        x = x.view(batch, -1, height, width)
    return activated(x, s["activate.bias"])


def decoder(f, s, base_layers, feature, stored):
    x, stylemaps, layer = f, [], 0
    for layer in range(base_layers + 6):
        up = layer >= base_layers and (layer - base_layers) % 2 == 0
        weight = s[f"convs_latent.{layer}.0.weight"]
        if up:
            scaled = weight.transpose(0, 1) / math.sqrt(weight[0].numel())
            out = blurred(F.conv_transpose2d(x, scaled, stride=2), padding=(1, 1)) * 4
        else:
            out = equal_conv(x, weight, padding=1)
        out = activated(out, s[f"convs_latent.{layer}.{2 if up else 1}.bias"])
        x = out + feature if layer < base_layers else out
        stylemaps.append(x if stored else out)
    x = styled(s["input.input"].repeat(f.shape[0], 1, 1, 1), stylemaps[0], under(s, "conv1."))
    blocks = (base_layers - 2) // 2 + 3
    for n in range(blocks):
        up = n >= blocks - 3
        skip = equal_conv(x, s[f"convs.{n}.skip.0.weight"])
        if up:
            skip = blurred(skip, up=2, padding=(2, 1))  # one more zero on the right: zero-stuffing here ends in a zero
        x = styled(x, stylemaps[2 * n + 1], under(s, f"convs.{n}.conv1."), up)
        x = (styled(x, stylemaps[2 * n + 2], under(s, f"convs.{n}.conv2.")) + skip) / math.sqrt(2)
    return styled(x, stylemaps[-1], under(s, "to_rgb."))


SALTS = ["", "another seed ", "a third "]
SMALL = 64  # pixels: the same 512-channel networks on an eighth of the grid


@cache
def narrowed(config):
    """UniFace with the released widths (128 at full size, then 256, 512, 512) at 64 px; all weights are yet to load."""
    return UniFace(replace(config, image_size=SMALL, channel_base=128 * SMALL)).eval()


def loaded(config, states):
    """UniFace with the official states; the learnt constant is cut to the small grid, the rest has no size."""
    ours = {}
    for module, state in states.items():
        ours |= convert(module, state)[0]
    model = narrowed(config)
    missing, unexpected = model.load_state_dict(ours, strict=False)
    assert not unexpected and all(name.startswith("attribute_embedder.") for name in missing)  # what no test here uses
    return model


@pytest.mark.parametrize("salt", SALTS)
def test_released_reenactment_equals_an_independent_formulation(salt):
    draw = partial(normal, salt=salt)
    states = {name: state_dict(name, draw) for name in ("Encoder_32", "Generator_32")}
    states["Generator_32"]["decoder.input.input"] = states["Generator_32"]["decoder.input.input"][..., :8, :8]
    source = image("source", draw, SMALL)
    displacement = flow(draw, 16)
    model = loaded(reenactment_config(), states)
    with torch.no_grad():
        f_s, _ = model.identity_embedder(source)
        ours = model.generator(model.attribute_transfer(f_s, displacement), {8: f_s})
        f, _ = encoder(source, states["Encoder_32"], blocks=4)
        small = F.interpolate(displacement, size=8, mode="bilinear", align_corners=True)
        warped = bilinear_samples(f, small)
        theirs = decoder(warped, under(states["Generator_32"], "decoder."), 4, f, stored=True)
    torch.testing.assert_close(f_s, f, rtol=0, atol=1e-4)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


def bilinear_samples(f, displacement):
    """grid_sample in words: corner-aligned pixel coordinates, four weighted neighbours, zeros outside."""
    size = f.shape[-1]
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    x = x + displacement[:, 0] * (size - 1) / 2
    y = y + displacement[:, 1] * (size - 1) / 2
    out = torch.zeros_like(f)
    for dx in (0, 1):
        for dy in (0, 1):
            cx, cy = x.floor() + dx, y.floor() + dy
            weight = (1 - (x - cx).abs()) * (1 - (y - cy).abs()) * ((cx >= 0) & (cx < size) & (cy >= 0) & (cy < size))
            at = (cy.clamp(0, size - 1) * size + cx.clamp(0, size - 1)).long().flatten(1)
            values = f.flatten(2).gather(2, at[:, None].expand(-1, f.shape[1], -1))
            out += weight[:, None] * values.view_as(f)
    return out


@pytest.mark.parametrize("salt", SALTS)
def test_released_swapping_equals_an_independent_formulation(salt):
    draw = partial(normal, salt=salt)
    names = ("Encoder_return_32", "Generator_globalatt_return_32")
    states = {name: state_dict(name, draw) for name in names}
    official = states["Generator_globalatt_return_32"]
    official["decoder.input.input"] = official["decoder.input.input"][..., :8, :8]
    source, target = image("source", draw, SMALL), image("target", draw, SMALL)
    model = loaded(swapping_config(), states)
    with torch.no_grad():
        ours = model(source, target, task="swapping")
        f_s, _ = encoder(source, states["Encoder_return_32"], blocks=3)
        f_t, features = encoder(target, states["Encoder_return_32"], blocks=3)
        q = equal_conv(f_t, official["style_mix.cq.0.weight"]).flatten(2)
        k = equal_conv(f_s, official["style_mix.ck.0.weight"]).flatten(2)
        v = equal_conv(f_s, official["style_mix.cv.0.weight"]).flatten(2)
        attention = torch.softmax(torch.bmm(q.transpose(1, 2), k) / math.sqrt(512), dim=-1)
        mixed = torch.bmm(v, attention.transpose(1, 2)).view_as(f_t) * official["style_mix.gamma"] + f_t
        theirs = decoder(mixed, under(official, "decoder."), 2, features[2], stored=False)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
