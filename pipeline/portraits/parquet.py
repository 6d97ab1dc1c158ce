"""Parquet files of images that others made, such as those of the Hugging Face hub."""

import threading
from functools import lru_cache
from pathlib import Path

import numpy as np


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
