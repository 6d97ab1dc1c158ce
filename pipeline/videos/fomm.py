"""The crop protocol of FOMM's VoxCeleb preprocessing as pure functions: from a track of boxes to square crops.

UniFace's data section (Sec. 4.1) follows that preprocessing. A track is one box per frame of an utterance at 25 fps,
(left, top, right, bottom) in pixels of the source video; a frame where the detector missed holds `MISS`. Its quirks are
kept on purpose, because they decide which clips exist: extents count + 1 in the overlap but not in the size, the
overlap is taken with the first box of a chunk, coordinates are cut toward zero, and a square that then leaves the
picture rejects its chunk instead of being shifted. Rejected chunks keep their number, and here also a status.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from uniface.use.crops import enlarge

FPS = 25
"""Frame numbers of VoxCeleb's annotations count at this rate, whatever the rate of the video."""

SIDES = ("left", "top", "right", "bottom")
Box = tuple[float, float, float, float]
MISS: Box = (0.0, 0.0, 0.0, 0.0)


class Settings(Protocol):
    """What the protocol reads; `pipeline.sections.CropParams` has it."""

    min_frames: int
    max_frames: int
    min_size: int
    iou_with_initial: float
    increase: float
    max_gap: int
    border: str  # reject (FOMM) or pad


@dataclass(frozen=True)
class Chunk:
    """A run of frames of one track that share a crop, kept or not.

    `first` and `end` are frame numbers of the source at 25 fps, `end` exclusive. FOMM's own tables give the last chunk
    of a track an `end` one too large when the video goes on after the track: `fomm_end` is that number.
    `box` is the integer crop that is cut out, None if the chunk was not kept.
    """

    number: int
    first: int
    end: int
    fomm_end: int
    status: str
    reason: str | None
    box: tuple[int, int, int, int] | None

    @property
    def frames(self) -> int:
        return self.end - self.first


def iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union of two boxes whose extents count the last pixel (+ 1)."""
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]) + 1)
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]) + 1)
    both = width * height
    return both / (_pixels(a) + _pixels(b) - both)


def _pixels(box: Sequence[float]) -> float:
    return (box[2] - box[0] + 1) * (box[3] - box[1] + 1)


def join(boxes: Sequence[Sequence[float]]) -> Box:
    """The smallest box around all."""
    left, top, right, bottom = zip(*boxes, strict=True)
    return min(left), min(top), max(right), max(bottom)


def best_match(detections: Sequence[Sequence[float]], annotation: Sequence[float]) -> Box:
    """The detection that overlaps most with the annotation, clipped at 0; `MISS` if there is none at all."""
    if not len(detections):
        return MISS
    _, box = max((iou(box, annotation), tuple(map(float, box))) for box in detections)
    return tuple(max(side, 0.0) for side in box)


def bridge(boxes: Sequence[Box], max_gap: int, threshold: float) -> list[Box]:
    """The track with runs of at most `max_gap` misses filled by the box before, where the box after still overlaps it.

    0 changes nothing, which is FOMM: there one miss always ends the chunk.
    """
    filled = list(boxes)
    known = None
    for index, box in enumerate(boxes):
        if tuple(box) == MISS:
            continue
        if known is not None and 1 < index - known <= max_gap + 1 and iou(boxes[known], box) >= threshold:
            filled[known + 1 : index] = [boxes[known]] * (index - known - 1)
        known = index
    return filled


def runs(boxes: Sequence[Box], settings: Settings) -> Iterator[tuple[int, int]]:
    """(start, end) of each chunk: a new one where the overlap with its first box is lost, or at full length."""
    start = 0
    for index, box in enumerate(boxes):
        full = index - start >= settings.max_frames
        if index > start and (full or iou(boxes[start], box) < settings.iou_with_initial):
            yield start, index
            start = index
    if boxes:
        yield start, len(boxes)


def chunks(
    boxes: Sequence[Box],
    size: tuple[int, int],
    settings: Settings,
    first: int = 0,
    available: int | None = None,
) -> list[Chunk]:
    """All chunks of a track, kept and rejected, in order; none for an empty track.

    `size` is (height, width) of the source, `first` the frame number of the track's first box, `available` how many
    frames the video has from there (default: as many as boxes); boxes beyond the video's end are ignored.
    """
    available = len(boxes) if available is None else available
    boxes = bridge(boxes[:available], settings.max_gap, settings.iou_with_initial)
    found = []
    for number, (start, end) in enumerate(runs(boxes, settings)):
        tube = boxes[start:end]
        status, reason, box = verdict(tube, size, settings)
        beyond = end == len(boxes) and available > len(boxes)
        found.append(Chunk(number, first + start, first + end, first + end + beyond, status, reason, box))
    return found


def verdict(
    tube: Sequence[Box], size: tuple[int, int], settings: Settings
) -> tuple[str, str | None, tuple[int, int, int, int] | None]:
    """(status, reason, crop) of one chunk's boxes: kept, or the first rule that rejects it, in FOMM's order."""
    if all(tuple(box) == MISS for box in tube):
        return "no_face", f"the detector found no face in {len(tube)} frames", None
    if len(tube) < settings.min_frames:
        return "short", f"{len(tube)} frames, {settings.min_frames} needed", None
    around = join(tube)
    sides = around[2] - around[0], around[3] - around[1]
    if max(sides) < settings.min_size or min(sides) < 1:  # a sliver: its margins have no end
        return "small", f"{max(sides):.0f} pixels, {settings.min_size} needed", None
    box = enlarge(around, settings.increase)
    beyond = lacking(box, size)
    if any(beyond) and settings.border == "reject":
        where = ", ".join(f"{pixels} {side}" for pixels, side in zip(beyond, SIDES, strict=True) if pixels)
        reason = f"the square {box} leaves the {size[1]}x{size[0]} picture, by pixels: {where}"
        return "at_border", reason, None
    return "kept", None, box


def lacking(box: Box, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """How many pixels a box reaches beyond each side of a (height, width) picture, in the order of `SIDES`."""
    left, top, right, bottom = (int(side) for side in box)
    return max(0, -left), max(0, -top), max(0, right - size[1]), max(0, bottom - size[0])


def seconds_to_frame(seconds: float) -> int:
    """The 25 fps frame number of a time; halves go to the even number, as FOMM's offsets do."""
    return round(seconds * FPS)


def clip_name(person_id: str, video_id: str, utterance: str, number: int) -> str:
    """The name FOMM gives a chunk: `person#video#utterance.txt#000.mp4`; `utterance` is without its suffix."""
    return f"{person_id}#{video_id}#{utterance}.txt#{number:03d}.mp4"
