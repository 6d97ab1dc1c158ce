"""Faces in the frames of a video: looked for in every frame, or in some of them and wherever the track is unsure.

With `crop.detect_every` n the detector looks at every n-th frame, at the first and last frame of a span, on both sides
of a cut, and between two looks that do not lead evenly from one to the other (a face comes, goes, jumps, or is hardly
one) at the frame in the middle, down to every frame. Boxes in between lie on the straight line. Where annotations say
which face is followed, it alone counts: in the background something is nearly a face in many frames; and where it
leaves the box with which its chunk began, the frame is found, for there FOMM's protocol cuts.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import numpy as np

from pipeline.sections import CropParams
from pipeline.videos import codec, fomm

SURE = 0.6
"""Score below which a face is looked at more closely; detectors call 0.5 a face."""
SAME = 0.5
"""Overlap from which two boxes are the same face."""
JUMP = 0.25
"""Share of its size that a side of a face's box may move between two looks."""
CUT = 20.0
"""Mean difference in grey levels between two neighbouring frames from which on there is a cut between them."""
_GRID = 18
"""Rows of the grid on which frames are compared for a cut."""


Annotated = Callable[[int, tuple[int, int]], list[tuple[np.ndarray, fomm.Box]]]
"""For a tick and a picture's (width, height), of each face that is followed there: its box (4,) by the annotation, and
the box with which its chunk began, as far as boxes were given out; `fomm.MISS` if none were."""


class Detector(Protocol):
    """What finds faces: `uniface.faces.Faces`. It takes up to `batch` pictures of one size at a time."""

    batch: int

    def detect_batch(self, images: Sequence[np.ndarray]) -> list[list]: ...


def detections(
    path: Path,
    spans: list[tuple[int, int]] | None,
    settings: CropParams,
    detector: Detector,
    annotated: Annotated | None = None,
) -> Iterator[tuple[int, tuple[int, int], list[fomm.Box]]]:
    """(tick, (width, height) of the picture, boxes in its pixels); what is shown at several ticks is looked at once.

    Without `annotated` all faces are followed. Raises VideoError where the data cannot be decoded, after what comes
    before.
    """
    block = _Block(settings, detector, annotated)
    try:
        for tick, picture in codec.ticks(path, spans):
            if block.full(tick, picture):
                yield from block.boxes()
            block.add(tick, picture)
    except codec.VideoError:
        yield from block.boxes(last=True)
        raise
    yield from block.boxes(last=True)


class _Block:
    """Neighbouring frames on which the detector works at a time; the last look of one block begins the next."""

    def __init__(
        self,
        settings: CropParams,
        detector: Detector,
        annotated: Annotated | None,
    ):
        self._every, self._height, self._detector = settings.detect_every, settings.detect_height, detector
        self._annotated, self._overlap = annotated, settings.iou_with_initial
        self._pictures: list[codec.Picture] = []
        self._ticks: list[list[int]] = []  # of each picture
        self._found: dict[int, np.ndarray] = {}  # index of a picture -> (n, 5), boxes in its pixels and scores
        self._told = 0  # pictures at the front whose boxes were given out
        self._breaks: list[int] = []  # indices of pictures that do not go on from the one before
        self._last: np.ndarray | None = None  # the grid of the last picture

    def full(self, tick: int, picture: codec.Picture) -> bool:
        """Whether the next picture should wait until this block has been looked at."""
        if not self._pictures or picture is self._pictures[-1]:
            return False
        return self._ticks[-1][0] - self._ticks[0][0] >= self._every * self._detector.batch

    def add(self, tick: int, picture: codec.Picture) -> None:
        if self._pictures and picture is self._pictures[-1]:
            self._ticks[-1].append(tick)
            return
        grid = _grid(picture) if self._every > 1 else None
        if self._pictures and not self._goes_on(tick, picture, grid):
            self._breaks.append(len(self._pictures))
        self._pictures.append(picture)
        self._ticks.append([tick])
        self._last = grid

    def _goes_on(self, tick: int, picture: codec.Picture, grid: np.ndarray | None) -> bool:
        if tick != self._ticks[-1][-1] + 1 or picture.size != self._pictures[-1].size:
            return False
        return grid is None or float(np.abs(grid - self._last).mean()) < CUT

    def boxes(self, last: bool = False) -> Iterator[tuple[int, tuple[int, int], list[fomm.Box]]]:
        """What `detections` gives of the pictures so far; the last one stays for the next block, if there is one."""
        count = len(self._pictures)
        if not count:
            return
        edges = [0, *self._breaks, count]
        self._look(key for start, end in pairwise(edges) for key in self._keys(start, end))
        while unsure := [(a + b) // 2 for a, b in self._gaps() if not self._sure(a, b)]:
            self._look(unsure)
        for a, b in self._gaps():
            begin, end = self._ticks[a][0], self._ticks[b][0]
            first, second = _both(self._found[a], self._found[b])
            for index in range(a + 1, b):
                share = (self._ticks[index][0] - begin) / (end - begin)
                self._found[index] = (1 - share) * first + share * second
        for index in range(self._told, count):
            size = self._pictures[index].size
            boxes = [tuple(box) for box in self._found[index][:, :4].tolist()]
            yield from ((tick, size, boxes) for tick in self._ticks[index])
        if not last:
            self._pictures, self._ticks, self._breaks = self._pictures[-1:], self._ticks[-1:], []
            self._found, self._told = {0: self._found[count - 1]}, 1

    def _keys(self, start: int, end: int) -> Iterator[int]:
        """The frames of pictures [start, end) that are looked at in any case."""
        after = None
        for index in range(start, end):
            tick = self._ticks[index][0]
            if after is None or tick >= after or index == end - 1:
                after = tick + self._every
                yield index

    def _gaps(self) -> list[tuple[int, int]]:
        """Neighbouring looks with pictures between them."""
        return [(a, b) for a, b in pairwise(sorted(self._found)) if b - a > 1]

    def _sure(self, a: int, b: int) -> bool:
        """Whether two looks lead evenly from one to the other."""
        first, second = self._followed(a), self._followed(b)
        if len(first) and len(first) == len(second):
            return _alike(first, second) and self._stays(a, first) == self._stays(b, second)
        first, second = _both(self._found[a], self._found[b])
        return len(first) == len(self._found[a]) == len(self._found[b]) and _alike(first, second)

    def _followed(self, index: int) -> np.ndarray:
        """The faces (n, 5) that the tracks of this tick take, in their order; none if one of them has none to take."""
        found, taken = self._found[index], []
        if self._annotated is not None and len(found):
            for box, _ in self._annotated(self._ticks[index][-1], self._pictures[index].size):
                overlaps = [fomm.iou(face, box) for face in found]
                if max(overlaps) > 0:
                    taken.append(found[int(np.argmax(overlaps))])
                else:
                    return found[:0]
        return np.array(taken).reshape(-1, 5)

    def _stays(self, index: int, faces: np.ndarray) -> list[bool]:
        """Whether these faces, those that are followed at this picture, overlap with where their chunks began."""
        rows = self._annotated(self._ticks[index][-1], self._pictures[index].size)
        return [fomm.iou(began, face) >= self._overlap for (_, began), face in zip(rows, faces, strict=True)]

    def _look(self, indices: Iterator[int] | list[int]) -> None:
        """Run the detector on those pictures that it has not seen, as many of one size at a time as it takes."""
        group: list[tuple[int, np.ndarray]] = []
        for index in indices:
            if index in self._found:
                continue
            image = self._pictures[index].rgb(self._height)
            if group and (len(group) == self._detector.batch or group[0][1].shape != image.shape):
                self._take(group)
                group = []
            group.append((index, image))
        if group:
            self._take(group)

    def _take(self, group: list[tuple[int, np.ndarray]]) -> None:
        for (index, image), faces in zip(group, self._detector.detect_batch([i for _, i in group]), strict=True):
            picture = self._pictures[index]
            scale = np.array([picture.width / image.shape[1], picture.height / image.shape[0]] * 2)
            rows = [[*(face.box * scale), face.score] for face in faces]
            self._found[index] = np.array(rows, np.float64).reshape(-1, 5)


def _grid(picture: codec.Picture) -> np.ndarray:
    """Some values of the picture's first plane in grey levels; it holds the brightness in nearly every format."""
    plane, deep = picture.frame.planes[0], picture.frame.format.components[0].bits - 8
    rows = np.frombuffer(plane, np.uint16 if deep > 0 else np.uint8).reshape(plane.height, -1)
    step = max(1, plane.height // _GRID)
    return rows[::step, : plane.width : step].astype(np.float32) / 2 ** max(deep, 0)


def _both(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The faces that two looks (n, 5) both show, row by row; what overlaps most is taken first."""
    overlaps = sorted(((fomm.iou(x, y), i, j) for i, x in enumerate(a) for j, y in enumerate(b)), reverse=True)
    pairs: dict[int, int] = {}
    for overlap, i, j in overlaps:
        if overlap >= SAME and i not in pairs and j not in pairs.values():
            pairs[i] = j
    rows = sorted(pairs)
    return a[rows], b[[pairs[row] for row in rows]]


def _alike(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether faces (n, 5), row by row, are surely the same in nearly the same place."""
    if any(fomm.iou(x, y) < SAME for x, y in zip(a, b, strict=True)):
        return False
    size = (b[:, 2:4] - b[:, :2]).max(1, initial=1.0)
    moved = np.abs(a[:, :4] - b[:, :4]).max(1, initial=0.0)
    return bool((moved <= JUMP * size).all() and min(a[:, 4].min(initial=1.0), b[:, 4].min(initial=1.0)) >= SURE)
