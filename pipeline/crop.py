"""Stage `crop`: source videos to face clips by FOMM's protocol, in parquet shards with an index of every candidate.

Finished videos are kept in `work/crop/<digest of the settings>/`, so a stopped run goes on and new videos cost only
themselves. A result counts for the bytes of its video and annotations. Shards are cut along the sorted list of videos:
their contents do not depend on who finished first, how many workers there were, or where a run was stopped.
"""

import json
import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from pipeline import fomm, schemas
from pipeline.annotations import Annotations, write_metadata
from pipeline.annotations import Crop as GivenCrop
from pipeline.clip_report import write_report
from pipeline.clips import Clip, Detector, Job, crop_video
from pipeline.cluster import WorkerDied, fan_out
from pipeline.files import atomic_write, digest, publish, sha256, work_folder, write_json
from pipeline.params import ComputeParams, CropParams, load_or_exit
from pipeline.progress import progress
from uniface.tables import read_table

STATUSES = ("kept", "short", "small", "at_border", "no_face", "corrupt")
PREVIEWS = 24
"""Clips on the contact sheet."""
_INDEX_BATCH = 4096


def crop(
    data: Path,
    reports: Path,
    image_size: int,
    params: CropParams,
    compute: ComputeParams,
    work: Path = Path("work"),
    make_detector: Callable[[], Detector] | None = None,
) -> dict:
    """`data/videos.parquet`, `data/videos`, `data/annotations` to `data/clips`, `reports/clips.json` and `clips.png`.

    Returns what clips.json holds. `make_detector` stands in for the networks in `data/weights/faces`. Raises
    FileNotFoundError where the earlier stages have not run.
    """
    data = Path(data).resolve()  # workers may run in another folder
    jobs = Jobs(data)
    weights = data / "weights" / "faces"
    make = make_detector or partial(load_detector, weights)
    networks = digest(weights) if make_detector is None and weights.is_dir() else "given"
    # FOMM's own tables give boxes and need no detector; the number of clips a shard has touches no clip
    settings = {**vars(params), "clips_per_shard": None}
    folder = work_folder("crop", image_size, settings, networks, root=work)
    results = Results(folder / "videos")
    shards = Shards(folder / digest(jobs.fingerprint(), params.clips_per_shard), params.clips_per_shard)
    summary = Summary()
    finished = results.sweep(jobs, lambda missing: _run(missing, image_size, params, compute, make))
    with shards:
        for job, key in progress(finished, len(jobs), "videos"):
            for row, blob in results.read(job, key):
                summary.add(shards.add(row, blob), blob)
    publish(shards.folder, data / "clips")
    report = summary.report(jobs.statuses)
    write_json(reports / "clips.json", report)
    write_report(reports / "clips.png", report, summary.lengths, summary.sizes, summary.previews(image_size))
    return report


def _run(
    jobs: Iterable[Job], image_size: int, params: CropParams, compute: ComputeParams, make: Callable[[], Detector]
) -> Iterator[tuple[Job, list[Clip]]]:
    worker = partial(Cropper, image_size, params, make)
    for job, result in fan_out(worker, jobs, compute.crop_workers, compute):
        yield job, [Clip("", 0, 0, 0, "corrupt", str(result))] if isinstance(result, WorkerDied) else result


def load_detector(weights: Path) -> Detector:
    """The stage's detector, on one thread: a worker has one core (or a GPU)."""
    from uniface.faces import Faces

    return Faces(weights, threads=1, recognise=False)


class Cropper:
    """One worker: crops videos, with a detector that is loaded when a video first needs it."""

    def __init__(self, image_size: int, params: CropParams, make_detector: Callable[[], Detector]):
        import cv2

        cv2.setNumThreads(1)  # a worker has one core, and OpenCV would spread each resize over all
        self._image_size, self._params, self._make = image_size, params, make_detector
        self._detector: Detector | None = None

    def __call__(self, job: Job) -> list[Clip]:
        if self._detector is None and not job.crops and not Path(job.path).is_dir():
            self._detector = self._make()
        return crop_video(job, self._image_size, self._params, self._detector)


class Jobs:
    """What there is to do: the videos that `download` found, sorted, with their annotations, read one by one."""

    def __init__(self, data: Path):
        self._data = data
        rows = read_table(data / "videos.parquet", "videos").to_pylist()
        self.statuses = Counter(row["status"] for row in rows)
        self._rows = sorted((row for row in rows if row["status"] == "ok"), key=lambda row: (row["split"], _name(row)))
        if not self._rows:
            raise FileNotFoundError(f"{data / 'videos.parquet'} lists no video that exists: see its column reason")
        folder = data / "annotations"
        self._files = sorted(file for file in folder.glob("*") if file.suffix in (".zip", ".csv"))
        self._annotations = Annotations(folder) if self._files else None

    def __len__(self) -> int:
        return len(self._rows)

    def fingerprint(self) -> list:
        """Changes with the list of videos, the bytes of one of them, or the annotations."""
        videos = [[*_name(row), row["split"], row["sha256"]] for row in self._rows]
        return [videos, [sha256(file) for file in self._files]]

    def __iter__(self) -> Iterator[tuple[Job, str]]:
        """(job, the digest of all that its result depends on besides the settings)."""
        for row in self._rows:
            person, video = _name(row)
            texts = self._annotations.texts(person, video) if self._annotations else {}
            crops = self._annotations.crops(person, video) if self._annotations else []
            job = Job(person, video, row["split"], str(self._data / row["path"]), texts, tuple(crops))
            yield job, digest(row["sha256"], texts, list(job.crops))


def _name(row: dict) -> tuple[str, str]:
    return row["person_id"], row["video_id"]


class Results:
    """What was made of each video: `<person>/<video>.bin`, the clips one after another, and `.json`, their rows.

    The JSON is written last, so a result is complete or absent.
    """

    def __init__(self, folder: Path):
        self._folder = folder

    def _path(self, job: Job) -> Path:
        return self._folder / job.person_id / job.video_id  # names checked by `download`; ids may contain dots

    def has(self, job: Job, key: str) -> bool:
        path = self._path(job)
        try:
            return json.loads(path.with_name(f"{path.name}.json").read_text())["key"] == key
        except FileNotFoundError:
            return False

    def write(self, job: Job, key: str, clips: list[Clip]) -> None:
        path = self._path(job)
        rows, offset = [], 0
        with atomic_write(path.with_name(f"{path.name}.bin")) as part, open(part, "wb") as file:
            for clip in clips:
                row = {name: value for name, value in vars(clip).items() if name != "video"}
                if clip.video is not None:
                    file.write(clip.video)
                    row |= {"offset": offset, "size": len(clip.video)}
                    offset += len(clip.video)
                rows.append(row)
        write_json(path.with_name(f"{path.name}.json"), {"key": key, "clips": rows})

    def read(self, job: Job, key: str) -> Iterator[tuple[dict, "Blob | None"]]:
        """(index row without shard and row, where the clip's bytes are) of each candidate."""
        path = self._path(job)
        for row in json.loads(path.with_name(f"{path.name}.json").read_text())["clips"]:
            offset, size = row.pop("offset", None), row.pop("size", None)
            kept = offset is not None
            yield (
                {
                    "person_id": job.person_id,
                    "video_id": job.video_id,
                    "split": job.split,
                    **row,
                    "fps": float(fomm.FPS) if kept else None,
                    "frames": row["end"] - row["start"],
                },
                Blob(path.with_name(f"{path.name}.bin"), offset, size) if kept else None,
            )

    def sweep(self, jobs: Jobs, run: Callable[[Iterable[Job]], Iterable[tuple[Job, list[Clip]]]]) -> Iterator:
        """Every (job, key) in the order of `jobs`, each once its result is there; `run` makes what is missing."""
        keys: dict[tuple[str, str], str] = {}

        def missing() -> Iterator[Job]:
            for job, key in jobs:
                if not self.has(job, key):
                    keys[job.person_id, job.video_id] = key
                    yield job

        running = iter(run(missing()))
        for job, key in jobs:
            while not self.has(job, key):
                done, clips = next(running)
                self.write(done, keys.pop((done.person_id, done.video_id)), clips)
            yield job, key


@dataclass(frozen=True)
class Blob:
    """A clip's bytes, still in its file."""

    path: Path
    offset: int
    size: int

    def read(self) -> bytes:
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


class Shards:
    """The folder of shards and index that becomes `data/clips`; a context that writes the rest when it ends well.

    A shard that is there already is not written again.
    """

    def __init__(self, folder: Path, clips_per_shard: int):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._size = clips_per_shard
        self._open: dict[str, list[tuple[dict, Blob]]] = {}
        self._numbers: Counter[str] = Counter()
        self._index: list[dict] = []
        self._metadata: list[tuple[str, str, str, GivenCrop]] = []

    def __enter__(self) -> "Shards":
        self._stack = ExitStack()
        self._index_file = self._stack.enter_context(schemas.writer(self.folder / "index.parquet", schemas.CLIP_INDEX))
        return self

    def add(self, row: dict, blob: Blob | None) -> dict:
        """Take a candidate; returns its index row."""
        split = row["split"]
        row |= {"shard": None, "row": None}
        if blob is not None:
            clips = self._open.setdefault(split, [])
            row |= {"shard": self._name(split), "row": len(clips)}
            clips.append((row, blob))
            self._metadata.append((row["person_id"], row["video_id"], split, _as_given(row)))
            if len(clips) == self._size:
                self._write(split)
        # a null of a fixed-size list does not come back from parquet
        self._index.append({**row, "box": row["box"] or [math.nan] * 4})
        if len(self._index) == _INDEX_BATCH:
            self._flush_index()
        return row

    def _name(self, split: str) -> str:
        return f"{split}-{self._numbers[split]:05d}.parquet"

    def _write(self, split: str) -> None:
        path = self.folder / self._name(split)
        clips = self._open.pop(split)
        if not path.exists():
            names = [name for name in schemas.CLIPS.names if name != "video"]
            with schemas.writer(path, schemas.CLIPS) as file:
                for row, blob in clips:
                    schemas.append(file, [{**{name: row[name] for name in names}, "video": blob.read()}])
        self._numbers[split] += 1

    def _flush_index(self) -> None:
        schemas.append(self._index_file, self._index)
        self._index.clear()

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is None:
            for split in list(self._open):
                self._write(split)
            self._flush_index()
            write_metadata(self.folder / "vox-metadata.csv", self._metadata)
        self._stack.__exit__(kind, error, trace)


def _as_given(row: dict) -> GivenCrop:
    return GivenCrop(row["start"], row["end"], tuple(row["box"]), row["width"], row["height"])


@dataclass
class Summary:
    """Counts while the clips pass, and a fair sample of them for the picture."""

    statuses: dict[str, Counter] = field(default_factory=dict)
    lengths: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    persons: dict[str, set[str]] = field(default_factory=dict)
    bytes: int = 0
    _sample: list[Blob] = field(default_factory=list)
    _chance: random.Random = field(default_factory=lambda: random.Random(0))

    def add(self, row: dict, blob: Blob | None) -> None:
        self.statuses.setdefault(row["split"], Counter())[row["status"]] += 1
        if blob is None:
            return
        self.persons.setdefault(row["split"], set()).add(row["person_id"])
        self.lengths.append(row["frames"])
        self.sizes.append(round(max(row["box"][2] - row["box"][0], row["box"][3] - row["box"][1])))
        self.bytes += blob.size
        place = self._chance.randrange(len(self.lengths))  # reservoir: each clip has the same chance
        if len(self._sample) < PREVIEWS:
            self._sample.append(blob)
        elif place < PREVIEWS:
            self._sample[place] = blob

    def report(self, videos: Counter) -> dict:
        """The contents of clips.json."""
        total = sum(self.statuses.values(), Counter())
        return {
            "videos": {status: videos[status] for status in ("ok", "unavailable", "failed")},
            "candidates": total.total(),
            **{status: total[status] for status in STATUSES},
            "frames": sum(self.lengths),
            "hours": round(sum(self.lengths) / fomm.FPS / 3600, 4),
            "bytes": self.bytes,
            "splits": {
                split: {"kept": counts["kept"], "persons": len(self.persons.get(split, ()))}
                for split, counts in sorted(self.statuses.items())
            },
        }

    def previews(self, image_size: int) -> list:
        """The first frame of each sampled clip."""
        from uniface.data import read_frames

        return [read_frames(blob.read(), [0])[0] for blob in self._sample]


def main() -> None:
    params = load_or_exit()
    try:
        report = crop(Path("data"), Path("reports"), params.image_size, params.crop, params.compute)
    except (FileNotFoundError, ValueError) as error:
        raise SystemExit(f"error: {error}") from None
    counts = ", ".join(f"{report[status]} {status}" for status in STATUSES)
    print(f"crop: {report['candidates']} candidate clips of {report['videos']['ok']} videos: {counts}")


if __name__ == "__main__":
    main()
