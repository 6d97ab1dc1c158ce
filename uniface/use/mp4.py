"""The rotation of a video in the header of an MP4 or MOV file, which PyAV reads but cannot write."""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

ONE = 1 << 16  # 16.16 fixed point
MATRIX = {"version 0": 40, "version 1": 52}
"""Where the matrix begins in the box tkhd, after its eight bytes of size and name (ISO/IEC 14496-12, 8.3.2)."""


def set_rotation(path: Path, degrees: int) -> None:
    """Say in the header of `path` that players turn its video counterclockwise by 90, 180 or 270 degrees.

    Raises ValueError if it has no video track.
    """
    with open(path, "r+b") as file:
        movies = [place for kind, *place in _boxes(file, 0, path.stat().st_size) if kind == b"moov"]
        tracks = [place for movie in movies for kind, *place in _boxes(file, *movie) if kind == b"trak"]
        for track in tracks:
            if _is_video(file, *track):
                _write(file, *track, degrees)
                return
    raise ValueError(f"{path} has no video track to turn")


def _write(file: BinaryIO, start: int, end: int, degrees: int) -> None:
    header = next(first for kind, first, _ in _boxes(file, start, end) if kind == b"tkhd")
    file.seek(header)
    at = header + MATRIX["version 1" if file.read(1) == b"\x01" else "version 0"]
    file.seek(at + 36)
    width, height = (int.from_bytes(file.read(4), "big") for _ in range(2))
    a, b, x, y = {
        90: (0, -ONE, 0, width),
        180: (-ONE, 0, width, height),
        270: (0, ONE, height, 0),
    }[degrees]
    values = (a, b, 0, -b, a, 0, x, y, 1 << 30)
    file.seek(at)
    file.write(b"".join(value.to_bytes(4, "big", signed=True) for value in values))


def _is_video(file: BinaryIO, start: int, end: int) -> bool:
    media = next(((s, e) for kind, s, e in _boxes(file, start, end) if kind == b"mdia"), None)
    handler = media and next((s for kind, s, _ in _boxes(file, *media) if kind == b"hdlr"), None)
    if handler is None:
        return False
    file.seek(handler + 8)
    return file.read(4) == b"vide"


def _boxes(file: BinaryIO, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """(kind, start of contents, end) of each box between two places."""
    while start + 8 <= end:
        file.seek(start)
        size, kind = int.from_bytes(file.read(4), "big"), file.read(4)
        inside = start + 8
        if size == 1:
            size, inside = int.from_bytes(file.read(8), "big"), start + 16
        elif size == 0:
            size = end - start
        if size < 8:
            return
        yield kind, inside, start + size
        start += size
