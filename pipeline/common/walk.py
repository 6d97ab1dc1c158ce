"""Folders as people have them: what is in them, in the order in which people count."""

import os
import re
from pathlib import Path, PurePath

LEFT_BY_SYSTEMS = {
    "__macosx",
    "@eadir",
    "#recycle",
    "#snapshot",
    "$recycle.bin",
    "recycler",
    "system volume information",
    "lost+found",
}
"""Folders, in lower case, that archivers, servers and file systems leave among the data; others begin with a dot."""


def left_by_system(path: PurePath) -> bool:
    """Whether a path, relative to a folder of people's own, is what no person put there: see `LEFT_BY_SYSTEMS`."""
    return any(part.startswith(".") or part.lower() in LEFT_BY_SYSTEMS for part in path.parts)


def walk(folder: Path, unwanted: str = "") -> list[Path]:
    """Every file and folder below a folder of people's own, sorted, but for what systems leave there.

    A folder named `unwanted` is not looked into.
    """
    found = []
    for above, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name != unwanted and not left_by_system(PurePath(name))]
        found += [Path(above, name) for name in (*folders, *names) if not left_by_system(PurePath(name))]
    return sorted(found)


def natural(name: str) -> list[str | int]:
    """A key that sorts names as people do: the numbers in them by value, so that 9 comes before 10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]
