"""Where face images come from: a folder, a zip or a parquet file, and which of the known layouts it has.

Known layouts, in the order they are looked for:

1. CelebAMask-HQ: `CelebA-HQ-img/N.jpg`, `CelebA-HQ-to-CelebA-mapping.txt` (idx, orig_idx, orig_file) and CelebA's
   `identity_CelebA.txt` (`000001.jpg 2880`); with `list_eval_partition.txt` (`000001.jpg 0`) also CelebA's own split.
2. Images with `identities.csv` beside them (header `image,identity`; image is the path below the folder).
3. One folder of images per identity.
4. Images alone: each is an identity of its own.
"""

import csv
import io
import os
import re
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from pipeline.portraits.parquet import ForeignImages

IMAGES = "CelebA-HQ-img"
MAPPING = "CelebA-HQ-to-CelebA-mapping.txt"
IDENTITIES = "identity_CelebA.txt"
PARTITION = "list_eval_partition.txt"
CSV = "identities.csv"
MASKS = "CelebAMask-HQ-mask-anno"  # some 400,000 files nobody asks for
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".jp2"}

EXPECTED = f"""expected one of
  {IMAGES}/N.jpg, {MAPPING} and {IDENTITIES}   (CelebAMask-HQ and CelebA)
  images and {CSV} (header: image,identity)
  one folder of images per identity
  images alone (each its own identity)"""


@dataclass(frozen=True)
class Item:
    """One image of a source. `identity` is None where nothing says whom it shows, `partition` train, test or None."""

    name: str
    image_id: str
    identity: str | None = None
    partition: str | None = None


class Files(Protocol):
    """Files by name: what folders, zips and parquet files have in common."""

    stamps: dict[str, tuple[int, int]]
    """Name to (size, time or checksum): changes when the file does."""

    def read(self, name: str) -> bytes:
        """The bytes of a file; may be called from several threads."""


class FolderFiles:
    """All files below a folder, by their path relative to it. Raises FileNotFoundError if it is missing or empty."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_dir():
            raise FileNotFoundError(f"{path} is not a folder: put the images there (pairs.path); {EXPECTED}")
        self.stamps = {}
        for folder, folders, names in os.walk(path):
            folders[:] = sorted(name for name in folders if name != MASKS and not name.startswith("."))
            for name in names:
                file = Path(folder, name)
                status = file.stat()
                self.stamps[file.relative_to(path).as_posix()] = (status.st_size, status.st_mtime_ns)
        if not self.stamps:
            raise FileNotFoundError(f"{path} is empty: put the images there (pairs.path); {EXPECTED}")

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()


class ZipFiles:
    """The files of a zip, never unpacked. Raises ValueError for a broken or encrypted zip and for unsafe names."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise FileNotFoundError(f"{path} not found: put the zip there (pairs.path)")
        try:
            self._zip = zipfile.ZipFile(path)
        except zipfile.BadZipFile as error:
            raise ValueError(f"{path} is not a readable zip ({error}): fetch it again") from error
        self.stamps = {}
        for info in self._zip.infolist():
            parts = PurePosixPath(info.filename.replace("\\", "/"))
            if parts.is_absolute() or ".." in parts.parts or ":" in parts.parts[0]:
                raise ValueError(
                    f"{path} holds {info.filename!r}, a name that leaves its folder: do not trust this zip"
                )
            if info.flag_bits & 1:
                raise ValueError(f"{path} is encrypted: unpack it and use source: folder")
            if not info.is_dir() and MASKS not in parts.parts and "__MACOSX" not in parts.parts:
                self.stamps[info.filename] = (info.file_size, info.CRC)
        if not self.stamps:
            raise ValueError(f"{path} holds no files; {EXPECTED}")

    def read(self, name: str) -> bytes:
        try:
            return self._zip.read(name)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
            raise OSError(f"damaged in the zip: {error}") from error


class ParquetFiles:
    """The rows of a parquet file of images; names are row numbers."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise FileNotFoundError(f"{path} not found: put the parquet file there (pairs.path)")
        self.table = ForeignImages(path)
        if not len(self.table):
            raise ValueError(f"{path} has no rows")
        status = path.stat()
        self.stamps = {str(row): (status.st_size, status.st_mtime_ns) for row in range(len(self.table))}

    def read(self, name: str) -> bytes:
        return self.table.read(int(name))

    def items(self) -> list[Item]:
        names, identities = self.table.names, self.table.identities
        return [
            Item(str(row), (names and names[row]) or str(row), identities[row] if identities else None)
            for row in range(len(self.table))
        ]


def open_source(kind: str, path: str | Path) -> tuple[Files, list[Item], str]:
    """Open a source of `kind` folder, zip or parquet: its files, its images in natural order, and the layout's name.

    Raises FileNotFoundError or ValueError that say what was found and what is expected.
    """
    path = Path(path)
    if kind == "parquet":
        files = ParquetFiles(path)
        return files, files.items(), "parquet"
    files = FolderFiles(path) if kind == "folder" else ZipFiles(path)
    root = next((f"/{name}".split(f"/{IMAGES}/")[0][1:] for name in files.stamps if f"/{IMAGES}/" in f"/{name}"), None)
    if root is not None:
        return files, _celeba_hq(files, f"{root}/" if root else "", path), "CelebAMask-HQ"
    images = sorted(filter(_is_image, files.stamps), key=_natural)
    if not images:
        raise ValueError(f"{path} holds no images but {_listing(files)}; {EXPECTED}")
    if tables := [name for name in files.stamps if PurePosixPath(name).name == CSV]:
        table = min(tables, key=len)
        return files, _with_csv(files, table.removesuffix(CSV), images, path), CSV
    return files, *_by_folders(images)


def _celeba_hq(files: Files, root: str, path: Path) -> list[Item]:
    images = [name for name in files.stamps if name.startswith(f"{root}{IMAGES}/") and _is_image(name)]
    if not images:
        raise ValueError(f"{path / root / IMAGES} holds no images; {EXPECTED}")
    found = {name.rsplit("/", 1)[-1]: name for name in files.stamps if not _is_image(name)}  # Anno/ or the top
    if IDENTITIES not in found and PARTITION not in found:
        return [Item(name, _stem(name)) for name in sorted(images, key=_natural)]
    if MAPPING not in found:
        raise ValueError(f"{path} has {IDENTITIES} but no {MAPPING}, which ties N.jpg to CelebA's names; {EXPECTED}")
    original = _mapping(files.read(found[MAPPING]), path / found[MAPPING])
    identities = _two_columns(files, found.get(IDENTITIES), path)
    partition = _two_columns(files, found.get(PARTITION), path)
    splits = {"0": "train", "1": "train", "2": "test"}
    if strange := set(partition.values()) - set(splits):
        raise ValueError(f"{path / found[PARTITION]}: expected 0, 1 or 2 behind each name, found {sorted(strange)[:3]}")
    items = []
    for name in sorted(images, key=_natural):
        celeba = original.get(_stem(name))
        items.append(Item(name, _stem(name), identities.get(celeba), splits.get(partition.get(celeba))))
    if identities and not any(item.identity for item in items):
        raise ValueError(
            f"{path}: no image has an identity. {found[MAPPING]} maps {_stem(images[0])} to "
            f"{original.get(_stem(images[0]))!r}, {found[IDENTITIES]} knows {next(iter(identities))!r}: "
            "do these files belong together?"
        )
    return items


def _mapping(content: bytes, path: Path) -> dict[str, str]:
    """CelebA-HQ's number to CelebA's file name."""
    lines = content.decode("utf-8", "replace").splitlines()
    header = lines[0].split() if lines else []
    if header[:1] != ["idx"] or "orig_file" not in header:
        raise ValueError(f"{path} begins with {' '.join(header)[:60]!r}; expected the columns idx orig_idx orig_file")
    column = header.index("orig_file")
    original = {}
    for number, line in enumerate(lines[1:], 2):
        words = line.split()
        if words and (len(words) != len(header) or not words[0].isdigit()):
            raise ValueError(f"{path}, line {number}: {line[:60]!r} does not fit the columns {' '.join(header)}")
        if words:
            original[words[0]] = words[column]
    return original


def _two_columns(files: Files, name: str | None, path: Path) -> dict[str, str]:
    """A file of lines `000001.jpg value`; empty if there is no such file."""
    if name is None:
        return {}
    values = {}
    for number, line in enumerate(files.read(name).decode("utf-8", "replace").splitlines(), 1):
        words = line.split()
        if words and len(words) != 2:
            raise ValueError(f"{path / name}, line {number}: {line[:60]!r}; expected `000001.jpg 2880`")
        if words:
            values[words[0]] = words[1]
    return values


def _with_csv(files: Files, root: str, images: list[str], path: Path) -> list[Item]:
    rows = csv.DictReader(io.StringIO(files.read(root + CSV).decode("utf-8-sig", "replace")))
    if not {"image", "identity"} <= set(rows.fieldnames or ()):
        raise ValueError(f"{path / root / CSV} has columns {rows.fieldnames}; expected image,identity")
    identities = {root + (row["image"] or ""): row["identity"] or None for row in rows}
    if unknown := sorted(set(identities) - set(images)):
        raise ValueError(f"{path / root / CSV} names {len(unknown)} images that are not there, {unknown[0]!r} first")
    inside = [name for name in images if name.startswith(root)]
    return [Item(name, _without_suffix(name.removeprefix(root)), identities.get(name)) for name in inside]


def _by_folders(images: list[str]) -> tuple[list[Item], str]:
    parents = [PurePosixPath(name).parent for name in images]
    shared = os.path.commonpath([str(parent) for parent in parents]) if len(set(parents)) > 1 else str(parents[0])
    root = "" if shared in ("", ".") else f"{shared}/"
    names = [name.removeprefix(root) for name in images]
    if len(set(parents)) > 1:
        identities = [str(PurePosixPath(name).parent) if "/" in name else None for name in names]
        kind = "one folder per identity"
    else:
        identities, kind = [None] * len(names), "images alone"
    items = [Item(n, _without_suffix(s), i) for n, s, i in zip(images, names, identities, strict=True)]
    return items, kind


def _is_image(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in SUFFIXES and not PurePosixPath(name).name.startswith(".")


def _stem(name: str) -> str:
    return PurePosixPath(name).stem


def _without_suffix(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def _natural(name: str) -> list[str | int]:
    """A key that sorts 10.jpg behind 9.jpg."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _listing(files: Files) -> str:
    names = sorted(files.stamps)
    return f"{len(names)} files ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''})"
