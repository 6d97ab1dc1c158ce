"""D3DFR's checkpoint, in a made file of its format: what it holds is read, what it is not is refused, faces align."""

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.io import savemat

from uniface.deep3d import PARTS, SIZE, Deep3D, align, load_deep3d, part, standard_points

STANDARD = np.array([[-0.3, 0.3, 0.1], [0.3, 0.3, 0.1], [0, 0, 0.5], [-0.25, -0.4, 0.2], [0.25, -0.4, 0.2]])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    net = Deep3D().eval()
    path = tmp_path_factory.mktemp("net") / "epoch_20.pth"
    torch.save({"net_recon": net.state_dict(), "opt_00": {"state": {}, "param_groups": [{"lr": 1e-4}]}}, path)
    return net, path


def test_the_checkpoint_of_the_release_loads(checkpoint):
    net, path = checkpoint
    images = torch.rand(2, 3, SIZE, SIZE) * 2 - 1
    loaded = load_deep3d(path)
    with torch.no_grad():
        expected, found = net(images), loaded(images)
    assert found.shape == (2, 257) and torch.allclose(found, expected, atol=1e-5)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    keys = set(torch.load(path, weights_only=True)["net_recon"])
    assert {"backbone.conv1.weight", "backbone.layer4.2.bn3.bias", "final_layers.6.bias"} <= keys


def test_the_same_tensors_may_be_safetensors(checkpoint, tmp_path):
    net, _ = checkpoint
    save_file({f"net_recon.{name}": value for name, value in net.state_dict().items()}, tmp_path / "d3dfr.safetensors")
    loaded = load_deep3d(tmp_path / "d3dfr.safetensors").state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in net.state_dict().items())
    (tmp_path / "text.safetensors").write_text("no tensors, and long enough to look at")
    with pytest.raises(ValueError, match="tensors alone"):
        load_deep3d(tmp_path / "text.safetensors")


def test_parts_are_where_the_release_has_them():
    numbers = torch.arange(257)[None]
    expected = {"identity": (0, 80), "expression": (80, 144), "texture": (144, 224), "angles": (224, 227)}
    expected |= {"light": (227, 254), "shift": (254, 256), "depth": (256, 257)}
    assert list(expected) == list(PARTS)
    for name, (start, end) in expected.items():
        assert part(numbers, name)[0].tolist() == list(range(start, end))


def test_other_files_are_refused_in_one_sentence(checkpoint, tmp_path):
    with pytest.raises(FileNotFoundError, match="Deep3DFaceRecon"):
        load_deep3d(tmp_path / "none.pth")
    (tmp_path / "text.pth").write_text("no tensors")
    with pytest.raises(ValueError, match="tensors alone"):
        load_deep3d(tmp_path / "text.pth")
    torch.save({"net_recon": {"a": torch.zeros(1)}}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="no checkpoint of Deep3DFaceRecon"):
        load_deep3d(tmp_path / "other.pth")
    torch.save({"net_recon": checkpoint[0]}, tmp_path / "module.pth")  # a pickled class: code would run
    with pytest.raises(ValueError, match="tensors alone"):
        load_deep3d(tmp_path / "module.pth")


def test_the_standard_face_comes_from_its_own_file(tmp_path):
    landmarks = np.random.default_rng(0).normal(size=(68, 3))
    savemat(tmp_path / "similarity_Lm3D_all.mat", {"lm": landmarks})
    points = standard_points(tmp_path / "similarity_Lm3D_all.mat")
    assert np.allclose(points[0], (landmarks[36] + landmarks[39]) / 2) and np.allclose(points[2], landmarks[30])
    assert np.allclose(points[3:], landmarks[[48, 54]])
    savemat(tmp_path / "few.mat", {"lm": landmarks[:5]})
    with pytest.raises(ValueError, match=r"expected \(68, 3\)"):
        standard_points(tmp_path / "few.mat")
    (tmp_path / "text.mat").write_text("no table, and long enough to look at" * 10)
    with pytest.raises(ValueError, match="no MATLAB file"):
        standard_points(tmp_path / "text.mat")


@pytest.mark.parametrize(("scale", "x", "y"), [(60.0, 70.0, 90.0), (300.0, 420.0, 380.0)])
def test_a_face_of_any_size_lands_in_the_same_place(scale, x, y):
    """The standard face drawn frontally, `scale` pixels a unit with its origin at (x, y), by dots at its points."""
    points = STANDARD[:, :2] * [scale, -scale] + [x, y]
    image = np.zeros((800, 800, 3), np.uint8)
    for point in points:
        cv2.circle(image, tuple(round(v) for v in point), max(2, round(scale / 20)), (255, 255, 255), -1)
    made = align(image, points, STANDARD)
    assert made.shape == (SIZE, SIZE, 3)
    _, _, _, centres = cv2.connectedComponentsWithStats((made[..., 0] > 100).astype(np.uint8))
    expected = STANDARD[:, :2] * [102, -102] + SIZE / 2
    found = centres[1:]
    for point in expected:
        assert np.linalg.norm(found - point, axis=1).min() < 1.5
