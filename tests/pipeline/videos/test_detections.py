"""Looking for faces in every frame, in some, and wherever the track is unsure."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from drawn_videos import GreenDetector, Seen, picture, write_video

from pipeline import params
from pipeline.videos.annotations import format_utterance
from pipeline.videos.clips import VideoJob, crop_video, tracked
from pipeline.videos.detections import detections
from pipeline.videos.fomm import MISS

ROOT = Path(__file__).resolve().parents[3]
CROP = dataclasses.replace(params.load(ROOT / "params.yaml").crop, detect_height=120, detect_every=5)


def moving(step: float):
    """A square that moves `step` pixels a frame."""
    return lambda k: picture((120, 160), (round(10 + step * k), 30, round(58 + step * k), 78))


def look(path, spans=None, every=5, detector=None, annotated=None):
    detector = detector or GreenDetector()
    settings = dataclasses.replace(CROP, detect_every=every)
    return list(detections(path, spans, settings, detector, annotated)), detector.looks


def test_at_1_the_detector_sees_every_frame_once(tmp_path):
    path = write_video(tmp_path / "v.mp4", 23, moving(2))
    found, looks = look(path, every=1)
    assert looks == 23 and [tick for tick, _, _ in found] == list(range(23))


def test_even_motion_is_looked_at_every_nth_frame_and_lies_on_the_line_between(tmp_path):
    path = write_video(tmp_path / "v.mp4", 41, moving(0.5))
    every, _ = look(path, every=1)
    some, looks = look(path)
    assert looks == 9  # 0, 5 ... 40
    assert [(tick, size) for tick, size, _ in some] == [(tick, size) for tick, size, _ in every]
    # in every frame the square moves by steps of two pixels, as 4:2:0 stores its colour; the line goes through them
    np.testing.assert_allclose([boxes for *_, boxes in some], [boxes for *_, boxes in every], atol=1.5)


def test_a_face_that_comes_and_goes_is_found_to_the_frame(tmp_path):
    shown = range(8, 32)
    path = write_video(
        tmp_path / "v.mp4", 40, lambda k: picture((120, 160), (50, 30, 98, 78) if k in shown else None), gop=1
    )
    found, looks = look(path)
    assert [tick for tick, _, boxes in found if boxes] == list(shown)
    assert looks < 20


def test_a_jump_is_looked_at_from_both_sides(tmp_path):
    def jumps(k):
        return picture((120, 160), (20, 30, 68, 78) if k < 13 else (60, 40, 108, 88))

    path = write_video(tmp_path / "v.mp4", 30, jumps, gop=1)
    found, _ = look(path)
    every, _ = look(path, every=1)
    np.testing.assert_allclose([boxes for *_, boxes in found], [boxes for *_, boxes in every], atol=1e-6)


def test_a_cut_to_a_face_at_the_same_place_is_no_line(tmp_path):
    """Within what a face may move, but another picture."""

    def cut(k):
        return picture((120, 160), (50, 30, 98, 78) if k < 12 else (54, 32, 102, 80), shade=60 if k < 12 else 160)

    path = write_video(tmp_path / "v.mp4", 26, cut, gop=1)
    found, _ = look(path)
    left = [boxes[0][0] for *_, boxes in found]
    assert left == pytest.approx([50] * 12 + [54] * 14, abs=1e-6)


def test_a_face_that_is_hardly_one_is_looked_at_in_every_frame(tmp_path):
    class Unsure(GreenDetector):
        def detect(self, image):
            return [Seen(seen.box, 0.55) for seen in super().detect(image)]

    path = write_video(tmp_path / "v.mp4", 21, moving(0.5))
    assert look(path, detector=Unsure())[1] == 21


class Flickering(GreenDetector):
    """Also takes something in the background for a face, hardly, in every other look."""

    def detect(self, image):
        more = [Seen(np.array([110.0, 5.0, 150.0, 45.0]), 0.55)] if self.looks % 2 else []
        return [*super().detect(image), *more]


def test_what_is_not_followed_costs_no_looks(tmp_path):
    path = write_video(tmp_path / "v.mp4", 41, moving(0.5))
    alone, _ = look(path)
    face = np.array([10.0, 30.0, 60.0, 78.0])

    def annotated(tick, size):
        return [(face + [0.5 * tick, 0] * 2, MISS)]

    found, looks = look(path, detector=Flickering(), annotated=annotated)
    assert looks == 9 and look(path, detector=Flickering())[1] > 20
    assert [boxes[0] for *_, boxes in found] == [boxes[0] for *_, boxes in alone]
    # where no face is where the annotation says, all count
    elsewhere = [(np.array([0.0, 90.0, 9.0, 99.0]), MISS)]
    assert look(path, detector=Flickering(), annotated=lambda tick, size: elsewhere)[1] > 20


def test_a_chunk_ends_at_the_frame_where_its_first_box_is_left(tmp_path):
    """It moves ten pixels in every sixth frame: too little to be a jump, and no line."""

    def left(k):
        return 10 + 10 * (k // 6)

    path = write_video(tmp_path / "v.mp4", 60, lambda k: picture((120, 160), (left(k), 30, left(k) + 48, 78)), gop=1)
    rows = [(left(k) / 160, 0.25, 0.3, 0.4) for k in range(60)]
    texts = {"00001": format_utterance("id00001", "v", range(60), rows)}
    cuts, looks = [], []
    for every in (1, 5):
        detector, settings = GreenDetector(), dataclasses.replace(CROP, detect_every=every, min_frames=8, min_size=20)
        clips = crop_video(VideoJob("id00001", "v", "train", str(path), texts, ()), 64, settings, detector)
        cuts.append([(clip.start, clip.end) for clip in clips])
        looks.append(detector.looks)
    assert cuts[0] == cuts[1] == [(0, 18), (18, 36), (36, 54), (54, 60)]
    assert looks[1] < 30


def test_spans_begin_and_end_with_a_look(tmp_path):
    path = write_video(tmp_path / "v.mp4", 60, moving(0.5))
    found, looks = look(path, [(3, 10), (30, 38)])
    assert [tick for tick, *_ in found] == [*range(3, 10), *range(30, 38)]
    assert looks == 3 + 3  # 3, 8, 9 and 30, 35, 37


def test_a_picture_that_stays_is_looked_at_once(tmp_path):
    path = write_video(tmp_path / "v.mp4", 8, moving(3), rate=5)  # each stays for five frames
    found, looks = look(path, every=1)
    assert looks == 8 and len(found) == 40
    assert [boxes for *_, boxes in found][::5] == [boxes for *_, boxes in found][4::5]


def test_pictures_go_to_the_detector_in_batches_where_it_takes_them(tmp_path):
    class Batched(GreenDetector):
        batch = 4
        groups = ()

        def detect_batch(self, images):
            self.groups = (*self.groups, len(images))
            return super().detect_batch(images)

    path = write_video(tmp_path / "v.mp4", 42, moving(0.5))
    alone, looks = look(path)
    detector = Batched()
    together, batched_looks = look(path, detector=detector)
    assert together == alone and batched_looks == looks
    assert max(detector.groups) == 4 and len(detector.groups) <= 4


def test_what_comes_before_a_break_is_given(tmp_path):
    path = write_video(tmp_path / "v.mkv", 60, moving(0.5), gop=10)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle:] = np.random.default_rng(0).integers(0, 255, len(data) - middle, np.uint8).tobytes()
    path.write_bytes(data)
    some, _ = tracked(path, None, CROP, GreenDetector())
    every, _ = tracked(path, None, dataclasses.replace(CROP, detect_every=1), GreenDetector())
    assert 10 < some.end == every.end


def test_ten_bits_and_small_pictures(tmp_path):
    for name, size, pix_fmt in (("ten.mp4", (120, 160), "yuv420p10le"), ("tiny.mp4", (16, 16), "yuv420p")):
        path = write_video(tmp_path / name, 12, lambda k, size=size: picture(size), pix_fmt=pix_fmt)
        assert len(look(path)[0]) == 12
