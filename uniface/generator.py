"""Generator: StyleMapGAN's stylemap resizer, with skips from the identity embedder, and synthesis network (Eq. 6)."""

import torch
from torch import Tensor, nn

from uniface.config import ModelConfig
from uniface.layers import GAIN, ActivatedConv, EqualizedConv, ModulatedConv, ResampledSkip, run


class StylemapResizer(nn.Module):
    """F (B, C, H/8, W/8) to one stylemap per styled convolution, from H/8 up to H.

    Skips are added after every layer at F's resolution and after the first layer of each octave; without any features
    none is. With `skip: zero_init` features that come later, in the middle of a training, come without a jump.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        size, channels = config.feature_size, config.feature_channels
        layers = [ActivatedConv(channels, channels) for _ in range(2 + config.octave_layers * config.base_blocks)]
        self.strides = [config.feature_stride] * len(layers)
        skip_at = list(self.strides)  # stride whose feature is added after the layer, 0: none
        stride = config.feature_stride
        while size < config.image_size:
            size, stride = 2 * size, stride // 2
            layers.append(ActivatedConv(config.width(size // 2), config.width(size), sampling="up"))
            layers += [ActivatedConv(config.width(size), config.width(size)) for _ in range(config.octave_layers - 1)]
            self.strides += [stride] * config.octave_layers
            skip_at += [stride] + [0] * (config.octave_layers - 1)
        self.layers = nn.ModuleList(layers)
        used = set(config.skip_strides) if config.skip != "none" else set()
        self.skip_at = [stride if stride in used else 0 for stride in skip_at]
        self.skips = nn.ModuleDict()
        if config.skip == "zero_init":
            for stride in sorted(used, reverse=True):
                width = config.width(config.image_size // stride)
                self.skips[str(stride)] = EqualizedConv(width, width, kernel=1)
                nn.init.zeros_(self.skips[str(stride)].weight)
        self.skip_stored = config.skip_stored
        self.checkpointing = False

    def forward(self, f_hat: Tensor, features: dict[int, Tensor]) -> list[Tensor]:
        features = {s: self.skips[str(s)](f) if str(s) in self.skips else f for s, f in features.items()}
        x, stylemaps = f_hat, []
        for layer, stride in zip(self.layers, self.skip_at, strict=True):
            out = run(layer, x, checkpointing=self.checkpointing)
            x = out + features[stride] if stride and features else out
            stylemaps.append(x if self.skip_stored else out)
        return stylemaps


class StyledBlock(nn.Module):
    """Residual block of the synthesis network: one or two modulated convolutions, the first may double the size."""

    def __init__(self, config: ModelConfig, in_size: int, out_size: int):
        super().__init__()
        in_channels, out_channels = config.width(in_size), config.width(out_size)
        sampling = "up" if out_size > in_size else "same"
        kernel = config.modulation_kernel
        two = config.octave_layers == 2  # the last one's gain of sqrt(2) and the sum's 1 / sqrt(2) cancel out
        self.conv1 = ModulatedConv(  # modulated at the input's size
            in_channels,
            out_channels,
            in_channels,
            sampling=sampling,
            modulation_kernel=kernel,
            gain=GAIN if two else 1.0,
        )
        self.conv2 = None
        if two:
            self.conv2 = ModulatedConv(out_channels, out_channels, out_channels, modulation_kernel=kernel, gain=1.0)
        self.skip = ResampledSkip(in_channels, out_channels, sampling)

    def forward(self, x: Tensor, *stylemaps: Tensor) -> Tensor:
        out = self.conv1(x, stylemaps[0])
        if self.conv2 is not None:
            out = self.conv2(out, stylemaps[1])
        return out + self.skip(x)


class Synthesis(nn.Module):
    """Stylemaps to the image (B, 3, H, W), starting from a learnt constant of F's size (StyleMapGAN).

    The image is not bounded by a tanh; the losses keep it in [-1, 1]. Each styled convolution takes the next stylemap.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        size, kernel = config.feature_size, config.modulation_kernel
        channels = config.feature_channels
        self.constant = nn.Parameter(torch.randn(1, channels, size, size))
        self.first = ModulatedConv(channels, channels, channels, modulation_kernel=kernel)
        self.blocks = nn.ModuleList(StyledBlock(config, size, size) for _ in range(config.base_blocks))
        while size < config.image_size:
            self.blocks.append(StyledBlock(config, size, 2 * size))
            size *= 2
        width = config.width(size)
        activate = config.to_rgb == "activated"
        self.to_rgb = ModulatedConv(width, 3, width, kernel=1, modulation_kernel=kernel, activate=activate)
        self.octave_layers = config.octave_layers
        self.checkpointing = False

    def forward(self, stylemaps: list[Tensor]) -> Tensor:
        constant = self.constant.expand(stylemaps[0].shape[0], -1, -1, -1)
        x = self.first(constant, stylemaps[0])  # (B, C, H/8, W/8)
        n = self.octave_layers
        for number, block in enumerate(self.blocks):
            maps = stylemaps[1 + n * number : 1 + n * (number + 1)]
            x = run(block, x, *maps, checkpointing=self.checkpointing)
        return self.to_rgb(x, stylemaps[-1])


class Generator(nn.Module):
    """f_hat (B, C, H/8, W/8) and the skip features F^i to the image (B, 3, H, W). Sec. 3.1, Eq. 6."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.resizer = StylemapResizer(config)
        self.synthesis = Synthesis(config) if config.synthesis == "stylemap" else None
        self.to_rgb = None
        if self.synthesis is None:  # the "typical decoder": the last stylemap is the picture's features
            self.to_rgb = EqualizedConv(config.width(config.image_size), 3, kernel=1)

    def forward(self, f_hat: Tensor, features: dict[int, Tensor]) -> Tensor:
        stylemaps = self.resizer(f_hat, features)
        image = self.to_rgb(stylemaps[-1]) if self.synthesis is None else self.synthesis(stylemaps)
        return image.float()
