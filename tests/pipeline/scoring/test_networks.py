"""The networks of the metrics say on a processor what they say in torch."""

import onnx
import pytest
import torch
from tiny_nets import write_nets

from pipeline.scoring import nets
from uniface import backbones

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_nets(tmp_path_factory.mktemp("weights") / "weights")


def test_each_says_what_it_says_in_torch(folder):
    images = torch.rand(5, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    centre = torch.linspace(-0.1, 0.1, 16).tolist()
    judge = nets.load_recogniser(folder / "judge.onnx", centre, CPU)
    assert torch.allclose(judge(images), backbones.load_recogniser(folder / "judge.onnx", centre)(images), atol=1e-5)
    maps = nets.load_perceptual(folder / "perceptual.onnx", CPU)(images)
    wanted = backbones.load_perceptual(folder / "perceptual.onnx")(images)
    assert len(maps) == len(wanted) == 2
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(maps, wanted, strict=True))
    regressor, other = nets.load_regressor(folder / "regressor.onnx", CPU), folder / "regressor.onnx"
    assert regressor.names == backbones.load_regressor(other).names
    assert torch.allclose(regressor(images), backbones.load_regressor(other)(images), atol=1e-5)


def test_a_file_that_takes_one_picture_gets_one_at_a_time(folder, tmp_path):
    model = onnx.load(folder / "judge.onnx")
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, tmp_path / "judge.onnx")
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    one, any_ = (nets.load_recogniser(place / "judge.onnx", None, CPU)(images) for place in (tmp_path, folder))
    assert torch.allclose(one, any_, atol=1e-6)


def test_a_missing_or_a_wrong_file_is_named(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no network at .*judge\.onnx: run the stage `weights` first"):
        nets.load_recogniser(tmp_path / "judge.onnx", None, CPU)
    (tmp_path / "judge.onnx").write_bytes(b"not a network")
    with pytest.raises(ValueError, match=r"judge\.onnx is not an ONNX file"):
        nets.load_recogniser(tmp_path / "judge.onnx", None, CPU)
    with pytest.raises(ValueError, match="not a face recogniser: it takes 64"):
        nets.load_recogniser(folder / "regressor.onnx", None, CPU)
    with pytest.raises(ValueError, match="no `names`"):
        nets.load_regressor(folder / "judge.onnx", CPU)
