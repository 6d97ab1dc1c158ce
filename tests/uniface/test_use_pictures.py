"""Whole pictures: crops, paste-back, kinds of files, choice of faces, the library's kinds of pictures."""

import dataclasses

import cv2
import drawn_faces
import numpy as np
import pytest
import tiny
import torch
from PIL import Image

import uniface
from pipeline.videos import fomm
from uniface.images import resize, to_tensor
from uniface.model import UniFace
from uniface.released import reenactment_config, swapping_config
from uniface.use import crops, find, pictures
from uniface.use.network import Network
from uniface.use.paste import face_mask, paste


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return drawn_faces.write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def editor(folder):
    return uniface.load(folder)


def identical(editor, monkeypatch):
    """The editor with a network that answers with the target's crop."""
    monkeypatch.setattr(editor, "run", lambda task, features, targets: targets)
    return editor


def test_fomms_square_is_the_crop_stages():
    """Of a box that is JOINED times as large as a frame's, as a clip's is."""
    image = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    for box in ((100.3, 60.2, 150.9, 130.7), (100, 70, 160, 110)):
        middle, size = (np.add(box[:2], box[2:]) / 2, np.subtract(box[2:], box[:2]) * crops.JOINED)
        left, top, right, bottom = fomm.enlarge((*(middle - size / 2), *(middle + size / 2)), 0.1)
        assert np.array_equal(crops.fomm(box).cut(image, 64), resize(image[top:bottom, left:right], (64, 64)))
        moving = crops.fomm(box, whole=False)
        assert np.hypot(*moving.across) == pytest.approx(1.2 * size.max())


def test_a_face_that_fills_the_picture_is_found_once(editor):
    """The detector takes parts of a face for faces where it is larger than those it learnt."""
    large = dataclasses.replace(drawn_faces.world().portraits[0], size=720).render()
    assert len(find.search(editor.faces, editor.height("swapping"), large)) == 1


def test_ffhq_square_puts_eyes_and_mouth_where_ffhq_has_them():
    """FFHQ's mean landmarks in a crop of 512 px, as face tools publish them, turned, scaled and moved."""
    ffhq = np.array([[193.0, 240.0], [318.9, 240.2], [256.6, 314.0], [201.3, 371.4], [313.1, 371.2]])
    turn = np.deg2rad(25)
    turn = 0.7 * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    square = crops.ffhq(ffhq @ turn.T + [90, 40])
    matrix = np.vstack([square.matrix((512, 512)), [0, 0, 1]])
    seen = np.linalg.inv(matrix) @ np.column_stack([ffhq @ turn.T + [90, 40], np.ones(5)]).T
    assert np.abs(seen[:2].T - ffhq).max() < 8  # 1.5 % of the crop


@pytest.mark.parametrize("side", [150, 400])  # larger and smaller than the crop
def test_pasting_what_did_not_change_changes_nothing(side):
    picture = np.random.default_rng(0).integers(0, 256, (500, 600, 3), dtype=np.uint8)
    turn = np.array([[0.9, -0.43589], [0.43589, 0.9]])
    square = crops.Square(np.array([150.0, 40.0]), turn @ [side, 0], turn @ [0, side])
    crop = square.cut(picture, 256)
    assert np.abs(paste(picture, square, crop, crop).astype(int) - picture).max() <= 1
    changed = paste(picture, square, crop, 255 - crop)
    mask = cv2.warpAffine(face_mask(256), square.matrix((256, 256)), (600, 500))
    inside = cv2.dilate(mask, np.ones((3, 3))) > 0
    assert np.array_equal(changed[~inside], picture[~inside])
    assert (changed != picture)[mask > 0.5].any(axis=-1).mean() > 0.9


def test_a_shift_of_colours_leaves_no_seam():
    picture = np.full((300, 300, 3), 120, np.uint8)
    square = crops.Square(np.array([50.0, 50.0]), np.array([200.0, 0]), np.array([0, 200.0]))
    crop = square.cut(picture, 64)
    output = crop + np.uint8([30, 0, 0])
    output[28:36, 28:36] = 250
    pasted = paste(picture, square, crop, output).astype(int)
    assert abs(pasted[150 - 80, 150, 0] - 120) <= 2 and abs(pasted[150, 150 - 68, 0] - 120) <= 2  # the mask's edge
    assert pasted[150, 150, 1] > 220  # what changed inside is there


def test_identity_model_returns_the_picture(editor, monkeypatch):
    picture = drawn_faces.frame("two", 5)
    out = identical(editor, monkeypatch).swap(drawn_faces.portrait(), picture, face="all")
    assert np.abs(out.astype(int) - picture).max() <= 1


def test_every_face_is_found_chosen_and_swapped(editor):
    picture = drawn_faces.frame("two", 5)
    found = find.search(editor.faces, 240, picture)
    assert len(found) == 2
    changed = {}
    for face in ("largest", "all", "left", 1, 2):
        out = editor.swap(drawn_faces.portrait(), picture, face=face)
        differs = (out != picture).any(axis=-1)
        changed[face] = [bool(differs[int(y), int(x)]) for x, y in sorted(f.landmarks[2].tolist() for f in found)]
    assert changed == {
        "largest": [True, False],
        "all": [True, True],
        "left": [True, False],
        1: [True, False],
        2: [False, True],
    }
    with pytest.raises(ValueError, match="no face number 3 in the target: it has 2"):
        editor.swap(drawn_faces.portrait(), picture, face=3)


def test_no_face_names_the_file(editor, tmp_path):
    empty = drawn_faces.save(tmp_path / "empty.png", np.full((100, 100, 3), 90, np.uint8))
    for pair in ((empty, drawn_faces.frame()), (drawn_faces.portrait(), empty)):
        with pytest.raises(ValueError, match=r"no face found in .*empty\.png"):
            editor.swap(*pair)


def test_a_face_at_the_border_and_a_picture_of_12_megapixels(editor):
    picture = drawn_faces.frame()
    face = find.search(editor.faces, 240, picture)[0]
    half = np.ascontiguousarray(picture[:, : int(face.box[2] - 0.1 * (face.box[2] - face.box[0]))])
    out = editor.swap(drawn_faces.portrait(), half)
    assert out.shape == half.shape and (out != half).any()
    large = cv2.resize(picture, (4608, 2596), interpolation=cv2.INTER_CUBIC)
    out = editor.swap(drawn_faces.portrait(), large)
    changed = np.argwhere((out != large).any(axis=-1))[:, ::-1]
    scale = 4608 / picture.shape[1]
    middle = (face.box[:2] + face.box[2:]) / 2
    assert np.abs(changed.mean(0) / scale - middle).max() < 20
    assert editor.reenact(drawn_faces.portrait(), large).shape == (32, 32, 3)


def variants(rgb):
    image = Image.fromarray(rgb)
    alpha = image.copy()
    alpha.putalpha(Image.fromarray(np.linspace(0, 255, rgb.shape[1]).astype(np.uint8)[None].repeat(rgb.shape[0], 0)))
    turned = Image.Exif()
    turned[0x0112] = 6  # shown turned by 90 degrees clockwise
    grey = np.asarray(image.convert("L"))
    return {
        "grey.png": (image.convert("L"), {}),
        "cmyk.jpg": (image.convert("CMYK"), {}),
        "deep.png": (Image.fromarray(grey.astype(np.uint16) * 257), {}),
        "alpha.png": (alpha, {}),
        "palette.png": (image.quantize(256), {}),
        "turned.jpg": (Image.fromarray(np.ascontiguousarray(np.rot90(rgb))), {"exif": turned, "quality": 95}),
    }


@pytest.mark.parametrize("name", ["grey.png", "cmyk.jpg", "deep.png", "alpha.png", "palette.png", "turned.jpg"])
def test_any_kind_of_picture(editor, monkeypatch, tmp_path, name):
    image, options = variants(drawn_faces.frame())[name]
    image.save(tmp_path / name, **options)
    picture = pictures.read(tmp_path / name)
    assert picture.rgb.shape == (240, 426, 3)
    assert np.abs(picture.rgb.astype(int) - drawn_faces.frame()).mean() < (30 if name[0] in "gd" else 12)
    out = identical(editor, monkeypatch).swap(drawn_faces.portrait(), picture)
    assert np.abs(out.rgb.astype(int) - picture.rgb).max() <= 1
    pictures.write(tmp_path / "out.png", out)
    again = Image.open(tmp_path / "out.png")
    assert (again.mode == "RGBA") == (name == "alpha.png")
    if name == "alpha.png":
        assert np.array_equal(np.asarray(again)[..., 3], np.asarray(image)[..., 3])


def test_the_answer_is_of_the_targets_kind(editor, tmp_path):
    source, target = drawn_faces.portrait(), drawn_faces.frame()
    path = drawn_faces.save(tmp_path / "t.png", target)
    expected = editor.swap(source, target)
    assert np.array_equal(editor.swap(source, path), expected)
    assert np.array_equal(np.asarray(editor.swap(Image.fromarray(source), Image.fromarray(target))), expected)
    crop = torch.stack([to_tensor(resize(drawn_faces.portrait(n), (32, 32))) for n in (0, 1)])
    for verb in (editor.swap, editor.reenact):
        image = verb(crop[:1], crop[1:])
        assert image.shape == (1, 3, 32, 32) and verb(crop[0], crop[1]).shape == (3, 32, 32)
    with pytest.raises(ValueError, match="must be uint8"):
        editor.swap(source, target.astype(float))


def test_two_steps_equal_the_model():
    """The split of the forward pass for cached sources changes nothing, with every kind of skip."""
    source, target = tiny.images(2, seed=1), tiny.images(2, seed=2)
    small = {"max_channels": 32, "channel_base": 512, "image_size": 32}
    for config in (
        tiny.config(alpha_init=0.5),
        tiny.config(skip="none"),
        dataclasses.replace(reenactment_config(), **small),
        dataclasses.replace(swapping_config(), **small),
    ):
        torch.manual_seed(0)
        model = UniFace(config).eval()
        for task in ("reenactment", "swapping"):
            with torch.no_grad():
                expected = model(source, target, task=task)
            network = Network(model, task)
            assert torch.allclose(network.frame(network.source(source), target), expected, atol=1e-4)
            one = network.frame(network.source(source[:1]), target)  # one source, many frames
            assert torch.allclose(one[:1], expected[:1], atol=1e-4)


def test_models_and_detectors_that_do_not_fit(folder, tmp_path):
    single = uniface.load(folder / "swapping.safetensors")
    with pytest.raises(ValueError, match="a model for swapping: it cannot reenact"):
        single.reenact(drawn_faces.portrait(), drawn_faces.frame())
    with pytest.raises(ValueError, match="no device 'cuda:7'"):
        uniface.load(folder, device="cuda:7")
    wanted = {"detector": {"sha256": "0" * 64, "height": 240}}
    drawn_faces.write_model(tmp_path / "swapping.safetensors", "swapping", **wanted)
    (tmp_path / "detector.onnx").write_bytes(drawn_faces.DETECTOR.read_bytes())
    with pytest.raises(FileNotFoundError, match=r"the face detector of .* is missing"):
        uniface.load(tmp_path).swap(drawn_faces.portrait(), drawn_faces.frame())
    with pytest.raises(FileNotFoundError, match="holds neither"):
        uniface.load(tmp_path.parent)
    assert uniface.load(tmp_path, detector=drawn_faces.DETECTOR).swap(drawn_faces.portrait(), drawn_faces.frame()).any()
