"""The squares that the models eat, cut from any picture as the training data was cut, and their way back.

Swapping is trained on portraits aligned as FFHQ and CelebA-HQ are, reenactment on FOMM's boxes of whole pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from uniface.images import resize

INCREASE = 0.1
"""FOMM: its box is enlarged by this share of its size on each side."""
JOINED = 1.4
"""FOMM's box is around the boxes of a whole clip: so many times that of one frame (sample videos: 1.27 to 1.56)."""


@dataclass(frozen=True, eq=False)
class Square:
    """A parallelogram in a picture that a crop shows as a square: one corner and two sides, in pixels x, y.

    (0, 0) is the middle of the picture's first pixel, so `corner` is the outer corner of the crop's first pixel.
    """

    corner: np.ndarray  # (2,)
    across: np.ndarray  # (2,) along the upper side
    down: np.ndarray  # (2,) along the left side

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the crop at the picture's own scale."""
        return max(2, round(float(np.hypot(*self.down)))), max(2, round(float(np.hypot(*self.across))))

    def matrix(self, shape: tuple[int, int]) -> np.ndarray:
        """(2, 3) from pixels x, y of a crop with `shape` = (rows, columns) to pixels of the picture."""
        across, down = self.across / shape[1], self.down / shape[0]
        return np.column_stack([across, down, self.corner + (across + down) / 2])

    def cut(self, image: np.ndarray, size: int | None = None) -> np.ndarray:
        """uint8 (size, size, 3) of a uint8 picture (H, W, 3), by default at the picture's own scale; antialiased.

        What lies outside the picture is mirrored.
        """
        import cv2

        rows, columns = self.shape
        target = (rows, columns) if size is None else (size, size)
        matrix = self.matrix((rows, columns))
        if np.array_equal(matrix[:, :2], np.eye(2)) and np.array_equal(matrix[:, 2], np.rint(matrix[:, 2])):
            (left, top), (height, width) = matrix[:, 2].astype(int), image.shape[:2]
            if left >= 0 and top >= 0 and left + columns <= width and top + rows <= height:
                return resize(image[top : top + rows, left : left + columns], target)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        crop = cv2.warpAffine(image, matrix, (columns, rows), flags=flags, borderMode=cv2.BORDER_REFLECT_101)
        return resize(crop, target)


def ffhq(landmarks: np.ndarray) -> Square:
    """The square in which FFHQ and CelebA-HQ have a face: upright, eyes and mouth in place.

    `landmarks` (5, 2): eyes, nose, corners of the mouth. The side is 4 times the distance of the eyes or 3.6 times that
    of eyes and mouth, whichever is larger; the centre lies a tenth of the way from the eyes to the mouth.
    """
    left_eye, right_eye, _, left_mouth, right_mouth = np.asarray(landmarks, np.float64)
    eyes, mouth = (left_eye + right_eye) / 2, (left_mouth + right_mouth) / 2
    towards = mouth - eyes
    across = (right_eye - left_eye) + np.array([towards[1], -towards[0]])  # eyes and mouth both tell what is level
    half = max(np.hypot(*(right_eye - left_eye)) * 2.0, np.hypot(*towards) * 1.8)
    across *= half / np.hypot(*across)
    down = np.array([-across[1], across[0]])
    return Square(eyes + 0.1 * towards - across - down, 2 * across, 2 * down)


def fomm(box: Sequence[float], whole: bool = True) -> Square:
    """The square that FOMM would cut from a clip around one frame's face box (left, top, right, bottom).

    `whole` cuts it to whole pixels, as FOMM does. A moving box is better left between them: cut, it would tremble.
    """
    box = np.asarray(box, float)
    middle, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2 * JOINED
    box = [*(middle - half), *(middle + half)]
    left, top, right, bottom = enlarge(box, INCREASE) if whole else _enlarged(box, INCREASE)
    size = np.array([right - left, bottom - top], float)
    return Square(np.array([left, top]) - 0.5, np.array([size[0], 0.0]), np.array([0.0, size[1]]))


def enlarge(box: Sequence[float], increase: float, square: bool = True) -> tuple[int, int, int, int]:
    """The box with a margin of `increase` of its size on each side, cut toward zero to whole pixels.

    With `square`, the shorter side gets as much more as makes it a square of (1 + 2 increase) times the longer side.
    Cutting may leave the sides one pixel apart. Margins are shares of their own side and the sum is made in this
    order: rounding decides about a pixel. Raises ValueError if a side is not positive.
    """
    return tuple(int(side) for side in _enlarged(box, increase, square))


def _enlarged(box: Sequence[float], increase: float, square: bool = True) -> tuple[float, float, float, float]:
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    if width <= 0 or height <= 0:
        raise ValueError(f"a box of {width} x {height} pixels cannot be enlarged")
    across = down = increase
    if square:
        across = max(increase, ((1 + 2 * increase) * height - width) / (2 * width))
        down = max(increase, ((1 + 2 * increase) * width - height) / (2 * height))
    return left - across * width, top - down * height, right + across * width, bottom + down * height
