"""Reading parquet: the pipeline's tables, single cells of its shards, and image tables that others made."""

import os
import threading
from functools import lru_cache
from pathlib import Path

import numpy as np

SCHEMA_VERSION = 1
"""Of the tables read here; `pipeline/schemas.py` writes them."""


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
    """Single cells of the parquet files of one folder; keeps the last few hundred files open, per process."""

    def __init__(self, folder: Path, schema: str) -> None:
        self.folder, self.schema = folder, schema
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._open = lru_cache(maxsize=256)(self._open_file)

    def __getstate__(self) -> dict:
        return {"folder": self.folder, "schema": self.schema}

    def __setstate__(self, state: dict) -> None:
        self.__init__(**state)

    def _open_file(self, name: str):
        import pyarrow.parquet as pq

        file = pq.ParquetFile(self.folder / name, memory_map=True, pre_buffer=False, page_checksum_verification=True)
        check_schema(self.folder / name, file.schema_arrow.metadata, self.schema)
        groups = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        return file, np.cumsum([0, *groups])

    def read(self, name: str, row: int, column: str) -> np.ndarray:
        """The bytes of one cell, uint8 (n,). Raises CorruptMedia if the file does not hold what was written."""
        import pyarrow as pa

        if self._pid != os.getpid():  # forked: files opened by the parent stay the parent's
            self._reset()
        try:
            file, starts = self._open(name)
            group = int(np.searchsorted(starts, row, "right")) - 1
            table = file.read_row_group(group, columns=[column], use_threads=False)
            return np.frombuffer(table.column(0)[row - int(starts[group])].as_buffer(), np.uint8)
        except (pa.ArrowInvalid, OSError, IndexError) as error:
            reason = str(error).splitlines()[0]
            raise CorruptMedia(f"{self.folder / name}, row {row}: {reason}") from error


class ForeignImages:
    """A parquet file of images that others made: a column `image` with bytes, or a struct with a field `bytes`.

    `identities` and `names` are the columns `identity` (or `label`) and `image_id`, None where there is none. Images
    are read by row, with one row group in memory. Raises ValueError if the file has no such column of images.
    """

    def __init__(self, path: str | Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            self._file = pq.ParquetFile(path, memory_map=True)
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(f"{path} is not a readable parquet file: {error}") from error
        schema = self._file.schema_arrow
        kind = schema.field("image").type if "image" in schema.names else pa.null()
        self._struct = pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
        if not (self._struct or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
            raise ValueError(
                f"{path} has columns {schema.names}; expected `image` with the bytes of a file in each row"
            )
        self.identities, self.names = (self._texts(*names) for names in (("identity", "label"), ("image_id",)))
        self._starts = np.cumsum(
            [0, *(self._file.metadata.row_group(i).num_rows for i in range(self._file.num_row_groups))]
        )
        self._lock = threading.Lock()
        self._group = lru_cache(maxsize=1)(self._read_group)

    def _texts(self, *names: str) -> list[str | None] | None:
        name = next((name for name in names if name in self._file.schema_arrow.names), None)
        if name is None:
            return None
        values = self._file.read([name])[name].to_pylist()
        return [None if value is None else str(value) for value in values]

    def __len__(self) -> int:
        return self._file.metadata.num_rows

    def _read_group(self, group: int):
        column = self._file.read_row_group(group, columns=["image"], use_threads=False)["image"].combine_chunks()
        return column.field("bytes") if self._struct else column

    def read(self, row: int) -> bytes:
        """The bytes of one image; empty if the cell is null. Threads may share the reader."""
        group = int(np.searchsorted(self._starts, row, "right")) - 1
        with self._lock:
            cell = self._group(group)[row - int(self._starts[group])]
        return cell.as_py() or b""
