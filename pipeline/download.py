"""Stage `download`: the source videos, with a status and a reason for every one that the annotations name.

Sources: `sample` (rendered here), `youtube` (or any site of yt-dlp), `folder` (VoxCeleb2 videos that are already here,
in any of the layouts of `pipeline/sources.py`), `videos` (any talking heads, without annotations). What is done is
remembered in `work/download`: a rerun looks only at what failed, and at what was unavailable when asked to.
"""

import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pipeline import schemas, sources, video, youtube
from pipeline.annotations import META_FILE, TEST_SPEAKERS, Annotations, Listed, read_meta
from pipeline.files import digest, publish, sha256, write_json
from pipeline.params import DownloadParams, Params, load_or_exit
from pipeline.progress import progress

STATUSES = ("ok", "unavailable", "failed")
_FACTS = ("status", "reason", "width", "height", "fps", "frames", "sha256", "tried_at")


@dataclass(frozen=True)
class Task:
    """A listed video and what there is of it: a file, ready clips by name, or nothing yet."""

    listed: Listed
    path: Path | None = None
    pieces: dict[str, Path] | None = None


def download(params: Params, data: Path = Path("data"), work: Path = Path("work")) -> dict[str, int]:
    """`data/videos/`, `data/videos.parquet` and `data/annotations/`; returns the number of videos by status.

    Raises FileNotFoundError if there are neither annotations nor videos to look at.
    """
    settings, memory = params.download, work / "download"
    annotations, tasks, fetch = _plan(params, memory)
    if settings.max_videos:
        tasks = tasks[: settings.max_videos]
    state = State(memory / settings.source, settings.retry_unavailable)
    staging = memory / "videos"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    rows = []
    for task, (row, files) in progress(_settle(tasks, state, fetch, settings), len(tasks), "videos"):
        rows.append({**row, "path": _place(task, row, files, staging)})
    rows.sort(key=lambda row: (row["person_id"], row["video_id"]))
    schemas.write(data / "videos.parquet", rows, schemas.VIDEOS)
    _save_annotations(annotations, data / "annotations")
    publish(staging, data / "videos")
    counts = Counter(row["status"] for row in rows)
    return {status: counts[status] for status in STATUSES}


def _plan(params: Params, memory: Path) -> tuple[Annotations | None, list[Task], Callable | None]:
    """(annotations, a task per listed video, how to get those that are not here)."""
    settings = params.download
    if settings.source == "sample":
        from pipeline.sample.world import World

        raw = memory / "sample-raw"
        World(params.sample, params.seed).write_voxceleb2(raw, os.cpu_count() or 1)
        return *_from_folder(raw / "videos", raw / "txt"), None
    folder = Path(settings.folder)
    if settings.source == "videos":
        listed, found = sources.plain(folder)
        return None, [Task(one, found.path(one.person_id, one.video_id)) for one in listed], None
    if settings.source == "folder":
        return *_from_folder(folder, Path(settings.annotations)), None
    annotations = Annotations(settings.annotations)
    store = memory / "fetched" / digest(settings.url, settings.max_height)

    def fetch(listed: Listed) -> youtube.Outcome:
        outcome = youtube.fetch(listed.video_id, store / listed.person_id / listed.video_id, settings)
        time.sleep(settings.pause)
        return outcome

    return annotations, [Task(listed) for listed in annotations.videos()], fetch


def _from_folder(folder: Path, where: Path) -> tuple[Annotations | None, list[Task]]:
    found = sources.scan(folder)
    annotations = Annotations(where) if where.exists() else None
    if annotations:
        listed = annotations.videos()
    else:
        meta = folder / META_FILE
        partitions = read_meta(meta) if meta.is_file() else {}

        def split_of(person: str) -> str:
            return partitions.get(person) or ("test" if person in TEST_SPEAKERS else "train")

        listed = list(sources.listed(found, split_of))
    return annotations, [
        Task(one, found.path(one.person_id, one.video_id), found.pieces.get((one.person_id, one.video_id)))
        for one in listed
    ]


class State:
    """What is known of each video: `<person>/<video>.json` with the row's facts, and the file they hold for."""

    def __init__(self, folder: Path, retry_unavailable: bool):
        self._folder, self._retry = folder, retry_unavailable

    def _file(self, listed: Listed) -> Path:
        return self._folder / listed.person_id / f"{listed.video_id}.json"

    def known(self, task: Task) -> tuple[dict, dict[str, Path]] | None:
        """(facts, files) if nothing has to be done: what is ok and as it was, or unavailable and not to be retried."""
        try:
            entry = json.loads(self._file(task.listed).read_text())
        except FileNotFoundError:
            return None
        files = {name: Path(path) for name, path in entry["files"].items()}
        given = _given_files(task)
        if entry["facts"]["status"] == "unavailable":
            return None if self._retry or given else (entry["facts"], {})
        if entry["facts"]["status"] != "ok" or (given and given != files) or entry["stamp"] != _stamp(files):
            return None
        return entry["facts"], files

    def remember(self, task: Task, facts: dict, files: dict[str, Path]) -> None:
        names = {name: str(path) for name, path in files.items()}
        write_json(self._file(task.listed), {"facts": facts, "files": names, "stamp": _stamp(files)})


def _given_files(task: Task) -> dict[str, Path]:
    return task.pieces or ({"": task.path} if task.path else {})


def _stamp(files: dict[str, Path]) -> list:
    """Changes when one of the files does."""
    stats = [path.stat() if path.exists() else None for path in files.values()]
    return [[name, stat and stat.st_size, stat and stat.st_mtime_ns] for name, stat in zip(files, stats, strict=True)]


def _settle(
    tasks: list[Task], state: State, fetch: Callable[[Listed], youtube.Outcome] | None, settings: DownloadParams
) -> Iterator[tuple[Task, tuple[dict, dict[str, Path]]]]:
    """(task, (row without path, files)) for every task, `parallel` at a time; each is remembered once it is known."""

    def settle(task: Task) -> tuple[dict, dict[str, Path]]:
        known = state.known(task)
        if known is None:
            known = _look(task, fetch)
            state.remember(task, *known)
        facts, files = known
        return vars(task.listed) | facts, files

    with ThreadPoolExecutor(settings.parallel) as pool:
        waiting: dict[Future, Task] = {}
        remaining = iter(tasks)
        while True:
            while len(waiting) < 4 * settings.parallel and (task := next(remaining, None)) is not None:
                waiting[pool.submit(settle, task)] = task
            if not waiting:
                return
            for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                yield waiting.pop(future), future.result()


def _look(task: Task, fetch: Callable[[Listed], youtube.Outcome] | None) -> tuple[dict, dict[str, Path]]:
    """(facts, files) of a video: by what is in the folder, or by fetching it."""
    files = _given_files(task)
    if not files and fetch is not None:
        outcome = fetch(task.listed)
        if outcome.path is None:
            return _facts(outcome.status, outcome.reason), {}
        files = {"": outcome.path}
    if not files:
        return _facts("unavailable", "not in download.folder"), {}
    try:
        info = [video.probe(path) if path.is_file() else None for path in files.values()]
    except video.VideoError as error:
        return _facts("failed", str(error)), files
    shown = next((one for one in info if one), None)
    sums = [[name, sha256(path) if path.is_file() else digest(path)] for name, path in files.items()]
    facts = _facts("ok", None) | {"sha256": sums[0][1] if "" in files else digest(sums)}
    if shown:
        frames = sum(one.frames for one in info if one)
        facts |= {"width": shown.width, "height": shown.height, "fps": shown.fps, "frames": frames}
    return facts, files


def _facts(status: str, reason: str | None) -> dict:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return dict.fromkeys(_FACTS) | {"status": status, "reason": reason, "tried_at": now}


def _place(task: Task, row: dict, files: dict[str, Path], staging: Path) -> str | None:
    """Link a video's files into `staging`; returns its path relative to `data`."""
    if row["status"] != "ok":
        return None
    target = staging / task.listed.person_id / task.listed.video_id
    target.parent.mkdir(exist_ok=True)
    if "" in files:
        target = target.with_name(f"{target.name}.mp4")
        _link(files[""], target)
    else:
        for name, path in files.items():
            target.mkdir(exist_ok=True)
            if path.is_dir():
                sources.frames_to_video(path, target / f"{name}.mp4")
            else:
                _link(path, target / f"{name}.mp4")
    return (Path("videos") / target.relative_to(staging)).as_posix()


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source.resolve(), target)
    except OSError:  # another file system, or one without hard links
        shutil.copy2(source, target)


def _save_annotations(annotations: Annotations | None, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if annotations:
        annotations.save(folder)
    else:
        # the folder is an output of the stage; empty, it would not survive a checkout
        (folder / "none.txt").write_text("The videos came without annotations: boxes are the detector's alone.\n")


def main() -> None:
    params = load_or_exit()
    try:
        counts = download(params)
    except (FileNotFoundError, ValueError) as error:
        raise SystemExit(f"error: {error}") from None
    total = sum(counts.values())
    print(
        f"download: {counts['ok']} of {total} listed videos are here, "
        f"{counts['unavailable']} are unavailable, {counts['failed']} failed (run again to retry these)"
    )


if __name__ == "__main__":
    main()
