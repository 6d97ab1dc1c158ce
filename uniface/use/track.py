"""Faces through a video: searched for in few frames, followed, smoothed, and looked for anew after a cut.

Frames come in windows. The whole of a window's last frame is searched; if it has the faces of the frame before the
window, each is looked for in the frames between around both of its places, and has to be near the straight line from
one to the other. Where faces come or go, or one is not found so, whole frames are searched, in halves of the window
down to every frame.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from uniface.faces import Detection
from uniface.use.find import Choice, Detect, choose, overlap

WINDOW = 8
SAME = 0.3
"""Overlap from which two boxes are the same face."""
CUT = 25.0
"""Mean difference in grey levels between two frames' thumbnails from which on there is a cut."""
PATIENCE = 25
"""Frames after which a lost face is given up and chosen anew."""


@dataclass
class Track:
    """One face being followed: where it was seen last, how long ago, and its smoothed `box` (4,) and `landmarks`."""

    seen: np.ndarray  # (14,) box and landmarks
    missed: int = 0
    smooth: np.ndarray | None = None  # (14,)
    speed: np.ndarray | None = None  # (14,) smoothed change per frame

    @property
    def box(self) -> np.ndarray:
        return self.smooth[:4]

    @property
    def landmarks(self) -> np.ndarray:
        return self.smooth[4:].reshape(5, 2)


@dataclass
class Tracker:
    """Follows the faces chosen by `face` (as in `find.choose`) through frames handed over window by window.

    `smoothing` off leaves boxes and landmarks as detected. `state` and `restore` let a killed run go on.
    """

    detect: Detect
    face: Choice = "largest"
    smoothing: bool = True
    fps: float = 25.0
    detections: int = 0  # frames searched as a whole
    tracks: list[Track] = field(default_factory=list)
    _last: list[Detection] | None = None  # of the frame before; None: nothing known, at the start and after a cut
    _thumbnail: np.ndarray | None = None

    def windows(self, frames: Iterable[np.ndarray]) -> Iterator[list[tuple[np.ndarray, list[Track]]]]:
        """Every frame, uint8 (H, W, 3), with the faces in it; none where the face is lost."""
        window: list[np.ndarray] = []
        for frame in frames:
            cut = self._is_cut(frame)
            if window and (cut or len(window) == WINDOW):
                yield self._follow(window)
                window = []
            if cut:
                self._last, self.tracks = None, []
            window.append(frame)
        if window:
            yield self._follow(window)

    def find(self, window: list[np.ndarray]) -> list[list[Detection]]:
        """All faces in each frame of a window."""
        last = len(window) - 1
        found: dict[int, list[Detection]] = {last: self._search(window[last])}
        first = -1
        if self._last is None and last:
            first = 0
            found[0] = self._search(window[0])
        elif self._last is not None:
            found[-1] = self._last
        self._fill(window, found, first, last)
        self._last = found[last]
        return [found[index] for index in range(len(window))]

    def _search(self, frame: np.ndarray) -> list[Detection]:
        self.detections += 1
        return self.detect(frame, None)

    def _fill(self, window: list[np.ndarray], found: dict[int, list[Detection]], low: int, high: int) -> None:
        if high - low < 2:
            return
        pairs = _partners(found[low], found[high])
        if not pairs:
            middle = (low + high) // 2
            found[middle] = self._search(window[middle])
            if not (found[low] or found[middle] or found[high]):
                found.update((index, []) for index in range(low + 1, high))
                return
            self._fill(window, found, low, middle)
            self._fill(window, found, middle, high)
            return
        regions = [_around(a.box, b.box) for a, b in pairs]
        for index in range(low + 1, high):
            expected = _between(pairs, (index - low) / (high - low))
            near = self.detect(window[index], regions)
            found[index] = self._search(window[index]) if _partners(expected, near) is None else near

    def _follow(self, window: list[np.ndarray]) -> list[tuple[np.ndarray, list[Track]]]:
        return [(frame, self._advance(found)) for frame, found in zip(window, self.find(window), strict=True)]

    def _advance(self, found: list[Detection]) -> list[Track]:
        """Take the next frame's faces; the tracks seen in it, as copies that later frames do not change."""
        free = list(found)
        for track in self.tracks:
            match = max(free, key=lambda face: overlap(face.box, track.seen[:4]), default=None)
            if match is not None and overlap(match.box, track.seen[:4]) >= SAME:
                free.remove(match)
                self._update(track, _values(match))
            else:
                track.missed += 1
        if self.face == "all":
            self.tracks = [track for track in self.tracks if not track.missed]
            chosen = free
        else:
            self.tracks = [track for track in self.tracks if track.missed < PATIENCE]
            chosen = [] if self.tracks or not self._has(found) else choose(found, self.face)
        for face in chosen:
            track = Track(_values(face))
            self._update(track, track.seen)
            self.tracks.append(track)
        return [Track(t.seen, 0, t.smooth) for t in self.tracks if not t.missed]

    def _has(self, found: list[Detection]) -> bool:
        return len(found) >= (self.face if isinstance(self.face, int) else 1)

    def _update(self, track: Track, values: np.ndarray) -> None:
        """The one-euro filter (Casiez et al., CHI 2012) on values in face sizes: firm at rest, quick in motion."""
        size = max(values[2] - values[0], values[3] - values[1], 1.0)
        if not self.smoothing or track.smooth is None or track.missed:
            track.smooth, track.speed = values, np.zeros_like(values)
        else:
            change = (values - track.seen) * (self.fps / size)  # face sizes a second
            track.speed = track.speed + _share(1.0, self.fps) * (change - track.speed)
            share = _share(REST + SLOPE * np.abs(track.speed), self.fps)
            track.smooth = track.smooth + share * (values - track.smooth)
        track.seen, track.missed = values, 0

    def _is_cut(self, frame: np.ndarray) -> bool:
        import cv2

        before, self._thumbnail = self._thumbnail, cv2.resize(frame, (32, 18), interpolation=cv2.INTER_AREA)
        return before is not None and float(cv2.absdiff(before, self._thumbnail).mean()) > CUT

    def state(self) -> dict:
        """All that the next window depends on, as JSON values; only between two windows."""
        tracks = [
            [track.seen.tolist(), track.missed, track.smooth.tolist(), track.speed.tolist()] for track in self.tracks
        ]
        last = None if self._last is None else [[f.score, *_values(f).tolist()] for f in self._last]
        return {
            "tracks": tracks,
            "last": last,
            "thumbnail": None if self._thumbnail is None else self._thumbnail.tolist(),
        }

    def restore(self, state: dict) -> None:
        """Go on where `state` was taken."""
        self.tracks = [
            Track(np.array(seen), missed, np.array(smooth), np.array(speed))
            for seen, missed, smooth, speed in state["tracks"]
        ]
        if state["last"] is not None:
            self._last = [
                Detection(np.array(v[:4]), score, np.array(v[4:]).reshape(5, 2)) for score, *v in state["last"]
            ]
        self._thumbnail = None if state["thumbnail"] is None else np.array(state["thumbnail"], np.uint8)


REST, SLOPE = 1.5, 8.0
"""Of the one-euro filter: cut-off at rest in Hz, and what it gains with each face size a second of speed."""


def _share(cutoff: float | np.ndarray, fps: float) -> float | np.ndarray:
    """The share of a new value that an exponential filter of that cut-off takes at once."""
    return 1 / (1 + fps / (2 * math.pi * cutoff))


def _values(face: Detection) -> np.ndarray:
    return np.concatenate([face.box, face.landmarks.ravel()]).astype(np.float64)


def _partners(a: list[Detection], b: list[Detection]) -> list[tuple[Detection, Detection]] | None:
    """Each face of `a` with the same face in `b`; None if they do not all have one."""
    if len(a) != len(b):
        return None
    free, pairs = list(b), []
    for face in a:
        match = max(free, key=lambda other: overlap(face.box, other.box))
        if overlap(face.box, match.box) < SAME:
            return None
        free.remove(match)
        pairs.append((face, match))
    return pairs


def _around(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The smallest box (4,) around two."""
    return np.concatenate([np.minimum(a[:2], b[:2]), np.maximum(a[2:], b[2:])])


def _between(pairs: list[tuple[Detection, Detection]], share: float) -> list[Detection]:
    """Faces on the straight line between the two of each pair."""
    mixed = [((1 - share) * _values(x) + share * _values(y), min(x.score, y.score)) for x, y in pairs]
    return [Detection(values[:4], score, values[4:].reshape(5, 2)) for values, score in mixed]
