"""The project's place in a store (`compute.data`), for machines that see nothing of each other's disks.

Under `<data>/` lie `clips/`, `pairs/` and `videos/`, files named by their sha256, so that two projects in one bucket
cannot mix; `inputs/`, what workers need of the driver's files; and `runs/`, checkpoints, each project's under a name of
its own. What a stage writes locally keeps `shards.parquet` in their place, which DVC tracks.
"""

import os
import secrets
import tempfile
from dataclasses import dataclass
from pathlib import Path

from pipeline import schemas
from pipeline.common.files import atomic_write, digest, sha256
from pipeline.sections import ComputeParams
from uniface import store
from uniface.store import Disk
from uniface.tables import ELSEWHERE


def disk(compute: ComputeParams) -> Disk:
    """Where this machine keeps what it reads from the store."""
    return Disk(compute.cache or Disk.folder, compute.cache_gb << 30)


def put(path: Path, folder_url: str) -> dict:
    """Put a shard into the store under a name of its content, unless it is there; its row of `schemas.SHARDS`."""
    content, length = sha256(path), path.stat().st_size
    url = f"{folder_url}/{path.stem}-{content[:16]}{path.suffix}"
    if store.size(url) != length:
        store.write(url, path)
    return {"name": path.name, "url": url, "bytes": length, "sha256": content}


def offload(folder: Path, folder_url: str, pattern: str) -> None:
    """Move the shards of a finished folder to the store and leave their table; killed in between, it goes on."""
    shards = sorted(folder.glob(pattern))
    schemas.write(folder / ELSEWHERE, [put(path, folder_url) for path in shards], schemas.SHARDS)
    for path in shards:
        path.unlink()


@dataclass(frozen=True)
class Copied:
    """A file or folder of the driver's that workers elsewhere need: its place here, and copies in the store by sha256.

    Without `url` all workers see the place itself.
    """

    path: str
    url: str = ""
    files: tuple[tuple[str, str], ...] = ()  # path below the folder ("" for a file alone), sha256

    def here(self) -> Path:
        """The place, or this machine's copy of it, fetched once. Raises StoreError."""
        if not self.url:
            return Path(self.path)
        folder = Path(tempfile.gettempdir(), f"uniface-{os.getuid()}", digest(self.files)) / Path(self.path).name
        for name, content in self.files:
            path = folder / name
            if not path.is_file():
                with atomic_write(path) as part:
                    store.fetch(f"{self.url}/{content}", part)
                    if sha256(part) != content:
                        raise store.StoreError(f"{self.url}/{content} is not what was put there: remove it")
        return folder


def copied(path: Path, data: str) -> Copied:
    """Copy what is not there yet of a file or folder to `<data>/inputs`; nothing where `data` is empty."""
    if not data:
        return Copied(str(path))
    files = sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]
    url, listed = f"{data}/inputs", []
    for file in files:
        content = sha256(file)
        if store.size(f"{url}/{content}") != file.stat().st_size:
            store.write(f"{url}/{content}", file)
        listed.append((file.relative_to(path).as_posix() if path.is_dir() else "", content))
    return Copied(str(path), url, tuple(listed))


def project_id(work: Path) -> str:
    """8 hex digits that are this project's alone, kept in `work`: Ray mixes two runs of one name without a word."""
    path = work / "project-id.txt"
    if not path.is_file():
        with atomic_write(path) as part:
            part.write_text(secrets.token_hex(4))
    return path.read_text().strip()


def check(data: str) -> None:
    """Write and read a few bytes, so that a wrong key or bucket is known before any work. Raises StoreError."""
    url = f"{data}/inputs/check"
    store.write(url, b"uniface")
    store.read(url)
