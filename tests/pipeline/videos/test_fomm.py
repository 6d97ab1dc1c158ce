"""The crop protocol against recorded answers of FOMM's preprocessing, and its rules one by one."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.videos import fomm

GOLDEN = json.loads((Path(__file__).parent / "golden" / "fomm_crop_golden.json").read_text())


@dataclass(frozen=True)
class Settings:
    iou_with_initial: float = 0.25
    increase: float = 0.1
    min_frames: int = 64
    max_frames: int = 1024
    min_size: int = 256
    max_gap: int = 0
    border: str = "reject"


def boxes_of(case: dict) -> list:
    return [tuple(box) for box, times in case["boxes_rle"] for _ in range(times)]


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: case["name"])
def test_track_gives_the_recorded_chunks(case):
    names = Settings.__dataclass_fields__
    settings = Settings(**{key: value for key, value in case["settings"].items() if key in names})
    first = fomm.seconds_to_frame(case["settings"]["chunk_start_seconds"])
    boxes = boxes_of(case)
    assert len(boxes) == case["n_boxes"]
    found = fomm.chunks(boxes, (case["height"], case["width"]), settings, first, case["n_frames"])
    kept = [
        {
            "start": chunk.first,
            "end": chunk.fomm_end,
            "bbox": list(chunk.box),
            "bbox_str": "-".join(map(str, chunk.box)),
            "name": fomm.clip_name("id00001", "vid", "00001", chunk.number),
            "n_saved": chunk.frames,
            "crop_hw": [chunk.box[3] - chunk.box[1], chunk.box[2] - chunk.box[0]],
        }
        for chunk in found
        if chunk.status == "kept"
    ]
    assert kept == case["result"].get("chunks", [])  # where the reference raises (no frame), there is no chunk
    assert sum(chunk.frames for chunk in found) == min(len(boxes), case["n_frames"])
    assert all(chunk.reason for chunk in found if chunk.status != "kept")


@pytest.mark.parametrize("case", GOLDEN["unit"])
def test_overlap_join_and_enlargement(case):
    assert fomm.iou(case["a"], case["b"]) == pytest.approx(case["iou"], abs=1e-12)
    assert list(fomm.join([case["a"], case["b"]])) == case["join"]
    assert list(fomm.enlarge(case["a"], 0.1)) == case["aspect_0_1"]
    assert list(fomm.enlarge(case["a"], 0.25)) == case["aspect_0_25"]
    assert list(fomm.enlarge(case["a"], 0.1, square=False)) == case["plain_0_1"]


FACE = (400.0, 200.0, 700.0, 500.0)


def statuses(boxes, **settings):
    return [(c.status, c.first, c.end) for c in fomm.chunks(boxes, (720, 1280), Settings(**settings))]


def test_every_rejection_has_its_status():
    assert statuses([FACE] * 63) == [("short", 0, 63)]
    assert statuses([(400.0, 200.0, 500.0, 300.0)] * 64) == [("small", 0, 64)]
    assert statuses([(0.0, 200.0, 300.0, 500.0)] * 64) == [("at_border", 0, 64)]
    assert statuses([(0.0, 200.0, 300.0, 500.0)] * 64, border="pad") == [("kept", 0, 64)]
    assert statuses([fomm.MISS] * 64) == [("no_face", 0, 64)]
    assert statuses([]) == []


def test_a_gap_is_bridged_only_when_allowed_and_only_over_the_same_face():
    gap = [FACE] * 70 + [fomm.MISS] * 2 + [FACE] * 70
    assert statuses(gap) == [("kept", 0, 70), ("no_face", 70, 72), ("kept", 72, 142)]
    assert statuses(gap, max_gap=1) == statuses(gap)
    assert statuses(gap, max_gap=2) == [("kept", 0, 142)]
    other = [FACE] * 70 + [fomm.MISS] + [(800.0, 200.0, 1100.0, 500.0)] * 70
    assert statuses(other, max_gap=5) == [("kept", 0, 70), ("no_face", 70, 71), ("kept", 71, 141)]


def test_best_match_takes_the_overlap_and_clips_at_zero():
    near, far = (-3.0, 5.0, 90.0, 110.0), (200.0, 0.0, 320.0, 100.0)
    assert fomm.best_match([far, near], (0, 0, 100, 100)) == (0.0, 5.0, 90.0, 110.0)
    assert fomm.best_match([], (0, 0, 100, 100)) == fomm.MISS


def test_a_flat_box_cannot_be_enlarged():
    with pytest.raises(ValueError, match="0"):
        fomm.enlarge((10, 10, 300, 10), 0.1)
    for bottom in (200.0, 200.5):
        assert statuses([(300.0, 200.0, 700.0, bottom)] * 64) == [("small", 0, 64)]
    assert statuses([(0.0, 0.0, 1e-313, 400.0)] * 64) == [("small", 0, 64)]


numbers = st.floats(0, 600, allow_nan=False)


@given(st.lists(st.tuples(numbers, numbers, st.floats(0, 400), st.floats(0, 400)), max_size=40), st.integers(1, 9))
def test_chunks_tile_the_track_and_kept_ones_fit_the_picture(corners, longest):
    boxes = [(x, y, x + w, y + h) for x, y, w, h in corners]
    settings = Settings(min_frames=2, max_frames=longest, min_size=50)
    found = fomm.chunks(boxes, (720, 1280), settings)
    assert [c.number for c in found] == list(range(len(found)))
    assert [c.first for c in found[1:]] == [c.end for c in found[:-1]]
    assert sum(c.frames for c in found) == len(boxes)
    for chunk in found:
        assert chunk.frames <= longest
        if chunk.status == "kept":
            left, top, right, bottom = chunk.box
            assert 0 <= left < right <= 1280 and 0 <= top < bottom <= 720
            assert abs((right - left) - (bottom - top)) <= 1
