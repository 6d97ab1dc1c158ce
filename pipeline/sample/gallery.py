"""One picture of the sample world: identities x attributes, then ground truth of reenactments and swaps."""

from pathlib import Path

import cv2
import numpy as np

from pipeline.sample.drawing.identity import Attributes, Face
from pipeline.sample.drawing.look import Look, Scene
from pipeline.sample.drawing.render import Renderer
from uniface.images import write_image

POSES = (
    Attributes(smile=0.2),
    Attributes(yaw=-30, pitch=4, smile=0.5),
    Attributes(yaw=30, mouth=0.7),
    Attributes(pitch=15, roll=8, brow=0.7, gaze_x=-0.8),
    Attributes(pitch=-14, blink=1),
    Attributes(yaw=12, smile=1, mouth=0.25, gaze_x=0.8),
    Attributes(roll=-10, pucker=0.9, brow=-0.5),
    Attributes(yaw=-20, pitch=-6, mouth=1, brow=1, gaze_y=0.5),
)
INK = (40, 40, 40)


def draw_gallery(path: str | Path, identities: int = 8, size: int = 160, seed: int = 0) -> None:
    """Writes a picture: a row per identity, a column per pose; below, two examples of source, target and the truth."""
    people = [_person(seed, i) for i in range(max(identities, 4))]
    rows = [np.hstack([_draw(*person, pose, size) for pose in POSES]) for person in people[:identities]]
    tiles = []
    for k in range(2):
        source, target, pose = people[k], people[k + 2], POSES[2 - k]
        tiles += [
            caption("source", _draw(*source, POSES[0], size)),
            caption("target", _draw(*target, pose, size)),
            caption("reenacted", _draw(*source, pose, size)),
            caption("swapped", _draw(source[0], target[1], target[2], pose, size)),
        ]
    write_image(path, np.vstack([*rows, np.hstack(tiles)]))


def _person(seed: int, index: int) -> tuple[Face, Look, Scene]:
    rng = np.random.default_rng([seed, 100, index])
    return Face.sample(rng), Look.sample(rng), Scene.sample(rng)


def _draw(face: Face, look: Look, scene: Scene, pose: Attributes, size: int) -> np.ndarray:
    return Renderer(face, look, scene, (size, size)).frame(pose)


def caption(text: str, tile: np.ndarray) -> np.ndarray:
    """The picture under a line of text."""
    bar = np.full((20, tile.shape[1], 3), 255, np.uint8)
    cv2.putText(bar, text, (6, 15), cv2.FONT_HERSHEY_SIMPLEX, 0.45, INK, 1, cv2.LINE_AA)
    return np.vstack([bar, tile])
