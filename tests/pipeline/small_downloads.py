"""The stage download in a small project."""

import dataclasses
import zipfile
from pathlib import Path

from drawn_videos import annotation

from pipeline import params
from pipeline.common.places import Places
from pipeline.download import download
from uniface.tables import read_table

ROOT = Path(__file__).resolve().parents[2]
PARAMS = params.load(ROOT / "params.yaml")


def settings(tmp_path, **changes):
    changes = {"folder": str(tmp_path / "raw"), "annotations": str(tmp_path / "txt.zip"), "pause": 0.0} | changes
    return dataclasses.replace(PARAMS, download=dataclasses.replace(PARAMS.download, **changes))


def run(tmp_path, **changes):
    counts = download(settings(tmp_path, **changes), Places(tmp_path))
    rows = read_table(tmp_path / "data" / "videos.parquet", "videos").to_pylist()
    return counts, {row["video_id"]: row for row in rows}


def list_videos(tmp_path, names, person="id00012"):
    with zipfile.ZipFile(tmp_path / "txt.zip", "w") as archive:
        for name in names:
            archive.writestr(f"txt/{person}/{name}/00001.txt", annotation(person, name, range(30)))
