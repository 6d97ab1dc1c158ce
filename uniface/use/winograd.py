"""3 x 3 convolutions with fewer multiplications, for inference in float32 on a processor.

Winograd's F(4 x 4, 3 x 3) (Lavin and Gray, CVPR 2016): a tile of 6 x 6 pixels and the kernel are brought to 36 places
each, where the convolution is one product a place: 36 multiplications for 16 pixels instead of 144. Each place is one
matrix product over the channels. The result differs in the fifth digit.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uniface import layers

TILE = 4  # pixels of the output that a tile makes, each way
PLACES = TILE + 2
POINTS = (0.0, 2**-0.5, -(2**-0.5), 2**0.5, -(2**0.5))  # and infinity; these lose fewer digits than 0, 1, -1, 2, -2
LEAST = 128
"""Channels, in and out, from which it pays: below, bringing the tiles there costs more than it saves."""
ROWS = 4  # of tiles at a time, so that they stay in the cache


class Convolution(nn.Module):
    """Convolution of (B, I, H, W) with `weight` (O, I, 3, 3) and `bias` (O,), padded by 1; H and W multiples of 4."""

    def __init__(self, weight: Tensor, bias: Tensor):
        super().__init__()
        inputs, kernels, outputs = _matrices()
        places = torch.einsum("ia,ocab,jb->ijco", kernels, weight.double(), kernels)
        self.register_buffer("weight", places.flatten(0, 1).to(weight.dtype).contiguous())  # (36, I, O)
        self.register_buffer("bias", bias.clone())
        self.register_buffer("inputs", torch.kron(inputs, inputs).to(weight.dtype))  # (36, 36)
        self.register_buffer("outputs", torch.kron(outputs, outputs).to(weight.dtype))  # (16, 36)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        x = F.pad(x, (1, 1, 1, 1)).permute(0, 2, 3, 1)  # (B, H + 2, W + 2, I)
        out = x.new_empty(batch, height, width, self.bias.numel())
        for top in range(0, height, ROWS * TILE):
            part = out[:, top : top + ROWS * TILE]  # (B, 4 t, W, O)
            tiles = x[:, top : top + part.shape[1] + 2].unfold(1, PLACES, TILE).unfold(2, PLACES, TILE)
            tiles = tiles.permute(4, 5, 0, 1, 2, 3).reshape(PLACES**2, -1)  # (36, B t W/4 I)
            places = torch.bmm((self.inputs @ tiles).view(PLACES**2, -1, channels), self.weight)  # (36, B t W/4, O)
            pixels = (self.outputs @ places.flatten(1)).view(TILE, TILE, batch, -1, width // TILE, out.shape[-1])
            target = part.view(batch, -1, TILE, width // TILE, TILE, out.shape[-1])
            torch.add(pixels.permute(2, 3, 0, 4, 1, 5), self.bias, out=target)
        return out.permute(0, 3, 1, 2)  # channels_last


def _matrices() -> tuple[Tensor, Tensor, Tensor]:
    """What brings a line of 6 pixels and one of 3 weights to 6 places (6, 6), (6, 3), and 6 places to 4 pixels (4, 6).

    Cook and Toom: places are values of polynomials at the points; every place's factor is shared between the two.
    """
    points = torch.tensor(POINTS, dtype=torch.float64)
    inputs, kernels = torch.zeros(PLACES, PLACES).double(), torch.zeros(PLACES, 3).double()
    for place, point in enumerate(points):
        others = torch.cat([points[:place], points[place + 1 :]])
        inputs[place, : PLACES - 1] = _polynomial(others)
        kernels[place] = point ** torch.arange(3) / (point - others).prod()
    inputs[-1], kernels[-1, 2] = _polynomial(points), 1.0
    outputs = torch.cat([points ** torch.arange(TILE)[:, None], torch.eye(TILE).double()[:, -1:]], 1)
    share = (kernels.norm(dim=1) / inputs.norm(dim=1)).sqrt()[:, None]
    return inputs * share, kernels / share, outputs


def _polynomial(roots: Tensor) -> Tensor:
    """Coefficients of the product of (x - root), the constant one first."""
    coefficients = torch.ones(1).double()
    for root in roots:
        zero = torch.zeros(1).double()
        coefficients = torch.cat([zero, coefficients]) - root * torch.cat([coefficients, zero])
    return coefficients


class _Layer(nn.Module):
    """As the `layers.ActivatedConv` or `layers.ModulatedConv` that it takes the weights of."""

    def __init__(self, layer: layers.ActivatedConv | layers.ModulatedConv):
        super().__init__()
        self.modulated = layer if isinstance(layer, layers.ModulatedConv) else None
        self.activate = self.modulated is None or layer.activate
        self.convolve = Convolution(layer.weight * layer.scale, layer.bias * layer.gain)
        del layer.weight

    def forward(self, x: Tensor, stylemap: Tensor | None = None) -> Tensor:
        out = self.convolve(x if self.modulated is None else self.modulated.modulate(x, stylemap))
        return layers.leaky_relu(out) if self.activate else out


def quickened(model: nn.Module) -> nn.Module:
    """A copy of a model whose wide 3 x 3 convolutions are computed so. It cannot be trained, saved or exported."""
    model = copy.deepcopy(model).requires_grad_(False)
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if getattr(child, "sampling", "same") != "same" or not _pays(getattr(child, "weight", None)):
                continue
            if isinstance(child, layers.EqualizedConv):
                setattr(parent, name, Convolution(child.weight * child.scale, child.bias))
            elif isinstance(child, layers.ActivatedConv | layers.ModulatedConv):
                setattr(parent, name, _Layer(child))
    return model


def _pays(weight: Tensor | None) -> bool:
    return weight is not None and weight.shape[2:] == (3, 3) and min(weight.shape[:2]) >= LEAST
