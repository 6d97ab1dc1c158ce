"""Videos of numbered frames: every container, jumps, changing sizes, pixels that are not square, edit lists."""

from fractions import Fraction

import numpy as np
import pytest
from numbered import X264, hide_beginning, hide_end, number, write, write_changing

from pipeline.videos import codec

VP8 = {"deadline": "realtime", "cpu-used": "8", "g": "250"}
SPANS = [(start, start + 3) for start in (400, 777, 1321)]
WANTED = [tick for span in SPANS for tick in range(*span)]


def shown(path, spans=None):
    return [(tick, number(picture.rgb())) for tick, picture in codec.ticks(path, spans)]


@pytest.mark.parametrize(
    ("name", "format", "encoder", "options"),
    [
        ("v.ts", "mpegts", "libx264", X264),
        ("ts-inside.mp4", "mpegts", "libx264", X264),
        ("v.m2ts", "mpegts", "mpeg2video", {}),
        ("v.mpg", "mpeg", "mpeg2video", {}),
        ("one.mpg", "mpeg", "mpeg1video", {}),
        ("h264.mpg", "mpeg", "libx264", X264),
        ("v.vob", "vob", "mpeg2video", {}),
        ("v.mp4", "mp4", "libx264", X264),
        ("v.mov", "mov", "libx264", X264),
        ("v.mkv", "matroska", "libx264", X264),
        ("v.webm", "webm", "libvpx", VP8),
        ("v.avi", "avi", "mpeg4", {}),
        ("v.flv", "flv", "flv1", {}),
        ("v.wmv", "asf", "wmv2", {}),
        ("v.ogv", "ogg", "libvpx", VP8),
        ("v.h264", "h264", "libx264", X264),
    ],
)
def test_a_jump_lands_where_it_should(tmp_path, name, format, encoder, options):
    path = write(tmp_path / name, 1500, format, encoder, options)
    assert shown(path, SPANS) == [(tick, tick) for tick in WANTED]
    assert shown(path) == [(tick, tick) for tick in range(1500)]
    assert codec.reaches_end(path)


def test_a_jump_costs_no_pass_where_the_format_has_an_index(tmp_path, monkeypatch):
    path = write(tmp_path / "v.mp4", 1500, "mp4", "libx264", X264)
    decoded = []
    picture = codec.Picture
    monkeypatch.setattr(codec, "Picture", lambda *args: decoded.append(1) or picture(*args))
    assert shown(path, [(1300, 1302)]) == [(1300, 1300), (1301, 1301)]
    assert len(decoded) < 100


def test_a_file_that_is_cut_off_is_told(tmp_path):
    whole = write(tmp_path / "v.avi", 1500, "avi", "mpeg4")
    cut = tmp_path / "cut.avi"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    assert not codec.reaches_end(cut)


@pytest.mark.parametrize(
    ("name", "format", "encoder", "options"),
    [("v.webm", "webm", "libvpx", VP8), ("v.ts", "mpegts", "libx264", X264), ("v.mkv", "matroska", "libvpx", VP8)],
)
def test_a_change_of_size_is_shown(tmp_path, name, format, encoder, options):
    parts = [(range(40), (48, 64)), (range(40, 100), (96, 128))]
    path = write_changing(tmp_path / name, format, encoder, options, parts)
    found = [(tick, picture.size, number(picture.rgb())) for tick, picture in codec.ticks(path)]
    assert found == [(k, (64, 48) if k < 40 else (128, 96), k) for k in range(100)]


@pytest.mark.parametrize(
    ("name", "format", "encoder", "options"),
    [
        ("v.mp4", "mp4", "libx264", X264),  # both
        ("v.ts", "mpegts", "libx264", X264),  # the codec's alone
        ("vp9.mp4", "mp4", "libvpx-vp9", VP8),  # the container's alone
    ],
)
def test_pixels_become_square(tmp_path, name, format, encoder, options):
    path = write(tmp_path / name, 5, format, encoder, options, size=(180, 240), aspect=Fraction(4, 3))
    info = codec.probe(path)
    assert (info.width, info.height) == (320, 180)
    (_, picture), *_ = codec.ticks(path)
    assert picture.rgb().shape == (180, 320, 3)
    assert picture.rgb(90).shape == (90, 160, 3)
    assert np.abs(picture.rgb().astype(int)[:, ::4].mean() - picture.rgb(90).astype(int).mean()) < 10


def test_narrow_pixels_lose_no_detail(tmp_path):
    path = write(tmp_path / "v.mp4", 5, "mp4", options=X264, size=(180, 240), aspect=Fraction(3, 4))
    (_, picture), *_ = codec.ticks(path)
    assert picture.size == (240, 240) and picture.rgb().shape == (240, 240, 3) and number(picture.rgb()) == 0


def test_square_pixels_are_left_alone(tmp_path):
    path = write(tmp_path / "v.mp4", 5, "mp4", options=X264, aspect=Fraction(1))
    (_, picture), *_ = codec.ticks(path)
    assert picture.size == (64, 48) and np.array_equal(picture.rgb(), picture.frame.to_ndarray(format="rgb24"))


def test_what_an_edit_list_hides_does_not_count(tmp_path):
    whole = write(tmp_path / "v.mp4", 500, "mp4", options=X264)
    assert codec.probe(whole).frames == 500
    late = hide_beginning(whole, tmp_path / "late.mp4", 125)
    assert codec.probe(late).frames == 375 == codec.probe(late).ticks
    assert shown(late) == [(k, k + 125) for k in range(375)]
    assert shown(late, [(0, 2), (300, 302)]) == [(0, 125), (1, 126), (300, 425), (301, 426)]
    assert codec.reaches_end(late)
    early = hide_end(whole, tmp_path / "early.mp4", 375)
    assert codec.probe(early).frames == 375
    assert shown(early) == [(k, k) for k in range(375)]
    assert codec.reaches_end(early)
    both = hide_end(late, tmp_path / "both.mp4", 200)
    assert codec.probe(both).frames == 200 and shown(both) == [(k, k + 125) for k in range(200)]
    assert codec.reaches_end(both)
