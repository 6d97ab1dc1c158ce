"""uniface/augment.py: the driver augmentation changes colour and shape, and is a function of the generator."""

import numpy as np
import pytest

from uniface.augment import _colour, _shape, _sharpness, augment_driver


def drawn(size: int) -> np.ndarray:
    """A grey gradient with a coloured disc off the centre."""
    y, x = np.mgrid[:size, :size] / size
    image = np.stack([60 + 120 * x, 60 + 120 * y, 120 + 0 * x], -1)
    image[(x - 0.4) ** 2 + (y - 0.45) ** 2 < 0.04] = (200, 90, 40)
    return image.astype(np.uint8)


@pytest.mark.parametrize("size", [32, 64, 256])
def test_same_generator_same_driver_other_generator_other_driver(size):
    image = drawn(size)
    before = image.copy()
    one, again, other = (augment_driver(image, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert one.shape == image.shape and one.dtype == np.uint8
    assert np.array_equal(one, again) and not np.array_equal(one, other)
    assert np.array_equal(image, before)


def test_only_the_kinds_asked_for():
    image = drawn(32)
    assert np.array_equal(augment_driver(image, np.random.default_rng(0), ()), image)
    alone = augment_driver(image, np.random.default_rng(0), ["shape"])
    assert np.array_equal(alone, _shape(image, np.random.default_rng(0)))
    assert not np.array_equal(alone, image)


def test_colour_scales_neighbouring_channels_by_one_factor_in_range():
    image = np.full((32, 32, 3), 100, np.uint8)
    seen = set()
    for seed in range(200):
        pixel = _colour(image, np.random.default_rng(seed))[0, 0]
        changed = tuple(int(c) for c in np.flatnonzero(pixel != 100))
        factors = pixel[list(changed)] / 100
        assert changed == () or (np.ptp(factors) == 0 and 0.28 <= factors[0] <= 1.6)
        seen.add(changed)
    # ranges from blue or green on: never red alone, never red with blue
    assert seen - {()} == {(2,), (1, 2), (0, 1, 2), (1,), (0, 1)}


def test_shape_moves_by_the_same_share_at_every_size():
    """Both sizes hold the same picture, so their warps agree up to the sampling."""
    small, large = drawn(64), drawn(256)
    for seed in range(10):
        a = _shape(small, np.random.default_rng(seed)).astype(float)
        b = _shape(large, np.random.default_rng(seed)).reshape(64, 4, 64, 4, 3).mean((1, 3))
        assert np.median(np.abs(a - b)) < 4
        assert np.abs(a - small).mean() > 3


def test_the_whole_frame_is_filled():
    for seed in range(50):
        assert _shape(np.full((64, 64, 3), 255, np.uint8), np.random.default_rng(seed)).min() == 255


def test_sharpness_blurs_or_sharpens_and_keeps_flat_areas():
    rng = np.random.default_rng(0)
    noise = rng.integers(80, 160, (256, 256, 3), dtype=np.uint8)
    spreads = [_sharpness(noise, np.random.default_rng(seed)).std() / noise.std() for seed in range(20)]
    assert min(spreads) < 0.5 and max(spreads) > 1.5
    flat = np.full((64, 64, 3), 77, np.uint8)
    assert all((_sharpness(flat, np.random.default_rng(seed)) == 77).all() for seed in range(20))
