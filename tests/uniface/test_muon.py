"""Muon: orthogonal updates of the size of Adam's, for kernels in any layout of memory."""

import dataclasses

import pytest
import torch
from small_trainer import CONFIG, batches, trainer
from torch import nn

from uniface.muon import Muon, is_matrix, orthogonalised


@pytest.mark.parametrize("shape", [(16, 64), (64, 16), (32, 32)])
def test_orthogonalised_matrices_turn_and_hardly_stretch(shape):
    """The factor U V^T of the singular value decomposition, but for singular values about 1."""
    torch.manual_seed(0)
    matrix = torch.randn(shape) * 1e-4
    made = orthogonalised(matrix)
    left, values, right = torch.linalg.svd(made, full_matrices=False)
    assert values.min() > 0.3 and values.max() < 1.3
    given = torch.linalg.svd(matrix, full_matrices=False)
    torch.testing.assert_close(left @ right, given.U @ given.Vh, atol=0.02, rtol=0)


@pytest.mark.parametrize("shape", [(16, 64), (64, 16), (32, 32)])
def test_orthogonalised_as_by_repetitions_of_the_whole_matrix(shape):
    torch.manual_seed(0)
    left, own, right = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    for values in (own, torch.logspace(0, -6, len(own))):  # one direction a million times another
        matrix = left * values @ right
        x = matrix.double() / matrix.norm()
        for _ in range(5):
            x = 3.4445 * x + (-4.7750 * x @ x.T + 2.0315 * x @ x.T @ x @ x.T) @ x
        torch.testing.assert_close(orthogonalised(matrix).double(), x, atol=3e-4, rtol=0)


def test_a_step_has_the_size_of_adams_and_a_gradients_scale_does_not_count():
    torch.manual_seed(0)
    gradient, steps = torch.randn(32, 16, 3, 3), []
    for scale in (1.0, 1e-6):
        weight = nn.Parameter(torch.zeros(32, 16, 3, 3))
        weight.grad = gradient * scale
        Muon([weight], lr=0.01).step()
        steps.append(weight.detach())
    assert steps[0].square().mean().sqrt().item() == pytest.approx(0.4 * 0.01, rel=0.2)
    assert (steps[0] * gradient).sum() < 0  # downhill
    torch.testing.assert_close(steps[0], steps[1])


def test_the_layout_of_a_kernel_in_memory_does_not_matter():
    torch.manual_seed(0)
    gradients, ends = torch.randn(4, 32, 16, 3, 3), []
    for layout in (torch.contiguous_format, torch.channels_last):
        weight = nn.Parameter(torch.ones(32, 16, 3, 3).to(memory_format=layout))
        optimiser = Muon([weight], lr=0.1)
        for gradient in gradients:
            weight.grad = gradient.to(memory_format=layout)
            optimiser.step()
        ends.append(weight.detach().contiguous())
    torch.testing.assert_close(*ends)


def test_only_matrices_go_to_muon_and_all_others_to_adam(monkeypatch):
    assert is_matrix(torch.empty(16, 4, 2, 2)) and is_matrix(torch.empty(32, 1536))
    assert not any(is_matrix(torch.empty(shape)) for shape in [(16, 5, 1, 1), (3, 16, 1, 1), (2, 96, 3, 3), (64,)])
    monkeypatch.setattr("uniface.muon.LEAST", 4)
    mine = trainer(dataclasses.replace(CONFIG, muon=True))
    kinds = [
        {id(p) for group in optimiser.param_groups for p in group["params"]}
        for optimiser in (mine.muon, mine.optimiser)
    ]
    assert kinds[0] == {id(mine.model.attribute_embedder.weight)}  # the generator makes three colours
    assert kinds[0] | kinds[1] == {id(p) for p in mine.model.parameters()} and not kinds[0] & kinds[1]
    before = [p.detach().clone() for p in mine.model.parameters()]
    mine.train_step(next(batches()))
    assert all(not torch.equal(old, new) for old, new in zip(before, mine.model.parameters(), strict=True))
    assert mine.muon.param_groups[1]["lr"] == pytest.approx(0.1 * CONFIG.lr / 3)  # as Adam's would be
