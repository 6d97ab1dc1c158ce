"""Where face images come from: a folder, a zip or a parquet file, and which of the known layouts it has.

Known layouts, in the order they are looked for:

1. CelebAMask-HQ: `CelebA-HQ-img/N.jpg`, `CelebA-HQ-to-CelebA-mapping.txt` (idx, orig_idx, orig_file) and CelebA's
   `identity_CelebA.txt` (`000001.jpg 2880`); with `list_eval_partition.txt` (`000001.jpg 0`) also CelebA's own split.
2. Images with `identities.csv` beside them (header `image,identity`; image is the path below the folder).
3. Folders of images: the folders name the identity, all of them or the one that `level` counts.
4. Images alone, also in FFHQ's folders of a thousand: each is an identity of its own.
"""

import csv
import io
import os
import re
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Protocol

from pipeline.common.walk import left_by_system, natural, walk
from pipeline.portraits.parquet import ForeignImages, named

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


class Layout(NamedTuple):
    """The name of a layout, and what was taken to say whom an image shows; None where nothing does."""

    name: str
    identity: str | None


class Files(Protocol):
    """Files by name: what folders, zips and parquet files have in common."""

    names: list[str]
    """Path of each file below the source, with slashes."""

    on_disk: tuple[Path, list[str]]
    """A folder, and the files in it that hold all there is to read."""

    def read(self, name: str) -> bytes:
        """The bytes of a file; may be called from several threads."""


class FolderFiles:
    """All files below a folder, by their path relative to it. Raises FileNotFoundError if it is missing or empty."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_dir():
            raise FileNotFoundError(f"{path} is not a folder: put the images there (pairs.path); {EXPECTED}")
        self.names = [file.relative_to(path).as_posix() for file in walk(path, MASKS) if file.is_file()]
        self.on_disk = path, self.names
        if not self.names:
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
        self._members: dict[str, zipfile.ZipInfo] = {}
        for info in self._zip.infolist():
            name = info.filename.replace("\\", "/")  # as some Windows programs write it
            parts = PurePosixPath(name)
            if parts.is_absolute() or ".." in parts.parts or any(":" in part for part in parts.parts[:1]):
                raise ValueError(
                    f"{path} holds {info.filename!r}, a name that leaves its folder: do not trust this zip"
                )
            if info.flag_bits & 1:
                raise ValueError(f"{path} is encrypted: unpack it and use source: folder")
            if not (name.endswith("/") or left_by_system(parts) or MASKS in parts.parts):
                self._members[parts.as_posix()] = info
        self.names, self.on_disk = list(self._members), (path.parent, [path.name])
        if not self.names:
            raise ValueError(f"{path} holds no files; {EXPECTED}")

    def read(self, name: str) -> bytes:
        try:
            return self._zip.read(self._members[name])
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
            raise OSError(f"damaged in the zip: {error}") from error


class ParquetFiles:
    """The rows of a parquet file, or of those below a folder; names are row numbers, behind the file if in a folder."""

    def __init__(self, path: Path, pattern: str, column: str) -> None:
        if path.is_dir():
            files = [file for file in path.rglob(pattern) if file.is_file()]
            files = [file for file in files if not left_by_system(file.relative_to(path))]
            files.sort(key=lambda file: natural(str(file)))
            folder = path
        else:
            folder, files = path.parent, [path]
        if not (files and files[0].is_file()):
            wanted = f"holds no {pattern} (pairs.pattern)" if path.is_dir() else "not found"
            raise FileNotFoundError(f"{path} {wanted}: put the parquet files there (pairs.path)")
        self.on_disk = folder, [file.relative_to(folder).as_posix() for file in files]
        self._rows: dict[str, tuple[ForeignImages, int]] = {}
        self._items: list[Item] = []
        self.columns: set[str | None] = set()
        for file in files:
            table = ForeignImages(file, column)
            self.columns.add(table.identity_column)
            before = f"{file.relative_to(folder).with_suffix('').as_posix()}/" if path.is_dir() else ""
            for row, (identity, image_id) in enumerate(zip(table.identities, table.image_ids, strict=True)):
                name = f"{before}{row}"
                self._rows[name] = table, row
                self._items.append(Item(name, image_id or name, identity))
        self.names = list(self._rows)
        if not self.names:
            raise ValueError(f"{path} has no rows")
        if len(self.columns) > 1:
            raise ValueError(f"the files of {path} name persons by different columns: {sorted(map(str, self.columns))}")

    def read(self, name: str) -> bytes:
        table, row = self._rows[name]
        return table.read(row)

    def items(self) -> tuple[list[Item], Layout]:
        column = next(iter(self.columns))
        return self._items, Layout("parquet", column and f"the column {column}")


def open_source(
    kind: str, path: str | Path, level: int = 0, pattern: str = "*.parquet", column: str = ""
) -> tuple[Files, list[Item], Layout]:
    """Open a source of `kind` folder, zip or parquet: its files, its images in natural order, and the layout.

    `level` says which folder of a path names the person, `pattern` and `column` which parquet files count and which of
    their columns does. Raises FileNotFoundError or ValueError that say what was found and what is expected.
    """
    path = Path(path)
    if kind == "parquet":
        files = ParquetFiles(path, pattern, column)
        return files, *files.items()
    files = FolderFiles(path) if kind == "folder" else ZipFiles(path)
    root = next((f"/{name}".split(f"/{IMAGES}/")[0][1:] for name in files.names if f"/{IMAGES}/" in f"/{name}"), None)
    if root is not None:
        items = _celeba_hq(files, f"{root}/" if root else "", path)
        return files, items, Layout("CelebAMask-HQ", IDENTITIES if any(item.identity for item in items) else None)
    images = sorted(filter(_is_image, files.names), key=natural)
    if not images:
        raise ValueError(f"{path} holds no images but {_listing(files)}; {EXPECTED}")
    if tables := [name for name in files.names if PurePosixPath(name).name == CSV]:
        table = min(tables, key=len)
        return files, _with_csv(files, table.removesuffix(CSV), images, path), Layout(CSV, CSV)
    return files, *_by_folders(images, level, path)


def _celeba_hq(files: Files, root: str, path: Path) -> list[Item]:
    images = [name for name in files.names if name.startswith(f"{root}{IMAGES}/") and _is_image(name)]
    if not images:
        raise ValueError(f"{path / root / IMAGES} holds no images; {EXPECTED}")
    found = {name.rsplit("/", 1)[-1]: name for name in files.names if not _is_image(name)}  # Anno/ or the top
    if IDENTITIES not in found and PARTITION not in found:
        return [Item(name, _stem(name)) for name in sorted(images, key=natural)]
    if MAPPING not in found:
        raise ValueError(f"{path} has {IDENTITIES} but no {MAPPING}, which ties N.jpg to CelebA's names; {EXPECTED}")
    original = _mapping(files.read(found[MAPPING]), path / found[MAPPING])
    identities = _two_columns(files, found.get(IDENTITIES), path)
    partition = _two_columns(files, found.get(PARTITION), path)
    splits = {"0": "train", "1": "train", "2": "test"}
    if strange := set(partition.values()) - set(splits):
        raise ValueError(f"{path / found[PARTITION]}: expected 0, 1 or 2 behind each name, found {sorted(strange)[:3]}")
    items = []
    for name in sorted(images, key=natural):
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
    identities = {root + (row["image"] or ""): named(row["identity"]) for row in rows}
    if unknown := sorted(set(identities) - set(images)):
        raise ValueError(f"{path / root / CSV} names {len(unknown)} images that are not there, {unknown[0]!r} first")
    inside = [name for name in images if name.startswith(root)]
    return [Item(name, _without_suffix(name.removeprefix(root)), identities.get(name)) for name in inside]


def _by_folders(images: list[str], level: int, path: Path) -> tuple[list[Item], Layout]:
    parents = [PurePosixPath(name).parent for name in images]
    shared = os.path.commonpath([str(parent) for parent in parents]) if len(set(parents)) > 1 else str(parents[0])
    root = "" if shared in ("", ".") else f"{shared}/"
    names = [name.removeprefix(root) for name in images]
    folders = [PurePosixPath(name).parts[:-1] for name in names]
    depth = max(map(len, folders))
    if level > depth:
        raise ValueError(f"pairs.level is {level}, but the images of {path} lie in {depth} folders below {root or '.'}")
    if depth == 0:
        identities, layout = [None] * len(names), Layout("images alone", None)
    elif level == 0 and all(map(_in_thousands, names)):
        identities = [None] * len(names)
        layout = Layout("folders of a thousand images, no persons (pairs.level: 1 takes them for persons)", None)
    elif level:
        identities = [parts[level - 1] if len(parts) >= level else None for parts in folders]
        layout = Layout("one folder per identity", f"folder {level} of {depth}, as {_first(identities)}")
    else:
        identities = ["/".join(parts) or None for parts in folders]
        more = f"; pairs.level: 1 takes the outermost alone, as {max(folders, key=len)[0]}" if depth > 1 else ""
        layout = Layout("one folder per identity", f"all {depth} folders, as {max(identities, key=_depth)}{more}")
    items = [Item(n, _without_suffix(s), i) for n, s, i in zip(images, names, identities, strict=True)]
    return items, layout


def _first(identities: list[str | None]) -> str:
    return next(identity for identity in identities if identity is not None)


def _depth(identity: str | None) -> int:
    return -1 if identity is None else identity.count("/")


def _in_thousands(name: str) -> bool:
    """Whether an image's folder holds the thousand that its number is in, as FFHQ's 01000/01234.png."""
    folder, stem = PurePosixPath(name).parent.name, _stem(name)
    return bool(re.fullmatch(r"\d+000", folder)) and stem.isdecimal() and int(stem) // 1000 * 1000 == int(folder)


def _is_image(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in SUFFIXES


def _stem(name: str) -> str:
    return PurePosixPath(name).stem


def _without_suffix(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def _listing(files: Files) -> str:
    names = sorted(files.names)
    return f"{len(names)} files ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''})"
