"""Stage `download`: the source videos, with a status and a reason for every one that the annotations name.

Sources: `sample` (rendered here), `youtube` (or any site of yt-dlp), `folder` (VoxCeleb2 videos that are already here,
in any of the layouts of `pipeline/videos/folders.py`), `videos` (any talking heads, without annotations). What is done
is remembered in `work/download`: a rerun looks only at what failed, and at what was unavailable when asked to. With
`keep: none` only the list is made, and `crop` fetches.
"""

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from pipeline import schemas
from pipeline.common.files import Notes, digest, publish, sha256, stamps
from pipeline.common.places import Places, main
from pipeline.common.progress import progress
from pipeline.sections import DownloadParams, Params
from pipeline.videos import codec, folders, youtube
from pipeline.videos.annotations import META_FILE, TEST_SPEAKERS, Annotations, Listed, read_meta
from pipeline.videos.facts import facts as new_facts

STATUSES = ("ok", "unavailable", "failed")
VERSION = 3
"""Of the notes in which `State` remembers a video."""
_LISTED = 10_000
"""Rows of a list without videos that are written at a time."""


@dataclass(frozen=True)
class Wanted:
    """A listed video and what there is of it: a file, ready clips by name, or nothing yet."""

    listed: Listed
    path: Path | None = None
    pieces: dict[str, Path] | None = None


def download(params: Params, places: Places) -> dict[str, int]:
    """`data/videos/`, `data/videos.parquet` and `data/annotations/`; returns the number of videos by status.

    Raises FileNotFoundError if there are neither annotations nor videos to look at, and RuntimeError if the site blocks
    the session: what was fetched is kept.
    """
    settings, memory = params.download, places.work / "download"
    if settings.source == "youtube":
        youtube.check_tools(settings.url)
    if settings.keep == "none":
        return _list(settings, places)
    annotations, wanted, fetch = _plan(params, places.root, memory)
    if settings.max_videos:
        wanted = wanted[: settings.max_videos]
    state = State(memory / settings.source, settings.retry_unavailable)
    staging = memory / "videos"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    rows = []
    for one, (row, files) in progress(_settle(wanted, state, fetch, settings), len(wanted), "videos"):
        rows.append(_placed(one, row, files, staging))
    state.notes.tell("download", "these videos were looked at again")
    rows.sort(key=lambda row: (row["person_id"], row["video_id"]))
    schemas.write(places.data / "videos.parquet", rows, schemas.VIDEOS)
    _save_annotations(annotations, places.annotations)
    publish(staging, places.videos)
    found = Counter(row["status"] for row in rows)
    counts = {status: found[status] for status in STATUSES}
    print(
        f"download: {counts['ok']} of {len(rows)} listed videos are here, "
        f"{counts['unavailable']} are unavailable, {counts['failed']} failed (run again to retry these)"
    )
    _tell_bad_rows(annotations)
    return counts


def _tell_bad_rows(annotations: Annotations | None) -> None:
    if annotations and annotations.bad_rows:
        print(
            f"download: {len(annotations.bad_rows)} rows of annotations are left out, first: {annotations.bad_rows[0]}"
        )


def _list(settings: DownloadParams, places: Places) -> dict[str, int]:
    """The outputs without any video: every row `listed`, for `crop` to fetch."""
    annotations = Annotations(places.root / settings.annotations)
    names = annotations.names()
    names = names[: settings.max_videos or len(names)]
    nothing = dict.fromkeys(schemas.VIDEOS.names) | {"status": "listed"}
    with schemas.writer(places.data / "videos.parquet", schemas.VIDEOS) as file:
        for start in range(0, len(names), _LISTED):
            some = names[start : start + _LISTED]
            rows = [{**nothing, "person_id": p, "video_id": v, "split": annotations.split(p)} for p, v in some]
            schemas.append(file, rows)
    _save_annotations(annotations, places.annotations)
    staging = places.work / "download" / "videos"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    # the folder is an output of the stage; empty, it would not survive a checkout
    (staging / "none.txt").write_text("download.keep is none: the stage crop fetches the videos.\n", encoding="utf-8")
    publish(staging, places.videos)
    print(f"download: {len(names)} videos are listed; crop fetches them one by one")
    _tell_bad_rows(annotations)
    return {"listed": len(names)}


def _plan(params: Params, root: Path, memory: Path) -> tuple[Annotations | None, list[Wanted], Callable | None]:
    """(annotations, an entry per listed video, how to get those that are not here)."""
    settings = params.download
    if settings.source == "sample":
        from pipeline.sample.raw import write_voxceleb2
        from pipeline.sample.world import World

        raw = memory / "sample-raw"
        write_voxceleb2(World(params.sample, params.seed), raw, os.cpu_count() or 1)
        return *_from_folder(raw / "videos", raw / "txt"), None
    folder = root / settings.folder
    if settings.source == "videos":
        listed, found = folders.plain(folder)
        return None, [Wanted(one, found.path(one.person_id, one.video_id)) for one in listed], None
    if settings.source == "folder":
        return *_from_folder(folder, root / settings.annotations), None
    annotations = Annotations(root / settings.annotations)
    store = memory / "fetched" / digest(settings.url, settings.max_height)

    site = youtube.Site()

    def fetch(listed: Listed) -> youtube.Outcome:
        return site.fetch(listed.video_id, store / listed.person_id / listed.video_id, settings)

    return annotations, [Wanted(listed) for listed in annotations.videos()], fetch


def _from_folder(folder: Path, where: Path) -> tuple[Annotations | None, list[Wanted]]:
    found = folders.scan(folder)
    annotations = Annotations(where) if where.exists() and where.suffix != ".md" else None
    if annotations:
        listed = annotations.videos()
    else:
        meta = folder / META_FILE
        partitions = read_meta(meta) if meta.is_file() else {}

        def split_of(person: str) -> str:
            return partitions.get(person) or ("test" if person in TEST_SPEAKERS else "train")

        listed = list(folders.listed(found, split_of))
    return annotations, [
        Wanted(one, found.path(one.person_id, one.video_id), found.pieces.get((one.person_id, one.video_id)))
        for one in listed
    ]


class State:
    """What is known of each video: `<person>/<video>.json` with the row's facts, and the file they hold for.

    What another version wrote is not known: the video is looked at again, which costs no download that is there.
    """

    def __init__(self, folder: Path, retry_unavailable: bool):
        self._folder, self._retry = folder, retry_unavailable
        self.notes = Notes(VERSION)

    def _file(self, listed: Listed) -> Path:
        return self._folder / listed.person_id / f"{listed.video_id}.json"

    def known(self, one: Wanted) -> tuple[dict, dict[str, Path]] | None:
        """(facts, files) if nothing has to be done: what is ok and as it was, or unavailable and not to be retried."""
        entry = self.notes.read(self._file(one.listed))
        if entry is None:
            return None
        files = {name: Path(path) for name, path in entry["files"].items()}
        given = _given_files(one)
        if entry["facts"]["status"] == "unavailable":
            return None if self._retry or given else (entry["facts"], {})
        if entry["facts"]["status"] != "ok" or (given and given != files) or entry["stamp"] != _stamp(files):
            return None
        return entry["facts"], files

    def remember(self, one: Wanted, facts: dict, files: dict[str, Path]) -> None:
        names = {name: str(path) for name, path in files.items()}
        self.notes.write(self._file(one.listed), {"facts": facts, "files": names, "stamp": _stamp(files)})


def _given_files(one: Wanted) -> dict[str, Path]:
    return one.pieces or ({"": one.path} if one.path else {})


def _stamp(files: dict[str, Path]) -> list:
    """Changes when one of the files does, or a frame in one of the folders of frames."""
    # without ctime, which the links that `_placed` makes would move
    return [[name, [[inner, *stamp[:3]] for inner, stamp in stamps(path).items()]] for name, path in files.items()]


def _settle(
    wanted: list[Wanted], state: State, fetch: Callable[[Listed], youtube.Outcome] | None, settings: DownloadParams
) -> Iterator[tuple[Wanted, tuple[dict, dict[str, Path]]]]:
    """(video, (row without path, files)) for every video, `parallel` at a time; each is remembered once it is known."""

    blocked: list[youtube.Blocked] = []

    def settle(one: Wanted) -> tuple[dict, dict[str, Path]]:
        if blocked:  # not one more request to a site that blocks us
            raise blocked[0]
        known = state.known(one)
        if known is None:
            try:
                known = _look(one, fetch)
            except youtube.Blocked as error:
                blocked.append(error)
                raise
            state.remember(one, *known)
        facts, files = known
        return vars(one.listed) | facts, files

    with ThreadPoolExecutor(settings.parallel) as pool:
        waiting: dict[Future, Wanted] = {}
        remaining = iter(wanted)
        while True:
            while len(waiting) < 4 * settings.parallel and (one := next(remaining, None)) is not None:
                waiting[pool.submit(settle, one)] = one
            if not waiting:
                return
            for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                yield waiting.pop(future), future.result()


def _look(one: Wanted, fetch: Callable[[Listed], youtube.Outcome] | None) -> tuple[dict, dict[str, Path]]:
    """(facts, files) of a video: by what is in the folder, or by fetching it."""
    files, warned = _given_files(one), None
    if not files and fetch is not None:
        outcome = fetch(one.listed)
        if outcome.path is None:
            return new_facts(outcome.status, outcome.reason), {}
        files, warned = {"": outcome.path}, outcome.reason
    if not files:
        return new_facts("unavailable", "not in download.folder"), {}
    try:
        info = [codec.probe(path) if path.is_file() else None for path in files.values()]
    except codec.VideoError as error:
        return new_facts("failed", str(error)), files
    shown = next((one for one in info if one), None)
    sums = [[name, sha256(path) if path.is_file() else digest(path)] for name, path in files.items()]
    facts = new_facts("ok", warned) | {"sha256": sums[0][1] if "" in files else digest(sums)}
    if shown:
        frames = sum(one.frames for one in info if one)
        facts |= {"width": shown.width, "height": shown.height, "fps": shown.fps, "frames": frames}
    return facts, files


def _placed(one: Wanted, row: dict, files: dict[str, Path], staging: Path) -> dict:
    """The row of a video with its path relative to `data`, its files linked into `staging`; failed if they are bad."""
    if row["status"] != "ok":
        return {**row, "path": None}
    target = staging / one.listed.person_id / one.listed.video_id
    target.parent.mkdir(exist_ok=True)
    if "" in files:
        target = target.with_name(f"{target.name}.mp4")
        _link(files[""], target)
    else:
        try:
            for name, path in files.items():
                target.mkdir(exist_ok=True)
                if path.is_dir():
                    folders.frames_to_video(path, target / f"{name}.mp4")
                else:
                    _link(path, target / f"{name}.mp4")
        except (ValueError, OSError) as error:
            shutil.rmtree(target)
            return {**row, "status": "failed", "reason": str(error), "path": None}
    return {**row, "path": (Path("videos") / target.relative_to(staging)).as_posix()}


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


if __name__ == "__main__":
    main(download)
