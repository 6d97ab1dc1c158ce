"""Rendered pictures to train and to test the sample's frozen nets with.

Everything follows from (seed, stream, index), so the pictures are the same whatever draws them. Streams keep training,
validation and held-out pictures apart: identities and looks are continuous draws, so none ever comes twice.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np

from pipeline.sample.drawing.identity import Attributes, Face
from pipeline.sample.drawing.look import Look, Scene
from pipeline.sample.drawing.render import Renderer

TRAIN, FRAMES, HELD_OUT, HELD_OUT_FRAMES, HELD_OUT_PERSONS = range(5)  # streams
PICTURE = 128  # side of portraits, pixels
FRAME = (240, 426)  # height, width of video frames
MIRRORED = {"yaw", "roll", "tx", "gaze_x", "mark_x", "mole_x"}  # values that a flip left-right negates


@dataclass(frozen=True, eq=False)
class Portraits:
    """N pictures of one face each and what is true of them."""

    images: np.ndarray  # (N, 128, 128, 3) uint8 RGB
    landmarks: np.ndarray  # (N, 5, 2) float32 pixels
    faces: np.ndarray  # (N, F) float32, Face.vector
    attributes: np.ndarray  # (N, A) float32, Attributes.vector

    def __getitem__(self, index: slice) -> "Portraits":
        return Portraits(self.images[index], self.landmarks[index], self.faces[index], self.attributes[index])

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True, eq=False)
class Frames:
    """N video frames with 0 to 2 faces each; `boxes` and `landmarks` are NaN where there is no such face."""

    images: np.ndarray  # (N, 240, 426, 3) uint8 RGB
    boxes: np.ndarray  # (N, 2, 4) float32 left, top, right, bottom
    landmarks: np.ndarray  # (N, 2, 5, 2) float32


@dataclass(frozen=True, eq=False)
class Swaps:
    """N triples at portrait framing: source, target, and the exact swap of the source's face into the target."""

    source: np.ndarray  # (N, 128, 128, 3) uint8 RGB
    target: np.ndarray
    swapped: np.ndarray
    source_attributes: np.ndarray  # (N, A)
    target_attributes: np.ndarray


def portraits(seed: int, stream: int, faces: int, workers: int) -> Portraits:
    """Two pictures of each of `faces` identities, each with its own look, scene and pose: portraits and tight crops."""
    parts = list(_drawn(partial(_portraits, seed, stream), faces, workers))
    return Portraits(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def frames(seed: int, stream: int, renderers: int, workers: int) -> Frames:
    """Two frames of each of `renderers` scenes: mostly one head of any size, sometimes two, sometimes none."""
    parts = list(_drawn(partial(_frames, seed, stream), renderers, workers))
    return Frames(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def swaps(seed: int, stream: int, pairs: int, workers: int) -> Swaps:
    """Pairs of held-out portraits, as in CelebA-HQ's place, with their exact swaps."""
    parts = list(_drawn(partial(_swap, seed, stream), pairs, workers))
    return Swaps(*(np.stack(column) for column in zip(*parts, strict=True)))


def persons(seed: int, stream: int, count: int, workers: int) -> np.ndarray:
    """(count, 2, 128, 128, 3) uint8: each identity twice, each time with another look, scene, pose and expression."""
    return np.stack(list(_drawn(partial(_person, seed, stream), count, workers)))


def _drawn(draw: Callable, count: int, workers: int) -> Iterator:
    """draw(0), draw(1), ... in this order, by `workers` processes."""
    if workers <= 1:
        yield from map(draw, range(count))
        return
    with ProcessPoolExecutor(workers, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        yield from pool.map(draw, range(count), chunksize=16)


def _rng(seed: int, stream: int, index: int) -> np.random.Generator:
    return np.random.default_rng([seed, stream, index])


def _portraits(seed: int, stream: int, index: int) -> tuple[np.ndarray, ...]:
    rng = _rng(seed, stream, index)
    face = Face.sample(rng)
    images, landmarks, stills = [], [], []
    for _ in range(2):
        look, scene = Look.sample(rng), Scene.sample(rng)
        tight = bool(rng.uniform() < 0.5)
        unit = PICTURE * (rng.uniform(0.33, 0.44) if tight else rng.uniform(0.31, 0.35))
        spread = 0.04 if tight else 0.01
        centre = tuple(PICTURE * (np.array([0.5, 0.49]) + rng.uniform(-spread, spread, 2)))
        still = Attributes.sample(rng) if tight else Attributes.aligned(rng)
        renderer = Renderer(face, look, scene, (PICTURE, PICTURE), unit, centre)
        images.append(renderer.frame(still))
        landmarks.append(renderer.measure(still)[0])
        stills.append(still.vector())
    return np.stack(images), np.stack(landmarks), np.stack([face.vector()] * 2), np.stack(stills)


def _frames(seed: int, stream: int, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = _rng(seed, stream, index)
    heads = int(rng.choice(3, p=[0.08, 0.72, 0.2]))
    height, width = FRAME
    scene = Scene.sample(rng)
    units = np.exp(rng.uniform(np.log(14), np.log(100), heads))  # a face is about 1.7 units high
    if heads == 0:  # a scene alone: its head is out of the picture
        renderers = [Renderer(Face.sample(rng), Look.sample(rng), scene, FRAME, 20.0, (-300.0, 120.0))]
    else:
        if heads == 2:
            units = np.sort(np.minimum(units, 55))
        columns = rng.permutation([0.27, 0.73])[:heads] if heads == 2 else rng.uniform(0.1, 0.9, 1)
        centres = [(width * x, height * rng.uniform(0.3, 0.65)) for x in columns]
        renderers = [
            Renderer(Face.sample(rng), Look.sample(rng), scene, FRAME, float(unit), centre)
            for unit, centre in zip(units, centres, strict=True)
        ]
    images, boxes, landmarks = [], np.full((2, 2, 4), np.nan, np.float32), np.full((2, 2, 5, 2), np.nan, np.float32)
    for shot in range(2):
        image = None
        for head, renderer in enumerate(renderers):
            if image is not None:  # the second head stands before the first
                renderer.background = image.astype(np.float32)
            attributes = Attributes.sample(rng)
            image = renderer.frame(attributes)
            if heads:
                landmarks[shot, head], boxes[shot, head] = renderer.measure(attributes)
        images.append(_camera(image, rng))
    return np.stack(images), boxes, landmarks


def _camera(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What a cheap camera and its compression do to a frame."""
    noisy = image + rng.normal(0, rng.uniform(0, 6), image.shape).astype(np.float32)
    noisy = noisy.clip(0, 255).round().astype(np.uint8)
    coded = cv2.imencode(".jpg", noisy[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(45, 96))])[1]
    return np.ascontiguousarray(cv2.imdecode(coded, cv2.IMREAD_COLOR)[..., ::-1])


def _swap(seed: int, stream: int, index: int) -> tuple[np.ndarray, ...]:
    rng = _rng(seed, stream, index)
    (face, look, scene, still), (other, *target) = (
        (Face.sample(rng), Look.sample(rng), Scene.sample(rng), Attributes.portrait(rng)) for _ in range(2)
    )

    def image(face: Face, look: Look, scene: Scene, still: Attributes) -> np.ndarray:
        return Renderer(face, look, scene, (PICTURE, PICTURE)).frame(still)

    pictures = (image(face, look, scene, still), image(other, *target), image(face, *target))
    return (*pictures, still.vector(), target[2].vector())


def _person(seed: int, stream: int, index: int) -> np.ndarray:
    rng = _rng(seed, stream, index)
    face = Face.sample(rng)
    return np.stack(
        [
            Renderer(face, Look.sample(rng), Scene.sample(rng), (PICTURE, PICTURE)).frame(Attributes.portrait(rng))
            for _ in range(2)
        ]
    )
