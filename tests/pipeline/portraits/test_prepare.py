"""pipeline/portraits/prepare.py: each kind of odd picture is converted rightly or rejected with its reason."""

import io
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from PIL import Image

from pipeline.common.places import Places
from pipeline.pairs import pairs
from pipeline.params import load
from pipeline.portraits.prepare import SMALLEST, Rejected, prepare, read_rgb
from pipeline.sections import PairsParams
from uniface.images import resize

ROOT = Path(__file__).resolve().parents[3]


def drawn(height: int = 40, width: int = 40) -> np.ndarray:
    """Smooth colours, all corners different."""
    y, x = np.mgrid[:height, :width]
    return np.stack([50 + 3 * x, 60 + 3 * y, 200 - 2 * x], -1).astype(np.uint8)


def saved(image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()


def deep_png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image[..., ::-1] if image.ndim == 3 else image)[1].tobytes()


def rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it turned by 90 degrees clockwise
    return saved(np.rot90(drawn()), "PNG", exif=exif)


GREY = np.asarray(Image.fromarray(drawn()).convert("L"))
ALPHA = np.dstack([drawn(), np.where(np.arange(40) < 20, 255, 0) + np.zeros((40, 1))]).astype(np.uint8)
KINDS = {
    "plain": (saved(drawn(), "PNG"), [], drawn()),
    "grey": (saved(GREY, "PNG"), ["grey"], np.dstack([GREY] * 3)),
    "grey16": (deep_png(GREY.astype(np.uint16) * 257), ["16-bit", "grey"], np.dstack([GREY] * 3)),
    "deep": (deep_png(drawn().astype(np.uint16) * 257), ["16-bit"], drawn()),
    "cmyk": (saved(Image.fromarray(drawn()).convert("CMYK"), "JPEG", quality=98), ["cmyk"], drawn()),
    "palette": (saved(Image.fromarray(drawn()).quantize(256), "PNG"), ["palette"], drawn()),
    "alpha": (saved(ALPHA, "PNG"), ["alpha"], drawn() * (np.arange(40) < 20)[None, :, None]),
    "rotated": (rotated(), ["rotated"], drawn()),
}
BAD = {
    "empty": (b"", "unreadable", "not a picture"),
    "junk": (b"not a picture at all" * 20, "unreadable", "not a picture"),
    "cut": (saved(drawn(), "JPEG")[:-300], "unreadable", "(?i)truncated"),
    "cut_png": (
        saved(np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8), "PNG")[:2000],
        "unreadable",
        "",
    ),
    "tiny": (saved(drawn(8, 40), "PNG"), "small", "40 x 8 pixels"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_odd_kinds_become_the_picture_they_show(kind):
    data, notes, expected = KINDS[kind]
    image, found = read_rgb(data)
    assert found == notes and image.shape == (40, 40, 3) and image.dtype == np.uint8
    assert np.abs(image.astype(int) - expected).mean() < 3


@pytest.mark.parametrize("kind", BAD)
def test_bad_ones_are_rejected_with_a_reason(kind):
    data, status, reason = BAD[kind]
    with pytest.raises(Rejected, match=reason or ".") as caught:
        read_rgb(data)
    assert caught.value.status == status


def test_a_bomb_is_rejected(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(Rejected, match="decompression bomb"):
        read_rgb(KINDS["plain"][0])


def test_wide_pictures_keep_their_proportions():
    wide = np.zeros((40, 100, 3), np.uint8)
    wide[:, 30:70] = drawn()
    data, notes = prepare(saved(wide, "PNG"), 20)
    assert notes == ["cropped"]
    assert np.array_equal(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB), resize(drawn(), (20, 20)))
    assert prepare(saved(drawn(), "PNG"), 64)[1] == ["enlarged"]


@pytest.mark.parametrize("size", [32, 256])
def test_images_are_stored_without_loss(size):
    data = prepare(saved(drawn(80, 80), "PNG"), size)[0]
    assert np.array_equal(
        cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB), resize(drawn(80, 80), (size, size))
    )
    with Image.open(io.BytesIO(data)) as opened:  # by other libraries too
        assert opened.size == (size, size) and opened.mode == "RGB"


def test_alignment_takes_the_surest_face_and_rejects_none():
    points = np.float32([[14, 15], [26, 15], [20, 22], [15, 28], [25, 28]])
    faces = SimpleNamespace(detect=lambda image: [SimpleNamespace(landmarks=points)])
    data, notes = prepare(saved(drawn(), "PNG"), 32, faces)
    assert notes == ["aligned"] and len(data) > 100
    with pytest.raises(Rejected, match="no face") as caught:
        prepare(saved(drawn(), "PNG"), 32, SimpleNamespace(detect=lambda image: []))
    assert caught.value.status == "no_face"


def test_a_folder_of_all_of_them_succeeds_and_the_report_counts_and_names_them(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    for name, (data, *_) in (KINDS | BAD).items():
        (raw / f"{name}.{'jpg' if name in ('cmyk', 'cut') else 'png'}").write_bytes(data)
    (raw / "plain.bmp").write_bytes(saved(drawn(), "BMP"))  # the same image_id once more
    settings = PairsParams("folder", str(raw), "images", 5, 5, 100, False, "")
    report = pairs(replace(load(ROOT / "params.yaml"), pairs=settings, image_size=32), Places(tmp_path))
    assert report["images"] == {"found": 14, "kept": 8, "rejected": 6}
    assert report["changes"] == {"16-bit": 2, "alpha": 1, "cmyk": 1, "grey": 2, "palette": 1, "rotated": 1}
    assert report["rejected"] == {"duplicate": 1, "small": 1, "unreadable": 4}
    named = " ".join(report["rejected_names"]["unreadable"])
    assert all(f"{name}." in named for name in ("cut", "cut_png", "empty", "junk"))
    assert SMALLEST == 16 and report["rejected_names"]["small"] == ["tiny.png: 40 x 8 pixels"]
