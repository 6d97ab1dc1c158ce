"""Where everything of a project lies, and the one way in which a stage's command runs."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from pipeline.common.timing import timed
from pipeline.params import load_or_exit
from pipeline.sections import Params

SHARED_WORK = "UNIFACE_WORK"
"""Of the environment: the folder that `work` is a link to, where there is none; experiments share theirs by it."""


@dataclass(frozen=True)
class Places:
    """The folders and files of the project at `root`; nothing here looks whether they exist."""

    root: Path = Path()

    @property
    def data(self) -> Path:
        """What the data stages write."""
        return self.root / "data"

    @property
    def videos(self) -> Path:
        """Source videos, `<person>/<video>.mp4`; their table lies beside the folder, as videos.parquet."""
        return self.data / "videos"

    @property
    def annotations(self) -> Path:
        """Annotations of the source videos."""
        return self.data / "annotations"

    @property
    def clips(self) -> Path:
        """Shards of face clips and their index."""
        return self.data / "clips"

    @property
    def pairs(self) -> Path:
        """Shards of portraits and the tables of pairs."""
        return self.data / "pairs"

    @property
    def faceforensics(self) -> Path:
        """Crops of FaceForensics++ and the table of pairs, as in `pairs`."""
        return self.data / "faceforensics"

    @property
    def nets(self) -> Path:
        """The frozen networks and weights.json, which describes them."""
        return self.data / "weights"

    @property
    def reports(self) -> Path:
        """What a person reads: numbers, tables, pictures."""
        return self.root / "reports"

    @property
    def work(self) -> Path:
        """What is not finished, or took too long to make twice; never an output."""
        return self.root / "work"

    def model(self, task: str) -> Path:
        """The trained model of a task."""
        return self.root / "models" / f"{task}.safetensors"

    def check(self) -> None:
        """Raise ValueError if a folder of outputs is a link: no stage could replace it, and DVC would not take it."""
        folders = (self.videos, self.annotations, self.clips, self.pairs, self.faceforensics, self.nets)
        for folder in (self.data, *folders, self.root / "models", self.reports):
            if folder.is_symlink():
                raise ValueError(
                    f"{folder} is a link to {folder.readlink()}, which DVC does not take for an output: make it a "
                    f"folder (mount the other disk there, or keep the bytes there with dvc cache dir)"
                )


_show = sys.excepthook


def _interrupted(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Ctrl-C ends every command, also while it imports, in one sentence and the status that shells give for it."""
    if not issubclass(kind, KeyboardInterrupt):
        _show(kind, error, trace)
        return
    print("interrupted: what is done is kept, the same command goes on from there", file=sys.stderr)
    raise SystemExit(130)


sys.excepthook = _interrupted


def main(stage: Callable[[Params, Places], Any], name: str = "") -> None:
    """Run a stage in the current folder as params.yaml says, once at a time; `name`, if its function has another one.

    What a user can mend ends in one sentence and exit status 1; wrong params in 2.
    """
    params, places = load_or_exit(), Places()
    try:
        make_work(places.work)
        places.check()
        name = name or stage.__name__
        with only_one_of(name, places.work), timed(name, params, places.work):
            stage(params, places)
    except (ValueError, OSError, RuntimeError) as error:
        say_failed(error, places)
        raise SystemExit(1) from None


def make_work(work: Path) -> None:
    """Make the folder `work` if it is missing; a link to that of `SHARED_WORK` if the environment names one."""
    shared = os.environ.get(SHARED_WORK)
    if not shared:
        work.mkdir(exist_ok=True)
    elif not work.exists():
        Path(shared).mkdir(parents=True, exist_ok=True)
        work.symlink_to(shared, target_is_directory=True)


def say_failed(why: object, places: Places) -> None:
    """Say why a stage fails, and leave it where `make repro` finds it to say it again, below what DVC says."""
    print(f"error: {why}", file=sys.stderr, flush=True)
    with suppress(OSError):
        (places.work / "failed.txt").write_text(f"error: {why}\n", encoding="utf-8")


@contextmanager
def only_one_of(stage: str, work: Path) -> Iterator[None]:
    """Hold a stage's lock, waiting for another run of it: a killed DVC frees its own lock, its child works on."""
    from filelock import FileLock, Timeout

    lock = FileLock(work / f"{stage}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"{stage}: another run of this stage is at work here, waiting for it to end", flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
