"""Stage `pairs`: CelebA-HQ, or any face images with identities, to image shards and a table of training pairs.

Row k of `train.parquet` is sample k of stage 2: rows 0, 5, 10, ... pair an image with itself (Sec. 4.1: same to
different 1 to 4), the others pair images of different identity, and every image is source equally often.
`python -m pipeline.portraits.report data/pairs -o pairs.png` draws a sheet of pairs with their identities.
"""

import csv
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from pipeline import schemas
from pipeline.common import bucket
from pipeline.common.code import code
from pipeline.common.files import atomic_write, contents, publish, read_json, work_folder, write_json
from pipeline.common.places import Places, main
from pipeline.common.progress import progress
from pipeline.portraits.layouts import IDENTITIES, PARTITION, Files, Item, Layout, open_source
from pipeline.portraits.prepare import Rejected, prepare
from pipeline.portraits.shards import write_shard
from pipeline.sections import PairsParams, Params

if TYPE_CHECKING:
    from uniface.faces import Faces

BLOCK = 64
"""Images in memory at a time, while a shard is written."""

PER_PERSON = 1000
"""Images per person, on the average, from which they are taken for no persons: public sets have some 5 to 400."""

NAMED = 50
"""Rejected images that the report names per reason; `data/pairs/index.parquet` names all."""


def pairs(params: Params, places: Places, threads: int | None = None) -> dict:
    """Read the source that `params.pairs` names, write `data/pairs` and `reports/pairs.json`; what the report says.

    Finished shards survive a kill. Raises ValueError or FileNotFoundError if the source, the split or the identities
    do not allow pairs.
    """
    settings, sample = params.pairs, params.pairs.source == "sample"
    where = places.work / "pairs" / "sample-raw" if sample else places.root / settings.path
    if where.resolve().is_relative_to(places.pairs.resolve()):
        raise ValueError(f"pairs.path is {where}, but this stage replaces {places.pairs}: keep the images elsewhere")
    if sample:
        write_sample(params, where)
    if params.compute.data:
        bucket.check(params.compute.data)
    kind = "folder" if sample else settings.source
    files, items, layout = open_source(kind, where, settings.level, settings.pattern, settings.identity_column)
    if not (settings.level or settings.identity_column):  # whoever names what a person is knows
        _check_persons(items, layout, where)
    splits = _split(items, settings, params.seed)
    networks = places.nets / "faces" if settings.align else None
    pictures = contents(files.on_disk[0], places.work / "contents" / "pictures.json", files.on_disk[1])
    inputs = settings, params.seed, params.image_size, pictures, networks
    state = work_folder("pairs", *inputs, code("pipeline.pairs"), work=places.work)
    work = state / "out"
    faces = _faces(networks) if networks else None
    index = _write_shards(state, files, items, splits, settings.images_per_shard, params.image_size, faces, threads)
    schemas.write(work / "index.parquet", index, schemas.IMAGE_INDEX)
    kept = [row for row in index if row["status"] == "kept"]
    found = _report(settings, layout, index, kept, sum(item.identity is not None for item in items))
    if not kept:
        raise ValueError(f"none of {len(index)} images in {where} can be used: {found['rejected']}")
    for number, split in enumerate(("train", "test")):
        rows = [row for row in kept if row["split"] == split]
        rng = np.random.default_rng((params.seed, number))
        found["pairs"][split] = _write_pairs(work / f"{split}.parquet", rows, settings, rng)
    if settings.evaluation_pairs:
        listed = places.root / settings.evaluation_pairs
        found["pairs"]["evaluation"] = _write_listed(work / "evaluation.parquet", listed, kept)
    write_json(places.reports / "pairs.json", found)
    if params.compute.data:
        bucket.offload(work, f"{params.compute.data}/pairs", "images-*.parquet")
    publish(work, places.pairs)
    shutil.rmtree(state)
    print(json.dumps({key: value for key, value in found.items() if key != "rejected_names"}, indent=2))
    return found


def _check_persons(items: list[Item], layout: Layout, where: Path) -> None:
    """Raise ValueError where what was taken for persons can be none: classes of pictures, such as women and men."""
    named = Counter(item.identity for item in items if item.identity is not None)
    if named and named.total() >= PER_PERSON * len(named):
        raise ValueError(
            f"{where}: {named.total()} images of {len(named)} persons by {layout.identity}, {next(iter(named))!r} "
            "first: classes, not persons (pairs.identity_column or pairs.level says what names a person)"
        )


def _split(items: list[Item], settings: PairsParams, seed: int) -> list[str | None]:
    """train, test or None (in neither) for each item, before any image is read."""
    if settings.split == "partition":
        splits = [item.partition for item in items]
        if "test" not in splits or "train" not in splits:
            raise ValueError(f"pairs.split is partition, but {settings.path} has no {PARTITION} with both partitions")
        return splits
    if not 0 < settings.test_images < len(items):
        raise ValueError(f"pairs.test_images is {settings.test_images}, but {settings.path} has {len(items)} images")
    if settings.split == "images":  # the paper's 28,000 and 2,000 (Sec. 4.1), which persons may cross
        return ["train"] * (len(items) - settings.test_images) + ["test"] * settings.test_images
    groups: dict[str, list[int]] = {}
    for number, item in enumerate(items):
        groups.setdefault(item.identity or f"#{item.image_id}", []).append(number)
    names, held = list(groups), set()
    for n in np.random.default_rng((seed, 2)).permutation(len(names)):
        if len(held) >= settings.test_images:
            break
        held.update(groups[names[n]])
    return ["test" if number in held else "train" for number in range(len(items))]


def _faces(folder: Path) -> "Faces":
    from uniface.faces import Faces

    return Faces(folder, threads=1, recognise=False)


# --- images --------------------------------------------------------------------------------------------------------


def _write_shards(
    state: Path,
    files: Files,
    items: list[Item],
    splits: list[str | None],
    per_shard: int,
    image_size: int,
    faces: "Faces | None",
    threads: int | None,
) -> list[dict]:
    """Write what shards are missing in `state`/out, and return a row of IMAGE_INDEX for every item."""
    first_of: dict[str, str] = {}
    for item in items:
        first_of.setdefault(item.image_id, item.name)
    starts = range(0, len(items), per_shard)

    def one(number: int) -> tuple[bytes, dict]:
        item, split = items[number], splits[number]
        row = {"name": item.name, "image_id": item.image_id, "identity": item.identity or f"#{item.image_id}"}
        row |= {"split": split, "status": "kept", "reason": None, "changes": []}
        try:
            if split is None:
                raise Rejected("no_split", f"{PARTITION} does not say where it belongs")
            if first_of[item.image_id] != item.name:
                raise Rejected("duplicate", f"{first_of[item.image_id]} has the same image_id")
            image, row["changes"] = prepare(_read(files, item.name), image_size, faces)
        except Rejected as error:
            return b"", row | {"status": error.status, "reason": str(error)}
        return image, row

    index = []
    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        for shard, start in enumerate(progress(starts, len(starts), "pairs: image shards")):
            path = state / "out" / f"images-{shard:05d}.parquet"
            record = state / f"images-{shard:05d}.json"  # what became of its images; written last
            if not (record.is_file() and path.is_file()):
                numbers = range(start, min(start + per_shard, len(items)))
                blocks = (numbers[first : first + BLOCK] for first in range(0, len(numbers), BLOCK))
                write_json(record, write_shard(path, (list(pool.map(one, block)) for block in blocks)))
            index += read_json(record)
    return index


def _read(files: Files, name: str) -> bytes:
    try:
        return files.read(name)
    except OSError as error:
        raise Rejected("unreadable", str(error)) from error


# --- pairs ---------------------------------------------------------------------------------------------------------


def draw_pairs(
    identities: np.ndarray, per_image: int, rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rounds of pairs of image numbers: sources and targets, (5 N,) each, for identities (N,) of images.

    In each of the per_image / 5 rounds, every image is source once with itself (rows 0, 5, 10, ...) and four times with
    an image of another identity. Each image is also equally often target, unless one identity has most of the images.
    Raises ValueError with fewer than two identities.
    """
    _, codes = np.unique(identities, return_inverse=True)
    if not len(codes) or codes.max() == 0:
        raise ValueError(f"pairs need two identities, got {len(codes)} images of {len(set(codes))}")
    for _ in range(per_image // 5):
        same = rng.permutation(len(codes))
        columns = [(same, same), *(_match(codes, rng) for _ in range(4))]
        yield tuple(np.stack([column[side] for column in columns], 1).ravel() for side in range(2))


def _match(codes: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Every image once as source, in random order, each with a target of another identity."""
    n = len(codes)
    source, target = rng.permutation(n), rng.permutation(n)
    for _ in range(50):  # a random matching, and swaps where it joined an identity with itself
        wrong = np.flatnonzero(codes[source] == codes[target])
        if not len(wrong):
            return source, target
        for i, j in zip(wrong, rng.integers(n, size=len(wrong)), strict=True):
            if codes[source[i]] != codes[target[j]] and codes[source[j]] != codes[target[i]]:
                target[[i, j]] = target[[j, i]]
    largest = np.bincount(codes).max()
    if 2 * largest <= n:  # few identities: in the order of identities, a shift past the largest leaves each
        source = source[np.argsort(codes[source], kind="stable")]
        target = np.roll(source, -int(rng.integers(largest, n - largest + 1)))
    else:  # one has most of the images, so its targets, which are the others, must repeat
        while len(wrong := np.flatnonzero(codes[source] == codes[target])):
            target[wrong] = rng.integers(n, size=len(wrong))
    order = rng.permutation(n)
    return source[order], target[order]


def _write_pairs(path: Path, rows: list[dict], settings: PairsParams, rng: np.random.Generator) -> int:
    ids = pa.array([row["image_id"] for row in rows], pa.string())
    identities = np.array([row["identity"] for row in rows])
    count = 0
    try:
        with schemas.writer(path, schemas.PAIRS) as file:
            for source, target in draw_pairs(identities, settings.pairs_per_image, rng):
                schemas.append(
                    file, pa.table([ids.take(source), ids.take(target), source == target], schemas.PAIRS.names)
                )
                count += len(source)
    except ValueError as error:
        raise ValueError(f"{path.stem} split of {settings.path}: {error} (pairs.split, pairs.test_images)") from error
    return count


def _write_listed(path: Path, listed: Path, kept: list[dict]) -> int:
    """The pairs of a csv file (header `source,target`, image ids) as one more table."""
    if not listed.is_file():
        raise FileNotFoundError(f"{listed} not found (pairs.evaluation_pairs)")
    with open(listed, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        if not {"source", "target"} <= set(reader.fieldnames or ()):
            raise ValueError(f"{listed} has columns {reader.fieldnames}; expected source,target")
        rows = [(row["source"], row["target"]) for row in reader]
    if unknown := sorted({name for row in rows for name in row} - {row["image_id"] for row in kept}, key=str):
        raise ValueError(f"{listed} names {len(unknown)} images that were not kept, {unknown[0]!r} first")
    table = [{"source_id": source, "target_id": target, "same": source == target} for source, target in rows]
    schemas.write(path, table, schemas.PAIRS)
    return len(table)


# --- report --------------------------------------------------------------------------------------------------------


def _report(settings: PairsParams, layout: Layout, index: list[dict], kept: list[dict], known: int) -> dict:
    rejected: dict[str, list[str]] = {}
    for row in index:
        if row["status"] != "kept":
            rejected.setdefault(row["status"], []).append(f"{row['name']}: {row['reason']}")
    persons = {split: {row["identity"] for row in kept if row["split"] == split} for split in ("train", "test")}
    return {
        "layout": layout.name,
        "identities_from": layout.identity,
        "images": {"found": len(index), "kept": len(kept), "rejected": len(index) - len(kept)},
        "split": {"rule": settings.split, **{split: sum(r["split"] == split for r in kept) for split in persons}},
        "identities": {
            **{split: len(found) for split, found in persons.items()},
            "in_both_splits": len(persons["train"] & persons["test"]),
            "images_without": len(index) - known,
            **({} if known else {"note": f"nothing names identities (no {IDENTITIES}): each image is its own"}),
        },
        "changes": dict(sorted(Counter(change for row in kept for change in row["changes"]).items())),
        "rejected": {status: len(names) for status, names in sorted(rejected.items())},
        "rejected_names": {status: names[:NAMED] for status, names in sorted(rejected.items())},
        "pairs": {},
    }


def write_sample(params: Params, folder: Path) -> None:
    """Render the sample's portraits in CelebAMask-HQ's layout; CelebA's partition file says who is held out."""
    from pipeline.sample.raw import write_celebahq
    from pipeline.sample.world import World

    world = World(params.sample, params.seed)
    write_celebahq(world, folder, params.compute.crop_workers)
    lines = [f"{portrait.original:06d}.jpg {2 if portrait.split == 'test' else 0}" for portrait in world.portraits]
    with atomic_write(folder / PARTITION) as part:
        part.write_text("\n".join(sorted(lines)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(pairs)
