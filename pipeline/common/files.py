"""Small file helpers of the stages: digests, JSON files, and work folders that survive a kill."""

import dataclasses
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from uniface.files import atomic_write


def sha256(path: str | Path) -> str:
    """The sha256 of a file's bytes, 64 hex digits; reads in blocks."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(*objects: object) -> str:
    """12 hex digits that change whenever one of the objects does.

    A `Path` counts by its bytes, a folder by the names and bytes of all files in it; dataclasses and anything that
    JSON can hold count by their value, whatever the order of keys.
    """
    total = hashlib.sha256()
    for item in objects:
        total.update(json.dumps(_canonical(item), sort_keys=True, allow_nan=False).encode() + b"\n")
    return total.hexdigest()[:12]


def weights_digest(path: str | Path) -> str:
    """The sha256 of a safetensors file's tensors and model config, 64 hex digits.

    Not of its bytes: safetensors writes the entries of its metadata in any order, so equal files may differ.
    Raises ValueError if the file does not begin as one.
    """
    with open(path, "rb") as file:
        try:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
            config = json.loads(header.pop("__metadata__", {}).get("config", "{}"))
        except (ValueError, AttributeError, OverflowError, MemoryError) as error:
            raise ValueError(f"{path} is no safetensors file") from error
        total = hashlib.sha256(json.dumps([header, config], sort_keys=True).encode())
        while block := file.read(1 << 20):
            total.update(block)
    return total.hexdigest()


def _canonical(item: object) -> object:
    if isinstance(item, Path):
        if item.is_dir():
            return [[str(p.relative_to(item)), sha256(p)] for p in sorted(item.rglob("*")) if p.is_file()]
        return ["file", sha256(item)]
    if dataclasses.is_dataclass(item) and not isinstance(item, type):
        # field by field, not asdict: a Path inside must reach the branch above
        return {f.name: _canonical(getattr(item, f.name)) for f in dataclasses.fields(item)}
    if isinstance(item, dict):
        return {str(key): _canonical(value) for key, value in item.items()}
    if isinstance(item, list | tuple):
        return [_canonical(value) for value in item]
    return item


def stamp(path: str | Path) -> list[int]:
    """What changes when a file is written or replaced: size, time of writing, inode and, without hard links, ctime.

    No program sets a ctime: content put in place under the old time is seen too. Links move it, so that of a file with
    several names does not count.
    """
    found = os.stat(path)
    return [found.st_size, found.st_mtime_ns, found.st_ino, found.st_ctime_ns if found.st_nlink == 1 else 0]


def stamps(path: str | Path) -> dict[str, list[int]]:
    """`stamp` of every file below a folder, by its path below it; of a file, under its name; nothing of nothing."""
    path = Path(path)
    if path.is_file():
        return {path.name: stamp(path)}
    files = sorted(Path(folder, name) for folder, _, names in os.walk(path) for name in names)
    return {file.relative_to(path).as_posix(): stamp(file) for file in files if file.is_file()}


SETTLED = 2.0
"""Seconds since a file's last change after which its stamp tells it from a later change; clocks of disks are coarse."""


def contents(folder: str | Path, memory: str | Path, names: Iterable[str] | None = None) -> dict[str, str]:
    """sha256 of every file below a folder, or of those `names`, by its path below it.

    `memory` is a JSON file that spares reading twice; what it says of a file holds as long as the file's `stamp` does.
    """
    folder, memory = Path(folder), Path(memory)
    known = _remembered(memory)
    old = time.time_ns() - int(SETTLED * 1e9)
    found = stamps(folder) if names is None else {name: stamp(folder / name) for name in names}

    def one(name: str, stamped: list[int]) -> str:
        remembered = known.get(name)
        return remembered[1] if remembered and remembered[0] == stamped else sha256(folder / name)

    with ThreadPoolExecutor(4) as pool:  # hashing runs beside Python
        made = dict(zip(found, pool.map(one, found, found.values()), strict=True))
    settled = {name: [found[name], made[name]] for name in found if os.stat(folder / name).st_ctime_ns < old}
    write_json(memory, settled)
    return made


def _remembered(memory: Path) -> dict[str, list]:
    """What `contents` knows of an earlier time; nothing where there is no such file, or it is broken."""
    try:
        return dict(read_json(memory))
    except (FileNotFoundError, ValueError, TypeError):
        return {}


def read_json(path: str | Path) -> Any:
    """What a JSON file holds. Raises ValueError naming the file where it is broken."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:  # not JSON, not even text
        raise ValueError(f"{path} is not JSON: {error}") from error


def write_json(path: str | Path, obj: object) -> None:
    """Write `obj` as indented JSON, atomically. Numpy scalars are numbers; NaN and infinity raise ValueError."""
    try:
        text = json.dumps(obj, indent=2, allow_nan=False, default=_plain)
    except ValueError as error:
        raise ValueError(f"{path}: {error}: JSON has no such number, write null instead") from error
    with atomic_write(path) as part:
        part.write_text(text + "\n", encoding="utf-8")


def _plain(value: object) -> object:
    if hasattr(value, "tolist"):  # numpy scalars and arrays
        return value.tolist()
    if isinstance(value, Path):
        return value.as_posix()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    raise TypeError(f"{type(value).__name__} is not JSON")


class Notes:
    """Small JSON files in which a stage remembers what it has done, each with the version of its form.

    What another version wrote, or what is no such file, counts as not there: the work is done again. `tell` says it.
    """

    def __init__(self, version: int):
        self._version = version
        self._outdated: set[Path] = set()

    def read(self, path: Path) -> dict | None:
        """What `write` wrote there, or None."""
        try:
            found = read_json(path)
        except FileNotFoundError:
            return None
        except ValueError:
            found = None
        if not isinstance(found, dict) or found.get("version") != self._version:
            self._outdated.add(path)
            return None
        return found

    def write(self, path: Path, values: dict) -> None:
        write_json(path, {"version": self._version, **values})

    def tell(self, stage: str, consequence: str) -> None:
        """Print how many notes were set aside, and what follows, if any were."""
        if count := len(self._outdated):
            print(f"{stage}: {count} note{'s' if count > 1 else ''} of another version set aside: {consequence}")
            self._outdated.clear()


def work_folder(stage: str, *objects: object, work: Path) -> Path:
    """`<work>/<stage>/<digest of objects>`, made if missing: where a stage keeps what took long to make.

    Folders of the stage with another digest belong to other params or inputs and are left alone.
    """
    folder = work / stage / digest(*objects)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def publish(work: str | Path, out: str | Path) -> None:
    """Move the finished folder `work` to `out`, in place of what was there, without leftovers of `atomic_write`.

    Killed in between, the stage finds `work` complete and publishes it again.
    """
    work, out = Path(work), Path(out)
    for leftover in work.rglob(".*.part*"):
        leftover.unlink()
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.exists():
        shutil.rmtree(out)
    shutil.move(work, out)
