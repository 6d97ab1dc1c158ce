"""AEE and APE by a made checkpoint of Deep3DFaceRecon: from params.yaml to the numbers, with no face left out."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.io import savemat

from pipeline.common.files import sha256
from pipeline.common.places import Places
from pipeline.params import load
from pipeline.sample.drawing.identity import Attributes, Face
from pipeline.sample.drawing.look import Look, Scene
from pipeline.sample.drawing.render import Renderer
from pipeline.scoring.scorer import Scorer
from pipeline.sections import RoleParams, WeightsParams
from pipeline.weights import weights
from uniface import deep3d
from uniface.images import to_tensor


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    root = tmp_path_factory.mktemp("project")
    torch.manual_seed(0)
    net = deep3d.Deep3D().eval()
    torch.save({"net_recon": net.state_dict()}, root / "epoch_20.pth")
    savemat(root / "similarity_Lm3D_all.mat", {"lm": np.random.default_rng(0).normal(size=(68, 3))})
    own = RoleParams(
        file=str(root / "epoch_20.pth"),
        sha256=sha256(root / "epoch_20.pth"),
        landmarks=str(root / "similarity_Lm3D_all.mat"),
    )
    params = load(Path(__file__).parents[3] / "params.yaml")
    places = Places(root)
    manifest = weights(replace(params, weights=WeightsParams("sample", {"regressor": own})), places)
    return net, manifest["regressor"], Scorer(places.nets, 4, torch.device("cpu"))


def heads(count: int) -> np.ndarray:
    pictures = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        face, look, scene = Face.sample(rng), Look.sample(rng), Scene.sample(rng)
        pictures.append(Renderer(face, look, scene, (128, 128)).frame(Attributes.portrait(rng)))
    return np.stack(pictures)


def test_coefficients_are_of_the_face_aligned_by_its_five_points(project):
    net, entry, scorer = project
    assert np.shape(entry["standard_points"]) == (5, 3) and not entry["stand_in"] and entry["file"] == "regressor.pth"
    pictures = heads(3)
    pictures[2] = 90  # nobody
    found = scorer.know(pictures)
    assert found.has_face.tolist() == [True, True, False] and found.coefficients.shape == (3, 257)
    assert found.coefficients[2].isnan().all()
    (picture, landmarks), *_ = scorer.align.find(pictures[:1])
    aligned = deep3d.align(picture, landmarks, np.array(entry["standard_points"]))
    with torch.no_grad():
        expected = net(to_tensor(aligned[None]))[0]
    assert torch.allclose(found.coefficients[0], expected, atol=1e-4)


def test_aee_is_of_the_64_and_ape_of_the_3_angles(project):
    scorer = project[2]
    found = scorer.know(heads(2))
    shifted = found.coefficients.clone()
    shifted[:, 80:144] += 0.5  # expression
    shifted[:, 224:227] -= 0.1  # angles
    shifted[:, :80] += 9  # identity: counts for nothing
    pairs = SimpleNamespace(source_key=("a", "b"), source_identity=("a", "b"))
    row = scorer.judged(replace(found, coefficients=shifted), found, found, pairs)
    assert row["aee"].tolist() == pytest.approx([0.5] * 2, abs=1e-5)
    assert row["ape"].tolist() == pytest.approx([0.1] * 2, abs=1e-5)
    networks = scorer.networks()
    assert networks["ape"]["coefficients"] == ["angles_0", "angles_1", "angles_2"]
    assert len(networks["aee"]["coefficients"]) == 64 and networks["aee"]["network"] == "epoch_20 (yours)"
    assert not networks["aee"]["stand_in"]
