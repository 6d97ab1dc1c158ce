"""Numbered pictures in the layouts of portrait data sets, and the stage pairs run on them."""

import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from pipeline.common.places import Places
from pipeline.pairs import pairs
from pipeline.params import load
from pipeline.sections import PairsParams

PARAMS = PairsParams(
    source="folder", path="", split="images", test_images=4, pairs_per_image=5, images_per_shard=7, align=False,
    evaluation_pairs="",
)  # fmt: skip
WHOLE = load(Path(__file__).resolve().parents[2] / "params.yaml")


def picture(n: int, size: int = 48) -> np.ndarray:
    """A flat square: red tells which image."""
    return np.full((size, size, 3), (10 * n, 90, 50), np.uint8)


def celeba_hq(folder, count: int = 20, identities: int = 5, offset: int = 100):
    """CelebAMask-HQ's layout with numbers into CelebA that differ from its own; image n shows person n % identities."""
    images = folder / "CelebA-HQ-img"
    images.mkdir(parents=True)
    for n in range(count):
        cv2.imwrite(str(images / f"{n}.png"), picture(n)[..., ::-1])
    mapping = [f"{n:>7} {n + offset - 1:>10} {f'{n + offset:06d}.jpg':>14}" for n in range(count)]
    (folder / "CelebA-HQ-to-CelebA-mapping.txt").write_text("\n".join(["    idx   orig_idx   orig_file", *mapping]))
    persons = [f"{n + offset:06d}.jpg {2880 + n % identities}" for n in reversed(range(count))]
    (folder / "identity_CelebA.txt").write_text("\n".join(persons))
    parts = [f"{n + offset:06d}.jpg {2 * (n % identities < 2)}" for n in range(count)]
    (folder / "list_eval_partition.txt").write_text("\n".join(parts))
    return folder


def table(path) -> pd.DataFrame:
    return pd.read_parquet(path)


def content(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def draw(path, n: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), picture(n)[..., ::-1])


def parquet(path, columns: dict, first: int = 0) -> None:
    """As the Hugging Face hub has them: image is a struct of bytes and path."""
    count = len(next(iter(columns.values())))
    cells = [cv2.imencode(".png", picture(first + n)[..., ::-1])[1].tobytes() for n in range(count)]
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame({"image": [{"bytes": cell, "path": None} for cell in cells], **columns}).to_parquet(path)


def runner(tmp_path):
    """Runs the stage on tmp_path/raw with changed params; gives the report and moves the tables to `out`."""

    def go(source="folder", path=None, seed=0, image_size=32, out="out", **changes) -> dict:
        settings = replace(PARAMS, source=source, path=str(tmp_path / (path or "raw")), **changes)
        report = pairs(replace(WHOLE, pairs=settings, seed=seed, image_size=image_size), Places(tmp_path), threads=2)
        shutil.rmtree(tmp_path / out, ignore_errors=True)
        shutil.move(tmp_path / "data/pairs", tmp_path / out)
        return report

    return go
