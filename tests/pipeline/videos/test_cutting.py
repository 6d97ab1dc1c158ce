"""From one video and its annotations to clips: what is cut, at which rate, in which square."""

import dataclasses
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from drawn_videos import GREEN, face_video, picture, write_video
from numbered import X264, hide_beginning, write_changing
from small_crops import (
    PARAMS,
    SIZE,
    job,
    run,
    summary,
    text,
)

from pipeline.videos import clips, fomm
from pipeline.videos.annotations import Crop
from pipeline.videos.boxes import cut_out, fitted
from pipeline.videos.clips import crop_video
from pipeline.videos.codec import Encoder
from uniface.data import read_frames


def test_annotated_utterances_are_cut_where_the_detector_agrees(tmp_path):
    path = face_video(tmp_path / "v.mp4", 80)
    found = run(path, {"00001": text(range(5, 45)), "00002": text(range(50, 80))})
    assert summary(found) == [("00001", 0, 5, 45, "kept"), ("00002", 0, 50, 80, "kept")]
    box = fomm.enlarge((50, 30, 98, 78), 0.1)
    assert found[0].box == pytest.approx(box, abs=1)
    (frame,) = read_frames(found[0].video, [39])
    assert frame.shape == (SIZE, SIZE, 3)
    inside = frame[SIZE // 2 - 8 : SIZE // 2 + 8, SIZE // 2 - 8 : SIZE // 2 + 8]
    assert abs(inside.reshape(-1, 3).mean(0) - GREEN).max() < 12
    assert frame[1, 1, 0] > 60  # the margin shows the background
    with pytest.raises(ValueError, match="decode"):
        read_frames(found[0].video, [40])


def test_stored_clips_are_h264_at_25_fps_with_short_closed_groups(tmp_path):
    (clip,) = run(face_video(tmp_path / "v.mp4", 40), {"00001": text(range(40))})
    (tmp_path / "c.mp4").write_bytes(clip.video)
    with av.open(str(tmp_path / "c.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt, stream.average_rate) == ("h264", "yuv420p", 25)
        keys = [k for k, frame in enumerate(container.decode(stream)) if frame.key_frame]
    assert keys == [0, 8, 16, 24, 32]


def test_the_same_frames_give_the_same_bytes_wherever_they_lie_in_memory():
    rng = np.random.default_rng(0)
    frames = [cv2.GaussianBlur(rng.integers(0, 255, (80, 80, 3), dtype=np.uint8), (0, 0), 3) for _ in range(12)]
    held, files = [], set()  # what is held moves the encoder's buffers; only a processor with AVX-512 showed the bug
    for _ in range(20):
        held.append(np.full(rng.integers(1, 200_000), 1, np.uint8))
        encoder = Encoder(80, PARAMS.gop, PARAMS.crf)
        for frame in frames:
            encoder.add(frame)
        files.add(encoder.finish())
    assert len(files) == 1


def test_pixels_equal_the_resized_crop_of_the_source_frame(tmp_path):
    rng = np.random.default_rng(0)
    grey = np.kron(rng.integers(60, 200, (6, 8, 1)), np.ones((20, 20, 3))).astype(np.uint8)  # 4:2:0 blurs colour
    path = write_video(tmp_path / "v.mp4", 30, lambda k: grey)
    (clip,) = run(path, crops=[Crop(0, 30, (10, 10, 106, 106), 160, 120)], crf=1)
    from skimage.transform import resize

    source = read_frames(path, [3])[0][10:106, 10:106]
    expected = resize(source, (SIZE, SIZE), anti_aliasing=True) * 255
    error = np.mean((read_frames(clip.video, [3])[0] - expected) ** 2)
    assert 10 * np.log10(255**2 / error) > 45


def test_a_missed_frame_splits_and_is_told(tmp_path):
    path = write_video(
        tmp_path / "v.mp4", 61, lambda k: picture((120, 160), None if k == 30 else (50, 30, 98, 78)), gop=1
    )
    found = run(path, {"00001": text(range(61))})
    assert summary(found) == [
        ("00001", 0, 0, 30, "kept"),
        ("00001", 1, 30, 31, "no_face"),
        ("00001", 2, 31, 61, "kept"),
    ]
    bridged = run(path, {"00001": text(range(61))}, max_gap=1)
    assert summary(bridged) == [("00001", 0, 0, 61, "kept")]


def test_other_rates_come_to_the_25_fps_timeline(tmp_path):
    """A mark moves with time: at 50, 30 and a variable rate the same frame numbers show the same places."""

    def moving(rate):
        return lambda k: picture((120, 160), (20 + round(k / rate * 10), 30, 68 + round(k / rate * 10), 78))

    texts = {"00001": text(range(0, 50), box=(20, 30, 68, 78))}
    fifty = run(write_video(tmp_path / "50.mp4", 100, moving(50), rate=50), texts)
    thirty = run(write_video(tmp_path / "30.mp4", 60, moving(30), rate=30), texts)
    times = sorted({*range(0, 30, 3), *range(30, 60)})  # 10 fps, then 30
    variable = write_video(tmp_path / "v.mp4", len(times), lambda k: moving(30)(times[k]), rate=30, times=times)
    for found in (fifty, thirty, run(variable, texts)):
        assert summary(found) == [("00001", 0, 0, 50, "kept")]
        assert found[0].box == pytest.approx(fifty[0].box, abs=2)


def test_videos_without_annotations_follow_the_face(tmp_path):
    (clip,) = run(face_video(tmp_path / "v.mp4", 40))
    assert summary([clip]) == [(clips.WHOLE, 0, 0, 40, "kept")]


def test_given_boxes_need_no_detector_and_scale_with_the_video(tmp_path):
    path = face_video(tmp_path / "v.mp4", 60)
    crops = (Crop(10, 40, (90, 50, 210, 170), 320, 240), Crop(40, 100, (100, 60, 190, 160), 320, 240))
    found = crop_video(job(path, crops=crops), SIZE, PARAMS, None)
    assert summary(found) == [("000010", 0, 10, 40, "kept"), ("000040", 0, 40, 60, "kept")]
    assert found[0].box == (45, 25, 105, 85)
    assert found[1].box == (48, 30, 98, 80)  # grown to a square about its centre, not squashed
    assert len(read_frames(found[0].video, range(30))) == 30


def mean_of_middle(clip, frame):
    return read_frames(clip.video, [frame])[0][12:20, 12:20].reshape(-1, 3).mean(0)


def test_a_change_of_size_ends_the_track(tmp_path):
    """The square stays at the same share of the picture; the second part is twice as large, so are its boxes."""
    path = changing(tmp_path / "v.ts")
    small, large = fomm.enlarge((50, 30, 98, 78), 0.1), fomm.enlarge((100, 60, 196, 156), 0.1)
    for found in (run(path, {"00001": text(range(90))}), run(path)):
        assert [(c.start, c.end, c.status, (c.width, c.height)) for c in found] == [
            (0, 40, "kept", (160, 120)),
            (40, 90, "kept", (320, 240)),
        ]
        assert found[0].box == pytest.approx(small, abs=2) and found[1].box == pytest.approx(large, abs=3)
        for clip in found:
            assert abs(mean_of_middle(clip, 5) - GREEN).max() < 15
    found = run(path, crops=[Crop(10, 80, (50, 30, 98, 78), 160, 120), Crop(30, 90, (50, 30, 98, 78), 160, 120)])
    assert [(c.start, c.end, c.status, c.box) for c in found] == [
        (10, 40, "kept", (50, 30, 98, 78)),
        (40, 80, "kept", (100, 60, 196, 156)),
        (30, 40, "short", (50, 30, 98, 78)),
        (40, 90, "kept", (100, 60, 196, 156)),
    ]
    assert abs(mean_of_middle(found[1], 39) - GREEN).max() < 15


def test_a_ready_clip_that_changes_its_size_is_two(tmp_path):
    changing(tmp_path / "vid" / "00001.mkv").rename(tmp_path / "vid" / "00001.mp4")
    found = crop_video(job(tmp_path / "vid"), SIZE, PARAMS, None)
    assert [(c.chunk, c.start, c.end, c.status, c.box) for c in found] == [
        (0, 0, 40, "kept", (20, 0, 140, 120)),
        (1, 40, 90, "kept", (40, 0, 280, 240)),
    ]


def changing(path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    box = np.array((50, 30, 98, 78))
    parts = [(range(40), (120, 160)), (range(40, 90), (240, 320))]
    draw = lambda k, size: picture(size, box * (size[0] // 120))  # noqa: E731
    return write_changing(path, "mpegts", "libx264", X264, parts, draw)


def test_an_annotation_longer_than_a_lossless_cut_says_so(tmp_path):
    cut = hide_beginning(face_video(tmp_path / "v.mp4", 98, gop=100), tmp_path / "cut.mp4", 15)
    found = run(cut, {"00001": text(range(98))})
    assert summary(found) == [("00001", 0, 0, 83, "kept"), ("00001", 1, 83, 98, "short")]


SIZES = (160, 120)


@pytest.mark.parametrize(
    ("box", "square", "stretched"),
    [
        ((10, 10, 60, 60), ((10, 10, 60, 60), "as_given"), ((10, 10, 60, 60), "as_given")),
        ((10, 10, 60, 62), ((10, 10, 60, 62), "as_given"), ((10, 10, 60, 62), "as_given")),
        ((40, 30, 80, 90), ((30, 30, 90, 90), "grown"), ((40, 30, 80, 90), "stretched")),
        ((2, 30, 42, 90), ((0, 30, 60, 90), "moved"), ((2, 30, 42, 90), "stretched")),
        ((100, 90, 160, 110), ((100, 60, 160, 120), "moved"), ((100, 90, 160, 110), "stretched")),
        ((10, 10, 150, 110), ((10, -10, 150, 130), "padded"), ((10, 10, 150, 110), "stretched")),
        ((0, 0, 160, 120), ((0, -20, 160, 140), "padded"), ((0, 0, 160, 120), "stretched")),
        ((130, 80, 190, 140), ((100, 60, 160, 120), "moved"), ((130, 80, 160, 120), "stretched")),
        ((200, 10, 260, 70), (None, None), (None, None)),
    ],
)
def test_given_boxes_become_square_or_are_stretched(box, square, stretched):
    assert fitted(box, SIZES, "square") == square
    assert fitted(box, SIZES, "stretch") == stretched
    if square[0]:
        assert fitted(square[0], SIZES, "square")[0] == square[0]  # what is written comes back
        left, top, right, bottom = square[0]
        assert cut_out(np.zeros((120, 160, 3), np.uint8), square[0]).shape == (bottom - top, right - left, 3)


def test_a_square_larger_than_the_picture_is_kept_and_counted(tmp_path):
    path = face_video(tmp_path / "v.mp4", 40)
    wide = Crop(0, 30, (10, 10, 150, 110), 160, 120)
    (padded,) = run(path, crops=[wide])
    assert (padded.status, padded.fit, padded.box) == ("kept", "padded", (10, -10, 150, 130))
    (stretched,) = run(path, crops=[wide], shape="stretch")
    assert (stretched.status, stretched.fit, stretched.box) == ("kept", "stretched", wide.box)
    assert not np.array_equal(read_frames(padded.video, [0]), read_frames(stretched.video, [0]))
    (outside,) = run(path, crops=[Crop(0, 30, (200, 10, 260, 70), 160, 120)])
    assert outside.status == "at_border" and "outside" in outside.reason


def test_clips_that_others_cropped_are_taken_frame_by_frame(tmp_path):
    folder = tmp_path / "vid"
    face_video(folder / "00001.mp4", 30, size=(64, 64), box=(8, 8, 56, 56))
    face_video(folder / "00002#003.mp4", 50, size=(64, 96), box=(8, 8, 56, 56), rate=10)  # FOMM's claim 10 fps
    face_video(folder / "00003.mp4", 5, size=(64, 64), box=(8, 8, 56, 56))
    found = crop_video(job(folder), SIZE, dataclasses.replace(PARAMS, max_frames=30), None)
    assert summary(found) == [
        ("00001", 0, 0, 30, "kept"),
        ("00002", 3, 0, 30, "kept"),
        ("00002", 4, 30, 50, "kept"),
        ("00003", 0, 0, 5, "short"),
    ]
    assert found[1].box == (16, 0, 80, 64)
