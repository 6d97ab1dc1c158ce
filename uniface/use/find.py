"""Faces in a picture or a video's frame: found at several sizes, and chosen."""

from collections.abc import Callable, Sequence

import numpy as np

from uniface.faces import Detection, Faces

LEVELS = 3
"""A photo is searched at the detector's height, twice and four times that: a face fills the first, a group the last."""
SMALL = 0.45
"""At a finer level only faces below this share of the detector's height are new; larger ones were seen before."""

Choice = str | int
Detect = Callable[[np.ndarray], list[Detection]]


def search(faces: Faces, height: int, image: np.ndarray) -> list[Detection]:
    """All faces in a photo, uint8 (H, W, 3), of any size from a few hundredths of it to the whole; surest first."""
    found: list[Detection] = []
    for level in range(LEVELS):
        rows = height << level
        if level and rows // 2 >= image.shape[0]:
            break
        scale = min(1.0, rows / image.shape[0])
        for face in faces.detect(image, rows):
            side = scale * max(face.box[2] - face.box[0], face.box[3] - face.box[1])
            if not level or (side < SMALL * height and not any(_covered(face.box, other.box) for other in found)):
                found.append(face)
    return sorted(found, key=lambda face: -face.score)


def glance(faces: Faces, height: int, image: np.ndarray) -> list[Detection]:
    """The faces in a video's frame: at the detector's height, and at twice that only if there are none."""
    return faces.detect(image, height) or (faces.detect(image, 2 * height) if image.shape[0] > height else [])


def choose(found: Sequence[Detection], which: Choice, name: str = "the picture") -> list[Detection]:
    """The faces meant by `which`: "largest", "all", "left", or N, the Nth from the left, counted from 1.

    Raises ValueError naming `name` if there is no face, or no Nth, and for another word.
    """
    if not found:
        raise ValueError(f"no face found in {name}: give a picture whose face is larger or less turned away")
    from_left = sorted(found, key=lambda face: face.box[0] + face.box[2])
    if which == "largest":
        return [max(found, key=lambda face: area(face.box))]
    if which == "all":
        return from_left
    number = 1 if which == "left" else which
    if not isinstance(number, int) or number < 1:
        raise ValueError(f"face is {which!r}: use largest, all, left, or the number of a face from the left")
    if number > len(from_left):
        raise ValueError(f"no face number {number} in {name}: it has {len(from_left)}")
    return [from_left[number - 1]]


def area(box: Sequence[float]) -> float:
    """Of a box (left, top, right, bottom)."""
    return float(max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1]))


def overlap(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union of two boxes."""
    both = _common(a, b)
    return both / max(area(a) + area(b) - both, 1e-9)


def _covered(small: Sequence[float], large: Sequence[float]) -> bool:
    return _common(small, large) > 0.3 * area(small)


def _common(a: Sequence[float], b: Sequence[float]) -> float:
    return area((max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])))
