"""Files at a URL (s3://bucket/prefix, gs://..., any that fsspec knows) through pyarrow, and a bounded cache of them.

Credentials and endpoint come from the environment (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, ...), so that of each machine
counts. In an object store a file appears whole or not at all.
"""

import hashlib
import logging
import os
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from uniface.files import atomic_write

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

TRIES = 20
"""Of a request to S3 that fails by the network or the server's fault: a bucket may be away for a minute or two."""

BLOCK = 8 << 20

SWEEP, KEEP = 1 / 100, 0.8
"""A cache is swept by a process that has put this share of its limit there since it last did, down to this share."""

log = logging.getLogger(__name__)


class StoreError(OSError):
    """A URL that cannot be read or written, in one sentence."""


def is_url(place: str | Path) -> bool:
    """Whether this names a place beyond this machine's folders."""
    return "://" in str(place)


@cache
def filesystem(url: str) -> "tuple[FileSystem, str]":
    """pyarrow's file system for a URL, and the path in it. Raises StoreError if there is none.

    Of S3 it is patient: `TRIES`, with pauses of up to 20 s. (`FileSystem.from_uri` would give up after a few seconds.)
    """
    import pyarrow as pa
    from pyarrow import fs

    scheme = url.partition("://")[0]
    try:
        if scheme == "s3":
            return _s3(url), fs.FileSystem.from_uri(url)[1]
        known = scheme in ("file", "gs", "gcs", "hdfs", "viewfs", "abfs", "abfss")
        return fs.FileSystem.from_uri(url if known else f"fsspec+{url}")
    except (pa.ArrowInvalid, ImportError, ValueError, OSError) as error:
        raise StoreError(f"{url} cannot be opened: {_first_line(error)}") from error


def _s3(url: str) -> "FileSystem":
    from pyarrow import fs

    class Patient(fs.S3FileSystem):
        def __reduce__(self):  # pyarrow's own forgets the patience, and takes the endpoint of this machine along
            return _s3, (url,)

    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    protocol, _, host = endpoint.rpartition("://")
    own = {"endpoint_override": host, "scheme": protocol or "https"} if host else {}
    region = fs.FileSystem.from_uri(url)[0].region  # asks S3 where the bucket lies, unless the environment says it
    retry = fs.AwsStandardS3RetryStrategy(max_attempts=TRIES)
    # delayed: a small file is one request, not the three of a multipart upload
    return Patient(region=region, retry_strategy=retry, allow_delayed_open=True, **own)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


@contextmanager
def _told(url: str, doing: str):
    """Turn what pyarrow says into a StoreError of one sentence."""
    try:
        yield
    except FileNotFoundError as error:
        raise StoreError(f"{url} is not there ({_first_line(error)})") from error
    except OSError as error:
        said = _first_line(error)
        refused = ("ACCESS_DENIED", "INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH", "HTTP response code 403")
        if any(word in said for word in refused):
            why = "the store refuses these credentials (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)"
        elif "NO_SUCH_BUCKET" in said or "does not exist" in said:
            why = "there is no such bucket"
        else:
            why = "the store does not answer as it should"
        raise StoreError(f"cannot {doing} {url}: {why}: {said}") from error


def read(url: str, offset: int = 0, size: int | None = None) -> bytes:
    """The bytes of a file, or `size` of them from `offset` on. Raises StoreError."""
    store, path = filesystem(url)
    with _told(url, "read"), store.open_input_file(path) as file:
        return file.read_at(size if size is not None else file.size() - offset, offset)


def opened(url: str):
    """The file for random reads, a pyarrow NativeFile. Raises StoreError."""
    store, path = filesystem(url)
    with _told(url, "read"):
        return store.open_input_file(path)


def write(url: str, content: bytes | Path) -> None:
    """Put bytes, or the bytes of a local file, at a URL. Raises StoreError."""
    store, path = filesystem(url)
    with _told(url, "write"):
        if store.type_name != "s3":  # which knows no folders
            store.create_dir(path.rpartition("/")[0])
        with store.open_output_stream(path) as out:
            if isinstance(content, bytes):
                out.write(content)
                return
            with open(content, "rb") as file:
                while block := file.read(BLOCK):
                    out.write(block)


def fetch(url: str, path: Path) -> None:
    """Copy a file to a local path, which appears whole. Raises StoreError."""
    store, place = filesystem(url)
    with (
        atomic_write(path) as part,
        _told(url, "read"),
        store.open_input_stream(place) as source,
        open(part, "wb") as file,
    ):
        while block := source.read(BLOCK):
            file.write(block)


def size(url: str) -> int | None:
    """Bytes of a file; None if it is not there. Raises StoreError if that cannot be known."""
    from pyarrow.fs import FileType

    store, path = filesystem(url)
    with _told(url, "look at"):
        found = store.get_file_info(path)
    return found.size if found.type == FileType.File else None


@dataclass(frozen=True)
class Disk:
    """A folder of this machine in which copies from a store are kept, up to `limit` bytes; processes share it.

    What was used longest ago goes first. The limit is passed by at most a few hundredths for each process that writes.
    """

    folder: str = "~/.cache/uniface"
    limit: int = 50 << 30

    def path(self, key: str) -> Path:
        """Where what `key` names lies, or would lie."""
        name = hashlib.sha256(key.encode()).hexdigest()[:40]
        return Path(self.folder).expanduser() / name[:2] / name

    def get(self, key: str) -> bytes | None:
        """What was kept under this name, if it still is."""
        path = self.path(key)
        try:
            content = path.read_bytes()
            os.utime(path)  # used now: it goes last
        except OSError:  # not there, or swept meanwhile
            return None
        return content

    def put(self, key: str, content: bytes) -> None:
        """Keep it; a disk that takes nothing costs speed, not the run."""
        try:
            with atomic_write(self.path(key)) as part:
                part.write_bytes(content)
        except OSError as error:
            log.warning("not kept in %s: %s", self.folder, error)
            return
        _unswept[self] = _unswept.get(self, 0) + len(content)
        if _unswept[self] > SWEEP * self.limit:
            _unswept[self] = 0
            self.sweep()

    def sweep(self) -> None:
        """Remove what was used longest ago, until `KEEP` of the limit is left, if there is more than that."""
        found = []
        for folder, _, names in os.walk(Path(self.folder).expanduser()):
            for name in names:
                with suppress(FileNotFoundError):  # another process sweeps too
                    stat = os.stat(os.path.join(folder, name))
                    found.append((stat.st_mtime, stat.st_size, os.path.join(folder, name)))
        total = sum(size for _, size, _ in found)
        if total <= KEEP * self.limit:
            return
        for _, size, path in sorted(found):
            with suppress(FileNotFoundError):
                os.unlink(path)
            total -= size
            if total <= KEEP * self.limit:
                return


_unswept: dict[Disk, int] = {}  # bytes that this process has put since its last sweep
