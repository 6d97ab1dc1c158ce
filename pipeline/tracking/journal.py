"""The log of a training: a file first, then MLflow, so that nothing of MLflow can delay a training or lose a point.

Every message is a line of `log.jsonl` at once. A thread sends the lines in their order; `sent` holds how many bytes of
them are in MLflow, `run` the run's id. What a server that is away does not take is sent when it is back, by the next
training or by the stage `register` if need be; a run that is gone is made anew with all of its lines.
"""

import json
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

from pipeline.common.files import atomic_write
from pipeline.tracking.runs import flatten
from pipeline.tracking.store import experiment, initialise, plain_errors

BATCH = 100  # lines in one request at most; MLflow takes 1,000 values in one
EVERY = 5.0  # seconds between two requests
PATIENCE = 20.0  # seconds that the end of a training waits for MLflow at most


class Journal:
    """The log of one training in `folder`, part of the project at `root`. One process writes, one at a time sends."""

    def __init__(self, folder: Path, root: Path):
        self.folder, self.root = folder, root
        self.lines, self._sent, self._run = folder / "log.jsonl", folder / "sent", folder / "run"

    def begin(self, name: str, settings: Mapping[str, Any]) -> None:
        """A training begins, or goes on: the run's name and its settings."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.lines.is_file() and not self.lines.read_bytes().endswith(b"\n"):
            with self.lines.open("ab") as file:  # killed in mid-line
                file.write(b"\n")
        self._write("begin", name=name, params={key: str(value) for key, value in flatten(settings).items()})

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Scalars at `step`."""
        self._write("metrics", step=step, values={key: float(value) for key, value in values.items()})

    def image(self, path: Path, key: str, step: int) -> None:
        """A picture's file, which MLflow shows as a series over steps under `key`."""
        self._write("image", path=str(path.resolve().relative_to(self.root.resolve())), key=key, step=step)

    def end(self, status: str) -> None:
        """The training ended: FINISHED or FAILED."""
        self._write("end", status=status)

    def _write(self, kind: str, **values: Any) -> None:
        line = json.dumps({"kind": kind, "time": int(time.time() * 1000), **values}) + "\n"
        with self.lines.open("ab") as file:
            file.write(line.encode())

    def pending(self) -> bool:
        """Is there a line that MLflow lacks?"""
        return self.lines.is_file() and self.lines.stat().st_size > self._offset()

    def _offset(self) -> int:
        return int(self._sent.read_text()) if self._sent.is_file() and self._run.is_file() else 0

    def send(self) -> None:
        """Send what MLflow lacks. ValueError if MLflow does not take it; what was sent until then is sent once."""
        if self.pending():
            with plain_errors():
                self._send_pending()

    def _send_pending(self) -> None:
        import mlflow

        initialise(self.root)
        client, run = mlflow.MlflowClient(), self._open_run()
        start = self._offset()
        with self.lines.open("rb") as file:
            file.seek(start)
            whole = [line for line in file if line.endswith(b"\n")]
        for kind, group in groupby(whole, _kind):
            lines = list(group)
            size = BATCH if kind == "metrics" else 1
            for first in range(0, len(lines), size):
                part = lines[first : first + size]
                try:
                    self._send_lines(client, run, kind, [json.loads(line) for line in part] if kind else [])
                except mlflow.MlflowException as error:
                    if error.error_code != "INVALID_PARAMETER_VALUE":
                        raise
                    say(self, f"MLflow refused {kind}: {first_line(error)}")
                start += sum(map(len, part))
                _note(self._sent, str(start))

    def _send_lines(self, client: Any, run: str, kind: str, lines: list[dict]) -> None:
        from mlflow.entities import Metric, Param

        if kind == "metrics":
            values = [Metric(k, v, line["time"], line["step"]) for line in lines for k, v in line["values"].items()]
            for first in range(0, len(values), 1000):
                client.log_batch(run, metrics=values[first : first + 1000])
        elif kind == "begin":
            client.update_run(run, status="RUNNING")
            client.log_batch(run, params=[Param(key, value) for key, value in lines[0]["params"].items()])
        elif kind == "image" and (path := self.root / lines[0]["path"]).is_file():
            from uniface.images import read_image

            client.log_image(run, read_image(path), key=lines[0]["key"], step=lines[0]["step"])
        elif kind == "end":
            client.set_terminated(run, lines[0]["status"], lines[0]["time"])

    def run_id(self) -> str | None:
        """The MLflow run of these lines, None before MLflow has one."""
        return self._run.read_text() if self._run.is_file() else None

    def _open_run(self) -> str:
        """The run that the lines go to: the known one, or, where that is gone, a new one that gets all lines."""
        import mlflow
        from mlflow.tracking.context.registry import resolve_tags

        client, known = mlflow.MlflowClient(), self.run_id()
        if known:
            try:
                if client.get_run(known).info.lifecycle_stage == "active":
                    return known
            except mlflow.MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
            say(self, f"its MLflow run {known} was deleted or is elsewhere: a new one gets the whole curve")
        with self.lines.open("rb") as file:
            first = json.loads(file.readline())
        made = client.create_run(experiment(), first["time"], resolve_tags(), run_name=first["name"])
        self._sent.unlink(missing_ok=True)
        _note(self._run, made.info.run_id)
        return made.info.run_id


def _kind(line: bytes) -> str:
    try:
        return json.loads(line)["kind"]
    except ValueError:  # the half line of a kill
        return ""


def _note(path: Path, text: str) -> None:
    with atomic_write(path) as part:
        part.write_text(text)


def first_line(error: Exception) -> str:
    """What an error says, on one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def say(journal: Journal, text: str) -> None:
    """A warning that names the training."""
    print(f"warning: {journal.folder.parent.parent.name}: {text}", file=sys.stderr, flush=True)


@contextmanager
def kept(journal: Journal, name: str, settings: Mapping[str, Any]) -> Iterator[None]:
    """Send the journal while the block runs, as an MLflow run that ends as the block does, with what the machine does.

    The end waits for MLflow `PATIENCE` seconds at most. Nothing of MLflow raises: what it does not take is kept.
    """
    journal.begin(name, settings)
    sender = _Sender(journal)
    sender.start()
    status = "FAILED"
    try:
        yield
        status = "FINISHED"
    finally:
        try:
            journal.end(status)
        except OSError as error:  # a full disk
            say(journal, f"the log has no end: {first_line(error)}")
        sender.closing.set()
        sender.join(PATIENCE)
        if sender.is_alive():
            sender.warn("MLflow takes too long")


class _Sender(threading.Thread):
    """Sends one journal until it is closed, then what is left of others."""

    def __init__(self, journal: Journal):
        super().__init__(daemon=True, name="mlflow")
        self.journal, self.closing, self.away = journal, threading.Event(), False
        self.monitor: Any = None

    def warn(self, reason: str) -> None:
        """Once for all that is kept, until MLflow answers again."""
        if not self.away:
            place = self.journal.folder.relative_to(self.journal.root)
            say(self.journal, f"{reason}; training goes on, its log is kept in {place} and sent by a later run")
        self.away = True

    def run(self) -> None:
        from filelock import FileLock

        with FileLock(self.journal.folder / "lock"):
            while True:
                last = self.closing.is_set()
                if last and self.monitor is not None and not self.away:
                    self.monitor.finish()
                try:
                    self.journal.send()
                    self._watch_machine()
                    if self.away:
                        print(f"{self.journal.folder.parent.parent.name}: MLflow answers again", flush=True)
                    self.away = False
                except Exception as error:  # no trouble of a log may end a training
                    self.monitor = None
                    self.warn(first_line(error))
                if last:
                    break
                self.closing.wait(EVERY)
        if not self.away:
            send_leftovers(self.journal.root)

    def _watch_machine(self) -> None:
        """CPU, memory, disk and GPU every 10 s, by MLflow's own monitor; it stops at the first failure."""
        if self.monitor is None and not self.closing.is_set():
            from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

            self.monitor = SystemMetricsMonitor(self.journal.run_id(), resume_logging=True)
            self.monitor.start()


def send_leftovers(root: Path) -> None:
    """Send what trainings under `root` left behind when MLflow was away; in vain, the next call tries again."""
    from filelock import FileLock, Timeout

    for folder in sorted(root.glob("work/*/*/mlflow")):
        journal = Journal(folder, root)
        if not journal.pending():
            continue
        try:
            with FileLock(folder / "lock", timeout=0):
                journal.send()
        except Timeout:  # its training is running
            continue
        except Exception as error:  # no trouble of a log may end a stage
            say(journal, f"its log is still not in MLflow: {first_line(error)}")
            return
