"""From videos and annotations to shards: what is cut, what every broken input becomes, and stopping in between."""

import dataclasses
import json
import multiprocessing
import os
import signal
import time
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from drawn_videos import GREEN, GreenDetector, annotation, face_video, picture, write_video
from numbered import X264, hide_beginning, write, write_changing

from pipeline import params, schemas
from pipeline.common.places import Places
from pipeline.crop import crop
from pipeline.sections import CropParams
from pipeline.videos import clips, fomm
from pipeline.videos.annotations import Annotations, Crop, read_metadata, write_metadata
from pipeline.videos.boxes import cut_out, fitted
from pipeline.videos.clips import VideoJob, crop_video
from pipeline.videos.codec import Encoder
from pipeline.videos.look import look
from uniface.data import read_frames
from uniface.tables import read_table

PARAMS = CropParams(
    min_frames=20,
    max_frames=1024,
    min_size=32,
    iou_with_initial=0.25,
    increase=0.1,
    max_gap=0,
    border="reject",
    shape="square",
    detect_height=120,
    detect_every=1,
    gop=8,
    crf=16,
    clips_per_shard=3,
)
ROOT = Path(__file__).resolve().parents[2]
WHOLE = params.load(ROOT / "params.yaml")
ONE = dataclasses.replace(WHOLE.compute, crop_workers=1)
SIZE = 32


def job(path, texts=None, crops=()):
    return VideoJob("id00012", "vid", "train", str(path), texts or {}, tuple(crops))


def run(path, texts=None, crops=(), **changes):
    settings = dataclasses.replace(PARAMS, **changes)
    return crop_video(job(path, texts, crops), SIZE, settings, GreenDetector())


def text(frames, **options):
    return annotation("id00012", "vid", frames, **options)


def summary(found):
    return [(c.utterance, c.chunk, c.start, c.end, c.status) for c in found]


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


# --- broken inputs: each ends in a row with a reason, nothing raises -----------------------------------------------


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


def only_reason(found, status):
    (clip,) = found
    assert clip.status == status and clip.reason and clip.video is None
    return clip.reason


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


# --- the stage -----------------------------------------------------------------------------------------------------


def lay_out(root: Path, videos: dict[str, str], broken: str = "") -> Path:
    """`data` as the stages before leave it: a drawn video of 60 frames and two utterances for each name."""
    import zipfile

    data = root / "data"
    rows = []
    (data / "annotations").mkdir(parents=True)
    with zipfile.ZipFile(data / "annotations" / "txt.zip", "w") as archive:
        for index, (name, split) in enumerate(videos.items()):
            person = f"id0000{index // 2}"
            path = data / "videos" / person / f"{name}.mp4"
            if name == broken:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(b"")
            else:
                left = 40 + index
                face_video(path, 60, box=(left, 30, left + 48, 78))
                for utterance, frames in (("00001", range(0, 30)), ("00007", range(32, 60))):
                    body = annotation(person, name, frames, box=(left, 30, left + 48, 78))
                    archive.writestr(f"txt/{person}/{name}/{utterance}.txt", body)
            rows.append(row(person, name, split, path.relative_to(data)))
    rows.append(row("id00009", "gone", "train", None) | {"status": "unavailable", "reason": "private", "sha256": None})
    schemas.write(data / "videos.parquet", rows, schemas.VIDEOS)
    return data


def row(person, name, split, path):
    return {
        "video_id": name,
        "person_id": person,
        "split": split,
        "status": "ok",
        "reason": None,
        "path": path and path.as_posix(),
        "width": 160,
        "height": 120,
        "fps": 25.0,
        "frames": 60,
        "sha256": f"sha of {name}",
        "tried_at": None,
    }


VIDEOS = {"-first": "train", "b": "train", "c": "test", "d": "train", "e.f": "train"}


def run_stage(data, root, **changes):
    settings = dataclasses.replace(PARAMS, **changes)
    assert data == root / "data"
    return crop(dataclasses.replace(WHOLE, image_size=SIZE, crop=settings, compute=ONE), Places(root), GreenDetector)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def test_the_stage_writes_shards_index_report_and_picture(tmp_path):
    data = lay_out(tmp_path, VIDEOS, broken="d")
    report = run_stage(data, tmp_path)
    assert report == json.loads((tmp_path / "reports" / "clips.json").read_text())
    assert (report["candidates"], report["kept"], report["corrupt"]) == (9, 8, 1)
    assert report["videos"] == {"ok": 5, "unavailable": 1, "failed": 0}
    assert report["splits"] == {"test": {"kept": 2, "persons": 1}, "train": {"kept": 6, "persons": 2}}
    assert (tmp_path / "reports" / "clips.png").stat().st_size > 5000
    names = sorted(p.name for p in (data / "clips").iterdir())
    assert names == [
        "index.parquet",
        "test-00000.parquet",
        "train-00000.parquet",
        "train-00001.parquet",
        "vox-metadata.csv",
    ]
    index = read_table(data / "clips" / "index.parquet", "clip_index").to_pylist()
    assert len(index) == 9
    for entry in (entry for entry in index if entry["status"] == "kept"):
        stored = read_table(data / "clips" / entry["shard"], "clips").to_pylist()[entry["row"]]
        same = ("person_id", "video_id", "utterance", "chunk", "start", "end", "frames", "box")
        assert {name: stored[name] for name in same} == {name: entry[name] for name in same}
        assert len(read_frames(stored["video"], range(stored["frames"]))) == stored["frames"]
    (lost,) = [entry for entry in index if entry["status"] == "corrupt"]
    assert lost["video_id"] == "d" and "not a video" in lost["reason"] and lost["shard"] is None


def test_the_written_metadata_crops_the_same_clips_without_a_detector(tmp_path):
    data = lay_out(tmp_path, {"a": "train"})
    run_stage(data, tmp_path)
    written = list(read_metadata(data / "clips" / "vox-metadata.csv"))
    given = Annotations(data / "clips" / "vox-metadata.csv").crops("id00000", "a")
    assert [w[3] for w in written] == given and len(given) == 2
    again = crop_video(job(data / "videos/id00000/a.mp4", crops=given), SIZE, PARAMS, None)
    stored = read_table(data / "clips" / "train-00000.parquet", "clips").to_pylist()
    assert [clip.video for clip in again] == [entry["video"] for entry in stored]


def test_bad_lines_and_given_boxes_are_counted_in_the_report(tmp_path):
    import zipfile

    data = lay_out(tmp_path, {"a": "train"})
    with zipfile.ZipFile(data / "annotations" / "txt.zip", "w") as archive:
        good = annotation("id00000", "a", range(60), box=(40, 30, 88, 78)).splitlines()
        good[20] += " 0.5"
        archive.writestr("txt/id00000/a/00001.txt", "\n".join(good))
    report = run_stage(data, tmp_path)
    assert (report["bad_annotation_lines"], report["kept"], "given_boxes" in report) == (1, 1, False)
    index = read_table(data / "clips" / "index.parquet", "clip_index").to_pylist()
    assert [(row["bad_lines"], row["frames"]) for row in index] == [(1, 60)]
    (data / "annotations" / "txt.zip").unlink()
    crops = [Crop(0, 30, (40, 30, 88, 78), 160, 120), Crop(30, 60, (2, 30, 42, 78), 160, 120)]
    write_metadata(data / "annotations" / "vox-metadata.csv", [("id00000", "a", "train", crop) for crop in crops])
    report = run_stage(data, tmp_path)
    assert report["given_boxes"] == {"as_given": 1, "grown": 0, "moved": 1, "padded": 0, "stretched": 0}
    report = run_stage(data, tmp_path, shape="stretch")
    assert report["given_boxes"] == {"as_given": 1, "grown": 0, "moved": 0, "padded": 0, "stretched": 1}


def test_a_second_run_makes_nothing_again_and_a_new_video_costs_only_itself(tmp_path, monkeypatch):
    data = lay_out(tmp_path, VIDEOS)
    run_stage(data, tmp_path)
    before = contents(data / "clips")
    made = []
    monkeypatch.setattr(
        "pipeline.videos.clips.crop_video", lambda job, *rest: made.append(job.video_id) or crop_video(job, *rest)
    )
    run_stage(data, tmp_path)
    assert made == [] and contents(data / "clips") == before
    face_video(data / "videos" / "id00000" / "b.mp4", 60, box=(46, 30, 94, 78))  # by hand: its row tells the old sha256
    run_stage(data, tmp_path)
    after = contents(data / "clips")
    assert made == ["b"] and after["train-00000.parquet"] != before["train-00000.parquet"]
    assert after["test-00000.parquet"] == before["test-00000.parquet"]
    (data / "videos" / ".DS_Store").write_bytes(b"a folder that somebody looked into")
    run_stage(data, tmp_path, clips_per_shard=2)
    assert made == ["b"] and "train-00003.parquet" in contents(data / "clips")
    run_stage(data, tmp_path, crf=30)
    assert len(made) == 1 + len(VIDEOS)


def test_results_of_another_version_are_said_and_made_again(tmp_path, capsys):
    data = lay_out(tmp_path, VIDEOS)
    run_stage(data, tmp_path)
    before = contents(data / "clips")
    for note in (tmp_path / "work/crop").rglob("videos/*/*.json"):
        note.write_text('{"key": "old", "clips": []}')
    capsys.readouterr()
    run_stage(data, tmp_path)
    said = f"crop: {len(VIDEOS)} notes of another version set aside: these videos were cropped again"
    assert said in capsys.readouterr().out and contents(data / "clips") == before


def test_missing_inputs_say_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"videos\.parquet"):
        run_stage(tmp_path / "data", tmp_path)


def crop_slowly(*args):
    found = crop_video(*args)
    time.sleep(0.3)
    return found


def test_killed_in_the_middle_goes_on_to_the_same_end(tmp_path, monkeypatch):
    data = lay_out(tmp_path, VIDEOS)
    monkeypatch.setattr("pipeline.videos.clips.crop_video", crop_slowly)
    process = multiprocessing.get_context("fork").Process(target=run_stage, args=(data, tmp_path))
    process.start()
    results = tmp_path / "work"
    deadline = time.monotonic() + 60
    while len(list(results.rglob("*/videos/*/*.json"))) < 2:
        assert process.is_alive() and time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    monkeypatch.undo()
    assert not (data / "clips").exists()
    made = {p: p.stat().st_mtime_ns for p in results.rglob("*/videos/*/*.json")}
    assert 2 <= len(made) < len(VIDEOS)
    run_stage(data, tmp_path)
    assert {p: p.stat().st_mtime_ns for p in made} == made
    after = contents(data / "clips")
    untouched = lay_out(tmp_path / "again", VIDEOS)
    run_stage(untouched, tmp_path / "again")
    assert contents(untouched / "clips") == after
