"""What a training says on its way: progress for people, curves and pictures for MLflow."""

import dataclasses
import queue
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.common.progress import step_due
from pipeline.tracking.journal import Journal, kept
from uniface.config import TrainConfig
from uniface.images import write_image


@contextmanager
def watched(task: str, config: TrainConfig, messages: Any, folder: Path, root: Path) -> Iterator[None]:
    """Follow a training in a thread while the block runs, as an MLflow run that ends as the block does.

    `messages` is a queue of ("start", step, workers), ("warn", step, text), ("log", step, values) and ("sample", step,
    picture). A training that is resumed in the same `folder` draws on in the same MLflow run.
    """
    journal = Journal(folder / "mlflow", root)
    with kept(journal, f"train_{task}", {"task": task, **dataclasses.asdict(config)}):
        watcher = Watcher(f"train_{task}", config.iterations, journal, folder)
        done = threading.Event()
        thread = threading.Thread(target=watcher.follow, args=(messages, done), daemon=True)
        thread.start()
        try:
            yield
        except KeyboardInterrupt:  # the workers are still at work, and would go on telling of it
            watcher.stopped = True
            raise
        finally:
            done.set()
            thread.join()


class Watcher:
    """Shows the messages of one training, and writes curves and pictures to its journal."""

    def __init__(self, stage: str, total: int, journal: Journal, folder: Path):
        self.stage, self.total, self.journal, self.folder = stage, total, journal, folder
        self.bar, self.told, self.stopped = None, 0, False

    def follow(self, messages: Any, done: threading.Event) -> None:
        """Handle messages until `done` is set and none is left."""
        while not self.stopped:
            last = done.is_set()
            try:
                kind, step, value = messages.get(timeout=0.5)
            except queue.Empty:
                if last:
                    break
                continue
            except Exception:  # Ray is gone, and the queue with it: the training itself says so
                break
            try:
                handle = {"start": self.start, "warn": self.warn, "log": self.log, "sample": self.sample}
                handle[kind](step, value)
            except Exception as error:  # not even a full disk may end a training, or its progress
                print(f"warning: {self.stage}, {kind} at step {step}: {error}", file=sys.stderr, flush=True)
        if self.bar is not None:
            self.bar.close()

    def warn(self, step: int, text: str) -> None:
        """Something the worker wants said."""
        print(f"warning: {self.stage}: {text}", file=sys.stderr, flush=True)

    def start(self, step: int, world: int) -> None:
        """A training begins, or goes on at `step`."""
        verb = f"resuming at step {step} of" if step else "starting:"
        workers = f"{world} worker{'s' if world > 1 else ''}"
        print(f"{self.stage}: {verb} {self.total} steps, {workers}", flush=True)
        self.began, self.first, self.told = time.monotonic(), step, step
        if sys.stderr.isatty():
            from tqdm import tqdm

            if self.bar is not None:
                self.bar.close()
            self.bar = tqdm(total=self.total, initial=step, desc=self.stage, unit="step")

    def log(self, step: int, values: dict[str, float]) -> None:
        """The means since the last log."""
        self.journal.metrics(values, step)
        shown = {name: value for name, value in values.items() if name not in ("lr", "pairs_per_second")}
        text = ", ".join(f"{name} {value:.3g}" for name, value in shown.items() if value or name != "unreadable")
        if self.bar is not None:
            self.bar.set_postfix_str(text)
            self.bar.update(step - self.bar.n)
            return
        if not step_due(step, self.told, self.total):
            return
        self.told = step
        left = (time.monotonic() - self.began) / max(1, step - self.first) * (self.total - step)
        rate = values["pairs_per_second"]
        print(f"{self.stage} {step}/{self.total}, {rate:.1f} pairs/s, {left:.0f} s left: {text}", flush=True)

    def sample(self, step: int, picture: np.ndarray) -> None:
        """A sample grid, uint8 (H, W, 3)."""
        path = self.folder / "samples" / f"{step:07d}.png"
        write_image(path, picture)
        self.journal.image(path, "sample", step)
