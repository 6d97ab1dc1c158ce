"""Faces aligned by a warp with a gradient: insightface's crop, the fixed crop, and their way into training."""

import dataclasses
import pickle

import cv2
import drawn_faces
import numpy as np
import pytest
import torch
from small_trainer import CONFIG, WEIGHTS

from uniface.alignment import FacePoints, aligned, fixed_points
from uniface.backbones import Recogniser, recogniser_input
from uniface.config import WrongSettings
from uniface.faces import Faces
from uniface.images import to_tensor
from uniface.objective import LossNets, Objective
from uniface.stream import sample_stream

EYES_NOSE_MOUTH = np.array([[88, 105], [150, 98], [124, 140], [101, 172], [152, 166]], np.float32)


def smooth(size: int = 256, count: int = 1, cells: int = 12) -> torch.Tensor:
    coarse = torch.randn(count, 3, cells, cells, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic").clamp(-1, 1)


def shares(points: np.ndarray, size: int = 256) -> torch.Tensor:
    return torch.from_numpy(((points + 0.5) / size).astype(np.float32))[None]


def turned(points: np.ndarray, degrees: float, scale: float) -> np.ndarray:
    middle = points.mean(0)
    return cv2.transform((points - middle)[None], cv2.getRotationMatrix2D((0, 0), degrees, scale)[:, :2])[0] + middle


@pytest.mark.parametrize(("degrees", "scale"), [(0, 1.0), (35, 0.8), (-80, 1.2), (180, 0.6)])
def test_it_is_insightfaces_crop(degrees, scale):
    points = turned(EYES_NOSE_MOUTH, degrees, scale)
    image = smooth()
    levels = ((image[0].permute(1, 2, 0).numpy() + 1) * 127.5).round().astype(np.uint8)
    expected = to_tensor(Faces.align(levels, points))
    got = aligned(to_tensor(levels)[None], shares(points))[0]
    error = (got - expected).abs() * 127.5
    assert error.mean() < 0.5 and torch.quantile(error.flatten(), 0.99) < 3


def test_each_picture_is_turned_by_its_own_points():
    points = [shares(turned(EYES_NOSE_MOUTH, degrees, 0.9)) for degrees in (0, 50)]
    image = smooth()
    both = aligned(image.repeat(2, 1, 1, 1), torch.cat(points))
    for crop, own in zip(both, points, strict=True):
        torch.testing.assert_close(crop, aligned(image, own)[0])
    assert (both[0] - both[1]).abs().mean() > 0.1


@pytest.mark.parametrize("size", [64, 256, 512])
def test_points_where_the_fixed_crop_expects_them_give_the_fixed_crop(size):
    """But for its cut to whole pixels, its averaging, and its rim, beyond which it sees nothing."""
    image, points = smooth(size, cells=6), torch.from_numpy(fixed_points())[None]
    expected = recogniser_input(image)

    def error(shift: float) -> float:
        return (aligned(image, points + shift / 256) - expected)[..., 2:-2, 2:-2].abs().mean().item()

    assert error(0) < (0.03 if size == 64 else 0.005) and error(4) > 0.08


@pytest.mark.parametrize("size", [64, 256, 512])
def test_the_gradient_reaches_every_pixel_of_the_face(size):
    image = smooth(size).requires_grad_()
    points = torch.from_numpy(fixed_points())[None]
    aligned(image, points).square().sum().backward()
    inside = image.grad[0, :, round(0.2 * size) : round(0.8 * size), round(0.2 * size) : round(0.8 * size)]
    assert torch.isfinite(image.grad).all() and (inside.abs().sum(0) > 0).all()
    assert not image.grad[0, :, : size // 16].any()


class Patch(torch.nn.Module):
    """Three colours of the crop's left half: another place of the face gives another vector."""

    def forward(self, crops):
        return crops[..., :56].mean((2, 3))


def test_the_loss_sees_the_output_by_the_targets_points_and_the_source_by_its_own():
    config = dataclasses.replace(CONFIG, identity_crop="aligned")
    source, target = smooth(64, 4).split(2)
    moved = [torch.cat([shares(EYES_NOSE_MOUTH + shift)] * 2) for shift in (0, 12)]
    batch = {"source": source, "target": target, "source_points": moved[0], "target_points": moved[1]}
    fake = target.clone().requires_grad_()
    net = Recogniser(Patch())
    objective = Objective(LossNets(net), only_identity(config))
    value = objective(batch, fake)["identity"]
    expected = 1 - (net(source, moved[0]) * net(fake, moved[1])).sum(1).mean()
    torch.testing.assert_close(value, expected)
    assert abs(value - objective(batch | {"target_points": moved[0]}, fake)["identity"]) > 1e-3
    value.backward()
    assert fake.grad.abs().sum() > 0


def only_identity(config):
    weights = dataclasses.replace(WEIGHTS, **{f.name: 0.0 for f in dataclasses.fields(WEIGHTS)} | {"identity": 1.0})
    return dataclasses.replace(config, weights=weights)


def test_alignment_without_the_loss_is_refused():
    weights = dataclasses.replace(WEIGHTS, identity=0.0)
    with pytest.raises(WrongSettings, match=r"identity_crop is aligned: there is no L_id, weights.identity is 0"):
        dataclasses.replace(CONFIG, weights=weights, identity_crop="aligned")


class Two:
    """A data set of one face and one picture without."""

    def sample(self, k, seed, augment, candidates):
        return {"source": drawn_faces.portrait(), "target": np.zeros_like(drawn_faces.portrait())}, 0


def test_batches_bring_the_points_of_every_face_and_count_the_others():
    find = pickle.loads(pickle.dumps(FacePoints(drawn_faces.DETECTOR)))
    stream = sample_stream(Two(), 0, 2, points=find)
    batch = next(stream)
    assert stream.without_face == 2
    assert np.array_equal(batch["target_points"], [fixed_points()] * 2)
    assert batch["source_points"].shape == (2, 5, 2)
    left, right = batch["source_points"][0, :2]
    assert 0.2 < left[0] < 0.5 < right[0] < 0.8 and 0.3 < left[1] < 0.6  # a portrait's eyes
    assert pickle.dumps(find)  # loading processes get it after its first call too
