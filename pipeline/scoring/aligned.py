"""The face in each picture, turned and scaled as a recogniser wants it: insightface's alignment by five landmarks.

A picture here is a crop that one face fills more or less; a detector made for whole frames finds it once it is large
enough.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from uniface.faces import Detection

SIDE = 256  # that smaller pictures are brought to before the detector sees them
CROP = 112  # side of what a recogniser takes


class Aligner:
    """Crops of the largest face in each picture, found by the detector in `folder` (see `uniface.faces.Faces`)."""

    def __init__(self, folder: Path):
        from uniface.faces import Faces

        self._faces = Faces(folder, recognise=False)

    def __call__(self, pictures: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """uint8 pictures (N, H, W, 3) to crops (N, 112, 112, 3) and whether a face was found (N,); black where not."""
        import cv2

        crops = np.zeros((len(pictures), CROP, CROP, 3), np.uint8)
        found = np.zeros(len(pictures), bool)
        for number, picture in enumerate(pictures):
            if len(picture) < SIDE:
                picture = cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
            faces = [face for face in self._faces.detect(picture) if np.isfinite(face.landmarks).all()]
            if faces:
                crops[number] = self._faces.align(picture, max(faces, key=_area).landmarks, CROP)
                found[number] = True
        return crops, found


def _area(face: "Detection") -> float:
    return float((face.box[2:] - face.box[:2]).prod())
