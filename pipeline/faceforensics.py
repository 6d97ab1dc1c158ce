"""Stage `faceforensics`: the original videos of FaceForensics++ to aligned crops and pairs, for Table 3 of the paper.

As MegaFS does it (Sec. 4.2): frames evenly from each video, one face per frame, the videos grouped by the person that
they show. MegaFS's own grouping into 885 identities was never published: here a csv says who is who, or the judge
groups the videos, and the report says which. Without a folder in params.yaml there is nothing to do.
"""

import csv
import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline import schemas
from pipeline.common.code import code
from pipeline.common.files import Notes, atomic_write, contents, publish, work_folder, write_json
from pipeline.common.nets import read_manifest
from pipeline.common.places import Places, main
from pipeline.common.progress import progress
from pipeline.common.walk import natural
from pipeline.portraits.grouping import by_likeness
from pipeline.portraits.shards import write_shard
from pipeline.sections import FaceForensicsParams, Params

if TYPE_CHECKING:
    from uniface.backbones import Recogniser
    from uniface.faces import Faces

VIDEOS = "original_sequences/youtube/{quality}/videos"
MANIPULATED = "manipulated_sequences/*/{quality}/videos"
DETECT_HEIGHT = 480  # frames are resized to this height for detection
PER_SHARD = 1000
NAMED = 50  # videos that the report names per reason


def faceforensics(params: Params, places: Places) -> dict:
    """Read the folder that `params.faceforensics` names and write `data/faceforensics`, reports/faceforensics.json and
    faceforensics.csv (every video: whom it shows); what the report says.

    Finished videos survive a kill. Raises FileNotFoundError or ValueError if the folder, the list of pairs or that of
    identities is not what it should be.
    """
    settings, folder = params.faceforensics, places.root / params.faceforensics.folder
    if not folder.is_dir():
        if folder.name != "README.md":
            raise FileNotFoundError(f"no folder {folder} (faceforensics.folder)")
        return _nothing(places)
    where = folder / VIDEOS.format(quality=settings.quality)
    paths = {path.stem: path for path in sorted(where.glob("*.mp4"), key=lambda path: natural(path.name))}
    if not paths:
        raise FileNotFoundError(
            f"{where} has no NNN.mp4: faceforensics.folder holds original_sequences, quality is one"
        )
    wanted, pairs_from = _wanted(settings, places.root, folder, list(paths), params.seed)
    known = contents(where, places.work / "contents" / "faceforensics.json", [path.name for path in paths.values()])
    reading = settings.quality, settings.frames, params.image_size
    state = work_folder("faceforensics", reading, known, places.nets, code("pipeline.faceforensics"), work=places.work)
    found = _read_all(paths, state / "videos", settings.frames, params, places)
    identities, grouping = _identities(settings, places, found)
    out = state / "out"
    shutil.rmtree(out, ignore_errors=True)
    kept = _write_images(out, found, identities)
    rows = [
        {"video": name, "identity": identities.get(name), "frames": len(one["frames"]), "status": one["status"]}
        | {"reason": one["reason"]}
        for name, one in found.items()
    ]
    schemas.write(out / "videos.parquet", rows, schemas.FACEFORENSICS)
    table = list(_pairs(wanted, kept))
    if len(table) < 2:
        raise ValueError(f"{len(wanted)} pairs of videos ({pairs_from}), and {len(table)} pairs of frames with a face")
    schemas.write(out / "test.parquet", table, schemas.PAIRS)
    report = _report(rows, grouping, len(wanted), pairs_from, table, identities)
    write_json(places.reports / "faceforensics.json", report)
    _write_csv(places.reports / "faceforensics.csv", rows)
    publish(out, places.faceforensics)
    print(json.dumps({key: value for key, value in report.items() if key != "rejected_names"}, indent=2))
    return report


def _nothing(places: Places) -> dict:
    """What DVC expects, without any data."""
    report = {"videos": {"found": 0, "kept": 0}, "note": "faceforensics.folder names no folder: nothing to do"}
    write_json(places.reports / "faceforensics.json", report)
    _write_csv(places.reports / "faceforensics.csv", [])
    if places.faceforensics.exists():
        shutil.rmtree(places.faceforensics)
    schemas.write(places.faceforensics / "videos.parquet", [], schemas.FACEFORENSICS)
    print(f"faceforensics: {report['note']}")
    return report


# --- frames --------------------------------------------------------------------------------------------------------


def _read_all(paths: dict[str, Path], state: Path, frames: int, params: Params, places: Places) -> dict[str, dict]:
    """What became of each video: status, reason, frames (their ticks), and the file of its crops and embeddings."""
    from uniface.backbones import load_recogniser
    from uniface.faces import Faces

    manifest = read_manifest(places.nets, ("detector", "judge"), "faceforensics")
    faces = Faces(places.nets / "faces", threads=1, recognise=False)
    judge = load_recogniser(places.nets / manifest["judge"]["file"], manifest["judge"].get("centre"))
    notes = Notes(1)

    def one(name: str) -> dict:
        note = state / f"{name}.json"
        found = notes.read(note)
        if found is None:
            found = _read(paths[name], state / f"{name}.npz", frames, params.image_size, faces, judge)
            notes.write(note, found)
        return found | {"file": state / f"{name}.npz"}

    with ThreadPoolExecutor(max(1, params.compute.crop_workers)) as pool:
        found = progress(pool.map(one, paths), len(paths), "faceforensics: videos")
        return dict(zip(paths, found, strict=True))


def _read(path: Path, file: Path, frames: int, size: int, faces: "Faces", judge: "Recogniser") -> dict:
    """Crops uint8 (n, size, size, 3) and embeddings (n, D) of a video's frames with a face, in `file`; what became."""
    import torch

    from pipeline.portraits.prepare import align
    from pipeline.videos.codec import VideoError, probe, ticks
    from uniface.images import resize, to_tensor

    crops, upright, numbers, looked = [], [], [], 0
    try:
        spread = np.unique(np.linspace(0, probe(path).ticks - 1, frames).round().astype(int))
        for tick, picture in ticks(path, [(int(number), int(number) + 1) for number in spread if number >= 0]):
            looked += 1
            image = picture.rgb()
            seen = faces.detect(image, DETECT_HEIGHT)
            if seen and np.isfinite(seen[0].landmarks).all():  # the surest one
                crops.append(resize(align(image, seen[0]), (size, size)))
                upright.append(faces.align(image, seen[0].landmarks))
                numbers.append(tick)
    except VideoError as error:
        return {"status": "unreadable", "reason": str(error), "frames": []}
    if not crops:
        return {"status": "no_face", "reason": f"none of {looked} frames shows a face", "frames": []}
    with torch.inference_mode():
        embeddings = judge.of_crops(to_tensor(np.stack(upright))).numpy()
    with atomic_write(file) as part:
        np.savez(part, crops=np.stack(crops), embeddings=embeddings)
    reason = f"{looked - len(crops)} of {looked} frames without a face" if len(crops) < looked else None
    return {"status": "kept", "reason": reason, "frames": numbers}


def _write_images(out: Path, found: dict[str, dict], identities: dict[str, str]) -> dict[str, list[str]]:
    """The shards and index.parquet; video -> ids of its crops."""
    from pipeline.portraits.prepare import encode

    kept = {name: [f"{name}_{tick:05d}" for tick in one["frames"]] for name, one in found.items()}

    def images(names: Sequence[str]) -> Iterator[list[tuple[bytes, dict]]]:
        for name in names:
            row = {"name": name, "identity": identities[name], "split": "test", "status": "kept", "reason": None}
            crops = np.load(found[name]["file"])["crops"]
            ids = zip(crops, kept[name], strict=True)
            yield [(encode(crop), row | {"image_id": image_id, "changes": ["aligned"]}) for crop, image_id in ids]

    names, index = [name for name, ids in kept.items() if ids], []
    per_shard = max(1, PER_SHARD // max(len(kept[name]) for name in names)) if names else 1
    for shard, start in enumerate(range(0, len(names), per_shard)):
        index += write_shard(out / f"images-{shard:05d}.parquet", images(names[start : start + per_shard]))
    schemas.write(out / "index.parquet", index, schemas.IMAGE_INDEX)
    return kept


# --- who, and with whom --------------------------------------------------------------------------------------------


def _identities(settings: FaceForensicsParams, places: Places, found: dict[str, dict]) -> tuple[dict[str, str], dict]:
    """Video -> whom it shows, for those that are kept, and how that is known."""
    kept = [name for name, one in found.items() if one["status"] == "kept"]
    listed = places.root / settings.identities
    if listed.is_file() and listed.name != "README.md":
        with open(listed, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if not {"video", "identity"} <= set(reader.fieldnames or ()):
                raise ValueError(f"{listed} has columns {reader.fieldnames}; expected video,identity")
            table = {_number(row["video"]): row["identity"] for row in reader}
        if missing := [name for name in kept if not table.get(name)]:
            raise ValueError(f"{listed} does not say whom {len(missing)} videos show, {missing[0]} first")
        return {name: table[name] for name in kept}, {"by": "csv", "file": listed.name}
    if listed.name != "README.md":
        raise FileNotFoundError(f"{listed} not found (faceforensics.identities)")
    embeddings = [np.load(found[name]["file"])["embeddings"].mean(axis=0) for name in kept]
    groups = by_likeness(np.stack(embeddings), settings.threshold) if kept else []
    names = {name: f"person{group:04d}" for name, group in zip(kept, groups, strict=True)}
    judge = read_manifest(places.nets)["judge"]
    grouping = {"by": "judge", "network": judge["name"], "stand_in": judge["stand_in"], "threshold": settings.threshold}
    return names, grouping


def _wanted(
    settings: FaceForensicsParams, root: Path, folder: Path, videos: list[str], seed: int
) -> tuple[list[tuple[str, str]], str]:
    """(target, source) videos, and where that is from: a list, names AAA_BBB of manipulated videos, or the seed."""
    listed = root / settings.pairs
    if listed.name != "README.md":
        if not listed.is_file():
            raise FileNotFoundError(f"{listed} not found (faceforensics.pairs)")
        names, where = _listed(listed), listed.name
    else:
        pattern = MANIPULATED.format(quality=settings.quality)
        names, where = sorted({path.stem for path in folder.glob(f"{pattern}/*_*.mp4")}), "manipulated_sequences"
    if names:
        if wrong := [name for name in names if not re.fullmatch(r"[^_]+_[^_]+", name)]:
            raise ValueError(f"{where} names {wrong[0]!r}; expected AAA_BBB, target and source")
        pairs = [tuple(name.split("_")) for name in names]
        if unknown := sorted({video for pair in pairs for video in pair} - set(videos)):
            raise ValueError(f"{where} names {len(unknown)} videos that are not there, {unknown[0]} first")
        return pairs, where
    if len(videos) < 2:
        raise ValueError(f"pairs need two videos, {folder} has {len(videos)}")
    order = np.random.default_rng(seed).permutation(len(videos))
    return [(videos[a], videos[b]) for a, b in zip(order, np.roll(order, 1), strict=True)], "seed"


def _listed(path: Path) -> list[str]:
    """Names AAA_BBB in a json list, whose entries may be pairs [AAA, BBB] that stand for both ways (as the splits of
    FaceForensics++ have them), or in a csv file with columns target,source.
    """
    if path.suffix.lower() == ".json":
        try:
            entries = json.loads(path.read_text(encoding="utf-8"))
            both = [[one] if isinstance(one, str) else ["_".join(one), "_".join(reversed(one))] for one in entries]
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path} is no json list of AAA_BBB or [AAA, BBB]: {error}") from None
        return [name for names in both for name in names]
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        if not {"target", "source"} <= set(reader.fieldnames or ()):
            raise ValueError(f"{path} has columns {reader.fieldnames}; expected target,source")
        return [f"{_number(row['target'])}_{_number(row['source'])}" for row in reader]


def _number(name: str) -> str:
    return name.removesuffix(".mp4")


def _pairs(wanted: list[tuple[str, str]], kept: dict[str, list[str]]) -> Iterator[dict]:
    """Every frame of the target with the source's frame of the same place, as far as both have a face."""
    for target, source in wanted:
        for k, image in enumerate(kept[target]):
            if kept[source]:
                other = kept[source][k % len(kept[source])]
                yield {"source_id": other, "target_id": image, "same": False}


# --- report --------------------------------------------------------------------------------------------------------


def _report(
    rows: list[dict], grouping: dict, pairs: int, pairs_from: str, table: list[dict], identities: dict[str, str]
) -> dict:
    rejected: dict[str, list[str]] = {}
    for row in rows:
        if row["status"] != "kept":
            rejected.setdefault(row["status"], []).append(f"{row['video']}: {row['reason']}")
    return {
        "videos": {"found": len(rows), "kept": sum(row["status"] == "kept" for row in rows)},
        "frames": sum(row["frames"] for row in rows),
        "identities": grouping
        | {"count": len(set(identities.values())), "largest": max(Counter(identities.values()).values(), default=0)}
        | {"note": "MegaFS's grouping into 885 identities was never published"},
        "pairs": {"from": pairs_from, "videos": pairs, "frames": len(table)},
        "rejected": {status: len(names) for status, names in sorted(rejected.items())},
        "rejected_names": {status: names[:NAMED] for status, names in sorted(rejected.items())},
    }


def _write_csv(path: Path, rows: list[dict]) -> None:
    """Every video; its first columns can be corrected by hand and given as `faceforensics.identities`."""
    with atomic_write(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, schemas.FACEFORENSICS.names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main(faceforensics)
