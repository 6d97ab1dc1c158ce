"""Augmentation of stage 1's samples, mostly of the driver: what the attribute embedder sees of the target.

The paper does not say it, the released code changes colour, shape and sharpness of every driver (REFERENCE: released
code): a driver that differs from the target in shape and colour cannot hand the image itself through the attributes.
Sizes are stated for 256 px and scale with the image. One more kind, FOMM's `mirror`, is of the whole sample and done in
`ClipDataset.sample`.
"""

from collections.abc import Sequence

import numpy as np


def augment_driver(
    image: np.ndarray, rng: np.random.Generator, kinds: Sequence[str] = ("colour", "shape", "sharpness")
) -> np.ndarray:
    """One random variant of a square uint8 (S, S, 3) RGB image; `kinds` in the order of application."""
    for kind in kinds:
        image = AUGMENTATIONS[kind](image, rng)
    return image


def _colour(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One or more neighbouring channels, counted from blue, times 0.3 to 1.6."""
    import cv2

    first = int(rng.integers(0, 2))
    end = int(rng.integers(first + 1, 4))
    table = np.tile(np.arange(256, dtype=np.float32)[:, None], (1, 3))  # (256, 3)
    table[:, 3 - end : 3 - first] *= rng.uniform(0.3, 1.6)
    return cv2.LUT(image, np.minimum(table, 255).astype(np.uint8)[None])


def _shape(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Narrow and tall or wide and low by up to a fifth, then a keystone, as one perspective warp."""
    import cv2

    size = image.shape[0]
    unit = size / 256
    squeeze = int(rng.integers(15, 25))
    enlarge = int(rng.integers(0, squeeze // 2))
    # one axis shrinks by 2 * squeeze and is padded by reflection, the other grows as much and is cropped; both end at
    # 256 + 2 * enlarge, centred
    shrunk, grown = (256 - 2 * squeeze) / 256, (256 + 2 * squeeze) / 256
    scale_x, scale_y = (shrunk, grown) if rng.random() < 0.5 else (grown, shrunk)
    centre, middle = size / 2, size / 2 + enlarge * unit
    stretch = np.array(
        [[scale_x, 0, middle - scale_x * centre], [0, scale_y, middle - scale_y * centre], [0, 0, 1]], np.float64
    )
    # the corners of a rectangle set in (or out) by a margin; those on one side move apart or together
    shift = unit * rng.integers(20, 30) * rng.choice((-1, 1))
    near_x, near_y = unit * rng.integers(20, 40, 2) * rng.choice((-1, 1), 2)
    side = size + 2 * enlarge * unit
    left, right, top, bottom = near_x, side - near_x, near_y, side - near_y
    corners = np.float32([[left, top], [left, bottom], [right, top], [right, bottom]])
    moved = corners + np.float32([[0, 0], [0, 0], [0, shift], [0, -shift]])
    keystone = cv2.getPerspectiveTransform(corners, moved)
    return cv2.warpPerspective(image, keystone @ stretch, (size, size), borderMode=cv2.BORDER_REFLECT_101)


def _sharpness(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A median blur of 3, 5, 7 or 9 pixels, or a 3 x 3 sharpening."""
    import cv2

    unit = image.shape[0] / 256
    if rng.random() < 0.5:
        width = 2 * round((rng.choice((3, 5, 7, 9)) * unit - 1) / 2) + 1  # the nearest odd number
        return cv2.medianBlur(image, width) if width > 1 else image
    # at 256 px the centre weighs 9 and each neighbour -1; less on smaller images, whose pixels hold more of a face
    weight = min(1.0, unit)
    kernel = np.full((3, 3), -weight, np.float32)
    kernel[1, 1] = 1 + 8 * weight
    return cv2.filter2D(image, -1, kernel)


AUGMENTATIONS = {"colour": _colour, "shape": _shape, "sharpness": _sharpness}
