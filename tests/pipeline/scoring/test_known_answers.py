"""Metrics on constructed inputs: answers known by hand, the reference implementations, the truth, and chance."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pipeline.scoring.held_out import Pairs
from pipeline.scoring.scorer import Known, Scorer
from uniface import losses, metrics

COLUMNS = SimpleNamespace(pose=[0, 1, 2], expression=[3, 4])


def known(vectors: torch.Tensor, coefficients: torch.Tensor, has_face: torch.Tensor | None = None) -> Known:
    unit = F.normalize(vectors, dim=1)
    face = torch.ones(len(unit), dtype=torch.bool) if has_face is None else has_face
    return Known(unit * face[:, None], unit, face, unit, unit, coefficients)


def of(names: str) -> Pairs:
    pictures, who = np.zeros((len(names), 2, 2, 3), np.uint8), tuple(names)
    return Pairs(pictures, pictures, who, who, tuple(str(k) for k in range(len(names))), who)


def judged(found: Known, source: Known, target: Known, pairs: Pairs) -> dict[str, torch.Tensor]:
    return Scorer.judged(COLUMNS, found, source, target, pairs)


def test_csim_idret_aee_and_ape_are_what_they_are_by_hand():
    sources = known(torch.tensor([[1.0, 0], [0, 1], [0, 1]]), torch.zeros(3, 5))
    targets = known(torch.tensor([[0.0, 1], [1, 0], [1, 0]]), torch.tensor([[0.1, 0, 0, 1, 2]] * 3))
    outputs = known(torch.tensor([[3.0, 4], [0, 2], [5, 0]]), torch.tensor([[0.4, -0.3, 0.3, 1, 1]] * 3))
    row = judged(outputs, sources, targets, of("abb"))
    assert row["csim"].tolist() == pytest.approx([0.6, 1.0, 0.0])
    assert row["csim_target"].tolist() == pytest.approx([0.8, 0.0, 1.0])
    # the first output lies nearer to the second source, which shows b; the second to its own; the third to a's
    assert row["id_retrieval"].tolist() == [0, 1, 0]
    assert row["ape"].tolist() == pytest.approx([0.3] * 3) and row["aee"].tolist() == pytest.approx([0.5] * 3)


def test_another_picture_of_the_right_person_is_right_for_idret():
    sources = known(torch.tensor([[1.0, 0], [0.8, 0.6], [0, 1]]), torch.zeros(3, 5))
    outputs = known(torch.tensor([[0.8, 0.6], [1.0, 0], [0, 1]]), torch.zeros(3, 5))  # each is the other's nearest
    assert judged(outputs, sources, sources, of("aab"))["id_retrieval"].tolist() == [1, 1, 1]


def test_an_output_without_a_face_is_like_nobody_and_has_no_pose():
    sources = known(torch.eye(3), torch.zeros(3, 5))
    blank = torch.tensor([False, True, True])
    outputs = known(torch.eye(3), torch.tensor([[torch.nan] * 5, [0.0] * 5, [0.0] * 5]), blank)
    row = judged(outputs, sources, sources, of("abc"))
    assert row["csim"].tolist() == [0, 1, 1] and row["id_retrieval"].tolist() == [0, 1, 1]
    assert row["ape"].isnan().tolist() == [True, False, False] and row["no_face"].tolist() == [1, 0, 0]


def test_the_truth_is_best_and_a_permutation_gives_chance():
    n, generator = 60, torch.Generator().manual_seed(0)
    persons = torch.randn(n, 32, generator=generator)
    numbers = torch.randn(n, 5, generator=generator)
    sources, targets = known(persons, numbers), known(torch.randn(n, 32, generator=generator), numbers)
    pairs = of("".join(chr(0x4E00 + k) for k in range(n)))
    truth = judged(known(persons, numbers), sources, targets, pairs)
    assert truth["id_retrieval"].mean() == 1 and truth["csim"].mean() == pytest.approx(1, abs=1e-6)
    assert truth["ape"].max() == truth["aee"].max() == 0
    order = torch.roll(torch.arange(n), 7)
    shuffled = judged(known(persons[order], numbers[order]), sources, targets, pairs)
    assert shuffled["id_retrieval"].mean() == 0 and abs(shuffled["csim"].mean()) < 0.06
    # two independent standard normals differ by 2 / sqrt(pi) on the average
    assert shuffled["aee"].mean() == pytest.approx(2 / np.pi**0.5, rel=0.2)
    random = judged(known(torch.randn(n, 32, generator=generator), numbers), sources, targets, pairs)
    assert random["id_retrieval"].mean() < 5 / n and metrics.frechet(persons, persons) == pytest.approx(0, abs=1e-6)


def test_the_frechet_distance_is_torch_fidelitys():
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    generator = torch.Generator().manual_seed(3)
    mix = torch.randn(24, 24, generator=generator)
    a = torch.randn(300, 24, generator=generator) @ mix
    b = torch.randn(200, 24, generator=generator) * 1.3 + 0.4
    key = "frechet_inception_distance"
    reference = fid_statistics_to_metric(*map(fid_features_to_statistics, (a, b)), verbose=False)[key]
    assert metrics.frechet(a, b) == pytest.approx(reference, rel=1e-4)


def test_lpips_of_each_image_is_the_packages_and_its_mean_the_loss():
    from lpips import normalize_tensor, spatial_average

    generator = torch.Generator().manual_seed(4)
    shapes = ((3, 8, 16, 16), (3, 12, 8, 8))
    ours, truth = ([torch.randn(shape, generator=generator) for shape in shapes] for _ in range(2))
    channels = [torch.rand(1, shape[1], 1, 1, generator=generator) for shape in shapes]
    expected = sum(
        spatial_average(((normalize_tensor(a) - normalize_tensor(b)) ** 2 * w).sum(1, keepdim=True)).flatten()
        for a, b, w in zip(ours, truth, channels, strict=True)
    )
    found = metrics.perceptual(ours, truth, channels)
    assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-4)
    assert found.mean().item() == pytest.approx(losses.perceptual(ours, truth, channels).item(), rel=1e-5)
    assert metrics.perceptual(truth, truth).tolist() == [0, 0, 0]
