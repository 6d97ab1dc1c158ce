"""Pressing the person out of the attribute vector: a classifier of persons behind a gradient reversal.

Not in the paper. Stage 1 learns from pairs of one video, so nothing keeps z_t from carrying the driver's face along
with the pose; a foreign driver then deforms the source. Domain-adversarial training (Ganin et al., 2016): the
classifier learns whom z_t shows, and the attribute embedder gets its gradient reversed. Needs the videos' persons,
which VoxCeleb2 names. Lives with the training state only.
"""

import torch
from torch import Tensor, nn

WIDTH = 128  # of the hidden layers


class PersonClassifier(nn.Module):
    """z_t (B, D) to logits (B, persons)."""

    def __init__(self, dim: int, persons: int):
        super().__init__()
        if persons < 2:
            raise ValueError(f"the loss person needs training videos of two persons, there are {persons}: weight 0")
        self.layers = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(),
            nn.Linear(WIDTH, persons),
        )  # fmt: skip

    def forward(self, z_t: Tensor) -> Tensor:
        return self.layers(z_t)


class _Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: float) -> Tensor:
        ctx.weight = weight
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return -ctx.weight * gradient, None


def reverse_gradient(x: Tensor, weight: float) -> Tensor:
    """`x` itself, whose gradient is multiplied by -weight on the way back."""
    return _Reverse.apply(x, weight)
