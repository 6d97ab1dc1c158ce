"""The mark of origin: valid, untrusted, tampered, none."""

import json
import sys

import drawn_faces
import numpy as np
import pytest
from PIL import Image

from uniface.use import origin
from uniface.use.pictures import Picture, read, write

MARK = origin.Mark("swapping", True, "uniface version 3", "ab" * 32)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("UNIFACE_SIGNER", raising=False)
    return tmp_path / "config" / "uniface"


def picture() -> Picture:
    return Picture(np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tiff"])
def test_a_picture_says_where_it_comes_from(tmp_path, suffix):
    parent, out = tmp_path / f"parent{suffix}", tmp_path / f"out{suffix}"
    write(parent, picture())
    write(out, picture(), MARK, parent)
    verdict = origin.verify(out)
    assert verdict.state == "valid"
    assert verdict.mark["digitalSourceType"] == origin.COMPOSITE
    assert verdict.mark["version"] == MARK.version and verdict.mark["digest"] == MARK.digest
    assert out.stat().st_size - parent.stat().st_size < 4096
    assert np.array_equal(read(out).rgb, read(parent).rgb)  # not a pixel is touched
    assert origin.verify(parent).state == "none"


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_tampering_shows(tmp_path, suffix):
    out = tmp_path / f"out{suffix}"
    write(out, picture(), MARK)
    data = bytearray(out.read_bytes())
    data[-30] ^= 1  # in the picture's own data, behind the mark
    out.write_bytes(data)
    assert origin.verify(out).state == "tampered"


def test_a_changed_pixel_under_the_old_mark(tmp_path):
    out = tmp_path / "out.png"
    write(out, picture(), MARK)
    changed = picture()
    changed.rgb[0, 0, 0] ^= 1
    write(tmp_path / "other.png", changed)
    old, other = out.read_bytes(), (tmp_path / "other.png").read_bytes()
    at, length = old.index(b"caBX") - 4, int.from_bytes(old[old.index(b"caBX") - 4 :][:4], "big") + 12
    place = other.index(b"IDAT") - 4
    out.write_bytes(other[:place] + old[at : at + length] + other[place:])
    assert origin.verify(out).state == "tampered"


def test_another_users_file_is_untrusted(tmp_path, monkeypatch):
    write(tmp_path / "out.png", picture(), MARK)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "another"))
    assert origin.verify(tmp_path / "out.png").state == "untrusted"


def test_the_key_is_made_once_and_private(tmp_path, home):
    write(tmp_path / "a.png", picture(), MARK)
    signer = home / "signer.pem"
    first = signer.read_bytes()
    assert signer.stat().st_mode & 0o077 == 0
    write(tmp_path / "b.png", picture(), MARK)
    assert signer.read_bytes() == first


def test_ones_own_certificate(tmp_path, home, monkeypatch):
    write(tmp_path / "a.png", picture(), MARK)
    own = tmp_path / "own.pem"
    own.write_bytes((home / "signer.pem").read_bytes())
    monkeypatch.setenv("UNIFACE_SIGNER", str(own))
    write(tmp_path / "b.png", picture(), MARK)
    assert origin.verify(tmp_path / "b.png").state == "valid"
    own.write_text("nothing")
    with pytest.raises(ValueError, match="one private key and its certificates"):
        write(tmp_path / "c.png", picture(), MARK)
    assert not (tmp_path / "c.png").exists() and not list(tmp_path.glob(".c*"))


def test_formats_without_credentials_say_it_in_xmp_or_not_at_all(tmp_path):
    write(tmp_path / "out.jp2", picture(), MARK)
    verdict = origin.verify(tmp_path / "out.jp2")
    assert verdict.state == "untrusted" and verdict.mark["digest"] == MARK.digest
    with Image.open(tmp_path / "out.jp2") as image:
        image.load()
    with pytest.raises(ValueError, match=r"\.bmp has no place for a mark"):
        write(tmp_path / "out.bmp", picture(), MARK)
    write(tmp_path / "out.bmp", picture())
    assert origin.verify(tmp_path / "out.bmp").state == "none"


def test_without_the_library_there_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "c2pa", None)
    with pytest.raises(ValueError, match="pip install c2pa-python"):
        write(tmp_path / "out.png", picture(), MARK)
    assert not (tmp_path / "out.png").exists()


def test_bytes_of_a_served_picture():
    import io

    file = io.BytesIO()
    Image.fromarray(drawn_faces.portrait()).save(file, "PNG")
    signed = origin.sign_bytes(file.getvalue(), "image/png", MARK)
    assert b"caBX" in signed and json.dumps(MARK.digest)[1:-1].encode() in signed
