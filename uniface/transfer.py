"""Feature Transfer: attribute transfer by warping (AttrT, Eq. 3) and identity transfer by attention (IdT, Eq. 4, 5)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uniface.config import ModelConfig
from uniface.layers import EqualizedConv


def resize(fdf: Tensor, size: int) -> Tensor:
    """RS of Eq. 3: the FDF at `size` x `size`, bilinear between the outermost pixel centres (released code)."""
    if fdf.shape[-1] == size:
        return fdf
    return F.interpolate(fdf, size=(size, size), mode="bilinear", align_corners=True)


def warp(features: Tensor, fdf: Tensor, padding: str = "zeros") -> Tensor:
    """Sample `features` (B, C, R, R) at the identity grid plus `fdf` (B, 2, any, any), resized to R.

    Coordinates run from -1 to 1 between the centres of the outermost pixels. A positive fdf[:, 0] takes values from
    further right, so the content moves left. Computed in float32 also under autocast.
    """
    size = features.shape[-1]
    fdf = resize(fdf, size)
    line = torch.linspace(-1, 1, size, device=fdf.device, dtype=fdf.dtype)
    y, x = torch.meshgrid(line, line, indexing="ij")
    grid = torch.stack([x, y], dim=-1) + fdf.permute(0, 2, 3, 1)  # (B, R, R, 2)
    with torch.autocast(features.device.type, enabled=False):
        warped = F.grid_sample(features.to(grid.dtype), grid, mode="bilinear", padding_mode=padding, align_corners=True)
    return warped.to(features.dtype)


class AttributeTransfer(nn.Module):
    """AttrT: f_s warped by the FDF gives f_bar_s, source features in the target's pose. Sec. 3.1, Eq. 3."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.padding = config.warp_padding

    def forward(self, f_s: Tensor, fdf: Tensor) -> Tensor:
        return warp(f_s, fdf, self.padding)


class AttributeMaps(nn.Module):
    """Decoded maps of the driver (B, K, any, any), painted on source features that the FDF has warped (B, C, R, R).

    Not in the paper, where all that the generator learns of the target's expression is how the source's pixels move:
    an open mouth or a shut eye of a few pixels, which the source does not show, cannot be had by moving them. Starts at
    nothing.
    """

    def __init__(self, maps: int, channels: int):
        super().__init__()
        self.conv = EqualizedConv(maps, channels, kernel=1, bias=False)
        nn.init.zeros_(self.conv.weight)

    def forward(self, feature: Tensor, maps: Tensor) -> Tensor:
        return feature + self.conv(resize(maps, feature.shape[-1]).to(feature.dtype))


class IdentityTransfer(nn.Module):
    """IdT: attention from the reference f_r to the identity f_i, added to f_r. Sec. 3.1, Eq. 4 and 5.

    `attention_logits` chooses what the softmax sees:
    dot       Q K^T, Eq. 4 as printed
    released  Q K^T / sqrt(C): the released code divides by the square root of the full width
    cosine    Q and K of unit length, times a learnable temperature; K starts as Q, so like attends to like
    `attention_locality` adds -|i - j|^2 / (2 sigma^2) for tokens i and j, sigma learnable; distances count tokens of
    the config's F, also where a smaller picture's has fewer.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        channels = config.feature_channels
        reduced = channels // config.attention_reduction
        self.query = EqualizedConv(channels, reduced, kernel=1, bias=False)
        self.key = EqualizedConv(channels, reduced, kernel=1, bias=False)
        full = config.attention_value == "full"
        self.value = EqualizedConv(channels, channels if full else reduced, kernel=1, bias=False)
        # The paper gives V C/4 channels, but F_{i->r} is added to f_r with C: this maps it back.
        self.project = None if full else EqualizedConv(reduced, channels, kernel=1, bias=False)
        self.alpha = nn.Parameter(torch.full((1,), config.alpha_init))
        self.size = config.feature_size
        self.cosine = config.attention_logits == "cosine"
        self.scale = channels**-0.5 if config.attention_logits == "released" else 1.0
        if self.cosine:
            self.key.load_state_dict(self.query.state_dict())
            self.log_temperature = nn.Parameter(torch.tensor(math.log(10.0)))
        self.log_precision = None  # log(1 / sigma^2)
        if config.attention_locality:
            self.log_precision = nn.Parameter(torch.tensor(-2 * math.log(config.attention_locality)))

    def forward(self, f_i: Tensor, f_r: Tensor) -> Tensor:
        q, k = self._query_key(f_i, f_r)
        v = self.value(f_i).flatten(2).transpose(1, 2)  # (B, N, C/4)
        out = F.scaled_dot_product_attention(q[:, None], k[:, None], v.to(q.dtype)[:, None], scale=1.0)[:, 0]
        out = out.transpose(1, 2).unflatten(2, f_r.shape[-2:])  # (B, C/4, R, R)
        if self.project is not None:
            out = self.project(out)  # (B, C, R, R)
        return self.alpha.to(out.dtype) * out + f_r

    def attention(self, f_i: Tensor, f_r: Tensor) -> Tensor:
        """The correlation matrix M of Eq. 4, (B, N, N): a row per token of f_r, a column per token of f_i."""
        q, k = self._query_key(f_i, f_r)
        return torch.softmax(q.float() @ k.float().transpose(1, 2), dim=-1)

    def _query_key(self, f_i: Tensor, f_r: Tensor) -> tuple[Tensor, Tensor]:
        """Q and K as (B, N, channels), such that softmax(Q K^T) is M."""
        q = self.query(f_r).flatten(2).transpose(1, 2)
        k = self.key(f_i).flatten(2).transpose(1, 2)
        if self.cosine:
            q, k = F.normalize(q, dim=-1) * self.log_temperature.exp().to(q.dtype), F.normalize(k, dim=-1)
        else:
            q = q * self.scale
        if self.log_precision is not None:
            # -|i - j|^2 / 2s^2 = (i . j - |j|^2 / 2) / s^2 - |i|^2 / 2s^2, and the softmax over j does not see the last
            # term: three more channels of Q and K instead of an N x N mask, which fused attention cannot differentiate.
            line = torch.arange(f_r.shape[-1], device=q.device, dtype=q.dtype)
            line = (line - line.mean()) * (self.size / f_r.shape[-1])
            y, x = torch.meshgrid(line, line, indexing="ij")
            x, y = x.flatten(), y.flatten()
            precision = self.log_precision.exp()
            near_q = (torch.stack([x, y, torch.ones_like(x)], dim=-1) * precision).to(q.dtype)
            near_k = torch.stack([x, y, -(x.square() + y.square()) / 2], dim=-1)
            q = torch.cat([q, near_q.expand(q.shape[0], -1, -1)], dim=-1)  # (B, N, C/4 + 3)
            k = torch.cat([k, near_k.expand(k.shape[0], -1, -1)], dim=-1)
        return q, k
