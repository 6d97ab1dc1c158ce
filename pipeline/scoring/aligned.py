"""The face in each picture, turned and scaled as a recogniser wants it: insightface's alignment by five landmarks."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from uniface.alignment import RECOGNISER_SIZE, largest_face
from uniface.faces import Detection, Faces


class _Detector(Faces):
    """Faces found one picture at a time as in batches, which decodes only where there is a face: the same ones."""

    def detect(self, image: np.ndarray, height: None = None) -> list[Detection]:
        return self.detect_batch([image])[0]


class Aligner:
    """The largest face in each picture, found by the detector in `folder` (see `uniface.faces.Faces`)."""

    def __init__(self, folder: Path):
        # pictures are looked at side by side, each by one thread: small pictures leave several nothing to share
        self._faces = _Detector(folder, threads=1, recognise=False)
        self._pool = ThreadPoolExecutor(os.cpu_count())

    def find(self, pictures: Sequence[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray | None]]:
        """Each uint8 picture as the detector saw it, and the landmarks (5, 2) of its largest face there, if any."""
        return list(self._pool.map(partial(largest_face, self._faces), pictures))

    def crops(self, found: Sequence[tuple[np.ndarray, np.ndarray | None]]) -> np.ndarray:
        """What `find` found as uint8 crops (N, 112, 112, 3) for a recogniser; black where there is no face."""
        crops = np.zeros((len(found), RECOGNISER_SIZE, RECOGNISER_SIZE, 3), np.uint8)
        for crop, (picture, landmarks) in zip(crops, found, strict=True):
            if landmarks is not None:
                crop[:] = self._faces.align(picture, landmarks)
        return crops

    def __call__(self, pictures: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """uint8 pictures (N, H, W, 3) to crops (N, 112, 112, 3) and whether a face was found (N,); black where not."""
        found = self.find(pictures)
        return self.crops(found), np.array([landmarks is not None for _, landmarks in found])
