"""The face in each picture, turned and scaled as a recogniser wants it: insightface's alignment by five landmarks.

A picture here is a crop that one face fills more or less; a detector made for whole frames finds it once it is large
enough.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from uniface.faces import Detection

SIDE = 256  # that smaller pictures are brought to before the detector sees them
CROP = 112  # side of what a recogniser takes


class Aligner:
    """The largest face in each picture, found by the detector in `folder` (see `uniface.faces.Faces`)."""

    def __init__(self, folder: Path):
        from uniface.faces import Faces

        # pictures are looked at side by side, each by one thread: small pictures leave several nothing to share
        self._faces = Faces(folder, threads=1, recognise=False)
        self._pool = ThreadPoolExecutor(os.cpu_count())

    def find(self, pictures: Sequence[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray | None]]:
        """Each uint8 picture as the detector saw it, and the landmarks (5, 2) of its largest face there, if any."""
        return list(self._pool.map(self._find, pictures))

    def _find(self, picture: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        import cv2

        if len(picture) < SIDE:
            picture = cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
        faces = [face for face in self._faces.detect(picture) if np.isfinite(face.landmarks).all()]
        return picture, max(faces, key=_area).landmarks if faces else None

    def crops(self, found: Sequence[tuple[np.ndarray, np.ndarray | None]]) -> np.ndarray:
        """What `find` found as uint8 crops (N, 112, 112, 3) for a recogniser; black where there is no face."""
        crops = np.zeros((len(found), CROP, CROP, 3), np.uint8)
        for crop, (picture, landmarks) in zip(crops, found, strict=True):
            if landmarks is not None:
                crop[:] = self._faces.align(picture, landmarks, CROP)
        return crops

    def __call__(self, pictures: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """uint8 pictures (N, H, W, 3) to crops (N, 112, 112, 3) and whether a face was found (N,); black where not."""
        found = self.find(pictures)
        return self.crops(found), np.array([landmarks is not None for _, landmarks in found])


def _area(face: "Detection") -> float:
    return float((face.box[2:] - face.box[:2]).prod())
