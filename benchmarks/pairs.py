"""Memory of the pairs stage on 30,000 images, and reading random pairs beside PNG files in a folder.

    python -m benchmarks.pairs [build | read] [--images 30000]

`build` runs the stage in a process of its own on drawn images and prints its peak memory; `read` prints pairs per
second of processor time, one core, page cache warm, from the shards and from a folder of PNG files through Pillow;
both in a process with the environment of a training worker.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.common.cluster import KEEP_MEMORY
from pipeline.common.places import Places
from pipeline.pairs import pairs
from pipeline.params import load
from pipeline.sections import PairsParams

SIZE = 256
PER_IDENTITY = 5
ROUNDS = 9
BATCH = 8  # pairs, as in training


def portraits(count: int):
    """Crops of one photograph at random places and scales, (SIZE, SIZE, 3) uint8: as hard to compress as faces."""
    import cv2
    from skimage.data import astronaut

    photograph, rng = astronaut(), np.random.default_rng(0)
    for _ in range(count):
        side = int(rng.integers(200, 420))
        top, left = rng.integers(0, 512 - side, 2)
        yield cv2.resize(photograph[top : top + side, left : left + side], (SIZE, SIZE), interpolation=cv2.INTER_AREA)


def write_folder(folder: Path, count: int, suffix: str) -> None:
    """The portraits in CelebAMask-HQ's layout with identities."""
    from PIL import Image

    (folder / "CelebA-HQ-img").mkdir(parents=True)
    for n, image in enumerate(portraits(count)):
        Image.fromarray(image).save(folder / "CelebA-HQ-img" / f"{n}{suffix}", quality=95)
    mapping = [f"{n} {n} {n + 1:06d}.jpg" for n in range(count)]
    (folder / "CelebA-HQ-to-CelebA-mapping.txt").write_text("\n".join(["idx orig_idx orig_file", *mapping]))
    names = [f"{n + 1:06d}.jpg {n // PER_IDENTITY}" for n in range(count)]
    (folder / "identity_CelebA.txt").write_text("\n".join(names))


def run_stage(root: Path, count: int, split: str = "images") -> dict:
    """The stage on `root`/raw; its report."""
    settings = PairsParams("folder", str(root / "raw"), split, max(10, count // 15), 5, 1000, False, "")
    return pairs(replace(load(), image_size=SIZE, pairs=settings), Places(root))


def build(count: int) -> dict:
    """Seconds, images per second of processor time, and peak memory of the stage in a fresh process."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write_folder(root / "raw", count, ".jpg")
        code = (
            "import json, pathlib, resource, sys, time; from benchmarks.pairs import run_stage; "
            "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20; start = time.perf_counter(); "
            "report = run_stage(pathlib.Path(sys.argv[1]), int(sys.argv[2])); "
            "use = resource.getrusage(resource.RUSAGE_SELF); "
            "print(json.dumps({'images': report['images']['kept'], 'rows': report['pairs'], "
            "'seconds': time.perf_counter() - start, 'cpu_seconds': use.ru_utime + use.ru_stime, "
            "'gigabytes_before': before, 'peak_gigabytes': use.ru_maxrss / 2**20}))"
        )
        answer = subprocess.run([sys.executable, "-c", code, name, str(count)], stdout=subprocess.PIPE, check=True)
        shards = sum(path.stat().st_size for path in (root / "data/pairs").glob("images-*.parquet"))
    return json.loads(answer.stdout) | {"shard_megabytes": shards / 2**20}


def read(count: int) -> dict:
    """Random pairs in batches, per second of processor time: shards, and PNG files of the same through Pillow."""
    from PIL import Image

    from uniface.data import PairDataset

    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write_folder(root / "raw", count, ".png")
        run_stage(root, count)
        dataset = PairDataset(root / "data/pairs", "train", cache_bytes=0)
        files = root / "raw" / "CelebA-HQ-img"
        chosen = [k for k in np.random.default_rng(1).permutation(len(dataset)) if not dataset.same(k)][:400]
        batches = np.array(chosen).reshape(-1, BATCH)

        def shards() -> None:
            for rows in batches:
                np.stack([image for k in rows for image in dataset.pair(k)[:2]])

        def opened(image_id: str) -> np.ndarray:
            with Image.open(files / f"{image_id}.png") as file:
                return np.asarray(file.convert("RGB"))

        def folder() -> None:
            for rows in batches:
                np.stack([opened(image_id) for k in rows for image_id in dataset.ids(k)])

        rates = {way.__name__: [] for way in (shards, folder)}
        for _ in range(ROUNDS):  # in turns, so that a busy machine slows both alike
            for way in (shards, folder):
                start = time.process_time()
                way()
                rates[way.__name__].append(len(chosen) / (time.process_time() - start))
    found = {f"{name}_pairs_per_cpu_second": float(np.median(values)) for name, values in rates.items()}
    ratios = np.array(rates["shards"]) / np.array(rates["folder"])
    return found | {"ratio": float(np.median(ratios)), "ratio_range": [float(ratios.min()), float(ratios.max())]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=["build", "read"], help="both, if not given")
    parser.add_argument("--images", type=int, help="30000 to build, 2000 to read")
    chosen = parser.parse_args()
    if chosen.part in (None, "build"):
        print("build", json.dumps(build(chosen.images or 30_000)), flush=True)
    if chosen.part in (None, "read"):
        code = (
            f"import json; from benchmarks.pairs import read; print('read', json.dumps(read({chosen.images or 2000})))"
        )
        subprocess.run([sys.executable, "-c", code], env=os.environ | KEEP_MEMORY, check=True)


if __name__ == "__main__":
    main()
