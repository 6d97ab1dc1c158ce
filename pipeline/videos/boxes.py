"""Boxes that somebody chose, brought into a picture: square or stretched, moved, padded; and the pixels inside."""

import numpy as np

SQUARE_SLACK = 2
"""Sides of a given box that differ by so many pixels, as FOMM's own squares do by rounding, are just stretched."""


def fitted(
    box: tuple[float, float, float, float], size: tuple[int, int], shape: str
) -> tuple[tuple[int, int, int, int] | None, str | None]:
    """(whole-pixel box, what was done to it) of a box in a (width, height) picture; None, None if it is outside.

    With `shape` square the result may be larger than the picture. Sides that differ by `SQUARE_SLACK` or less count as
    equal.
    """
    left, top, right, bottom = (int(side) for side in box)
    width, height = right - left, bottom - top
    if width <= 0 or height <= 0 or right <= 0 or bottom <= 0 or left >= size[0] or top >= size[1]:
        return None, None
    uneven = abs(width - height) > SQUARE_SLACK
    if shape == "stretch":
        inside = max(0, left), max(0, top), min(right, size[0]), min(bottom, size[1])
        return inside, "stretched" if uneven or inside != (left, top, right, bottom) else "as_given"
    if uneven:
        side = max(width, height)
        left, top = left - (side - width) // 2, top - (side - height) // 2
        width = height = side
    spare = size[0] - width, size[1] - height  # negative where the box is larger
    x, y = (max(min(0, s), min(at, max(0, s))) for at, s in zip((left, top), spare, strict=True))
    fit = "grown" if uneven else "as_given"
    if min(spare) < 0:
        fit = "padded"
    elif (x, y) != (left, top):
        fit = "moved"
    return (x, y, x + width, y + height), fit


def cut_out(image: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    """The pixels (H, W, 3) inside a box; beyond the picture's border it is mirrored."""
    import cv2

    left, top, right, bottom = box
    height, width = image.shape[:2]
    inside = image[max(top, 0) : bottom, max(left, 0) : right]
    beyond = max(-top, 0), max(bottom - height, 0), max(-left, 0), max(right - width, 0)
    return cv2.copyMakeBorder(inside, *beyond, cv2.BORDER_REFLECT_101) if any(beyond) else inside


def central_square(width: int, height: int) -> tuple[int, int, int, int]:
    """The largest square box in the middle of a picture."""
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side
