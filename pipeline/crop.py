"""Stage `crop`: source videos to face clips by FOMM's protocol, in parquet shards with an index of every candidate.

Finished videos are kept in `work/crop/<digest of settings, networks and code>/`; a result counts for the bytes of its
video and annotations.
"""

import random
import shutil
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal

from pipeline import schemas
from pipeline.common import bucket
from pipeline.common.cluster import WorkerDied, fan_out, is_ours
from pipeline.common.code import code
from pipeline.common.files import digest, publish, work_folder, write_json
from pipeline.common.places import Places, main
from pipeline.common.progress import progress
from pipeline.sections import Params
from pipeline.videos import fomm, youtube
from pipeline.videos.clips import Cropper, VideoJob, load_detector
from pipeline.videos.detections import Detector
from pipeline.videos.elsewhere import Elsewhere, Packer, Sent, send
from pipeline.videos.facts import facts
from pipeline.videos.report import write_report
from pipeline.videos.shards import Blob, Done, Jobs, Pack, Results, Shards
from pipeline.videos.streaming import Fetched, Streamer
from pipeline.videos.tracks import Clip
from uniface.tables import ELSEWHERE

STATUSES = ("kept", "short", "small", "at_border", "no_face", "corrupt")
FITS = ("as_given", "grown", "moved", "padded", "stretched")
"""What became of the boxes of a vox-metadata.csv: `pipeline.videos.cutting.placed`."""
IN_FLIGHT = "in-flight"
"""Below a work folder: videos that a worker fetches and drops."""
ROWS = 10_000
"""Of videos.parquet that are written at a time."""
PREVIEWS = 24
"""Clips on the contact sheet."""


def crop(params: Params, places: Places, make_detector: Callable[[], Detector] | None = None) -> dict:
    """`data/videos.parquet`, `data/videos`, `data/annotations` to `data/clips`, `reports/clips.json` and `clips.png`.

    Returns what clips.json holds. `make_detector` stands in for the networks in `data/weights/faces`. Raises
    FileNotFoundError where the earlier stages have not run.
    """
    jobs = Jobs(places)
    nets = (places.nets / "faces").resolve()  # workers may run in another folder
    data = params.compute.data
    if data:
        bucket.check(data)
    make = make_detector or partial(_detector, bucket.copied(nets, "" if is_ours() or not nets.is_dir() else data))
    networks = digest(nets) if make_detector is None and nets.is_dir() else "given"
    # FOMM's own tables give boxes and need no detector; the number of clips a shard has touches no clip
    settings = {**vars(params.crop), "clips_per_shard": None}
    cut, packed = code("pipeline.videos.clips"), code("pipeline.videos.shards")
    folder = work_folder("crop", params.image_size, settings, networks, cut, *filter(None, [data]), work=places.work)
    fetched, retry = params.download, {"failed"}
    if jobs.listed:
        youtube.check_tools(fetched.url)
        folder = work_folder("crop", folder.name, fetched.url, fetched.max_height, work=places.work)
        shutil.rmtree(folder / IN_FLIGHT, ignore_errors=True)
        retry |= {"unavailable"} if fetched.retry_unavailable else set()
    results = Results(folder / "videos", frozenset(retry))
    per_shard = params.crop.clips_per_shard
    finished = results.sweep(jobs, lambda missing: _run(missing, params, make, jobs.listed and folder / IN_FLIGHT))
    outcomes = []
    if jobs.listed:  # which videos there are, and so the shards, is known at the end
        deque(progress(finished, len(jobs), "videos"), maxlen=0)
        finished = iter(jobs)
        outcomes = [results.facts(job)["sha256"] for job, _ in jobs]
    packs: deque[Pack] = deque()
    state = folder / digest(jobs.fingerprint(), per_shard, packed, *outcomes)
    shards = Shards(state, per_shard, packs.append if data else None)
    summary = Summary()

    def pack() -> Iterator[Pack]:
        with shards:
            for job, key in jobs if data else progress(finished, len(jobs), "videos"):
                for row, blob in results.read(job, key):
                    summary.add(shards.add(row, blob), blob)
                yield from _drained(packs)
        yield from _drained(packs)

    if data:  # all videos first: two fan-outs at once would take each other's cores
        deque(progress(finished, len(jobs), "videos"), maxlen=0)
        lines = sorted(_packed(pack(), params), key=lambda line: line["name"])
        schemas.write(state / ELSEWHERE, lines, schemas.SHARDS)
    else:
        deque(pack(), maxlen=0)
    results.notes.tell("crop", "these videos were cropped again")
    statuses = _write_videos(state / "videos.parquet", jobs, results) if jobs.listed else jobs.statuses
    publish(shards.folder, places.clips)
    report = summary.report(statuses)
    write_json(places.reports / "clips.json", report)
    previews = summary.previews()
    write_report(places.reports / "clips.png", report, summary.lengths, summary.sizes, previews)
    counts = ", ".join(f"{report[status]} {status}" for status in STATUSES)
    print(f"crop: {report['candidates']} candidate clips of {report['videos']['ok']} videos: {counts}")
    return report


def _packed(packs: Iterator[Pack], params: Params) -> Iterator[dict]:
    """Write the shards in the store, by the workers; their rows of `schemas.SHARDS`."""
    packer = partial(Packer, f"{params.compute.data}/clips")
    for pack, line in fan_out(packer, packs, params.compute.crop_workers, params.compute):
        if isinstance(line, WorkerDied):
            raise RuntimeError(f"{pack.name} cannot be written: {line}")
        yield line


def _drained(packs: deque[Pack]) -> Iterator[Pack]:
    while packs:
        yield packs.popleft()


def _detector(nets: bucket.Copied) -> Detector:
    return load_detector(nets.here())


def _run(
    jobs: Iterable[VideoJob], params: Params, make: Callable[[], Detector], in_flight: Path | Literal[False]
) -> Iterator[Done]:
    """What the workers make of the jobs; with `in_flight`, of videos that they fetch there. Raises youtube.Blocked."""
    worker, data = partial(Cropper, params.image_size, params.crop, make), params.compute.data
    if data:
        worker = partial(Elsewhere, worker, f"{data}/videos")
        jobs = (Sent(job, {}) if is_ours() or in_flight else send(job) for job in jobs)
    if in_flight:
        worker = partial(Streamer, worker, params.download, in_flight.resolve())
    for task, result in fan_out(worker, jobs, params.compute.crop_workers, params.compute):
        job = task.job if isinstance(task, Sent) else task
        if isinstance(result, youtube.Blocked):
            raise result
        if isinstance(result, Fetched):
            yield job, result.clips, result.facts
        elif not isinstance(result, WorkerDied):
            yield job, result, None
        elif in_flight:
            yield job, [], facts("failed", str(result))
        else:
            yield job, [Clip("", 0, 0, 0, "corrupt", str(result))], None


def _write_videos(path: Path, jobs: Jobs, results: Results) -> Counter[str]:
    """videos.parquet of videos that the workers fetched, beside the clips; returns how many there are by status."""
    statuses: Counter[str] = Counter()
    with schemas.writer(path, schemas.VIDEOS) as file:
        remaining = (job for job, _ in jobs)
        while some := list(islice(remaining, ROWS)):
            rows = [
                {"person_id": job.person_id, "video_id": job.video_id, "split": job.split, "path": None}
                | results.facts(job)
                for job in some
            ]
            statuses.update(row["status"] for row in rows)
            schemas.append(file, rows)
    return statuses


@dataclass
class Summary:
    """Counts while the clips pass, and a fair sample of them for the picture."""

    statuses: dict[str, Counter] = field(default_factory=dict)
    lengths: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    persons: dict[str, set[str]] = field(default_factory=dict)
    fits: Counter[str] = field(default_factory=Counter)
    bad_lines: int = 0
    bytes: int = 0
    _sample: list[Blob] = field(default_factory=list)
    _chance: random.Random = field(default_factory=lambda: random.Random(0))

    def add(self, row: dict, blob: Blob | None) -> None:
        self.statuses.setdefault(row["split"], Counter())[row["status"]] += 1
        self.bad_lines += row["bad_lines"]
        if row["fit"] is not None:
            self.fits[row["fit"]] += 1
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
        given = {"given_boxes": {fit: self.fits[fit] for fit in FITS}} if self.fits else {}
        return {
            "videos": {status: videos[status] for status in ("ok", "unavailable", "failed")},
            "candidates": total.total(),
            **{status: total[status] for status in STATUSES},
            "frames": sum(self.lengths),
            "hours": round(sum(self.lengths) / fomm.FPS / 3600, 4),
            "bytes": self.bytes,
            "bad_annotation_lines": self.bad_lines,
            **given,
            "splits": {
                split: {"kept": counts["kept"], "persons": len(self.persons.get(split, ()))}
                for split, counts in sorted(self.statuses.items())
            },
        }

    def previews(self) -> list:
        """The first frame of each sampled clip."""
        from uniface.data import read_frames

        return [read_frames(blob.read(), [0])[0] for blob in self._sample]


def look(folder: str) -> Callable[[Params, Places], None]:
    """What `python -m pipeline.crop look FOLDER` does: print what a folder of one's own videos would give."""

    def stage(params: Params, places: Places) -> None:
        from pipeline.videos.look import look as first_look

        detector = load_detector(places.nets / "faces")
        print("\n".join(first_look(Path(folder), params.crop, detector).lines()))

    return stage


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] == "look":
        main(look(sys.argv[2]))
    elif len(sys.argv) == 1:
        main(crop)
    else:
        sys.exit("usage: python -m pipeline.crop [look FOLDER]")
