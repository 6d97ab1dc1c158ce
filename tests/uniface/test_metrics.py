"""Metrics against their definitions, an independent implementation, and cases known by hand."""

import math

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from uniface import metrics


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    truth = metrics.blurred(torch.rand(4, 3, 32, 32, generator=generator) * 2 - 1, 1.5) * 2
    truth = truth.clamp(-1, 1)
    return (truth + 0.2 * torch.randn(4, 3, 32, 32, generator=generator)).clamp(-1, 1), truth


def _array(image):
    return ((image + 1) / 2).permute(1, 2, 0).double().numpy()


def test_psnr_and_ssim_equal_scikit_image(pair):
    images, truth = pair
    found = list(zip(metrics.psnr(images, truth), metrics.ssim(images, truth), strict=True))
    for (psnr, ssim), image, true in zip(found, images, truth, strict=True):
        assert psnr == pytest.approx(peak_signal_noise_ratio(_array(true), _array(image), data_range=1), abs=1e-3)
        windows = structural_similarity(  # the border mirrored as torchmetrics does it, then cut off
            *(np.pad(_array(x), ((5, 5), (5, 5), (0, 0)), mode="reflect") for x in (true, image)),
            data_range=1,
            channel_axis=2,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            full=True,
        )[1][5:-5, 5:-5]
        assert ssim == pytest.approx(windows.mean(), abs=1e-4)


def test_psnr_of_equal_images_is_the_ceiling_and_values_outside_the_range_are_clipped(pair):
    images, truth = pair
    assert torch.allclose(metrics.psnr(truth, truth), torch.tensor(80.0), atol=1e-3)
    assert metrics.psnr(torch.full((1, 3, 8, 8), 9.0), torch.ones(1, 3, 8, 8)) == pytest.approx(80, abs=1e-3)
    assert (metrics.psnr(images, truth) < 30).all()


def test_masked_psnr_sees_only_the_mask():
    truth = torch.zeros(2, 3, 8, 8)
    images = truth.clone()
    images[:, :, :4] = 0.2
    mask = torch.zeros(2, 1, 8, 8)
    mask[0, :, :4] = 1
    inside, empty = metrics.psnr(images, truth, mask)
    assert inside == pytest.approx(20.0, abs=0.01)  # 0.1 of full scale
    assert math.isnan(empty)
    assert metrics.psnr(images, truth, 1 - mask)[0] == pytest.approx(80, abs=1e-3)


def test_changed_is_where_truth_and_target_differ_widened_by_one():
    target = torch.zeros(1, 3, 16, 16)
    truth = target.clone()
    truth[0, :, 8, 8] = 1
    truth[0, :, 2, 2] = 0.01  # below the threshold
    mask = metrics.changed(truth, target)
    assert mask.sum() == 9 and mask[0, 0, 7:10, 7:10].eq(1).all()


def test_frechet_is_the_known_distance_of_gaussians():
    generator = torch.Generator().manual_seed(1)
    a = torch.randn(60_000, 3, generator=generator)
    scale = torch.tensor([1.0, 2.0, 0.5])
    b = torch.randn(60_000, 3, generator=generator) * scale + torch.tensor([1.0, 0, 0])
    expected = 1 + ((1 - scale) ** 2).sum().item()  # |difference of means|^2 + sum (s_a - s_b)^2
    assert metrics.frechet(a, b) == pytest.approx(expected, rel=0.03)
    assert metrics.frechet(b, a) == pytest.approx(metrics.frechet(a, b), rel=1e-6)
    assert metrics.frechet(a[:5], a[:5]) == pytest.approx(0, abs=1e-6)  # fewer images than features, too
    with pytest.raises(ValueError, match="needs two images"):
        metrics.frechet(a[:1], b)


def test_frechet_equals_scipy_on_correlated_features():
    from scipy.linalg import sqrtm

    rng = np.random.default_rng(2)
    a, b = (rng.normal(size=(50, 6)) @ rng.normal(size=(6, 6)) for _ in range(2))
    first, second = np.cov(a.T), np.cov(b.T)
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(first + second - 2 * sqrtm(first @ second).real)
    assert metrics.frechet(torch.from_numpy(a), torch.from_numpy(b)) == pytest.approx(expected, rel=1e-6)


def test_retrieved_finds_the_closest_direction():
    gallery = torch.nn.functional.normalize(torch.tensor([[1.0, 0], [0, 1], [1, 1]]), dim=1)
    queries = torch.nn.functional.normalize(torch.tensor([[0.9, 0.1], [0.1, 3], [2, 2.1]]), dim=1)
    assert metrics.retrieved(queries, gallery).tolist() == [0, 1, 2]


def test_blurred_keeps_the_mean_colour_and_spreads_as_far_as_sigma():
    point = torch.full((1, 3, 33, 33), -1.0)
    point[..., 16, 16] = 1
    soft = metrics.blurred(point, 2.0) + 1
    assert soft.sum() == pytest.approx(6.0, rel=1e-4)
    offsets = torch.arange(33) - 16
    weight = soft[0, 0] / soft[0, 0].sum()
    assert (weight.sum(0) * offsets**2).sum().sqrt() == pytest.approx(2.0, rel=0.02)
