"""Face-track annotations as people have them: VoxCeleb2's text files (zips or folders) and FOMM's vox-metadata.csv.

VoxCeleb2 publishes one text file per utterance, `txt/<person>/<video>/<utterance>.txt`: six lines about the track, then
a tab-separated table FRAME X Y W H, frames at 25 fps from the start of the source video, boxes as fractions of the
picture. Archives are read in place, never unpacked, and refused when a member's name could leave a folder.
"""

import csv
import re
import struct
import sys
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from pipeline.common.files import atomic_write
from pipeline.common.walk import left_by_system, walk
from pipeline.videos.fomm import FPS

METADATA_COLUMNS = ("video_id", "start", "end", "bbox", "fps", "width", "height", "partition", "person_id")
META_FILE = "vox2_meta.csv"

# The speakers of VoxCeleb2's test partition, as in the vox2_meta.csv that VoxCeleb publishes (`Set` is test).
_TEST_SPEAKERS = """
    00017 00061 00081 00154 00419 00562 00812 00817 00866 00926 01000 01041 01066 01106 01224 01228 01298 01333 01437
    01460 01509 01541 01567 01593 01618 01822 01892 01989 02019 02057 02086 02181 02286 02317 02445 02465 02542 02548
    02576 02577 02685 02725 02745 03030 03041 03127 03178 03347 03382 03524 03677 03789 03839 03862 03969 03978 03980
    03981 04006 04030 04094 04119 04232 04253 04276 04295 04366 04478 04536 04570 04627 04656 04657 04862 04950 05015
    05055 05124 05176 05202 05459 05594 05654 05714 05816 05850 05999 06104 06209 06310 06484 06692 06811 06816 06913
    07312 07354 07396 07414 07426 07494 07620 07621 07663 07802 07868 07874 07961 08149 08374 08392 08456 08548 08552
    08696 08701 08911 09017
"""
TEST_SPEAKERS = frozenset(f"id{number}" for number in _TEST_SPEAKERS.split())

_HEADER_LINES = 6
_COMMA = re.compile(r"\d,\d")
_NUMBER = r"(\d+(?:\.\d+)?)"
_BOX = re.compile("-".join([_NUMBER] * 4))
_PACKED = struct.Struct("<2q4d2q")  # a `Crop`
_MOST = 1 << 40  # frames of a video, or pixels of a side, that nobody means
_SAFE = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")


@dataclass(frozen=True, eq=False)
class Track:
    """An annotated utterance: `boxes` (n, 4) left, top, right, bottom as fractions of the picture, a row per frame.

    Row 0 is frame `first` (25 fps); a frame without annotation in between has a row of NaN. `bad_lines` of the text
    are left out.
    """

    utterance: str
    first: int
    boxes: np.ndarray
    bad_lines: int = 0

    @property
    def end(self) -> int:
        return self.first + len(self.boxes)


@dataclass(frozen=True, slots=True)  # there may be a million
class Crop:
    """A clip that somebody has already chosen: frames [start, end) at 25 fps, `box` in pixels of `width` x `height`."""

    start: int
    end: int
    box: tuple[float, float, float, float]
    width: int
    height: int


@dataclass(frozen=True, order=True)
class Listed:
    """A source video that the annotations name; `split` is train or test."""

    person_id: str
    video_id: str
    split: str


def parse_utterance(text: str, utterance: str) -> Track:
    """One VoxCeleb2 text file as a track; a line that is not as published is left out and counted.

    The box of a frame lost so is the mean of its neighbours', and the track goes on. Raises ValueError naming the line
    if nothing can be read, or if the numbers have decimal commas.
    """
    lines = text.removeprefix("\ufeff").splitlines()
    header = lines[_HEADER_LINES].split() if len(lines) > _HEADER_LINES else []
    if header != ["FRAME", "X", "Y", "W", "H"]:
        raise ValueError(f"utterance {utterance}: line 7 should name FRAME, X, Y, W and H")
    rows, bad, holes = [], [], set()
    for number, line in enumerate(lines[_HEADER_LINES + 1 :], _HEADER_LINES + 2):
        if _COMMA.search(line):
            raise ValueError(f"utterance {utterance}: line {number} has decimal commas: write 0.5, not 0,5")
        if line.strip():
            before = len(rows)
            wrong = _add_row(rows, line)
            if wrong:
                bad.append(f"line {number} {wrong}")
                holes |= {before - 1, before}
    if not rows:
        raise ValueError(f"utterance {utterance} has no frames" + (f": {bad[0]}" if bad else ""))
    table = np.array(rows)
    frames = table[:, 0].astype(int)
    boxes = np.full((frames[-1] - frames[0] + 1, 4), np.nan)
    left_top, size = table[:, 1:3], table[:, 3:5]
    boxes[frames - frames[0]] = np.concatenate([left_top, left_top + size], axis=1)
    for hole in holes & set(range(1, len(frames))):
        if frames[hole] - frames[hole - 1] == 2:
            at = frames[hole] - frames[0]
            boxes[at - 1] = (boxes[at - 2] + boxes[at]) / 2
    return Track(utterance, int(frames[0]), boxes, len(bad))


def _add_row(rows: list[tuple[float, ...]], line: str) -> str | None:
    """Append (frame, x, y, w, h) to the rows before; returns what is wrong with a line, this or the one before."""
    try:
        frame, *box = line.split()
        row = int(frame), *map(float, box)
    except ValueError:
        return "is not a frame and four numbers"
    if len(box) != 4 or not np.isfinite(row).all():
        return "is not a frame and four numbers"
    first, last = (rows[0][0], rows[-1][0]) if rows else (row[0], -1)
    if last < row[0] < first + 24 * 3600 * FPS and row[0] >= 0:
        rows.append(row)
        return None
    if 0 <= row[0] <= last and (len(rows) == 1 or row[0] > rows[-2][0]):
        rows[-1] = row  # the line before had jumped ahead
    return "has a frame number that should rise, within a day"


def format_utterance(person_id: str, video_id: str, frames: Iterable[int], boxes: Iterable[Iterable[float]]) -> str:
    """The text of an utterance file in VoxCeleb2's layout; `boxes` are x, y, width, height as fractions."""
    lines = [
        f"Identity  : \t{person_id}",
        f"Reference : \t{video_id}",
        "Offset    : \t0",
        "FV Conf   : \t0.000\t(1)",
        "ASD Conf  : \t0.000",
        "",
        "FRAME \tX \tY \tW \tH ",
    ]
    lines += [
        f"{frame:06d} \t" + " \t".join(f"{v:.3f}" for v in box) + " " for frame, box in zip(frames, boxes, strict=True)
    ]
    return "\n".join(lines) + "\n"


def check_archive(archive: zipfile.ZipFile) -> None:
    """Raise ValueError if a member has an absolute name, climbs out by `..`, or is a link."""
    for member in archive.infolist():
        name = member.filename.replace("\\", "/")
        path = PurePosixPath(name)
        link = (member.external_attr >> 16) & 0o170000 == 0o120000
        if path.is_absolute() or ".." in path.parts or re.match(r"[A-Za-z]:", name) or link:
            raise ValueError(
                f"{archive.filename} is refused: its member {member.filename!r} points outside the archive. "
                "Get the archive again from where it is published"
            )


class Annotations:
    """All annotations below `path`: a VoxCeleb2 zip, a folder with such zips or text files, or a vox-metadata.csv.

    A `vox2_meta.csv` in the folder (or beside the file) decides about the split; without it the folder names `dev` and
    `test`, or a zip's name, and else VoxCeleb2's fixed 118 test speakers. `bad_rows` says which rows of a
    vox-metadata.csv are left out, and why. Raises FileNotFoundError if there is nothing.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if not self.path.exists():
            raise FileNotFoundError(f'no annotations at {self.path}: README, "Data" says where VoxCeleb2\'s are')
        self._archives: dict[Path, zipfile.ZipFile] = {}
        self._texts: dict[tuple[str, str], dict[str, tuple[Path, str | None]]] = {}
        self._crops: dict[tuple[str, str], bytes] = {}  # packed: a million as objects take a gigabyte
        self._partitions: dict[str, str] = {}
        self.bad_rows: list[str] = []
        folder = self.path if self.path.is_dir() else self.path.parent
        meta = next((f / META_FILE for f in (folder, folder.parent) if (f / META_FILE).is_file()), None)
        for file in walk(self.path) if self.path.is_dir() else [self.path]:
            self._add(file)
        if self.bad_rows and not self._crops:
            raise ValueError(f"no row of it is a crop, the first bad one: {self.bad_rows[0]}")
        if not self._texts and not self._crops:
            raise FileNotFoundError(f"{self.path} holds neither VoxCeleb2 text files nor a vox-metadata.csv")
        if meta is not None:
            self._partitions.update(read_meta(meta))

    def _add(self, file: Path) -> None:
        if file.suffix == ".zip":
            archive = self._open(file)
            for name in archive.namelist():
                inside = PurePosixPath(name.replace("\\", "/"))  # as some Windows programs write it
                if not left_by_system(inside):
                    self._add_text(inside, file, name)
        elif file.suffix == ".txt":
            self._add_text(PurePosixPath(file.as_posix()), file, None)
        elif file.suffix == ".csv" and file.name != META_FILE:
            for person, video, partition, crop in read_metadata(file, self.bad_rows):
                packed = _PACKED.pack(crop.start, crop.end, *crop.box, crop.width, crop.height)
                key = sys.intern(person), video
                self._crops[key] = self._crops.get(key, b"") + packed
                self._partitions[person] = partition

    def _open(self, file: Path) -> zipfile.ZipFile:
        try:
            archive = zipfile.ZipFile(file)
        except zipfile.BadZipFile as error:
            raise ValueError(f"{file} is not a readable zip ({error}): get it again") from error
        check_archive(archive)
        self._archives[file] = archive
        return archive

    def _add_text(self, name: PurePosixPath, file: Path, member: str | None) -> None:
        if name.suffix != ".txt" or len(name.parts) < 3:
            return
        person, video = name.parts[-3:-1]
        if not (_SAFE.fullmatch(person) and _SAFE.fullmatch(video)):
            return
        self._texts.setdefault((person, video), {})[name.stem] = (file, member)
        above = name.parts[-4] if len(name.parts) > 3 else ""
        hint = above if above in ("dev", "test") else re.search(r"(dev|test)", file.stem if member else "")
        if hint:
            found = hint if isinstance(hint, str) else hint.group()
            self._partitions[person] = "test" if found == "test" else "train"

    def names(self) -> list[tuple[str, str]]:
        """(person, video) of every source video, sorted."""
        return sorted(self._texts.keys() | self._crops.keys())

    def videos(self) -> list[Listed]:
        """Every source video, sorted."""
        return [Listed(person, video, self.split(person)) for person, video in self.names()]

    def split(self, person_id: str) -> str:
        """train or test, by the published table, else by the partition it came in, else by the fixed list."""
        return self._partitions.get(person_id) or ("test" if person_id in TEST_SPEAKERS else "train")

    def texts(self, person_id: str, video_id: str) -> dict[str, str]:
        """The text files of a video by utterance, in order; empty where there are none."""
        found = {}
        for utterance, (file, member) in sorted(self._texts.get((person_id, video_id), {}).items()):
            raw = file.read_bytes() if member is None else self._archives[file].read(member)
            found[utterance] = raw.decode("utf-8-sig", errors="replace")
        return found

    def crops(self, person_id: str, video_id: str) -> list[Crop]:
        """The chosen clips of a video from a vox-metadata.csv, in order."""
        rows = _PACKED.iter_unpack(self._crops.get((person_id, video_id), b""))
        return [Crop(start, end, tuple(box), width, height) for start, end, *box, width, height in sorted(rows)]

    def save(self, folder: str | Path) -> None:
        """Write them as one file for the stages after: `txt.zip` in VoxCeleb2's own layout, or `vox-metadata.csv`.

        The same annotations give the same bytes.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if self._texts:
            with atomic_write(folder / "txt.zip") as part, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
                for person, video in sorted(self._texts):
                    for utterance, text in self.texts(person, video).items():
                        member = zipfile.ZipInfo(f"txt/{person}/{video}/{utterance}.txt")  # dated 1980: no clock in it
                        member.compress_type = zipfile.ZIP_DEFLATED
                        archive.writestr(member, text)
        if self._crops:
            rows = (
                (person, video, self.split(person), crop)
                for person, video in sorted(self._crops)
                for crop in self.crops(person, video)
            )
            write_metadata(folder / "vox-metadata.csv", rows)


def read_meta(path: str | Path) -> dict[str, str]:
    """person -> train or test, from VoxCeleb's `vox2_meta.csv` (columns VoxCeleb2 ID, VGGFace2 ID, Gender, Set)."""
    with open(path, newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file, skipinitialspace=True)
        names = {re.sub(r"\s", "", name or "").lower(): name for name in rows.fieldnames or []}
        if not {"voxceleb2id", "set"} <= set(names):
            raise ValueError(f"{path} needs the columns 'VoxCeleb2 ID' and 'Set', it has {rows.fieldnames}")
        person, partition = names["voxceleb2id"], names["set"]
        return {
            row[person].strip(): "test" if row[partition].strip() == "test" else "train"
            for row in rows
            if row[person] and row[partition]  # else a line that is too short
        }


def read_metadata(path: str | Path, bad: list[str] | None = None) -> Iterator[tuple[str, str, str, Crop]]:
    """(person, video, split, crop) for each row of a vox-metadata.csv; also those FOMM's crop script writes itself.

    That script has no column person_id and writes `video#person` as video_id. A row that is no crop is left out, and
    `bad` gets a sentence about it. Raises ValueError if columns are missing or numbers have decimal commas.
    """
    with open(path, newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        missing = set(METADATA_COLUMNS) - {"person_id"} - set(rows.fieldnames or [])
        if missing:
            raise ValueError(f"{path} lacks the columns {sorted(missing)}: it should be a vox-metadata.csv as FOMM's")
        for number, row in enumerate(rows, 2):
            if any(_COMMA.search(row[name] or "") for name in ("start", "end", "bbox", "width", "height")):
                raise ValueError(f"{path} line {number} has decimal commas: write 0.5, not 0,5")
            try:
                yield _metadata_row(row)
            except (ValueError, TypeError, AttributeError) as error:
                if bad is not None:
                    bad.append(f"{path} line {number} is not a crop: {error}")


def _metadata_row(row: Mapping[str, str]) -> tuple[str, str, str, Crop]:
    if None in row:
        raise ValueError("it has more columns than the first line names")
    video, _, person = row["video_id"].partition("#")
    person = row.get("person_id") or person
    if not (_SAFE.fullmatch(person) and _SAFE.fullmatch(video)):
        raise ValueError(f"person {person!r} and video {video!r} cannot name files")
    found = _BOX.fullmatch(row["bbox"].strip())
    if not found:
        raise ValueError(f"box {row['bbox']!r} is not left-top-right-bottom")
    box = tuple(map(float, found.groups()))
    crop = Crop(int(row["start"]), int(row["end"]), box, int(float(row["width"])), int(float(row["height"])))
    sides = crop.width, crop.height
    if (
        box[0] >= box[2]
        or box[1] >= box[3]
        or not 0 <= crop.start < crop.end <= _MOST
        or not 0 < min(sides) <= max(sides) <= _MOST
    ):
        raise ValueError(f"box {row['bbox']}, frames {crop.start} to {crop.end} of {crop.width}x{crop.height} pixels")
    return person, video, "test" if row["partition"] == "test" else "train", crop


def write_metadata(path: str | Path, rows: Iterable[tuple[str, str, str, Crop]]) -> None:
    """Write a vox-metadata.csv as FOMM's: whole pixels, frames at 25 fps. `rows` as `read_metadata` gives them."""
    with atomic_write(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(METADATA_COLUMNS)
        for person, video, split, crop in rows:
            box = "-".join(str(int(side)) for side in crop.box)
            writer.writerow((video, crop.start, crop.end, box, FPS, crop.width, crop.height, split, person))
