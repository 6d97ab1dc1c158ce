"""Feature Disentanglement: the identity embedder (Eq. 1) and the attribute embedder (Eq. 2)."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uniface.config import ModelConfig
from uniface.layers import SLOPE, ActivatedConv, ResidualBlock, run


class IdentityEmbedder(nn.Module):
    """Image (B, 3, H, W) to the feature map F (B, C, H/8, W/8) and its features F^i. Sec. 3.1, Eq. 1.

    F^i is a dict from stride to feature map: 1 is the first convolution, then one entry per halving.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        size = config.image_size
        self.coordinates = config.coordinates
        self.from_rgb = ActivatedConv(5 if config.coordinates else 3, config.width(size), kernel=1)
        sizes = [size >> k for k in range(config.octaves + 1)]
        blocks = [ResidualBlock(config.width(a), config.width(b), sampling="down") for a, b in pairwise(sizes)]
        channels = config.feature_channels
        blocks += [ResidualBlock(channels, channels) for _ in range(config.identity_blocks)]
        self.blocks = nn.ModuleList(blocks)
        self.final = ActivatedConv(channels, channels)
        self.octaves = config.octaves
        self.checkpointing = False

    def forward(self, image: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
        if self.coordinates:
            image = torch.cat([image, _coordinates(image)], dim=1)  # (B, 5, H, W)
        x = self.from_rgb(image)  # (B, width(H), H, W)
        features = {1: x}
        for number, block in enumerate(self.blocks, start=1):
            x = run(block, x, checkpointing=self.checkpointing)
            if number <= self.octaves:
                features[2**number] = x  # (B, width(H / 2^i), H / 2^i, W / 2^i)
        return self.final(x), features


def _coordinates(image: Tensor) -> Tensor:
    line = torch.linspace(-1, 1, image.shape[-1], device=image.device, dtype=image.dtype)
    y, x = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([x, y]).expand(image.shape[0], -1, -1, -1)


class AttributeEmbedder(nn.Module):
    """Image (B, 3, H, W) to the attribute vector z_t (B, 512) and the FDF (B, 2, H/4, W/4) in (-1, 1). Sec. 3.1, Eq. 2.

    The FDF's channel 0 moves along x (columns), channel 1 along y (rows); 2 is the whole width or height.
    The layers are the released code's: halvings down to 1 x 1, then doublings up to H/4, without skips. With
    `attribute_base` above 1 the halvings end there and linear layers lead to z_t and back, which learns much sooner.
    `fdf_source` lets the decoder see the source's own vector z_s beside z_t: a displacement from the source to the
    target depends on both poses. Without it F_s must have been brought to one common pose before it is warped.
    `attribute_maps` are further channels behind the FDF's two, in (-1, 1) as well.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        size, self.base = config.image_size, config.attribute_base
        widths, channels = [], 3
        self.down = nn.ModuleList()
        while size > self.base:
            size //= 2
            width = config.attribute_dim if size == 1 else config.attribute_width(size)
            norm = _norm(config, width) if size > 1 else nn.Identity()
            activation = nn.LeakyReLU(SLOPE, inplace=True) if size > 1 else nn.Identity()
            self.down.append(nn.Sequential(nn.Conv2d(channels, width, 4, stride=2, padding=1), activation, norm))
            widths.append(width)
            channels = width
        self.flatten = self.unflatten = None
        self.with_source = config.fdf_source
        vector = config.attribute_dim * (2 if config.fdf_source else 1)
        if self.base > 1:
            self.flatten = nn.Linear(channels * self.base**2, config.attribute_dim)
            self.unflatten = nn.Linear(vector, channels * self.base**2)
        else:
            channels = vector
        self.up = nn.ModuleList()
        octaves = config.fdf_stride.bit_length() - 1  # between the FDF and the image
        for width in reversed(widths[octaves:-1]):  # twice the base up to half of the FDF's size
            self.up.append(nn.Sequential(nn.Conv2d(channels, width, 3, padding=1), _norm(config, width)))
            channels = width
        self.head = nn.Conv2d(channels, 2 + config.attribute_maps, 3, padding=1)
        if config.fdf_identity_init:
            nn.init.normal_(self.head.weight, std=1e-3)
            nn.init.zeros_(self.head.bias)

    def forward(self, image: Tensor, source: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if not self.with_source:
            z_t = self.encode(image)
            return z_t, self.decode(z_t)
        z_t, z_s = self.encode(torch.cat([image, source])).chunk(2)
        return z_t, self.decode(torch.cat([z_t, z_s], dim=1))

    def encode(self, image: Tensor) -> Tensor:
        """z_t, (B, 512)."""
        for layer in self.down:
            image = layer(image)
        z_t = image.flatten(1)
        return z_t if self.flatten is None else self.flatten(z_t)

    def decode(self, z_t: Tensor) -> Tensor:
        """The FDF of z_t (with `fdf_source` of z_t and z_s, one behind the other), (B, 2, H/4, W/4).

        Always float32: bfloat16 has too few digits for coordinates.
        """
        x = z_t if self.unflatten is None else self.unflatten(z_t)
        x = x.unflatten(1, (-1, self.base, self.base))  # (B, 512, 1, 1), or wider maps of a larger base
        for layer in self.up:
            x = layer(self.double(x))  # (B, width, 2R, 2R)
        return torch.tanh(self.head(self.double(x)).float())

    @staticmethod
    def double(x: Tensor) -> Tensor:
        """ReLU and bilinear enlargement by two, in front of every convolution of the decoder."""
        return F.interpolate(F.relu(x), scale_factor=2.0, mode="bilinear", align_corners=False)


def _norm(config: ModelConfig, channels: int) -> nn.Module:
    if config.attribute_norm == "instance":
        return nn.InstanceNorm2d(channels)
    groups = next(n for n in (8, 4, 2, 1) if channels % n == 0)
    return nn.GroupNorm(groups, channels)
