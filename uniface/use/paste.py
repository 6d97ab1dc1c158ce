"""A swapped crop back into its picture: what the network changed, through a soft mask, its colours matched at the seam.

Added is the difference between the network's output and its input. Where the network changed nothing, the picture keeps
every pixel and all detail that the crop was too small to show; outside the mask it is not touched at all.
"""

from functools import lru_cache

import numpy as np

from uniface.use.crops import Square

CENTRE, RADII = (0.5, 0.53), (0.37, 0.42)
"""The mask is an ellipse around the face of an FFHQ crop, x and y in shares of its side."""
FEATHER = 0.07
"""Width of its soft edge, in shares of the side; it ends inside the crop."""
KEPT = 10.0
"""Grey levels of change at which two thirds of the picture's own fine detail are gone."""


def paste(picture: np.ndarray, square: Square, crop: np.ndarray, output: np.ndarray) -> np.ndarray:
    """The picture, uint8 (H, W, 3), with the face in `square` changed as `crop` was to `output` (both uint8 (S, S, 3)).

    A new array; pixels outside the mask are those of `picture` to the bit.
    """
    import cv2

    size = crop.shape[0]
    mask = face_mask(size)
    before = crop.astype(np.float32)
    change = output.astype(np.float32) - before
    change -= _seam(change, mask)
    strength = cv2.GaussianBlur(np.abs(change).mean(2), (0, 0), max(1.0, size / 64))
    fine = np.exp(-((strength / KEPT) ** 2)) - 1  # of the picture's own detail: 0 keeps it, -1 drops it
    layers = np.dstack([mask, fine, change, before])  # (S, S, 8)

    left, top, right, bottom = _extent(square, picture.shape)
    result = picture.copy()
    if left >= right or top >= bottom:
        return result
    layers = _placed(layers, square, (left, top, right, bottom))
    mask, fine, change, before = layers[..., :1], layers[..., 1:2], layers[..., 2:5], layers[..., 5:]
    part = picture[top:bottom, left:right].astype(np.float32)
    mixed = part + mask * (change + fine * (part - before))
    mixed = np.clip(np.rint(mixed), 0, 255).astype(np.uint8)
    result[top:bottom, left:right] = np.where(mask > 0, mixed, picture[top:bottom, left:right])
    return result


@lru_cache(maxsize=4)
def face_mask(size: int) -> np.ndarray:
    """(size, size) float32: 1 on the face of an FFHQ crop, falling softly to exactly 0 inside the crop."""
    line = (np.arange(size) + 0.5) / size
    x, y = (line[None] - CENTRE[0]) / RADII[0], (line[:, None] - CENTRE[1]) / RADII[1]
    outside = (np.sqrt(x * x + y * y) - 1) * min(RADII) / FEATHER  # 0 at the ellipse, 1 at the edge's end
    ramp = np.clip(0.5 - outside, 0, 1)
    return (ramp * ramp * (3 - 2 * ramp)).astype(np.float32)


def _seam(change: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A smooth field (S, S, 3) that continues the change on the mask's edge inward: taken away, none is left there."""
    import cv2

    sigma = change.shape[0] / 8
    edge = (4 * mask * (1 - mask))[..., None]
    weight = cv2.GaussianBlur(edge, (0, 0), sigma)[..., None]
    return cv2.GaussianBlur(change * edge, (0, 0), sigma) / (weight + 1e-6)


def _extent(square: Square, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """The part (left, top, right, bottom) of a picture that the square touches."""
    corners = np.array([square.corner + a * square.across + b * square.down for a in (0, 1) for b in (0, 1)])
    left, top = np.maximum(np.floor(corners.min(0)), 0).astype(int)
    right, bottom = np.minimum(np.ceil(corners.max(0)) + 1, [shape[1], shape[0]]).astype(int)
    return int(left), int(top), int(right), int(bottom)


def _placed(layers: np.ndarray, square: Square, extent: tuple[int, int, int, int]) -> np.ndarray:
    """Layers (S, S, 8) of the crop as they lie over a part of the picture; 0 outside the square."""
    import cv2

    shape = tuple(min(side, layers.shape[0]) for side in square.shape)
    parts = [layers[..., :4], layers[..., 4:]]  # OpenCV takes four channels at a time
    if shape != layers.shape[:2]:  # a crop larger than its place: averaged first, else the warp would skip pixels
        parts = [cv2.resize(part, shape[::-1], interpolation=cv2.INTER_AREA) for part in parts]
    matrix = square.matrix(shape)
    matrix[:, 2] -= extent[:2]
    columns, rows = extent[2] - extent[0], extent[3] - extent[1]
    return np.dstack([cv2.warpAffine(np.ascontiguousarray(part), matrix, (columns, rows)) for part in parts])
