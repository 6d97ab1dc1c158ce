"""What no real data set has: the exact answer to a reenactment or a swap, rendered.

What belongs to whom (`source` gives the identity, `target` the attributes):

| part | reenacted | swapped |
|---|---|---|
| face: shape, features, iris, lips, brows, beard, glasses, marks | source | source |
| look: skin tone, hair, clothes | source | target |
| scene: light, background | source | target |
| attributes: pose, expression, gaze, place and size in the picture | target | target |

The answers carry no camera noise and no compression, so even a perfect model differs from them by what its input had.

Decoys are answers with one thing wrong: another test person's face, another frame's expression or pose. Who looks right
is nearer to the right one than to these (`pipeline.scoring.decoys`).
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import cv2
import numpy as np

from pipeline.sample.drawing.features import EXPRESSION
from pipeline.sample.drawing.identity import Attributes, Face
from pipeline.sample.drawing.render import Renderer
from pipeline.sample.world import World
from uniface.images import resize

MARGIN = 24  # pixels drawn around a crop, so that what its edge cuts through looks as in the whole frame

DECOYS = 4  # of a kind for each pair
DECOY = 4  # kind of object, for their generators, beside those of `world`
POSE = ("yaw", "pitch", "roll")

FrameRef = tuple[str, int, tuple[float, float, float, float]]
"""(video_id, frame, box): a crop. box is (left, top, right, bottom) in pixels of the video, cut as whole pixels."""


def reenacted(world: World, source: FrameRef, target: FrameRef, image_size: int) -> np.ndarray:
    """The source's person moving as the target's does: (image_size, image_size, 3) uint8 RGB.

    Face, look and scene are the source video's, also what is behind the head: its background, bystander included, as
    the source's box cuts it, stretched to the target's box. Attributes are the target frame's, and the head rests where
    the target's does in its crop and has its size there. reenacted(x, x) is the crop x itself.
    """
    *_, attributes, _, _ = world.video(target[0]).at(target[1])
    return _reenactment(world, source, target, image_size)(world.video(source[0]).face)(attributes)


def swapped(world: World, source_image_id: str, target_image_id: str, image_size: int) -> np.ndarray:
    """The target's portrait with the source's face: (image_size, image_size, 3) uint8 RGB.

    Look (skin tone, hair, clothes), scene and attributes stay the target's. swapped(x, x) is the portrait x itself.
    """
    face = world.portrait(source_image_id).face
    return _swap(world, face, target_image_id, image_size)(face)


def reenacted_decoys(world: World, source: FrameRef, target: FrameRef, image_size: int, draw: int) -> np.ndarray:
    """The right answer and wrong ones, (3, 1 + DECOYS, image_size, image_size, 3) uint8 RGB: with other test persons'
    faces; with other frames' expressions; with other frames' yaw, pitch and roll.

    The right one is the first of each kind. The other frames are test videos' too. The same world and number `draw`
    choose the same ones.
    """
    rng = np.random.default_rng([world.seed, DECOY, draw])
    face, of_face = world.video(source[0]).face, _reenactment(world, source, target, image_size)
    *_, attributes, _, _ = world.video(target[0]).at(target[1])
    videos = [video for video in world.videos if video.split == "test"]
    faces = _others(rng, face, [video.face for video in videos])
    drawn = of_face(face)
    right = drawn(attributes)
    answers = [[right, *(of_face(other)(attributes) for other in faces)]]
    for names in (EXPRESSION, POSE):
        found = [right]
        for video in (videos[i] for i in rng.integers(len(videos), size=DECOYS)):
            *_, other, _, _ = video.at(int(rng.integers(video.frames)))
            found.append(drawn(replace(attributes, **{name: getattr(other, name) for name in names})))
        answers.append(found)
    return np.array(answers)


def swapped_decoys(world: World, source_image_id: str, target_image_id: str, image_size: int, draw: int) -> np.ndarray:
    """The right answer and wrong ones, (1, 1 + DECOYS, image_size, image_size, 3) uint8 RGB: with other test
    identities' faces.

    The same world and number `draw` choose the same ones.
    """
    rng = np.random.default_rng([world.seed, DECOY, draw])
    face = world.portrait(source_image_id).face
    of_face = _swap(world, face, target_image_id, image_size)
    return np.array([[of_face(one) for one in (face, *_others(rng, face, world.test_faces))]])


def _others(rng: np.random.Generator, face: Face, faces: Sequence[Face]) -> list[Face]:
    """DECOYS of the faces that are not `face`, each once as long as there are enough."""
    strangers = [other for other in faces if other != face]
    chosen = rng.choice(len(strangers), DECOYS, replace=len(strangers) < DECOYS)
    return [strangers[i] for i in chosen]


def _reenactment(
    world: World, source: FrameRef, target: FrameRef, image_size: int
) -> Callable[[Face], Callable[[Attributes], np.ndarray]]:
    """Face -> attributes -> the picture as `reenacted` describes it."""
    video, driver = world.video(source[0]), world.video(target[0])
    left, top, right, bottom = _whole(target[2])
    size = bottom - top, right - left
    *_, unit, centre = driver.at(target[1])
    behind = _cut(video.background(), source[2])
    # the shot's own centre, as the video was drawn: layers are laid out from it
    placed = centre[0] - left + MARGIN, centre[1] - top + MARGIN
    around = np.pad(_stretch(behind, size), ((MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0)), mode="edge")

    first = Renderer(video.face, video.look, video.scene, around.shape[:2], unit, placed, around)

    def of_face(face: Face) -> Callable[[Attributes], np.ndarray]:
        renderer = first.with_face(face)

        def drawn(attributes: Attributes) -> np.ndarray:
            frame = renderer.frame(attributes)[MARGIN:-MARGIN, MARGIN:-MARGIN]
            return resize(frame, (image_size, image_size))

        return drawn

    return of_face


def _swap(world: World, face: Face, target_image_id: str, image_size: int) -> Callable[[Face], np.ndarray]:
    """Face -> the picture as `swapped` describes it; `face` is the one asked for first."""
    target = world.portrait(target_image_id)
    first = Renderer(face, target.look, target.scene, (target.size, target.size))

    def of_face(face: Face) -> np.ndarray:
        return resize(first.with_face(face).frame(target.attributes), (image_size, image_size))

    return of_face


def _whole(box: tuple[float, float, float, float]) -> tuple[int, int, int, int]:
    """The box in whole pixels, truncated as FOMM's crops are."""
    left, top, right, bottom = (int(x) for x in box)
    if right <= left or bottom <= top:
        raise ValueError(f"box {tuple(box)} is empty")
    return left, top, right, bottom


def _cut(picture: np.ndarray, box: tuple[float, float, float, float]) -> np.ndarray:
    """The part of picture (h, w, 3) inside the box; what lies over the edge repeats the edge."""
    left, top, right, bottom = _whole(box)
    rows = np.arange(top, bottom).clip(0, picture.shape[0] - 1)
    columns = np.arange(left, right).clip(0, picture.shape[1] - 1)
    return picture[rows[:, None], columns]


def _stretch(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resized (h, w, 3) float32; a picture of that size already stays exactly as it is."""
    if picture.shape[:2] == size:
        return picture
    shrinking = picture.shape[0] > size[0]
    return cv2.resize(picture, size[::-1], interpolation=cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR)
