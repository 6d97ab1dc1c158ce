"""What there is to crop, what became of each video, and the shards that hold the clips.

Finished videos are kept in a folder of their own, so a stopped run goes on and new videos cost only themselves. Shards
are cut along the sorted list of videos: their contents do not depend on who finished first, how many workers there
were, or where a run was stopped.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.compute

from pipeline import schemas
from pipeline.common.files import Notes, atomic_write, contents, digest, sha256
from pipeline.common.places import Places
from pipeline.videos import fomm
from pipeline.videos.annotations import Annotations, write_metadata
from pipeline.videos.annotations import Crop as GivenCrop
from pipeline.videos.clips import VideoJob
from pipeline.videos.tracks import Clip
from uniface import store
from uniface.store import is_url
from uniface.tables import read_table

VERSION = 1
"""Of the notes in which `Results` keeps what became of a video."""
_INDEX_BATCH = 4096
Done = tuple[VideoJob, list[Clip], dict | None]
"""A video, its clips, and its facts if its worker fetched it."""


class Jobs:
    """What there is to do: the videos that `download` found, sorted, with their annotations, read one by one."""

    def __init__(self, places: Places):
        self._data = places.data.resolve()  # workers may run in another folder
        file = places.data / "videos.parquet"
        table = read_table(file, "videos", ["person_id", "video_id", "split", "status", "path"])
        self.statuses = Counter(table["status"].to_pylist())
        wanted = pyarrow.compute.is_in(table["status"], pyarrow.array(["ok", "listed"]))
        order = [(name, "ascending") for name in ("split", "person_id", "video_id")]
        self._table = table.filter(wanted).sort_by(order)
        if not len(self):
            raise FileNotFoundError(f"{file} lists no video that exists: see its column reason")
        self.listed = "listed" in self.statuses
        self._files = sorted(file for file in places.annotations.glob("*") if file.suffix in (".zip", ".csv"))
        self._annotations = Annotations(places.annotations) if self._files else None
        # of the files as they are: the table has what `download` found, and hands may have been there since
        self._sums: dict[str, list] = {}
        for name, found in contents(places.videos, places.work / "contents" / "videos.json").items():
            parts = name.split("/")  # person, video and, of clips that others cropped, clip
            self._sums.setdefault("/".join(["videos", *parts[:2]]), []).append([*parts[2:], found])

    def __len__(self) -> int:
        return self._table.num_rows

    def _rows(self) -> Iterator[dict]:
        """As dictionaries, a part of the table at a time: there may be a million."""
        for part in self._table.to_batches(max_chunksize=_INDEX_BATCH):
            yield from part.to_pylist()

    def fingerprint(self) -> list:
        """Changes with the list of videos, the bytes of one of them, or the annotations."""
        videos = [digest([*_name(row), row["split"], self._sums.get(row["path"])]) for row in self._rows()]
        return [videos, [sha256(file) for file in self._files]]

    def __iter__(self) -> Iterator[tuple[VideoJob, str]]:
        """(job, the digest of all that its result depends on besides the settings)."""
        for row in self._rows():
            person, video = _name(row)
            texts = self._annotations.texts(person, video) if self._annotations else {}
            crops = self._annotations.crops(person, video) if self._annotations else []
            path = str(self._data / row["path"]) if row["path"] else ""
            job = VideoJob(person, video, row["split"], path, texts, tuple(crops))
            yield job, digest(self._sums.get(row["path"]), texts, list(job.crops))


def _name(row: dict) -> tuple[str, str]:
    return row["person_id"], row["video_id"]


class Results:
    """What was made of each video: `<person>/<video>.bin`, the clips one after another, and `.json`, their rows.

    The JSON is written last, so a result is complete or absent. With it are the facts of a video that its worker
    fetched; with a status of `retry` they hold for this run alone.
    """

    def __init__(self, folder: Path, retry: frozenset[str] = frozenset()):
        self._folder, self._retry = folder, retry
        self._tried: set[tuple[str, str]] = set()
        self.notes = Notes(VERSION)

    def _path(self, job: VideoJob) -> Path:
        return self._folder / job.person_id / job.video_id  # names checked by `download`; ids may contain dots

    def _note(self, job: VideoJob) -> Path:
        path = self._path(job)
        return path.with_name(f"{path.name}.json")

    def has(self, job: VideoJob, key: str) -> bool:
        found = self.notes.read(self._note(job))
        if found is None or found["key"] != key:
            return False
        facts = found.get("facts")
        return facts is None or facts["status"] not in self._retry or (job.person_id, job.video_id) in self._tried

    def facts(self, job: VideoJob) -> dict:
        """What videos.parquet says of a video that was fetched by its worker."""
        return self.notes.read(self._note(job))["facts"]

    def write(self, job: VideoJob, key: str, clips: list[Clip], facts: dict | None = None) -> None:
        self._tried.add((job.person_id, job.video_id))
        path = self._path(job)
        rows, offset = [], 0
        with atomic_write(path.with_name(f"{path.name}.bin")) as part, open(part, "wb") as file:
            for clip in clips:
                row = {name: value for name, value in vars(clip).items() if name != "video"}
                if isinstance(clip.video, Blob):
                    row |= {"url": clip.video.path, "offset": clip.video.offset, "size": clip.video.size}
                elif clip.video is not None:
                    file.write(clip.video)
                    row |= {"offset": offset, "size": len(clip.video)}
                    offset += len(clip.video)
                rows.append(row)
        self.notes.write(self._note(job), {"key": key, "clips": rows, "facts": facts})

    def read(self, job: VideoJob, key: str) -> Iterator[tuple[dict, "Blob | None"]]:
        """(index row without shard and row, where the clip's bytes are) of each candidate."""
        path = self._path(job)
        for row in self.notes.read(self._note(job))["clips"]:
            offset, size, url = row.pop("offset", None), row.pop("size", None), row.pop("url", None)
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
                Blob(url or path.with_name(f"{path.name}.bin"), offset, size) if kept else None,
            )

    def sweep(self, jobs: Jobs, run: Callable[[Iterable[VideoJob]], Iterable[Done]]) -> Iterator:
        """Every (job, key) in the order of `jobs`, each once its result is there; `run` makes what is missing."""
        keys: dict[tuple[str, str], str] = {}

        def missing() -> Iterator[VideoJob]:
            for job, key in jobs:
                if not self.has(job, key):
                    keys[job.person_id, job.video_id] = key
                    yield job

        running = iter(run(missing()))
        for job, key in jobs:
            while not self.has(job, key):
                done, clips, facts = next(running)
                self.write(done, keys.pop((done.person_id, done.video_id)), clips, facts)
            yield job, key


@dataclass(frozen=True)
class Blob:
    """A clip's bytes, still in its file, which may lie in a store."""

    path: Path | str
    offset: int
    size: int

    def read(self) -> bytes:
        if is_url(self.path):
            return store.read(self.path, self.offset, self.size)
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


@dataclass(frozen=True)
class Pack:
    """What a shard is written from: its name, the index row of each clip, and where its bytes are."""

    name: str
    clips: list[tuple[dict, Blob]]


def write_shard(path: Path, pack: Pack) -> None:
    """Write a shard, which appears whole."""
    names = [name for name in schemas.CLIPS.names if name != "video"]
    with schemas.writer(path, schemas.CLIPS) as file:
        for row, blob in pack.clips:
            schemas.append(file, [{**{name: row[name] for name in names}, "video": blob.read()}])


class Shards:
    """The folder of shards and index that becomes `data/clips`; a context that writes the rest when it ends well.

    A shard that is there already is not written again. With `hand_over` nothing is written here: it gets each pack.
    """

    def __init__(self, folder: Path, clips_per_shard: int, hand_over: Callable[[Pack], None] | None = None):
        self.folder, self._hand_over = folder, hand_over
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
            if not any(fomm.lacking(row["box"], (row["height"], row["width"]))):  # FOMM's table knows no outside
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
        pack = Pack(path.name, self._open.pop(split))
        if self._hand_over:
            self._hand_over(pack)
        elif not path.exists():
            write_shard(path, pack)
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
