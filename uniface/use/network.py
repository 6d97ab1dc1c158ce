"""The model in two steps, so that a video's source is looked at once: features of the source, then a frame each.

The only place of this package that runs the networks; the ONNX files are exported from the same two modules.
"""

import copy

import torch
from torch import Tensor, nn

from uniface.model import Parts, UniFace
from uniface.use.winograd import quickened


class SourceFeatures(nn.Module):
    """Source (B, 3, H, W) in [-1, 1] to what a task needs of it: f_s, with `fdf_source` z_s, and in reenactment the
    skips F_s^i (Eq. 1).

    `names` are those of the answers, in order.
    """

    def __init__(self, model: UniFace, task: str):
        super().__init__()
        self.model = model
        self.strides = _strides(model) if task == "reenactment" else []
        self.with_vector = _with_vector(model)
        self.dtype = next(model.identity_embedder.parameters()).dtype
        self.names = ["f_s", *["z_s"] * self.with_vector, *(f"f_s_{stride}" for stride in self.strides)]

    def forward(self, source: Tensor) -> tuple[Tensor, ...]:
        f_s, f_s_i = self.model.identity_embedder(source.to(self.dtype))
        vector = [self.model.attribute_embedder.encode(source)] if self.with_vector else []
        skips = self.model._skips(f_s, f_s_i)
        return f_s, *vector, *(skips[stride] for stride in self.strides)


class Frame(nn.Module):
    """Target (B, 3, H, W) in [-1, 1] and the source's features to the image (B, 3, H, W). Sec. 3.2, Eq. 2 to 6."""

    def __init__(self, model: UniFace, task: str):
        super().__init__()
        self.model, self.task = model, task
        self.strides, self.with_vector = _strides(model), _with_vector(model)

    def forward(self, target: Tensor, f_s: Tensor, *others: Tensor) -> Tensor:
        model, field = self.model, None
        vector, skips = others[: self.with_vector], others[self.with_vector :]
        if model.attribute_embedder is not None:
            field = model.attribute_embedder.decode(
                torch.cat([model.attribute_embedder.encode(target), *vector], dim=1)
            )
        f_bar_s = model._align(f_s, field, model.config.feature_stride)
        if self.task == "reenactment":
            f_s_i = dict(zip(self.strides, skips, strict=True))
            if model.config.skip_warped:
                f_s_i = {stride: model._align(feature, field, stride) for stride, feature in f_s_i.items()}
            return model.generator(model._transfer_identity(f_s, f_bar_s), f_s_i)
        f_t, f_t_i = model.identity_embedder(target.to(f_s.dtype))
        return model.generator(model._transfer_identity(f_bar_s, f_t), model._skips(f_t, f_t_i))


def _with_vector(model: UniFace) -> bool:
    """Whether the FDF is decoded from the source's attribute vector too."""
    return model.attribute_embedder is not None and model.config.fdf_source


def _strides(model: UniFace) -> list[int]:
    """The strides of the skips that the generator uses."""
    config = model.config
    if config.skip == "none" or not model.skip_enabled:
        return []
    return [config.feature_stride] if config.skip_features == "output" else sorted(config.skip_strides)


class Network:
    """One task of a model, ready for many frames with one source; tensors in and out are float32 in [-1, 1].

    `half` computes in bfloat16: about twice as fast where the processor or GPU knows it, and a little less exact.
    """

    def __init__(self, model: UniFace, task: str, device: str | torch.device = "cpu", half: bool = False):
        self.size, self.task, self.device = model.config.image_size, task, torch.device(device)
        self.dtype = torch.bfloat16 if half else torch.float32
        if half:
            model = copy.deepcopy(model)
        elif self.device.type == "cpu":
            model = quickened(model)
        model = model.to(self.device, self.dtype, memory_format=torch.channels_last).eval()
        if half and model.attribute_embedder is not None:
            model.attribute_embedder.float()  # bfloat16 has too few digits for coordinates
        self.model = model
        self._source, self._frame = SourceFeatures(model, task), Frame(model, task)

    @torch.inference_mode()
    def source(self, source: Tensor) -> tuple[Tensor, ...]:
        """What `frame` needs to know of the source (B, 3, S, S)."""
        return self._source(self._placed(source))

    @torch.inference_mode()
    def frame(self, features: tuple[Tensor, ...], target: Tensor) -> Tensor:
        """The image (B, 3, S, S) for targets (B, 3, S, S); features of one source serve a batch."""
        batch = target.shape[0]
        features = tuple(f if f.shape[0] == batch else f.expand(batch, *f.shape[1:]) for f in features)
        return self._frame(self._placed(target), *features)

    def explain(self, source: Tensor, target: Tensor) -> Parts:
        """What is inside for (B, 3, S, S) each, see `UniFace.explain`; only in float32."""
        return self.model.explain(self._placed(source), self._placed(target), task=self.task)

    def _placed(self, image: Tensor) -> Tensor:
        size = self.size
        if image.ndim != 4 or tuple(image.shape[1:]) != (3, size, size):
            raise ValueError(f"the model takes (B, 3, {size}, {size}) in [-1, 1], got {tuple(image.shape)}")
        return image.to(self.device, torch.float32, memory_format=torch.channels_last)
