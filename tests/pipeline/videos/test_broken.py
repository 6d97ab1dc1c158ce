"""Videos and annotations with faults: each ends in a row with a reason, nothing raises."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from drawn_videos import GREEN, GreenDetector, face_video, picture, write_video
from numbered import X264, hide_beginning, write
from small_crops import PARAMS, only_reason, run, summary, text

from pipeline.videos import clips
from pipeline.videos.boxes import cut_out
from pipeline.videos.look import look
from uniface.data import read_frames


def turned(path: Path) -> Path:
    """The same file with a display matrix that turns it by a quarter."""
    data = bytearray(path.read_bytes())
    quarter = b"".join(v.to_bytes(4, "big", signed=True) for v in (0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30))
    at = data.index((1 << 16).to_bytes(4, "big") + bytes(12) + (1 << 16).to_bytes(4, "big"), data.index(b"tkhd"))
    data[at : at + 36] = quarter
    path.write_bytes(bytes(data))
    return path


def audio_only(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def test_files_that_are_no_videos(tmp_path):
    (tmp_path / "zero.mp4").write_bytes(b"")
    (tmp_path / "junk.mp4").write_bytes(bytes(range(256)) * 40)
    texts = {"00001": text(range(40))}
    assert "not a video" in only_reason(run(tmp_path / "zero.mp4", texts), "corrupt")
    assert only_reason(run(tmp_path / "junk.mp4", texts), "corrupt")
    assert "no video" in only_reason(run(tmp_path / "gone.mp4", texts), "corrupt")
    assert "no video stream" in only_reason(run(audio_only(tmp_path / "a.mp4"), texts), "corrupt")


def test_a_truncated_file_keeps_what_is_whole(tmp_path):
    whole = face_video(tmp_path / "whole.mkv", 150, gop=10)
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
    found = run(cut, {"00001": text(range(0, 40)), "00002": text(range(60, 150))})
    assert summary(found)[0] == ("00001", 0, 0, 40, "kept")
    assert found[-1].status == "corrupt" and "frame" in found[-1].reason
    header_lost = tmp_path / "cut.mp4"
    mp4 = face_video(tmp_path / "whole.mp4", 150)
    header_lost.write_bytes(mp4.read_bytes()[: mp4.stat().st_size // 2])
    assert "not a video" in only_reason(run(header_lost, {"00001": text(range(40))}), "corrupt")


def test_rotated_ten_bit_and_odd_sized(tmp_path):
    upright = turned(face_video(tmp_path / "r.mp4", 30, size=(160, 120), box=(30, 50, 78, 98)))
    texts = {"00001": text(range(30), box=(62, 30, 110, 78))}
    (clip,) = run(upright, texts)
    assert clip.status == "kept" and (clip.width, clip.height) == (160, 120)
    middle = read_frames(clip.video, [0])[0][8:24, 8:24].reshape(-1, 3).mean(0)
    assert abs(middle - GREEN).max() < 15
    texts = {"00001": text(range(30))}
    assert run(face_video(tmp_path / "t.mp4", 30, pix_fmt="yuv420p10le"), texts)[0].status == "kept"
    odd = face_video(tmp_path / "o.mp4", 30, size=(121, 161), pix_fmt="yuv444p")
    (clip,) = run(odd, texts)
    assert clip.status == "kept" and (clip.width, clip.height) == (161, 121)


def test_a_video_of_ones_own_is_as_long_as_what_is_seen(tmp_path):
    """Frames behind an edit list, and a variable rate, leave no piece over; no annotation is talked of."""
    cut = hide_beginning(face_video(tmp_path / "whole.mp4", 98), tmp_path / "cut.mp4", 3)
    assert summary(run(cut)) == [(clips.WHOLE, 0, 0, 95, "kept")]
    times = [k + k // 7 for k in range(80)]
    variable = face_video(tmp_path / "variable.mp4", 80, times=times)
    (clip,) = run(variable)
    assert clip.status == "kept" and times[-1] < clip.end <= times[-1] + 2
    (short,) = run(face_video(tmp_path / "short.mp4", 12))
    assert short.status == "short" and "annotation" not in short.reason


def test_pixels_that_are_not_square_are_made_square(tmp_path):
    draw = lambda k: picture((120, 120), (36, 30, 72, 78))  # noqa: E731  # 36 of 160 shown pixels wide, 48 high
    path = write(tmp_path / "v.mp4", 30, "mp4", options=X264, size=(120, 120), aspect=Fraction(4, 3), draw=draw)
    (clip,) = run(path)
    assert (clip.width, clip.height, clip.status) == (160, 120, "kept")
    left, top, right, bottom = clip.box
    assert abs((right - left) - (bottom - top)) <= 1 and abs((left + right) / 2 - 72) <= 1.5
    green = (np.abs(read_frames(clip.video, [0])[0].astype(int) - GREEN) < 60).all(2)
    assert abs(np.ptp(np.nonzero(green)[0]) - np.ptp(np.nonzero(green)[1])) <= 2  # a square on show


def test_a_square_beyond_the_border_is_told_by_how_much_and_can_be_mirrored(tmp_path):
    video = face_video(tmp_path / "v.mp4", 30, box=(2, 30, 50, 78))
    reason = only_reason(run(video), "at_border")
    assert "by pixels: 2 left" in reason
    (clip,) = run(video, border="pad")
    assert clip.status == "kept" and clip.box[0] == -2
    image = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    found = cut_out(image, (-2, 1, 3, 6))
    assert found.shape == (5, 5, 3) and np.array_equal(found[:3, 2:], image[1:, :3])
    assert np.array_equal(found[:3, 1], image[1:, 1]) and np.array_equal(found[3, 2:], image[2, :3])


def test_a_first_look_at_a_folder_says_how_many_clips_and_why_not_more(tmp_path):
    face_video(tmp_path / "anna/a.mp4", 60)
    face_video(tmp_path / "bert/b.mp4", 60, box=(2, 30, 50, 78))
    face_video(tmp_path / "carl/c.mp4", 12)
    (tmp_path / "carl/broken.mp4").write_bytes(b"no")
    lines = look(tmp_path, PARAMS, GreenDetector()).lines()
    assert lines[:2] == ["looked at 3 of 4 videos, 0.1 of 0.1 minutes", "kept: 1 clips of 1 persons, 2 s"]
    told = "\n".join(lines[2:])
    assert "at_border: 1, such as b.mp4 at 0 s: the square" in told and "short: 1, such as c.mp4 at 0 s: 12" in told
    assert "corrupt: 1, such as broken.mp4: not a video" in told
    assert look(tmp_path, PARAMS, GreenDetector(), seconds=0).looked_at == 1
    with pytest.raises(FileNotFoundError, match="holds no videos"):
        look(tmp_path / "nowhere", PARAMS, GreenDetector())


def test_annotations_that_are_too_long_wrong_or_elsewhere(tmp_path):
    path = face_video(tmp_path / "v.mp4", 50)
    found = run(path, {"00001": text(range(20, 90)), "00002": text(range(200, 260)), "00003": "rubbish"})
    assert summary(found) == [
        ("00001", 0, 20, 50, "kept"),
        ("00001", 1, 50, 90, "short"),
        ("00002", 0, 200, 260, "short"),
        ("00003", 0, 0, 0, "corrupt"),
    ]
    assert "line 7" in found[-1].reason
    nothing = run(write_video(tmp_path / "n.mp4", 30, lambda k: picture((120, 160))), {"00001": text(range(30))})
    assert "no face" in only_reason(nothing, "no_face")
