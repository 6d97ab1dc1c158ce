"""One model at work for several people: requests are queued and done one after the other, with their progress."""

import logging
import shutil
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from uniface.config import TASKS
from uniface.use import origin, pictures, video
from uniface.use.api import FaceEditor

WAITING = 8
"""Requests that may wait; a further one is refused."""
KEPT = 16
"""Finished requests whose results are kept."""

State = Literal["waiting", "running", "done", "failed", "stopped"]


class Stopped(Exception):
    """Somebody no longer wants the result."""


@dataclass
class Job:
    """A request: `files` has the results by name, `error` a sentence for the person who asked."""

    task: str
    source: Path
    target: Path
    face: str
    key: str = field(default_factory=lambda: uuid.uuid4().hex)
    state: State = "waiting"
    done: int = 0  # frames of a video
    total: int = 0
    began: float = 0.0
    error: str = ""
    files: dict[str, Path] = field(default_factory=dict)
    stopping: bool = False

    @property
    def over(self) -> bool:
        return self.state not in ("waiting", "running")

    def advance(self, done: int, total: int) -> None:
        """Frames that are done, of about so many. Raises Stopped."""
        self.done, self.total = done, total
        if self.stopping:
            raise Stopped

    @property
    def seconds_left(self) -> float | None:
        """About, or None where nothing is known yet."""
        if self.state != "running" or not self.done:
            return None
        return (time.monotonic() - self.began) / self.done * max(self.total - self.done, 0)


class Jobs:
    """The queue of an `editor`; results lie in `folder`. Close it at the end: what runs is then stopped."""

    def __init__(self, editor: FaceEditor, folder: Path):
        self._editor, self._folder = editor, folder
        self._all: dict[str, Job] = {}
        self._lock = threading.Lock()
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")

    def add(self, task: str, source: Path, target: Path, face: str = "largest") -> Job:
        """Queue a request. Raises ValueError for a task that this model has not, or if too many wait."""
        if task not in self.tasks:
            raise ValueError(f"this model cannot do {task}: it was trained for {' and '.join(self.tasks)}")
        if face not in ("largest", "all"):
            raise ValueError(f"face is {face!r}: use largest or all")
        with self._lock:
            if sum(job.state == "waiting" for job in self._all.values()) >= WAITING:
                raise ValueError(f"{WAITING} requests are waiting already: try again in a while")
            job = Job(task, source, target, face)
            self._all[job.key] = job
            for old in [job for job in self._all.values() if job.over][:-KEPT]:
                del self._all[old.key]
                shutil.rmtree(self._folder / old.key, ignore_errors=True)
        self._worker.submit(self._run, job)
        return job

    @property
    def tasks(self) -> list[str]:
        return [task for task in TASKS if task in self._editor.files.models]

    def get(self, key: str) -> Job:
        """Raises KeyError if there is none, or none any more."""
        return self._all[key]

    def ahead(self, job: Job) -> int:
        """How many requests are done before this one begins."""
        before = list(self._all.values())
        return sum(not other.over for other in before[: before.index(job)]) if job in before else 0

    def in_use(self) -> set[Path]:
        """Files that a request still needs."""
        return {path for job in list(self._all.values()) if not job.over for path in (job.source, job.target)}

    def close(self) -> None:
        """Stop what runs and forget what waits."""
        for job in list(self._all.values()):
            job.stopping = True
        self._worker.shutdown(cancel_futures=True)

    def _run(self, job: Job) -> None:
        job.state, job.began = "running", time.monotonic()
        try:
            job.advance(0, 0)
            self._edit(job)
            job.state = "done"
        except Stopped:
            job.state = "stopped"
        except (ValueError, OSError) as error:
            job.error, job.state = self._said(str(error), job), "failed"
        except Exception:  # a thread's errors are seen by nobody
            logging.getLogger("uvicorn.error").exception("a request failed")
            job.error, job.state = "an error in the program: the terminal that it runs in says more", "failed"

    def _said(self, sentence: str, job: Job) -> str:
        """Without the folders of this machine."""
        for path in (job.source, job.target, self._folder / job.key / "x"):
            sentence = sentence.replace(f"{path.parent}/", "")
        return sentence

    def _edit(self, job: Job) -> None:
        folder = self._folder / job.key
        folder.mkdir(parents=True)
        composite = job.task == "swapping"
        mark = origin.Mark(job.task, composite, self._editor.files.version, self._editor.digest(job.task))
        source = pictures.read(job.source)
        source = pictures.Picture(source.rgb, name=job.source.name)
        if video.is_video(job.target):
            options: dict[str, Any] = {"face": job.face, "fps": video.rate(job.target)}
            session = self._editor.session(job.task, source, **options)
            result = folder / f"{job.task}.mp4"
            video.edit(session, job.target, result, mark, job.key, composite, job.advance)
            target = pictures.Picture(video.first_frame(job.target), name=job.target.name)
        else:
            target = pictures.read(job.target)
            verb: Callable = self._editor.swap if composite else self._editor.reenact
            image = verb(source, target, face=job.face)
            result = folder / f"{job.task}.png"
            pictures.write(result, image, mark, job.target if composite else None)
        job.files["result"] = result
        for name, picture in self._inside(job.task, source, target).items():
            job.files[name] = folder / f"{name}.png"
            pictures.write(job.files[name], pictures.Picture(picture), mark)

    def _inside(self, task: str, source: pictures.Picture, target: pictures.Picture) -> dict[str, np.ndarray]:
        """The FDF and attention of the largest face, as pictures; of a video without one at its beginning, none."""
        try:
            return self._editor.explain(task, source, target)
        except ValueError:
            return {}
