"""Where people's own videos are: one walk over a folder in any of the layouts that go round.

Source videos named by their id; VoxCeleb2's own release, `mp4/<person>/<video>/<utterance>.mp4`, and what FOMM's
preprocessing leaves, `{train,test}/<person>#<video>#<utterance>.txt#<chunk>.mp4` (a file, or a folder of PNG frames):
these two hold clips that are cropped already.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.common.files import atomic_write
from pipeline.common.walk import natural, walk
from pipeline.videos import codec, fomm
from pipeline.videos.annotations import Listed
from uniface.images import read_image

SUFFIXES = (".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v", ".mpg", ".mpeg")
_PERSON = re.compile(r"id\d{5}")
_PARTITIONS = {"train": "train", "dev": "train", "test": "test"}
_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]+")
TEST_SHARE = 0.1
"""Of the persons in a folder of plain videos that nobody divided."""
_FRAMES = (".png", ".jpg", ".jpeg")
_FRAME_CRF = 10


@dataclass
class Found:
    """The videos of a folder. `sources` are files by (person, video), the person "" where the path does not tell.

    `pieces` are ready clips: (person, video) -> clip name -> file or folder of frames. `partitions` says train or test
    where a folder's name does.
    """

    sources: dict[tuple[str, str], Path] = field(default_factory=dict)
    pieces: dict[tuple[str, str], dict[str, Path]] = field(default_factory=dict)
    partitions: dict[tuple[str, str], str] = field(default_factory=dict)

    def path(self, person_id: str, video_id: str) -> Path | None:
        """The file of a source video, if it is there."""
        return self.sources.get((person_id, video_id)) or self.sources.get(("", video_id))


def scan(folder: Path) -> Found:
    """Look for videos in `folder`. Raises FileNotFoundError if there is none."""
    found = Found()
    for path, partition in _videos(folder):
        key, piece = _identify(path)
        if piece is not None:
            found.pieces.setdefault(key, {})[piece] = path
        elif path.is_file():
            found.sources.setdefault(key, path)
        if partition:
            found.partitions[key] = partition
    return found


def _videos(folder: Path) -> list[tuple[Path, str | None]]:
    """(path, split if a folder's name says it) of everything with a video's name, sorted."""
    found = []
    for path in walk(folder):
        if path.suffix.lower() in SUFFIXES:
            parts = path.relative_to(folder).parts[:-1]
            found.append((path, next((_PARTITIONS[part] for part in parts if part in _PARTITIONS), None)))
    if not found:
        raise FileNotFoundError(f'{folder} holds no videos: put them there, or set download.folder (README, "Data")')
    return found


def _identify(path: Path) -> tuple[tuple[str, str], str | None]:
    """((person, video), clip name or None for a source video) by a path alone."""
    parts = path.name.removesuffix(path.suffix).split("#")
    if len(parts) == 4 and parts[2].endswith(".txt"):
        return (parts[0], parts[1]), f"{parts[2].removesuffix('.txt')}#{parts[3]}"
    if len(parts) == 4:  # by FOMM's load_videos: person#video#start#end
        return (parts[0], parts[1]), parts[2]
    parent, above = path.parent.name, path.parent.parent.name
    if _PERSON.fullmatch(above):
        return (above, parent), path.stem
    return (parent if _PERSON.fullmatch(parent) else "", path.stem), None


def plain(folder: Path) -> tuple[list[Listed], Found]:
    """A folder of talking-head videos that belong to no data set: person = its folder (or the file), and a split.

    Folders `train` and `test` decide the split; otherwise a tenth of the persons, chosen by their names, is test.
    """
    found = Found()
    for path, partition in _videos(folder):
        inside = [part for part in path.relative_to(folder).parts[:-1] if part not in _PARTITIONS]
        key = safe_name(inside[-1] if inside else path.stem), safe_name(path.stem)
        if key in found.sources:
            key = key[0], safe_name(path.stem, str(path.relative_to(folder)))
        found.sources[key] = path
        if partition:
            found.partitions[key] = partition
    persons = sorted({person for person, _ in found.sources}, key=_chance)
    test = {person for person in persons if _chance(person) < TEST_SHARE} or set(persons[:1])
    listed = [
        Listed(*key, found.partitions.get(key) or ("test" if key[0] in test else "train")) for key in found.sources
    ]
    return sorted(listed), found


def _chance(name: str) -> float:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") / 2**32


def safe_name(name: str, salt: str = "") -> str:
    """`name` as a file name of plain letters; changed names get some digits that keep them apart."""
    plain_name = _UNSAFE.sub("_", name).lstrip(".") or "_"
    if plain_name == name and not salt:
        return name
    return f"{plain_name}_{hashlib.sha256((salt or name).encode()).hexdigest()[:6]}"


def frames_to_video(folder: Path, path: Path) -> None:
    """A folder of frames, as FOMM stores clips, as one mp4: by the numbers in their names, their central square.

    Raises ValueError naming the folder or file if there are no frames, or one cannot be read or has another size.
    """
    names = [file for file in folder.iterdir() if file.suffix.lower() in _FRAMES and not file.name.startswith(".")]
    if not names:
        raise ValueError(f"{folder} holds no frames: a folder with a clip's name should hold PNG or JPEG files")
    encoder = shape = None
    for name in sorted(names, key=lambda file: natural(file.stem)):
        image = read_image(name)
        if encoder is None:
            shape = image.shape
            side = min(shape[:2]) // 2 * 2  # H.264 wants even sides
            if not side:
                raise ValueError(f"{name} is a frame of {shape[1]}x{shape[0]} pixels")
            encoder = codec.Encoder(side, gop=fomm.FPS, crf=_FRAME_CRF)
            left, top = (shape[1] - side) // 2, (shape[0] - side) // 2
        if image.shape != shape:
            raise ValueError(f"{name} is {image.shape[1]}x{image.shape[0]}, frames before it {shape[1]}x{shape[0]}")
        encoder.add(image[top : top + side, left : left + side])
    with atomic_write(path) as part:
        part.write_bytes(encoder.finish())


def listed(found: Found, split_of) -> Iterator[Listed]:
    """The videos of a folder that comes without annotations; `split_of(person)` where no folder says."""
    for key in sorted({*found.sources, *found.pieces}):
        yield Listed(*key, found.partitions.get(key) or split_of(key[0]))
