"""The mean vector of many people, remade from photographs."""

import json
import sys

import numpy as np
import pytest
import torch

from pipeline.nets import centre
from pipeline.nets.catalogue import Weight
from pipeline.sections import RoleParams
from uniface.faces import Detection
from uniface.images import write_image


class Colours(torch.nn.Module):
    def forward(self, crops):
        return crops.mean((2, 3))


class Halves:
    """Finds a face in each half of a picture, the right one smaller; a black half has none."""

    def detect(self, picture):
        width = picture.shape[1] // 2
        boxes = [np.array([0, 0, width, 30.0]), np.array([width, 0, 2 * width, 20.0])]
        return [Detection(box, 0.9, np.full((5, 2), box[0])) for box in boxes if picture[0, int(box[0])].any()]

    def align(self, picture, landmarks):
        return np.tile(picture[0, int(landmarks[0, 0])], (112, 112, 1))


def picture(left, right):
    return np.repeat(np.uint8([[left] * 16 + [right] * 16]), 32, 0)


@pytest.fixture
def folder(tmp_path):
    red, green, blue, black = (255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0)
    for number in range(3):
        write_image(tmp_path / f"photos/anna/{number}.png", picture(red, blue))  # a bystander in blue
    write_image(tmp_path / "photos/group.png", picture(green, blue))
    write_image(tmp_path / "photos/nobody/1.png", picture(black, black))
    (tmp_path / "photos/notes.txt").write_text("no picture")
    return tmp_path / "photos"


def test_each_person_counts_once_and_bystanders_of_a_person_do_not(folder, tmp_path):
    vector, persons = centre.centre(Colours(), centre.people(folder, Halves()))
    assert persons == 3 and vector == pytest.approx([-1 / 3] * 3, abs=1e-6)
    centre.write(tmp_path / "centre.json", vector, "colours.onnx", persons)
    weight = Weight.of_yours("judge", RoleParams(file="x.onnx", centre=str(tmp_path / "centre.json")))
    assert weight.read_centre() == pytest.approx(vector.tolist(), abs=1e-5)
    assert json.loads((tmp_path / "centre.json").read_text())["from"] == "3 persons"


def test_what_cannot_be_done_is_a_sentence(folder, tmp_path, monkeypatch, capsys):
    with pytest.raises(ValueError, match="no face found in the pictures of"):
        list(centre.people(folder / "nobody", Halves()))
    for arguments, sentence in [("none", "no folder none"), (str(folder), "no ONNX files in")]:
        monkeypatch.setattr(sys, "argv", ["centre", arguments, "-o", "x.json", "--detector", str(tmp_path)])
        assert centre.main() == 2
        said = capsys.readouterr().err
        assert sentence in said and said.count("\n") == 1
