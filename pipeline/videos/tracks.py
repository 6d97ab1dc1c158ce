"""From the faces in the frames of a video to candidate clips: follow one, cut its track by FOMM's protocol."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipeline.sections import CropParams
from pipeline.videos import codec, fomm
from pipeline.videos.annotations import Track
from pipeline.videos.detections import Detector, detections


@dataclass(frozen=True)
class Clip:
    """A candidate clip, kept or not: a row of the clip index, and the mp4's bytes if it was kept.

    `start`, `end` are 25 fps frames of the source video, `box` the crop in its pixels, `width`, `height` its size then.
    `fit` says what became of a given box, see `placed`; `bad_lines`, on an utterance's first row, how many lines of its
    annotation were left out.
    """

    utterance: str
    chunk: int
    start: int
    end: int
    status: str
    reason: str | None = None
    box: tuple[float, float, float, float] | None = None
    width: int | None = None
    height: int | None = None
    fit: str | None = None
    bad_lines: int = 0
    video: bytes | None = None

    @property
    def frames(self) -> int:
        return self.end - self.start


@dataclass
class Seen:
    """The boxes of a track from frame `first` on, in parts of one picture size: (first frame, (width, height), boxes).

    WebM and H.264 may change the size on the way, and boxes of two sizes have nothing to do with each other.
    """

    first: int
    parts: list[tuple[int, tuple[int, int], list[fomm.Box]]] = field(default_factory=list)

    @property
    def end(self) -> int:
        return self.parts[-1][0] + len(self.parts[-1][2]) if self.parts else self.first

    def add(self, size: tuple[int, int], box: fomm.Box) -> None:
        if not self.parts or self.parts[-1][1] != size:
            self.parts.append((self.end, size, []))
        self.parts[-1][2].append(box)

    def last(self, size: tuple[int, int]) -> fomm.Box:
        """The box before, if the picture still has this size."""
        return self.parts[-1][2][-1] if self.parts and self.parts[-1][1] == size else fomm.MISS


def chunks(utterance: str, seen: Seen, settings: CropParams) -> list[Clip]:
    """The chunks of one track; a change of the picture's size ends one."""
    found: list[Clip] = []
    for first, (width, height), boxes in seen.parts:
        for c in fomm.chunks(boxes, (height, width), settings, first):
            found.append(Clip(utterance, len(found), c.first, c.end, c.status, c.reason, c.box, width, height))
    return found


def tracked(
    path: Path, spans: list[tuple[int, int]] | None, settings: CropParams, detector: Detector
) -> tuple[Seen, str | None]:
    """The boxes of the largest face, followed by overlap until it is lost, and what broke the video off, if it did."""
    seen = Seen(0)
    try:
        for _, size, faces in detections(path, spans, settings, detector):
            seen.add(size, _follow(seen.last(size), faces, settings.iou_with_initial))
    except codec.VideoError as error:
        return seen, str(error)
    return seen, None


def matched(
    path: Path, tracks: Sequence[Track], settings: CropParams, detector: Detector
) -> tuple[dict[str, Seen], str | None]:
    """By utterance, in each frame the detection that overlaps most with the annotation; what broke the video off."""
    seen = {track.utterance: Seen(track.first) for track in tracks}
    began = {track.utterance: fomm.MISS for track in tracks}  # the box with which a chunk did

    def annotated(tick: int, size: tuple[int, int]) -> list[tuple[np.ndarray, fomm.Box]]:
        rows = [(t.boxes[tick - t.first], began[t.utterance]) for t in tracks if t.first <= tick < t.end]
        return [(row * np.array(size * 2), first) for row, first in rows if not np.isnan(row[0])]

    try:
        for tick, size, faces in detections(path, merged(tracks), settings, detector, annotated):
            scale = np.array(size * 2)
            for track in tracks:
                if track.first <= tick < track.end:
                    box = (track.boxes[tick - track.first] * scale).tolist()
                    match = fomm.MISS if np.isnan(box[0]) else fomm.best_match(faces, box)
                    seen[track.utterance].add(size, match)
                    if fomm.iou(began[track.utterance], match) < settings.iou_with_initial:
                        began[track.utterance] = match
    except codec.VideoError as error:
        return seen, str(error)
    return seen, None


def _follow(before: fomm.Box, seen: list[fomm.Box], threshold: float) -> fomm.Box:
    if not seen:
        return fomm.MISS
    match = fomm.best_match(seen, before)
    if before != fomm.MISS and fomm.iou(before, match) >= threshold:
        return match
    largest = max(seen, key=lambda box: (box[2] - box[0]) * (box[3] - box[1]))
    return fomm.best_match([largest], largest)


def merged(tracks: Iterable[Track]) -> list[tuple[int, int]]:
    return codec.merge([(track.first, track.end) for track in tracks])
