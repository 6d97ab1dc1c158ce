"""Detection and embedding through insightface, with tiny drawn-to-order networks in place of trained ones."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from uniface.faces import Faces


class GreenDetector(nn.Module):
    """An SCRFD-shaped network that finds green: score = how green a cell is, box = 8 pixels to every side of it."""

    def forward(self, x):  # (1, 3, h, w), RGB
        green = x[:, 1:2] - x[:, 0:1]  # 2 where pure green, 0 where grey
        scores, boxes, points = [], [], []
        for stride in (8, 16, 32):
            cells = nn.functional.avg_pool2d(green, stride) / 2
            if stride > 8:
                cells = cells * 0  # one scale answers
            flat = cells.permute(0, 2, 3, 1).reshape(-1, 1).repeat_interleave(2, 0)
            flat = flat * torch.tensor([[1.0], [0.0]]).repeat(flat.shape[0] // 2, 1)  # one anchor answers
            scores.append(flat)
            boxes.append(flat * 0 + torch.full((1, 4), 8.0 / stride))
            points.append(flat * 0 + torch.arange(10.0)[None] / 10)
        return (*scores, *boxes, *points)


class MeanRecogniser(nn.Module):
    """Mean colours of the aligned face, as a vector of six."""

    def forward(self, x):  # (1, 3, 112, 112)
        return torch.cat([x.mean(dim=(2, 3)), x[:, :, :56].mean(dim=(2, 3))], dim=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faces")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            GreenDetector(),
            torch.zeros(1, 3, 64, 96),
            str(folder / "detector.onnx"),
            input_names=["input"],
            output_names=[f"{kind}{stride}" for kind in ("score", "box", "point") for stride in (8, 16, 32)],
            dynamic_axes={"input": {2: "h", 3: "w"}},
            dynamo=False,
            opset_version=13,
        )
        torch.onnx.export(
            MeanRecogniser(),
            torch.zeros(1, 3, 112, 112),
            str(folder / "recogniser.onnx"),
            input_names=["input"],
            output_names=["embedding"],
            dynamo=False,
            opset_version=13,
        )
    return folder


@pytest.fixture(scope="module")
def faces(folder):
    return Faces(folder, providers=["CPUExecutionProvider"], threads=1)


def grey(height, width):
    return np.full((height, width, 3), 100, np.uint8)


def test_detects_in_pixels_of_the_image_whatever_its_size(faces):
    image = grey(90, 130)  # neither side is a multiple of 32
    image[40:48, 80:88] = (0, 255, 0)
    (found,) = faces.detect(image)
    assert found.box == pytest.approx([72, 32, 88, 48]) and found.box.dtype == np.float32
    assert found.landmarks.shape == (5, 2) and 0.9 < found.score <= 1
    assert found.landmarks[1] == pytest.approx([80 + 8 * 0.2, 40 + 8 * 0.3])
    assert faces.detect(grey(64, 64)) == []


def test_decoding_of_our_own_sees_what_insightfaces_does(faces):
    image = grey(90, 130)
    image[40:48, 80:88] = (0, 255, 0)
    for picture, count in ((image, 1), (grey(90, 130), 0)):
        (ours,), theirs = faces.detect_batch([picture]), faces.detect(picture)
        assert len(ours) == len(theirs) == count
        for one, other in zip(ours, theirs, strict=True):
            assert one.box == pytest.approx(other.box) and one.score == pytest.approx(other.score)
            assert one.landmarks == pytest.approx(other.landmarks)


def test_detects_at_a_bounded_height_and_scales_back(faces):
    image = grey(180, 260)
    image[80:96, 160:176] = (0, 255, 0)
    (found,) = faces.detect(image, height=90)
    assert found.box == pytest.approx([144, 64, 176, 96])
    assert faces.detect(image[:80], height=90) == []


def test_channels_are_rgb_for_both_networks(faces):
    image = grey(112, 112)
    image[..., 0] = 255  # red
    eyes_nose_mouth = np.array([[38.3, 51.7], [73.5, 51.5], [56.0, 71.7], [41.5, 92.4], [70.7, 92.2]], np.float32)
    vector = faces.embed(image, eyes_nose_mouth)
    assert vector.shape == (6,) and np.linalg.norm(vector) == pytest.approx(1)
    assert vector[0] > 0.6 and vector[0] > vector[1] and vector[0] > vector[2]


def test_detector_alone(folder):
    alone = Faces(folder, recognise=False, threads=1)
    assert alone.detect(grey(64, 64)) == []


def test_a_folder_without_networks_is_refused_without_a_download(tmp_path, folder):
    with pytest.raises(FileNotFoundError, match=r"pipeline\.weights"):
        Faces(tmp_path)
    (tmp_path / "recogniser.onnx").write_bytes((folder / "recogniser.onnx").read_bytes())
    with pytest.raises(ValueError, match="detector"):
        Faces(tmp_path)
