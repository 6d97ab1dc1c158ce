"""Parquet files of images that others made, such as those of the Hugging Face hub."""

import math
import threading
from functools import lru_cache
from pathlib import Path

import numpy as np

PERSONS = ("identity", "identity_id", "person", "person_id", "celeb_id")
"""Names of columns that say who it is; CelebA-HQ's `label` says woman or man."""


def named(value: object) -> str | None:
    """A cell that names somebody or something as text; None for null, NaN and nothing.

    Pandas makes numbers with gaps floating: 12.0 is 12.
    """
    if isinstance(value, float):
        value = None if math.isnan(value) else int(value) if value.is_integer() else value
    text = "" if value is None else str(value).strip()
    return None if text in ("", "nan", "NaN") else text


class ForeignImages:
    """A parquet file of images that others made: a column `image` with bytes, or a struct with a field `bytes`.

    `identities` are the cells of `identity_column`: `column`, or the first of `PERSONS` that is there, or None;
    `image_ids` those of `image_id`; None where nothing is said. Images are read by row, with one row group in memory.
    Raises ValueError if the file has no such column of images, or no `column`.
    """

    def __init__(self, path: str | Path, column: str = "") -> None:
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
        if column and column not in schema.names:
            raise ValueError(f"{path} has columns {schema.names}, but pairs.identity_column is {column!r}")
        self.identity_column = column or next((name for name in PERSONS if name in schema.names), None)
        self.identities, self.image_ids = self._texts(self.identity_column), self._texts("image_id")
        self._starts = np.cumsum(
            [0, *(self._file.metadata.row_group(i).num_rows for i in range(self._file.num_row_groups))]
        )
        self._lock = threading.Lock()
        self._group = lru_cache(maxsize=1)(self._read_group)

    def _texts(self, name: str | None) -> list[str | None]:
        if name is None or name not in self._file.schema_arrow.names:
            return [None] * len(self)
        return [named(value) for value in self._file.read([name])[name].to_pylist()]

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
