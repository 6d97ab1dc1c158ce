"""The face in a crop, turned and scaled as recognisers want it, by a warp that gradients pass through.

The published recognisers were trained on faces aligned by five points. A portrait aligned as CelebA-HQ's are has them
where a fixed crop expects them, more or less; in a clip the head moves about in its square.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from uniface.faces import Faces

# The fixed crop before recognition, in 1/256 of the image: rows and columns, last excluded (released code).
CROP_ROWS, CROP_COLUMNS = (35, 223), (32, 220)
RECOGNISER_SIZE = 112  # ArcFace's and CosFace's input

# Where they have eyes, nose and corners of the mouth in it: x, y in pixels, (0, 0) the middle of the first one.
TEMPLATE = ((38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041))

DETECTED_AT = 256
"""Side of the square in which faces are looked for: a detector made for whole frames finds none in a tiny picture."""


def aligned(images: Tensor, points: Tensor) -> Tensor:
    """Images (B, 3, H, W) as crops (B, 3, 112, 112) by the landmarks of their faces: insightface's `norm_crop`.

    `points` (B, 5, 2): x, y as shares of width and height. What lies outside of an image is black. The similarity that
    brings them nearest to the template is the least-squares solution of a p + b = q in complex numbers, which is
    Umeyama's without reflection.
    """
    if images.shape[-1] >= 2 * DETECTED_AT:  # bilinear sampling alone would leave most pixels unseen
        images = F.avg_pool2d(images, images.shape[-1] // DETECTED_AT)
    size = images.new_tensor([images.shape[-1], images.shape[-2]])
    p = torch.view_as_complex((points.float() * size - 0.5).contiguous())  # (B, 5) in pixels
    q = torch.view_as_complex(torch.tensor(TEMPLATE, device=images.device))  # (5,)
    p_mean, q_mean = p.mean(1, keepdim=True), q.mean()
    away = p - p_mean
    a = (away.conj() * (q - q_mean)).sum(1, keepdim=True) / away.abs().square().sum(1, keepdim=True)  # (B, 1)
    line = torch.arange(RECOGNISER_SIZE, device=images.device, dtype=torch.float32)
    y, x = torch.meshgrid(line, line, indexing="ij")
    where = (torch.complex(x, y).flatten() - q_mean) / a + p_mean  # (B, 112 * 112) pixels of the image
    grid = (torch.view_as_real(where) + 0.5) / size * 2 - 1
    grid = grid.view(-1, RECOGNISER_SIZE, RECOGNISER_SIZE, 2)
    return F.grid_sample(images + 1, grid.to(images), padding_mode="zeros", align_corners=False) - 1


def fixed_points() -> np.ndarray:
    """The points (5, 2) of a face that lies just where the fixed crop expects it, as shares of the image."""
    start, side = np.array([CROP_COLUMNS[0], CROP_ROWS[0]]), CROP_ROWS[1] - CROP_ROWS[0]
    return ((start + (np.array(TEMPLATE) + 0.5) / RECOGNISER_SIZE * side) / 256).astype(np.float32)


def largest_face(faces: "Faces", picture: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """A uint8 picture that one face fills more or less, as large as the detector needs it, and that face's landmarks
    (5, 2) there, if any is found."""
    import cv2

    if len(picture) < DETECTED_AT:
        picture = cv2.resize(picture, (DETECTED_AT, DETECTED_AT), interpolation=cv2.INTER_CUBIC)
    found = [face for face in faces.detect(picture) if np.isfinite(face.landmarks).all()]
    largest = max(found, key=lambda face: float((face.box[2:] - face.box[:2]).prod()), default=None)
    return picture, None if largest is None else largest.landmarks


class FacePoints:
    """The landmarks (5, 2) of the face in a square uint8 picture as shares of its side, or None, by a detector's file.

    The detector is loaded where it is first called: loading processes get the path alone.
    """

    def __init__(self, detector: Path) -> None:
        self._detector, self._faces = detector, None

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_faces": None}

    def __call__(self, picture: np.ndarray) -> np.ndarray | None:
        from uniface.faces import Faces

        self._faces = self._faces or Faces(self._detector, threads=1, recognise=False)
        shown, landmarks = largest_face(self._faces, picture)
        return None if landmarks is None else ((landmarks + 0.5) / len(shown)).astype(np.float32)
