"""UniFace: both tasks in one framework (Sec. 3.2), and its file format."""

import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from uniface.config import TASKS, ModelConfig, Task
from uniface.embedders import AttributeEmbedder, IdentityEmbedder
from uniface.files import atomic_write
from uniface.generator import Generator
from uniface.transfer import AttributeMaps, AttributeTransfer, IdentityTransfer

TOLERANCE = 1e-3  # how far outside [-1, 1] an image may be: rounding, not another range


class Parts(NamedTuple):
    """What a task computes on its way to the image, in the paper's names; None where a switch leaves the part out."""

    image: Tensor  # (B, 3, H, W)
    z_t: Tensor | None  # (B, 512)
    fdf: Tensor | None  # (B, 2, H/4, W/4)
    f_bar_s: Tensor  # (B, C, H/8, W/8), f_s in the target's pose
    f_hat: Tensor  # (B, C, H/8, W/8), what the generator gets
    attention: Tensor | None = None  # (B, N, N) from `explain` only: rows are tokens of f_r, columns of f_i


class UniFace(nn.Module):
    """Face reenactment and face swapping with shared embedders, transfers and generator. Sec. 3.2.

    `source` gives the identity, `target` the attributes; both are float RGB (B, 3, H, W) in [-1, 1].
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.identity_embedder = IdentityEmbedder(config)
        self.attribute_embedder = AttributeEmbedder(config) if config.use_attrt else None
        self.attribute_transfer = AttributeTransfer(config) if config.use_attrt else None
        self.attribute_maps = nn.ModuleDict()
        """What paints the decoded maps on warped features, by stride."""
        if config.use_attrt and config.attribute_maps:
            strides = {config.feature_stride, *(s for s in config.skip_strides if s >= config.fdf_stride)}
            for stride in sorted(strides):
                width = config.width(config.image_size // stride)
                self.attribute_maps[str(stride)] = AttributeMaps(config.attribute_maps, width)
        self.identity_transfer = IdentityTransfer(config) if config.use_idt else None
        self.generator = Generator(config)
        self.skip_enabled = True
        """Whether the generator gets its skips now; closed while a training begins (`TrainConfig.skip_from`)."""
        self.half_size = False
        """Whether all but the attribute embedder works at half of the size now (`TrainConfig.half_until`)."""

    def forward(self, source: Tensor, target: Tensor, driver: Tensor | None = None, *, task: Task) -> Tensor:
        """The image that a task makes, (B, 3, H, W); arguments and errors as in `parts`."""
        return self.parts(source, target, driver, task=task).image

    def parts(self, source: Tensor, target: Tensor, driver: Tensor | None = None, *, task: Task) -> Parts:
        """The image that a task makes with what it is made of.

        `reenactment`: the source's face with the target's pose and expression. `swapping`: the target's picture with
        the source's identity. `driver`, if given, replaces the target at the attribute embedder: the augmented target
        in training. Raises ValueError for an unknown task, and images of another size, range, dtype, channel count or
        batch size.
        """
        self._check(source=source, target=target, driver=driver)
        return self._parts(task, source, target, target if driver is None else driver)

    @torch.no_grad()
    def explain(self, source: Tensor, target: Tensor, *, task: Task) -> Parts:
        """The image with its FDF, features and attention, for pictures such as the paper's Fig. 8 and 9."""
        self._check(source=source, target=target)
        parts = self._parts(task, source, target, target)
        if self.identity_transfer is None:
            return parts
        f, _ = self.identity_embedder(torch.cat([source, target]))
        f_s, f_t = f.chunk(2)
        f_i, f_r = (f_s, parts.f_bar_s) if task == "reenactment" else (parts.f_bar_s, f_t)
        return parts._replace(attention=self.identity_transfer.attention(f_i, f_r))

    def _parts(self, task: Task, source: Tensor, target: Tensor, driver: Tensor) -> Parts:
        """What a task computes, its arguments unchecked."""
        if task not in TASKS:
            raise ValueError(f"task {task!r} is none of {', '.join(TASKS)}")
        z_t, field = self._attributes(driver, source)  # Eq. 2
        if self.half_size:
            source, target = (F.avg_pool2d(image, 2) for image in (source, target))
        if task == "reenactment":
            return self._reenact(source, z_t, field)
        return self._swap(source, target, z_t, field)

    def _reenact(self, source: Tensor, z_t: Tensor | None, field: Tensor | None) -> Parts:
        f_s, f_s_i = self.identity_embedder(source)  # Eq. 1
        f_bar_s = self._align(f_s, field, self.config.feature_stride)  # Eq. 3
        f_hat_s = self._transfer_identity(f_s, f_bar_s)  # Eq. 4 and 5 with F_i = f_s, F_r = f_bar_s
        f_s_i = self._skips(f_s, f_s_i)
        if self.config.skip_warped:
            # Eq. 6 hands F_s^i to the generator. Unwarped, its texture would lie where the source's face was, not where
            # f_hat_s now puts it, so the FDF moves it along (the released network adds F_s unwarped: a switch).
            f_s_i = {stride: self._align(feature, field, stride) for stride, feature in f_s_i.items()}
        return Parts(self.generator(f_hat_s, f_s_i), z_t, _fdf(field), f_bar_s, f_hat_s)

    def _swap(self, source: Tensor, target: Tensor, z_t: Tensor | None, field: Tensor | None) -> Parts:
        f, f_i = self.identity_embedder(torch.cat([source, target]))  # Eq. 1, both images in one batch
        f_s, f_t = f.chunk(2)
        f_bar_s = self._align(f_s, field, self.config.feature_stride)  # Eq. 3
        f_hat_t = self._transfer_identity(f_bar_s, f_t)  # Eq. 4 and 5 with F_i = f_bar_s, F_r = f_t
        f_t_i = self._skips(f_t, {stride: feature.chunk(2)[1] for stride, feature in f_i.items()})
        return Parts(self.generator(f_hat_t, f_t_i), z_t, _fdf(field), f_bar_s, f_hat_t)

    def _attributes(self, driver: Tensor, source: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """z_t, and the FDF with the maps behind it."""
        return (None, None) if self.attribute_embedder is None else self.attribute_embedder(driver, source)

    def _align(self, feature: Tensor, field: Tensor | None, stride: int) -> Tensor:
        """A feature of this stride warped by the FDF, with the maps painted on it."""
        if self.attribute_transfer is None:
            return feature
        feature = self.attribute_transfer(feature, _fdf(field))
        if str(stride) not in self.attribute_maps:
            return feature
        return self.attribute_maps[str(stride)](feature, field[:, 2:])

    def _transfer_identity(self, f_i: Tensor, f_r: Tensor) -> Tensor:
        return f_r if self.identity_transfer is None else self.identity_transfer(f_i, f_r)

    def _skips(self, f: Tensor, f_i: dict[int, Tensor]) -> dict[int, Tensor]:
        """The features that the generator uses, by stride."""
        if self.config.skip == "none" or not self.skip_enabled:
            return {}
        if self.config.skip_features == "output":
            return {self.config.feature_stride: f}
        return {stride: f_i[stride] for stride in self.config.skip_strides}

    def set_checkpointing(self, enabled: bool) -> "UniFace":
        """Recompute block activations in the backward pass: less memory, about a third more time, equal gradients."""
        for module in self.modules():
            if hasattr(module, "checkpointing"):
                module.checkpointing = enabled
        return self

    def _check(self, **images: Tensor | None) -> None:
        """Raise ValueError for bad images. The range costs a pass over the pixels: not while training or compiling."""
        size = self.config.image_size
        batches = {}
        for name, image in images.items():
            if image is None:
                continue
            if not isinstance(image, Tensor) or not image.is_floating_point():
                found = image.dtype if isinstance(image, Tensor) else type(image).__name__
                raise ValueError(f"{name} must be a float tensor in [-1, 1], got {found}: see uniface.images.to_tensor")
            if image.ndim != 4 or image.shape[1] != 3:
                raise ValueError(f"{name} must be RGB of shape (B, 3, {size}, {size}), got {tuple(image.shape)}")
            if image.shape[-2:] != (size, size):
                found = f"{image.shape[-2]} x {image.shape[-1]}"
                raise ValueError(f"{name} must be {size} x {size} pixels, got {found}: see uniface.images.resize")
            if not self.training and not torch.compiler.is_compiling():
                low, high = (v.item() for v in torch.aminmax(image.detach())) if image.numel() else (0.0, 0.0)
                if not (low >= -1 - TOLERANCE and high <= 1 + TOLERANCE):  # also false for NaN
                    raise ValueError(f"{name} must be in [-1, 1], got values from {low:.4g} to {high:.4g}")
            batches[name] = image.shape[0]
        if 0 in batches.values() or len(set(batches.values())) > 1:
            found = ", ".join(f"{name} {n}" for name, n in batches.items())
            raise ValueError(f"images must come in batches of the same size, at least 1, got {found}")

    def save(self, path: str | Path, extra: dict[str, Any] | None = None) -> None:
        """Write all weights as safetensors with the config, and `extra` (JSON values), as metadata; atomically."""
        metadata = {"format": "uniface", "config": json.dumps(dataclasses.asdict(self.config))}
        metadata["extra"] = json.dumps(extra or {})
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        with atomic_write(path) as part:
            save_file(state, part, metadata=metadata)

    @classmethod
    def load(cls, path: str | Path, device: str | torch.device = "cpu", **overrides: Any) -> "UniFace":
        """The model that `save` wrote, in eval mode, on `device`.

        `overrides` replace fields of its config. Weights that only the overrides need must be zero-initialised skips:
        `UniFace.load(path, skip="zero_init")` adds the skip to a model trained without, and it paints the same picture.
        Raises FileNotFoundError, or ValueError if the file is no UniFace model or does not fit its config.
        """
        config, _ = read_metadata(path)
        model = cls(dataclasses.replace(config, **overrides))
        with safe_open(path, framework="pt") as file:
            state = {name: file.get_tensor(name) for name in file.offset_keys()}
        try:
            missing, unexpected = model.load_state_dict(state, strict=False)
        except RuntimeError as error:
            raise ValueError(f"{path} does not fit its own config: {error}") from error
        missing = [name for name in missing if not name.startswith("generator.resizer.skips.")]
        if missing or unexpected:
            raise ValueError(f"{path} does not fit its config: missing {missing[:5]}, not known {unexpected[:5]}")
        return model.to(device).eval()


def _fdf(field: Tensor | None) -> Tensor | None:
    """The FDF without the maps behind it."""
    return None if field is None else field[:, :2]


def read_metadata(path: str | Path) -> tuple[ModelConfig, dict[str, Any]]:
    """The config and the extra values inside a model file. Errors as in `UniFace.load`."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} not found: train it with dvc repro, or fetch it with dvc pull")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path} is no safetensors file: {error}") from error
    if metadata.get("format") != "uniface":
        raise ValueError(f"{path} is no UniFace model: for a released checkpoint use python -m uniface import")
    values = json.loads(metadata["config"])
    known = {field.name for field in dataclasses.fields(ModelConfig)}
    if set(values) - known:
        raise ValueError(f"{path} has config keys that this version does not know: {sorted(set(values) - known)}")
    values = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    return ModelConfig(**values), json.loads(metadata.get("extra", "{}"))
