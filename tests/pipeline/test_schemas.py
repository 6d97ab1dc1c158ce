"""pipeline/schemas.py: what is written opens everywhere with its units, and wrong rows are refused."""

import pandas as pd
import pyarrow.parquet as pq
import pytest

from pipeline import schemas


def clip(n: int) -> dict:
    return {
        "person_id": "id00001", "video_id": "abcdefghijk", "utterance": "00001", "chunk": n, "start": 0, "end": 64,
        "box": [0.0, 1.0, 2.0, 3.5], "width": 426, "height": 240, "fps": 25.0, "frames": 64, "video": bytes([n]) * 9,
    }  # fmt: skip


def test_every_field_has_a_description_and_every_file_the_version(tmp_path):
    for schema in (schemas.VIDEOS, schemas.CLIPS, schemas.CLIP_INDEX, schemas.IMAGES, schemas.PAIRS):
        assert all(b"description" in field.metadata for field in schema)
    schemas.write(tmp_path / "x.parquet", [clip(0), clip(1)], schemas.CLIPS)
    read = pq.read_schema(tmp_path / "x.parquet")
    assert read.metadata[b"schema_version"] == b"1" and read.metadata[b"schema"] == b"clips"
    assert read.field("start").metadata[b"unit"] == b"frames of the source video at 25 fps"


def test_one_clip_is_one_row_group(tmp_path):
    schemas.write(tmp_path / "x.parquet", [clip(0), clip(1), clip(2)], schemas.CLIPS)
    file = pq.ParquetFile(tmp_path / "x.parquet")
    assert file.num_row_groups == 3
    assert file.read_row_group(2)["video"][0].as_py() == b"\x02" * 9
    frame = pd.read_parquet(tmp_path / "x.parquet")
    assert list(frame.box[0]) == [0.0, 1.0, 2.0, 3.5]


def test_an_empty_table_can_be_written(tmp_path):
    schemas.write(tmp_path / "x.parquet", [], schemas.PAIRS)
    assert pq.read_table(tmp_path / "x.parquet").num_rows == 0


def test_a_table_of_another_reader_can_be_written_back(tmp_path):
    rows = [{"source_id": "1", "target_id": "2", "same": False}]
    schemas.write(tmp_path / "x.parquet", rows, schemas.PAIRS)
    schemas.write(tmp_path / "y.parquet", pq.read_table(tmp_path / "x.parquet"), schemas.PAIRS)
    assert pq.read_table(tmp_path / "y.parquet").to_pylist() == rows


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"surplus": 1}, "surplus"),
        ({"start": "x"}, "clips.start is not int32"),
        ({"start": None}, "clips.start is null"),
        ({"start": 2**40}, "clips.start is not int32"),
        ({"box": [1.0, 2.0]}, "clips.box is not"),
    ],
)
def test_wrong_rows_are_refused_and_nothing_is_left(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        schemas.write(tmp_path / "x.parquet", [clip(0) | change], schemas.CLIPS)
    assert list(tmp_path.iterdir()) == []
