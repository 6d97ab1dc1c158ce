"""The sample data set: who is in which video and portrait, and what happens there. A description; `raw` renders it.

Every object draws from its own generator, seeded by (seed, kind, index), so any one of them can be made alone, in any
process. Videos and portraits are of different persons; both are split into train and test by person.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np

from pipeline.sample.drawing.identity import Attributes, Face
from pipeline.sample.drawing.light import draw_background
from pipeline.sample.drawing.look import Look, Scene
from pipeline.sample.drawing.motion import trajectory
from pipeline.sample.drawing.render import Renderer

if TYPE_CHECKING:
    from pipeline.sections import SampleParams

FPS = 25
PERSON, IDENTITY, PORTRAIT, NUMBERING = range(4)  # kinds of objects, for their generators
VIDEO_ID_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
FIRST_TEST_PERSON = 10270  # VoxCeleb1's test persons are id10270 to id10309
Split = Literal["train", "test"]
# What happens in the video of person i is EVENTS[i % 20]: most are plain, every trouble occurs even in a small world.
EVENTS = (
    *("plain", "two", "plain", "leaves", "plain", "short", "cut", "plain", "border", "plain"),
    *("two", "plain", "small", "plain", "cut", "plain", "short", "plain", "plain", "plain"),
)

LONGER = ("two", "short", "cut", "leaves")  # so that a whole clip remains


@dataclass(frozen=True)
class Shot:
    """Frames [start, end) without a cut: the head rests at `centre` (x, y) and is `unit` pixels per head unit large.

    From frame `leaves` on, if not negative, it drifts `drift` pixels a frame to the right.
    """

    start: int
    end: int
    unit: float
    centre: tuple[float, float]
    leaves: int
    drift: float
    seed: tuple[int, ...]

    def centre_at(self, frame: int) -> tuple[float, float]:
        """Resting place of the head, in pixels."""
        moved = max(frame - self.leaves, 0) * self.drift if self.leaves >= 0 else 0.0
        return self.centre[0] + moved, self.centre[1]


@dataclass(frozen=True)
class Utterance:
    """Frames [start, end) of a video that VoxCeleb2 would annotate as one sentence."""

    name: str  # of its annotation file, without .txt
    start: int
    end: int


@dataclass(frozen=True)
class Bystander:
    """A second, still face in the background."""

    face: Face
    look: Look
    attributes: Attributes
    unit: float
    centre: tuple[float, float]


@dataclass(frozen=True)
class Video:
    """One person in front of one background. Sizes in pixels, frames at 25 a second."""

    video_id: str
    person_id: str
    split: Split
    event: str
    size: tuple[int, int]  # height, width
    face: Face
    look: Look
    scene: Scene
    bystander: Bystander | None
    shots: tuple[Shot, ...]
    utterances: tuple[Utterance, ...]
    seed: tuple[int, ...]

    @property
    def frames(self) -> int:
        """Number of frames."""
        return self.shots[-1].end

    def shot(self, frame: int) -> Shot:
        """The shot that frame is in."""
        for shot in self.shots:
            if shot.start <= frame < shot.end:
                return shot
        raise ValueError(f"video {self.video_id} has frames 0 to {self.frames - 1}, not {frame}")

    def at(self, frame: int) -> tuple[Face, Look, Scene, Attributes, float, tuple[float, float]]:
        """Everything that determines a frame but its bystander: face, look, scene, attributes, unit (pixels per head
        unit at scale 1), centre (x, y) of the head's resting place in pixels."""
        shot = self.shot(frame)
        attributes = _trajectory(shot)[frame - shot.start]
        return self.face, self.look, self.scene, attributes, shot.unit, shot.centre_at(frame)

    def box(self, frame: int) -> np.ndarray:
        """(4,) float32 exact face box (left, top, right, bottom) in pixels; may reach over the picture's edge."""
        return self.measure(frame)[1]

    def measure(self, frame: int) -> tuple[np.ndarray, np.ndarray]:
        """Exact landmarks (5, 2) and box (4,) of the face, in pixels, without rendering."""
        *_, attributes, _, centre = self.at(frame)
        return _renderer(self, self.shot(frame)).measure(attributes, centre)

    def render(self, frame: int) -> np.ndarray:
        """The frame (h, w, 3) uint8 RGB, before camera noise and compression."""
        *_, attributes, _, centre = self.at(frame)
        return _renderer(self, self.shot(frame)).frame(attributes, centre)

    def background(self) -> np.ndarray:
        """(h, w, 3) float32: what is behind the person, as lit, with the bystander."""
        return _background(self)


@dataclass(frozen=True)
class Portrait:
    """One aligned picture of an identity, as CelebA-HQ has them."""

    image_id: str  # N of CelebA-HQ-img/N.jpg
    original: int  # its number in CelebA
    identity: int
    split: Split
    face: Face
    look: Look
    scene: Scene
    attributes: Attributes
    size: int  # height and width in pixels

    def render(self) -> np.ndarray:
        """The picture (size, size, 3) uint8 RGB."""
        return Renderer(self.face, self.look, self.scene, (self.size, self.size)).frame(self.attributes)


class World:
    """All videos and portraits of one seed. Making one costs little; nothing is rendered until asked for."""

    def __init__(self, params: "SampleParams", seed: int) -> None:
        if params.test_persons >= params.persons or params.test_identities >= params.portrait_identities:
            raise ValueError("params.yaml: sample.test_persons and sample.test_identities must leave some for training")
        if params.portrait_identities > params.portraits:
            raise ValueError("params.yaml: sample.portraits must be at least sample.portrait_identities")
        self.params, self.seed = params, seed
        self._faces: dict[int, Face] = {}

    @cached_property
    def videos(self) -> tuple[Video, ...]:
        """One video per person, test persons last."""
        count = self.params.persons * self.params.scale
        return tuple(self._video(i, count) for i in range(count))

    @cached_property
    def portraits(self) -> tuple[Portrait, ...]:
        """All portraits in the order of their image_id; the looks of one identity are spread all over."""
        return tuple(self._portrait(n) for n in range(len(self._owners)))

    @cached_property
    def test_faces(self) -> tuple[Face, ...]:
        """The faces of the test identities, in the order of their first portraits."""
        return tuple(self._face(i) for i in dict.fromkeys(self._owners.tolist()) if i >= self._train_identities)

    def video(self, video_id: str) -> Video:
        """The video of that id; KeyError if there is none."""
        return self._videos_by_id[video_id]

    def portrait(self, image_id: str) -> Portrait:
        """The portrait of that id; KeyError if there is none."""
        if not image_id.isdecimal() or int(image_id) >= len(self._owners):
            raise KeyError(image_id)
        return self._portrait(int(image_id))

    @cached_property
    def _videos_by_id(self) -> dict[str, Video]:
        return {video.video_id: video for video in self.videos}

    @cached_property
    def _train_identities(self) -> int:
        return (self.params.portrait_identities - self.params.test_identities) * self.params.scale

    @cached_property
    def _owners(self) -> np.ndarray:
        """The identity of each portrait."""
        return self._numbering[0] % (self.params.portrait_identities * self.params.scale)

    @cached_property
    def _numbering(self) -> tuple[np.ndarray, np.ndarray]:
        """Two permutations of the portraits: that of their owners, and their numbers in CelebA."""
        rng, count = np.random.default_rng([self.seed, NUMBERING]), self.params.portraits * self.params.scale
        return rng.permutation(count), rng.permutation(count)

    def _face(self, identity: int) -> Face:
        """The face of an identity; each is one object, whichever portrait asks."""
        if identity not in self._faces:
            self._faces[identity] = Face.sample(np.random.default_rng([self.seed, IDENTITY, identity]))
        return self._faces[identity]

    def _portrait(self, n: int) -> Portrait:
        rng, identity = np.random.default_rng([self.seed, PORTRAIT, n]), int(self._owners[n])
        return Portrait(
            image_id=str(n),
            original=int(self._numbering[1][n]) + 1,
            identity=identity + 1,
            split="train" if identity < self._train_identities else "test",
            face=self._face(identity),
            look=Look.sample(rng),
            scene=Scene.sample(rng),
            attributes=Attributes.portrait(rng),
            size=self.params.portrait_size,
        )

    def _video(self, index: int, persons: int) -> Video:
        params, seed = self.params, (self.seed, PERSON, index)
        rng = np.random.default_rng(seed)
        test = params.test_persons * params.scale
        split: Split = "test" if index >= persons - test else "train"
        h = params.video_height
        size = h, 2 * round(h * 8 / 9)  # 16:9, even for the codec
        event = EVENTS[index % len(EVENTS)]
        frames = int(FPS * params.seconds * rng.uniform(0.8, 1.2) * (1.5 if event in LONGER else 1))
        face, look, scene = Face.sample(rng), Look.sample(rng), Scene.sample(rng)
        shots = _shots(rng, event, frames, size, seed)
        return Video(
            video_id="".join(VIDEO_ID_LETTERS[int(i)] for i in rng.integers(0, 64, 11)),
            person_id=f"id{_person_number(index, persons, test)}",
            split=split,
            event=event,
            size=size,
            face=face,
            look=look,
            scene=scene,
            bystander=_bystander(rng, size, shots) if rng.uniform() < 0.15 else None,
            shots=shots,
            utterances=_utterances(rng, event, frames),
            seed=seed,
        )


def _person_number(index: int, persons: int, test: int) -> int:
    """Test persons are numbered from id10270 as in VoxCeleb1, the others around them from id10001."""
    if index >= persons - test:
        return FIRST_TEST_PERSON + index - (persons - test)
    number = 10001 + index
    return number if number < FIRST_TEST_PERSON else number + test


def _shots(
    rng: np.random.Generator, event: str, frames: int, size: tuple[int, int], seed: tuple[int, ...]
) -> tuple[Shot, ...]:
    h, w = size
    unit = h * float(rng.uniform(0.235, 0.285))
    if event == "small":
        unit *= 0.55
    side = float(rng.choice([-1, 1]))
    x, y = w / 2 + side * float(rng.uniform(0, 0.16)) * w, h * float(rng.uniform(0.40, 0.46))
    if event == "border":  # the face is in the picture, its enlarged box is not
        x = w / 2 + side * (w / 2 - 0.95 * unit)
    leaves, drift = -1, 0.0
    if event == "leaves":
        leaves, drift = int(frames * 0.66), side * h * 0.07
    first = Shot(0, frames, unit, (x, y), leaves, drift, (*seed, 0))
    if event != "cut":
        return (first,)
    cut = int(frames * rng.uniform(0.62, 0.72))
    zoom = float(rng.uniform(0.85, 1.0))
    second = Shot(cut, frames, unit * zoom, (w - x - side * 0.8 * unit, y), -1, 0.0, (*seed, 1))
    return Shot(0, cut, unit, (x, y), -1, 0.0, (*seed, 0)), second


def _utterances(rng: np.random.Generator, event: str, frames: int) -> tuple[Utterance, ...]:
    start, end = int(rng.integers(0, 5)), frames - int(rng.integers(0, 5))
    first = int(rng.integers(1, 60))
    if event not in ("two", "short"):
        return (Utterance(f"{first:05d}", start, end),)
    length = (end - start) // 2 - 2 if event == "two" else int(rng.integers(20, 45))
    cut = end - length - 4
    names = f"{first:05d}", f"{first + 1:05d}"
    return Utterance(names[0], start, cut), Utterance(names[1], cut + 4, end)


def _bystander(rng: np.random.Generator, size: tuple[int, int], shots: tuple[Shot, ...]) -> Bystander:
    h, w = size
    unit = h * float(rng.uniform(0.10, 0.14))
    left = shots[0].centre[0] > w / 2  # on the emptier side
    x = w * float(rng.uniform(0.08, 0.14)) if left else w * float(rng.uniform(0.86, 0.92))
    centre = x, h * float(rng.uniform(0.3, 0.5))
    return Bystander(Face.sample(rng), Look.sample(rng), Attributes.sample(rng), unit, centre)


# Rendering helpers remember the last videos: a few where frames are asked for in order; what is behind the persons and
# how they move for as many as the sample tests with, since `truth` asks for any of them at any time.
@lru_cache(maxsize=100)
def _trajectory(shot: Shot) -> list[Attributes]:
    return trajectory(np.random.default_rng([*shot.seed, shot.start]), shot.end - shot.start, FPS)


@lru_cache(maxsize=40)
def _background(video: Video) -> np.ndarray:
    picture, other = draw_background(video.scene, video.size), video.bystander
    if other is None:
        return picture
    behind = Renderer(other.face, other.look, video.scene, video.size, other.unit, other.centre, picture)
    return behind.expose(other.attributes)


@lru_cache(maxsize=4)
def _renderer(video: Video, shot: Shot) -> Renderer:
    return Renderer(video.face, video.look, video.scene, video.size, shot.unit, shot.centre, _background(video))
