"""`python -m uniface swap | reenact | export | verify`: what they write, and errors in one sentence with exit 2."""

import drawn_faces
import numpy as np
import pytest

from uniface.__main__ import main
from uniface.images import read_image
from uniface.use import origin


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A folder with models, their detector, a portrait and a frame."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("UNIFACE_SIGNER", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    for task in ("reenactment", "swapping"):
        drawn_faces.write_model(tmp_path / "models" / f"{task}.safetensors", task)
    (tmp_path / "models" / "detector.onnx").write_bytes(drawn_faces.DETECTOR.read_bytes())
    drawn_faces.save(tmp_path / "source.png", drawn_faces.portrait())
    drawn_faces.save(tmp_path / "target.png", drawn_faces.frame())
    return tmp_path


def run(line: str) -> int:
    return main(line.split())


def test_a_swapped_picture_is_whole_and_marked(files, capsys):
    assert run("swap source.png target.png -o out/out.png") == 0
    before, after = read_image("target.png"), read_image("out/out.png")
    assert after.shape == before.shape
    changed = (after != before).any(axis=-1)
    assert 0.01 < changed.mean() < 0.3
    assert run("verify out/out.png") == 0
    said = capsys.readouterr().out
    assert "out/out.png: valid" in said and origin.COMPOSITE in said and "swapping.safetensors" in said
    assert str(files) not in said  # no folders of this machine in the mark
    assert run("verify target.png") == 0 and "none" in capsys.readouterr().out


def test_a_reenacted_picture_is_square_and_all_the_models(files):
    assert run("reenact source.png target.png -o out.jpg") == 0
    assert read_image("out.jpg").shape == (32, 32, 3)
    assert origin.verify("out.jpg").mark["digitalSourceType"] == origin.PURE


@pytest.mark.parametrize("verb", ["swap", "reenact"])
def test_crops_go_in_and_out_as_they_are(files, verb):
    assert run(f"{verb} source.png source.png -o out.png --crop --no-mark") == 0
    assert read_image("out.png").shape == (32, 32, 3)
    assert origin.verify("out.png").state == "none"


def test_a_video_is_marked_and_a_changed_byte_shows(files, capsys):
    drawn_faces.write_video(files / "in.mp4", [drawn_faces.frame("plain", k) for k in range(12)], sound=True)
    assert run("swap source.png in.mp4 -o out.mp4") == 0
    assert "12 frames" in capsys.readouterr().out
    assert drawn_faces.described(files / "out.mp4")["audio"] == drawn_faces.described(files / "in.mp4")["audio"]
    assert origin.verify("out.mp4").state == "valid" and origin.verify("in.mp4").state == "none"
    data = bytearray((files / "out.mp4").read_bytes())
    data[data.rindex(b"mdat") + 200] ^= 1
    (files / "out.mp4").write_bytes(data)
    assert origin.verify("out.mp4").state == "tampered"
    assert run("swap source.png in.mp4 -o out.mkv") == 0
    assert origin.verify("out.mkv").state == "untrusted"  # tags, which nobody signs


@pytest.mark.parametrize(
    "line, sentence",
    [
        ("swap nobody.png target.png -o x.png", "no file at nobody.png"),
        ("swap source.png empty.png -o x.png", "no face found in empty.png"),
        ("swap empty.png target.png -o x.png", "no face found in empty.png"),
        ("swap source.png target.png -o x.png --face 4", "no face number 4 in target.png: it has 1"),
        ("swap source.png broken.png -o x.png", "broken.png cannot be read"),
        ("swap source.png target.png -o x.png --crop", "target.png is 426 x 240: with --crop"),
        ("swap source.png target.png -o target.png/x.png", "target.png/x.png cannot be written"),
        ("swap source.png target.png -o models", "it is a folder"),
        ("swap source.png target.png -o x.bmp", "no place for a mark"),
        ("swap source.png target.png -o x.what --no-mark", "no picture format"),
        ("swap source.png target.png -o x", "x: the format without a suffix has no place for a mark"),
        ("swap source.png target.png -o x --no-mark", "x: no picture format is called nothing"),
        ("swap source.png target.png -o x.png --device cuda", "no device 'cuda'"),
        ("swap source.png target.png -o x.png --device foo", "no device 'foo'"),
        ("swap source.png target.png -o x.png --model models/reenactment.safetensors", "it cannot swap"),
        ("swap source.png target.png -o x.png --model none.safetensors", "none.safetensors not found"),
        ("swap source.png target.png -o x.png --detector models/swapping.safetensors", "is no face detector"),
        ("swap source.png target.png -o x.png --model models:/nobody@champion", "no registry for"),
        ("reenact source.png target.png -o x.png --face all", "follows one face"),
        ("swap source.png target.png -o x.mp4", "no picture format"),
        ("export models -o x.onnx", "say --task"),
        ("verify nothing.png", "no file at nothing.png"),
    ],
)
def test_errors_are_one_sentence_and_exit_2(files, capsys, monkeypatch, line, sentence):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    drawn_faces.save(files / "empty.png", np.full((80, 80, 3), 90, np.uint8))
    (files / "broken.png").write_bytes((files / "target.png").read_bytes()[:3000])
    assert run(line) == 2
    said = capsys.readouterr().err
    assert sentence in said and said.startswith("error: ") and said.count("\n") == 1
    assert not list(files.glob("x*")) and not list(files.glob(".x*"))


def test_export_prints_the_parity(files, capsys):
    assert run("export models/swapping.safetensors -o swap.onnx") == 0
    assert "swap.onnx: largest difference to torch" in capsys.readouterr().out
    assert run("export models --task reenactment -o re.onnx --split --half") == 0
    assert (files / "re.source.onnx").is_file() and (files / "re.frame.onnx").is_file()
