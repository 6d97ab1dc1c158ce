"""The resize against scikit-image, conversions there and back, files and grids."""

import numpy as np
import pytest
import torch
from skimage.transform import resize as reference_resize
from skimage.util import img_as_ubyte

from uniface import images


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A busy picture: waves, edges and noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = 110 + 60 * np.sin(x / 7) + 50 * np.cos(y / 11 + x / 23)
    waves[height // 3 : height // 2, width // 4 : width // 2] = 250
    channels = np.stack([waves, waves.T[:height, :width] if height == width else waves[::-1], 255 - waves], axis=-1)
    return np.clip(channels + rng.normal(0, 12, channels.shape), 0, 255).astype(np.uint8)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    error = np.mean((a.astype(float) - b.astype(float)) ** 2)
    return 10 * np.log10(255**2 / max(error, 1e-12))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ((373, 373), (256, 256)),
        ((512, 512), (256, 256)),
        ((307, 311), (256, 256)),
        ((720, 703), (256, 256)),
        ((96, 96), (64, 64)),
        ((300, 200), (32, 48)),
        ((33, 90), (32, 16)),
    ],
)
def test_reductions_equal_scikit_image_to_60_db(old, new):
    image = picture(*old)
    expected = img_as_ubyte(reference_resize(image, new, anti_aliasing=True))
    ours = images.resize(image, new)
    assert ours.dtype == np.uint8 and ours.shape == (*new, 3)
    assert psnr(ours, expected) >= 60


@pytest.mark.parametrize(("old", "new"), [((1100, 1100), (64, 64)), ((2050, 520), (64, 64))])
def test_huge_reductions_in_two_steps_equal_the_one_step(old, new, monkeypatch):
    image = picture(*old)
    ours = images.resize(image, new)
    monkeypatch.setattr(images, "HUGE", 1e9)
    assert psnr(ours, images.resize(image, new)) >= 57


def test_a_picture_of_4096_pixels_is_reduced_at_once(monkeypatch):
    """The Gaussian of the one step would have 250 weights a side, at full size: 13 seconds."""
    kernels, real = [], images._gaussian
    monkeypatch.setattr(images, "_gaussian", lambda sigma: (kernels.append(real(sigma)), kernels[-1])[1])
    assert images.resize(np.full((4096, 4096, 3), 90, np.uint8), (64, 64)).mean() == 90
    assert max(map(len, kernels)) < 40


def test_enlarging_is_bilinear_without_blur():
    image = picture(64, 64)
    expected = img_as_ubyte(reference_resize(image, (100, 100), anti_aliasing=True))
    inside = np.s_[4:-4, 4:-4]
    assert psnr(images.resize(image, (100, 100))[inside], expected[inside]) >= 60


def test_same_size_is_a_copy():
    image = picture(40, 50)
    same = images.resize(image, (40, 50))
    assert np.array_equal(same, image) and not np.shares_memory(same, image)


def test_tensor_and_back_is_exact_for_every_level():
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    tensor = images.to_tensor(levels)
    assert tensor.shape == (3, 16, 16) and tensor.dtype == torch.float32
    assert tensor.min() == -1 and tensor.max() == 1
    assert np.array_equal(images.to_uint8(tensor), levels)
    batch = np.stack([levels, 255 - levels])
    assert images.to_tensor(batch).shape == (2, 3, 16, 16)
    assert np.array_equal(images.to_uint8(images.to_tensor(batch)), batch)


def test_to_uint8_clips():
    assert images.to_uint8(torch.tensor([-3.0, 3.0]).view(1, 1, 2).expand(3, 1, 2))[0, :, 0].tolist() == [0, 255]


def test_files_round_trip_and_errors(tmp_path):
    image = picture(20, 30)
    images.write_image(tmp_path / "deep" / "a.png", image)
    assert np.array_equal(images.read_image(tmp_path / "deep" / "a.png"), image)
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["a.png"]
    with pytest.raises(FileNotFoundError, match=r"b\.png"):
        images.read_image(tmp_path / "b.png")
    (tmp_path / "c.png").write_bytes(b"not a picture")
    with pytest.raises(ValueError, match=r"c\.png"):
        images.read_image(tmp_path / "c.png")


def test_grid_places_pictures_and_fills_with_white():
    a, b = np.zeros((4, 5, 3), np.uint8), np.full((4, 5, 3), 9, np.uint8)
    sheet = images.grid([[a, b], [b]], gap=1)
    assert sheet.shape == (9, 11, 3)
    assert (sheet[:4, 6:] == 9).all() and (sheet[5:, :5] == 9).all() and (sheet[5:, 6:] == 255).all()
    with pytest.raises(ValueError, match="one size"):
        images.grid([[a, np.zeros((5, 5, 3), np.uint8)]])
