"""Reading parquet: the pipeline's tables, and single cells of its shards."""

import os
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import numpy as np

from uniface.store import Disk, StoreError, opened

SCHEMA_VERSION = 1
"""Of the tables of `pipeline/schemas.py`: goes up whenever a column changes its name, type or meaning."""


ELSEWHERE = "shards.parquet"
"""Beside the tables of a folder whose shards lie in a store: name, url, bytes and sha256 of each."""


class CorruptMedia(ValueError):
    """A clip or an image whose bytes cannot be decoded, or are not what was written."""


def read_table(path: str | Path, schema: str, columns: list[str] | None = None):
    """One of the pipeline's tables as a pyarrow Table (`.to_pandas()`, `.to_pylist()`).

    `schema` is the table's name in `pipeline/schemas.py` in lower case. Raises FileNotFoundError, or ValueError if
    the file is another table, of another version, or no parquet.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} not found: run the stage that writes it (dvc repro)")
    try:
        with pq.ParquetFile(path, memory_map=True, page_checksum_verification=True) as file:
            check_schema(path, file.schema_arrow.metadata, schema)
            return file.read(columns)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path} is damaged or not parquet ({error}): run the stage that writes it again") from error


def check_schema(path: Path, metadata: dict | None, schema: str) -> None:
    found = {key.decode(): value.decode() for key, value in (metadata or {}).items()}
    if found.get("schema") != schema or found.get("schema_version") != str(SCHEMA_VERSION):
        raise ValueError(
            f"{path} holds schema {found.get('schema')!r} version {found.get('schema_version')}, "
            f"this code reads {schema!r} version {SCHEMA_VERSION}: run the stage that writes it again"
        )


def string_codes(column) -> tuple[np.ndarray, list[str]]:
    """A column of strings as numbers of its distinct values (-1: null) and these values, sorted."""
    encoded = column.combine_chunks().dictionary_encode()
    values = encoded.dictionary.to_pylist()
    rank = np.argsort(np.argsort(values)) if values else np.empty(0, np.int64)
    numbers = encoded.indices.fill_null(-1).to_numpy()
    return np.where(numbers < 0, -1, np.append(rank, -1)[numbers]), sorted(values)


class Shards:
    """Single cells of the parquet files of one folder; keeps the last few hundred files open, per process.

    Files that `ELSEWHERE` lists are read at their URL, and the cells kept on `disk`. Raises FileNotFoundError if there
    is neither a file nor a line for one of `names`.
    """

    def __init__(self, folder: Path, schema: str, names: Iterable[str] = (), disk: Disk | None = None) -> None:
        self.folder, self.schema, self.disk = folder, schema, disk or Disk()
        self.elsewhere: dict[str, tuple[str, str]] = {}
        """Where the shards lie that are not in the folder: name -> URL and sha256."""
        if (folder / ELSEWHERE).is_file():
            rows = read_table(folder / ELSEWHERE, "shards").to_pylist()
            self.elsewhere = {row["name"]: (row["url"], row["sha256"]) for row in rows}
        if missing := sorted(set(names) - set(os.listdir(folder)) - set(self.elsewhere)):
            raise FileNotFoundError(
                f"{folder} lacks {len(missing)} shards its index names, {missing[0]} first: "
                "fetch them (dvc pull) or run the stage crop again"
            )
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._open = lru_cache(maxsize=256)(self._open_file)

    def __getstate__(self) -> dict:
        return {key: value for key, value in self.__dict__.items() if key not in ("_pid", "_open")}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._reset()

    def _open_file(self, name: str):
        import pyarrow.parquet as pq

        if name in self.elsewhere:  # every request costs milliseconds: few large ones
            source, how = opened(self.elsewhere[name][0]), {"pre_buffer": True}
        else:
            source, how = self.folder / name, {"pre_buffer": False, "memory_map": True}
        file = pq.ParquetFile(source, page_checksum_verification=True, **how)
        check_schema(self.folder / name, file.schema_arrow.metadata, self.schema)
        groups = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        return file, np.cumsum([0, *groups])

    def read(self, name: str, row: int, column: str) -> np.ndarray:
        """The bytes of one cell, uint8 (n,). Raises CorruptMedia if the file does not hold what was written, StoreError
        if the store does not give it."""
        if self._pid != os.getpid():  # forked: files opened by the parent stay the parent's
            self._reset()
        if name not in self.elsewhere:
            return self._cell(name, row, column)
        key = f"{self.elsewhere[name][1]}/{row}/{column}"
        kept = self.disk.get(key)
        if kept is not None:
            return np.frombuffer(kept, np.uint8)
        cell = self._cell(name, row, column)
        self.disk.put(key, cell.tobytes())
        return cell

    def _cell(self, name: str, row: int, column: str) -> np.ndarray:
        import pyarrow as pa

        try:
            file, starts = self._open(name)
            group = int(np.searchsorted(starts, row, "right")) - 1
            table = file.read_row_group(group, columns=[column], use_threads=False)
            return np.frombuffer(table.column(0)[row - int(starts[group])].as_buffer(), np.uint8)
        except StoreError:
            raise
        except (pa.ArrowInvalid, OSError, IndexError) as error:
            reason = str(error).splitlines()[0]
            if "AWS Error" in reason or isinstance(error, ConnectionError | TimeoutError):  # the clip may be well
                raise StoreError(f"cannot read {self.elsewhere[name][0]}: {reason}") from error
            raise CorruptMedia(f"{self.folder / name}, row {row}: {reason}") from error
