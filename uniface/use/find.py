"""Faces in a picture or a video's frame: found at several sizes, and chosen."""

from collections.abc import Callable, Sequence

import numpy as np

from uniface.faces import STRIDE, Detection, Faces

LEVELS = 3
"""A photo is searched at the detector's height, twice and four times that: a face fills the first, a group the last."""
SMALL = 0.45
"""At a finer level only faces below this share of the detector's height are new; larger ones were seen before."""

MARGIN = 1.0
"""Share of its size by which a region is enlarged on each side before a face is looked for in it: what lies around a
face decides with where its box ends (sample's detector, one piece for 8 frames: .5 px off at .6, .03 at 1.0)."""

Choice = str | int
Detect = Callable[[np.ndarray, Sequence[np.ndarray] | None], list[Detection]]
"""The faces in a frame, everywhere or one in each of some regions, as `glance` finds them."""


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


def glance(
    faces: Faces, height: int, image: np.ndarray, regions: Sequence[np.ndarray] | None = None
) -> list[Detection]:
    """The faces in a video's frame: at the detector's height, and at twice that only if there are none.

    With `regions`, boxes (4,) in which a face each is expected, only the pieces of the frame around them are looked at:
    the face that best fills each region; none for a region without. The pieces lie on the detector's grid at its
    height, so that it finds in them what it finds in the whole.
    """
    for rows in (height, 2 * height) if image.shape[0] > height else (height,):
        found = faces.detect(image, rows) if regions is None else _in_regions(faces, rows, image, regions)
        if found:
            return found
    return []


def _in_regions(faces: Faces, height: int, image: np.ndarray, regions: Sequence[np.ndarray]) -> list[Detection]:
    import cv2

    rows, columns = image.shape[:2]
    if rows > height:  # as `Faces.detect` does
        image = cv2.resize(image, (max(1, round(columns * height / rows)), height), interpolation=cv2.INTER_AREA)
    scale = np.array([columns / image.shape[1], rows / image.shape[0]])
    found = []
    for region in regions:
        corners = region.reshape(2, 2) / scale
        margin = MARGIN * float((corners[1] - corners[0]).max())
        left, top = (max(0, int((side - margin) // STRIDE)) * STRIDE for side in corners[0])
        right, bottom = (int(-(-(side + margin) // STRIDE)) * STRIDE for side in corners[1])
        place, piece = np.array([left, top]), image[top:bottom, left:right]
        seen = [(one, one.box.reshape(2, 2) + place) for one in (faces.detect(piece) if piece.size else [])]
        if seen:
            best, box = max(seen, key=lambda pair: overlap(pair[1].ravel(), corners.ravel()))
            found.append(Detection((box * scale).ravel(), best.score, (best.landmarks + place) * scale))
    return found


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
