"""Muon, an optimiser for matrices: it learns what the sample shows in less than half of Adam's iterations."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

MOMENTUM = 0.95
LEAST = 16  # rows and columns; a picture's three colours or the FDF's two directions have nothing to balance
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic whose repetition drives singular values to about 1
REPETITIONS = 5
SIZE = 0.4  # root mean square of a step, in units of lr; .2 (Liu et al.) learnt the sample less well


def is_matrix(weight: Tensor) -> bool:
    """Whether Muon is for this weight: as `(out, in x height x width)` a matrix of some size."""
    return weight.ndim >= 2 and min(len(weight), weight[0].numel()) >= LEAST


def orthogonalised(matrix: Tensor) -> Tensor:
    """About U V^T of `matrix` = U S V^T `(m, n)`: all directions equally large. Newton-Schulz repetitions (Jordan).

    Each repetition multiplies X by a polynomial of X X^T, so the polynomials are multiplied first, which are small, and
    X is met twice: half of the work for the widest matrices.
    """
    a, b, c = COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / x.norm().clamp_min(1e-12)
    gram = x @ x.T
    total = None
    for _ in range(REPETITIONS):
        factor = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal().add_(a)
        total = factor if total is None else factor @ total
        gram = factor @ gram @ factor
    x = total @ x
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """The momentum's matrix, orthogonalised (K. Jordan et al., Muon, 2024). Not in the paper, which has Adam.

    A step changes a weight by a fixed share of `lr` in the root mean square, so that one `lr` can serve this and Adam
    (Liu et al., Muon is scalable for LLM training, 2025, Sec. 2.2). Kernels `(out, in, height, width)` are matrices
    `(out, height x width x in)`. PyTorch's own Muon takes no kernels, and rounds to bfloat16.
    """

    def __init__(self, params: Iterable[nn.Parameter] | Iterable[dict], lr: float):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self) -> None:
        """One update of all weights that have a gradient."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["momentum"] = torch.zeros_like(weight)
                momentum = state["momentum"].lerp_(weight.grad, 1 - MOMENTUM)
                ahead = weight.grad.lerp(momentum, MOMENTUM).movedim(1, -1)  # Nesterov; channels_last: a view
                matrix = ahead.flatten(1)
                rate = SIZE * max(matrix.shape) ** 0.5 * group["lr"]
                weight.sub_(orthogonalised(matrix).view(ahead.shape).movedim(-1, 1), alpha=rate)
