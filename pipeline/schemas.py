"""The parquet tables that pass between stages: their columns with units, and the one way to write them.

Every field carries `description` (and `unit` where it has one) in its metadata, every file `schema` and
`schema_version`. Reading is in `uniface/tables.py`; pandas and DuckDB open every file with one line.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.common.files import atomic_write
from uniface.tables import SCHEMA_VERSION


def _field(name: str, kind: pa.DataType, description: str, unit: str = "", nullable: bool = False) -> pa.Field:
    metadata = {"description": description} | ({"unit": unit} if unit else {})
    return pa.field(name, kind, nullable=nullable, metadata=metadata)


def _schema(name: str, *fields: pa.Field) -> pa.Schema:
    return pa.schema(fields, metadata={"schema": name, "schema_version": str(SCHEMA_VERSION)})


_PERSON = _field("person_id", pa.string(), "VoxCeleb2's speaker, id00017")
_VIDEO = _field("video_id", pa.string(), "YouTube's id, 11 characters")
_SPLIT = _field("split", pa.string(), "train or test")
_CLIP = (
    _PERSON,
    _VIDEO,
    _field("utterance", pa.string(), "the annotation file's name without .txt"),
    _field("chunk", pa.int32(), "counts the chunks of an utterance, rejected ones too"),
    _field("start", pa.int32(), "first frame", "frames of the source video at 25 fps"),
    _field("end", pa.int32(), "one past the last frame", "frames of the source video at 25 fps"),
    _field("box", pa.list_(pa.float32(), 4), "left, top, right, bottom of the crop", "pixels of the source video"),
    _field("width", pa.int32(), "of the source video", "pixels"),
    _field("height", pa.int32(), "of the source video", "pixels"),
    _field("fps", pa.float32(), "of the stored clip", "frames per second"),
    _field("frames", pa.int32(), "in the stored clip", "frames"),
)

VIDEOS = _schema(
    "videos",
    _VIDEO,
    _PERSON,
    _SPLIT,
    _field("status", pa.string(), "ok, unavailable or failed; listed: crop fetches it"),
    _field("reason", pa.string(), "why it is not ok, and what its source warned of", nullable=True),
    _field(
        "path",
        pa.string(),
        "the file, or for ready clips the folder of them, relative to the folder of this table",
        nullable=True,
    ),
    _field("width", pa.int32(), "", "pixels", nullable=True),
    _field("height", pa.int32(), "", "pixels", nullable=True),
    _field("fps", pa.float32(), "of the file", "frames per second", nullable=True),
    _field("frames", pa.int32(), "in the file", "frames", nullable=True),
    _field("sha256", pa.string(), "of the file", nullable=True),
    _field("tried_at", pa.string(), "time of the last attempt", "UTC, ISO 8601", nullable=True),
)
CLIPS = _schema(
    "clips",
    *_CLIP,
    _field("video", pa.large_binary(), "the clip as mp4: H.264, square, short closed groups of pictures", "bytes"),
)
CLIP_INDEX = _schema(
    "clip_index",
    *(field.with_nullable(field.name in ("box", "width", "height", "fps", "frames")) for field in _CLIP),
    _SPLIT,
    _field("status", pa.string(), "kept, short, small, at_border, no_face or corrupt"),
    _field("reason", pa.string(), "why it was not kept", nullable=True),
    _field("fit", pa.string(), "of a given box: as_given, grown, moved, padded or stretched", nullable=True),
    _field("bad_lines", pa.int32(), "of the utterance's annotation, left out; on its first row", "lines"),
    _field("shard", pa.string(), "file name of the shard, if kept", nullable=True),
    _field("row", pa.int32(), "row of the shard, which is its row group too, if kept", nullable=True),
)
IMAGES = _schema(
    "images",
    _field("image_id", pa.string(), "the file's stem"),
    _field("identity", pa.string(), "who it shows"),
    _SPLIT,
    _field("image", pa.large_binary(), "BMP file, square, RGB, 8 bits", "bytes"),
)
IMAGE_INDEX = _schema(
    "image_index",
    _field("name", pa.string(), "the file below the source, or the row of a parquet source"),
    _field("image_id", pa.string(), ""),
    _field("identity", pa.string(), "who it shows; # and the image_id where nothing says"),
    _SPLIT.with_nullable(True),
    _field("status", pa.string(), "kept, unreadable, small, no_face, no_split or duplicate"),
    _field("reason", pa.string(), "why it was not kept", nullable=True),
    _field("changes", pa.list_(pa.string()), "grey, 16-bit, cmyk, palette, alpha, rotated, cropped, enlarged, aligned"),
    _field("shard", pa.string(), "file name of the shard, if kept", nullable=True),
    _field("row", pa.int32(), "row of the shard, if kept", nullable=True),
)
PAIRS = _schema(
    "pairs",
    _field("source_id", pa.string(), "image_id that gives the identity"),
    _field("target_id", pa.string(), "image_id that gives the attributes"),
    _field("same", pa.bool_(), "source and target are one image (Sec. 4.1: one in five)"),
)

SHARDS = _schema(
    "shards",
    _field("name", pa.string(), "of the shard, as the index names it"),
    _field("url", pa.string(), "where it lies"),
    _field("bytes", pa.int64(), "its size", "bytes"),
    _field("sha256", pa.string(), "of its bytes"),
)
FACEFORENSICS = _schema(
    "faceforensics",
    _field("video", pa.string(), "the file's name without .mp4"),
    _field("identity", pa.string(), "whom it shows, if it is kept", nullable=True),
    _field("frames", pa.int32(), "with a face, of those looked at", "frames"),
    _field("status", pa.string(), "kept, unreadable or no_face"),
    _field("reason", pa.string(), "why it is not kept, or what is missing", nullable=True),
)

ROWS_PER_GROUP = {"clips": 1, "images": 1}
"""Rows that are read together: clips and images one by one, in any order, without reading their neighbours."""


@contextmanager
def writer(path: str | Path, schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
    """A parquet writer for `path`, which appears, whole, when the block ends well.

    Media columns stay as they are (compressed already, or meant to be read at once), without dictionary or statistics.
    """
    media = [field.name for field in schema if pa.types.is_large_binary(field.type)]
    plain = [field.name for field in schema if field.name not in media and not pa.types.is_fixed_size_list(field.type)]
    with (
        atomic_write(path) as part,
        pq.ParquetWriter(
            part,
            schema,
            compression="none" if media else "zstd",
            use_dictionary=False if media else plain,
            write_statistics=plain,
            write_page_checksum=True,  # readers notice bytes that changed
        ) as file,
    ):
        yield file


def append(file: pq.ParquetWriter, rows: Iterable[Mapping] | pa.Table) -> None:
    """Add rows to an open `writer`, in row groups of the size that suits the table.

    Raises ValueError for a missing, unknown, null or ill-typed column.
    """
    schema = file.schema
    name = schema.metadata[b"schema"].decode()
    table = rows if isinstance(rows, pa.Table) else _table(list(rows), schema)
    for field in schema:
        if not field.nullable and field.name in table.schema.names and table[field.name].null_count:
            raise ValueError(f"{name}.{field.name} is null in {table[field.name].null_count} rows and must not be")
    table = table.cast(schema)  # names and types of a foreign table
    file.write_table(table, row_group_size=ROWS_PER_GROUP.get(name))


def _table(rows: list[Mapping], schema: pa.Schema) -> pa.Table:
    name = schema.metadata[b"schema"].decode()
    for row in rows:
        if set(row) != set(schema.names):
            missing, unknown = set(schema.names) - set(row), set(row) - set(schema.names)
            raise ValueError(
                f"a row of {name} lacks {sorted(missing)} and has unknown {sorted(unknown)}: {schema.names}"
            )
    columns = []
    for field in schema:
        try:
            columns.append(pa.array([row[field.name] for row in rows], field.type))
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
            raise ValueError(f"{name}.{field.name} is not {field.type}: {error}") from error
    return pa.table(columns, schema=schema)


def write(path: str | Path, rows: Iterable[Mapping] | pa.Table, schema: pa.Schema) -> None:
    """Write a whole table, atomically. `rows` are mappings with exactly the schema's columns; see `append`."""
    with writer(path, schema) as file:
        append(file, rows)
