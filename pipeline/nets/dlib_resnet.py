"""dlib's face recognition ResNet (dlib_face_recognition_resnet_model_v1) as a recogniser of ArcFace's 112 px crops.

dlib takes chips of 150 px, on which the eyes are further up and apart than on ArcFace's crops; ours are brought there
inside the network, the missing rows below the chin being repeated from the last one. Its raw cosines all lie close to
1, so the manifest gives a `centre` that is subtracted before normalising (see `uniface.backbones.Recogniser`).
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.nets import onnx_files
from pipeline.nets.dlib_file import Layer, Saved, read

CROP_SIZE = 112
# Where the middles of the eyes are, x left, x right and y: on ArcFace's crop (insightface's template), and on dlib's
# chip of side 1 (means of the eye corners of its five-point mean face, in a margin of a quarter).
_ARCFACE_EYES = (38.2946, 73.5318, 51.5991)
_DLIB_EYES = (0.31818, 0.66854, 0.31426)
_TAIL = ("avg_pool", "fc")
_STEM = ("con", "affine", "relu", "max_pool")


class DlibResNet(nn.Module):
    """RGB chips (B, 3, 150, 150) in 0..255, aligned as dlib does, to embeddings (B, 128) of about unit length."""

    def __init__(self, saved: Saved):
        super().__init__()
        self.register_buffer("mean", torch.tensor(saved.mean).view(1, 3, 1, 1))
        _expect(saved.layers[: len(_STEM)], _STEM)
        layers = iter(saved.layers)
        stem, affine, _, pool = (next(layers) for _ in _STEM)
        self.stem = _convolution(stem, affine)
        self.pool = nn.MaxPool2d(pool.settings[0], pool.settings[2])
        self.blocks = nn.Sequential(*_blocks(layers, len(saved.layers) - len(_STEM) - len(_TAIL)))
        tail = tuple(layers)
        _expect(tail, _TAIL)
        outputs, inputs = tail[1].settings
        self.weight = nn.Parameter(torch.from_numpy(tail[1].values).view(inputs, outputs))

    def forward(self, chips: Tensor) -> Tensor:
        x = (chips - self.mean) / 256
        x = self.pool(F.relu(self.stem(x)))
        return self.blocks(x).mean(dim=(2, 3)) @ self.weight  # (B, 128)


class Block(nn.Module):
    """Two convolutions beside a connection that keeps its input or, where they halve, its means of 2 x 2."""

    def __init__(self, first: nn.Module, second: nn.Module, pool: bool):
        super().__init__()
        self.first, self.second, self.pool = first, second, pool

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(F.relu(self.first(x)))
        if self.pool:
            x = F.avg_pool2d(x, 2)
        # what is smaller, in channels or in size, counts as zero beyond its end
        sizes = [max(a, b) for a, b in zip(x.shape[1:], y.shape[1:], strict=True)]
        return F.relu(_padded(x, sizes) + _padded(y, sizes))


class OfCrops(nn.Module):
    """`net` of ArcFace's crops (B, 3, 112, 112) in [-1, 1]: each becomes a chip, bilinearly, edges repeated."""

    def __init__(self, net: DlibResNet, size: int):
        super().__init__()
        self.net = net
        left, right, height = _ARCFACE_EYES
        scale = (right - left) / (_DLIB_EYES[1] - _DLIB_EYES[0]) / size  # pixels of the crop for one of the chip
        self.register_buffer("rows", _resampling(size, scale, height - _DLIB_EYES[2] * size * scale))
        self.register_buffer("columns", _resampling(size, scale, left - _DLIB_EYES[0] * size * scale))

    def forward(self, crops: Tensor) -> Tensor:
        chips = self.rows @ ((crops + 1) * 127.5) @ self.columns.T  # (B, 3, 150, 150)
        return self.net(chips)


def recogniser(path: Path) -> nn.Module:
    """The network of dlib's file, taking crops (B, 3, 112, 112). Raises ValueError if it is another network."""
    saved = read(path)
    try:
        net = DlibResNet(saved)
    except (ValueError, RuntimeError, StopIteration) as error:
        raise ValueError(f"{path} is not dlib's face recognition ResNet: {error}") from None
    return OfCrops(net, saved.size).eval().requires_grad_(False)


def convert(source: Path, path: Path) -> None:
    """Write the network of dlib's file `source` as a recogniser of crops to `path`. Raises ValueError for another."""
    onnx_files.write(recogniser(source), torch.zeros(1, 3, CROP_SIZE, CROP_SIZE), path, ["embedding"], {0: "batch"})


def _expect(layers: tuple[Layer, ...], names: tuple[str, ...]) -> None:
    found = tuple(layer.name for layer in layers)
    if found != names:
        raise ValueError(f"its layers are {', '.join(found)} where {', '.join(names)} should be")


def _blocks(layers: Iterator[Layer], left: int) -> Iterator[Block]:
    """The residual blocks in the next `left` layers."""
    while left > 0:
        opening = tuple(next(layers) for _ in range(5))
        _expect(opening, ("con", "affine", "relu", "con", "affine"))
        con1, affine1, _, con2, affine2 = opening
        after = next(layers)
        pool = after.name == "avg_pool"
        closing = (next(layers) if pool else after, next(layers))
        _expect(closing, ("add", "relu"))
        yield Block(_convolution(con1, affine1), _convolution(con2, affine2), pool)
        left -= 7 + pool


def _convolution(layer: Layer, affine: Layer) -> nn.Conv2d:
    """A convolution with the factors and summands after it worked into its weights."""
    filters, inputs, rows, columns, stride, padding = layer.settings
    count = filters * inputs * rows * columns
    values, changes = torch.from_numpy(layer.values), torch.from_numpy(affine.values)
    weight, bias = values[:count].view(filters, inputs, rows, columns), values[count:]
    factors, summands = changes.chunk(2)
    convolution = nn.Conv2d(inputs, filters, (rows, columns), stride, padding)
    convolution.weight.data = weight * factors.view(-1, 1, 1, 1)
    convolution.bias.data = bias * factors + summands
    return convolution


def _padded(x: Tensor, sizes: list[int]) -> Tensor:
    """`x` (B, c, h, w) with zeros after its end to make (B, *sizes)."""
    channels, rows, columns = (want - have for want, have in zip(sizes, x.shape[1:], strict=True))
    return F.pad(x, (0, columns, 0, rows, 0, channels)) if channels or rows or columns else x


def _resampling(size: int, scale: float, start: float) -> Tensor:
    """The matrix (size, 112) that takes a row of pixels to `size` ones, `scale` apart and beginning at `start`."""
    places = (torch.arange(size) * scale + start).clamp(0, CROP_SIZE - 1)  # (size,)
    return (1 - (places[:, None] - torch.arange(CROP_SIZE)).abs()).clamp(min=0)
