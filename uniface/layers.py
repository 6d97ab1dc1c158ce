"""Building blocks of StyleGAN2 and StyleMapGAN: equalised convolutions, blur, residual and modulated layers.

Every activated layer computes `sqrt(2) * leaky_relu(W x / sqrt(fan_in) + b, 0.2)`, and a residual block the sum of two
branches divided by sqrt(2). Leaky ReLU is positively homogeneous, so both factors are multiplied into the weights and
biases: the same numbers with fewer passes over the activations. All convolutions are plain; nothing is repeated or
grouped per sample.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

GAIN = math.sqrt(2)
SLOPE = 0.2


def leaky_relu(x: Tensor) -> Tensor:
    """Leaky ReLU with the slope of StyleGAN2, in place; its gain sqrt(2) is already in the convolution before it."""
    return F.leaky_relu(x, SLOPE, inplace=True)


def run(module: nn.Module, *inputs: Tensor, checkpointing: bool) -> Tensor:
    """`module(*inputs)`, with its activations recomputed in the backward pass if `checkpointing`."""
    if checkpointing and torch.is_grad_enabled():
        return checkpoint(module, *inputs, use_reentrant=False)
    return module(*inputs)


class Blur(nn.Module):
    """Low-pass filter [1, 3, 3, 1] x [1, 3, 3, 1] as a depthwise convolution; `gain` is 4 after zero-stuffing."""

    def __init__(self, padding: int, stride: int = 1, gain: float = 1.0):
        super().__init__()
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
        self.register_buffer("kernel", gain * taps[:, None] * taps[None, :], persistent=False)
        self.padding, self.stride = padding, stride

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        kernel = self.kernel.expand(channels, 1, 4, 4)
        return F.conv2d(x, kernel, stride=self.stride, padding=self.padding, groups=channels)


class EqualizedConv(nn.Module):
    """Convolution with equalised learning rate: weights N(0, 1), divided by sqrt(fan_in) when used; same size out."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, bias: bool = True):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.scale = 1 / math.sqrt(in_channels * kernel**2)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.scale, self.bias, padding=self.weight.shape[-1] // 2)


class EqualizedLinear(nn.Module):
    """Linear layer with equalised learning rate, optionally activated."""

    def __init__(self, in_features: int, out_features: int, activate: bool = False):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(out_features))
        self.activate = activate
        self.scale = (GAIN if activate else 1.0) / math.sqrt(in_features)

    def forward(self, x: Tensor) -> Tensor:
        if not self.activate:
            return F.linear(x, self.weight * self.scale, self.bias)
        return leaky_relu(F.linear(x, self.weight * self.scale, self.bias * GAIN))


class ActivatedConv(nn.Module):
    """Equalised convolution, bias, leaky ReLU; `sampling` "down" halves and "up" doubles the size, with blur."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int = 3, sampling: str = "same", gain: float = GAIN
    ):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.gain = gain
        self.scale = gain / math.sqrt(in_channels * kernel**2)
        self.sampling = sampling
        if sampling != "same":
            self.blur = Blur(padding=2) if sampling == "down" else Blur(padding=1, gain=4.0)

    def forward(self, x: Tensor) -> Tensor:
        return leaky_relu(_conv(self, x))


def _conv(layer: nn.Module, x: Tensor) -> Tensor:
    """Resampling convolution and bias, with the gain of an activation that follows already in both."""
    weight, bias = layer.weight * layer.scale, layer.bias * layer.gain
    if layer.sampling == "up":  # (B, I, R, R) -> (B, O, 2R + 1, 2R + 1) -> (B, O, 2R, 2R)
        # not as the bias of the blur, whose gradient oneDNN finds together with that of the kernel, which nobody wants
        return layer.blur(F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)).add_(bias[:, None, None])
    if layer.sampling == "down":  # (B, I, R, R) -> (B, I, R + 1, R + 1) -> (B, O, R/2, R/2)
        return F.conv2d(layer.blur(x), weight, bias, stride=2)
    return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)


class ResampledSkip(nn.Module):
    """Linear shortcut of a residual block, divided by sqrt(2): 1x1 convolution without bias, with blur or bilinear
    enlargement where the size changes."""

    def __init__(self, in_channels: int, out_channels: int, sampling: str = "same"):
        super().__init__()
        self.conv = EqualizedConv(in_channels, out_channels, kernel=1, bias=False)
        self.conv.scale /= GAIN
        self.sampling = sampling
        if sampling == "down":  # only every second blurred sample is needed, so blur at stride 2
            self.blur = Blur(padding=1, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        if self.sampling == "down":
            return self.conv(self.blur(x))  # (B, O, R/2, R/2)
        x = self.conv(x)
        if self.sampling == "up":
            # Zero-stuffing and the blur are bilinear interpolation, except that the image continues with zeros.
            x = F.interpolate(F.pad(x, (1, 1, 1, 1)), scale_factor=2.0, mode="bilinear", align_corners=False)
            x = x[..., 2:-2, 2:-2]  # (B, O, 2R, 2R)
        return x


class ResidualBlock(nn.Module):
    """Two activated 3x3 convolutions, the second one changing width and size, and a linear shortcut (StyleGAN2)."""

    def __init__(self, in_channels: int, out_channels: int, sampling: str = "same"):
        super().__init__()
        self.conv1 = ActivatedConv(in_channels, in_channels)
        self.conv2 = ActivatedConv(in_channels, out_channels, sampling=sampling, gain=1.0)  # sqrt(2) / sqrt(2)
        self.skip = ResampledSkip(in_channels, out_channels, sampling)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(x)) + self.skip(x)


class ModulatedConv(nn.Module):
    """LayerNorm over C, H, W, then times gamma plus beta from a stylemap of the input's size, then convolution.

    One convolution of the stylemap makes gamma and beta (released code: one each). Bias and, if
    `activate`, leaky ReLU follow. No demodulation and no noise (StyleMapGAN).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        style_channels: int,
        kernel: int = 3,
        sampling: str = "same",
        modulation_kernel: int = 3,
        activate: bool = True,
        gain: float = GAIN,
    ):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.activate = activate
        self.gain = gain if activate else 1.0
        self.scale = self.gain / math.sqrt(in_channels * kernel**2)
        self.modulation = EqualizedConv(style_channels, 2 * in_channels, modulation_kernel)
        with torch.no_grad():
            self.modulation.bias[:in_channels] = 1  # gamma; beta starts at 0
        self.sampling = sampling
        if sampling == "up":
            self.blur = Blur(padding=1, gain=4.0)

    def forward(self, x: Tensor, stylemap: Tensor) -> Tensor:
        out = _conv(self, self.modulate(x, stylemap))
        return leaky_relu(out) if self.activate else out

    def modulate(self, x: Tensor, stylemap: Tensor) -> Tensor:
        """What the convolution gets, (B, I, R, R)."""
        gamma, beta = self.modulation(stylemap).chunk(2, dim=1)  # 2 x (B, I, R, R)
        with torch.autocast(x.device.type, enabled=False):  # its sums are float32 anyway; the maps need not be
            x = F.group_norm(x.to(beta.dtype), 1, eps=1e-5)  # one group = LayerNorm over C, H, W; keeps channels_last
        return torch.addcmul(beta, x, gamma)
