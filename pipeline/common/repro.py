"""The stages of dvc.yaml run one at a time as subprocesses, and the lock that keeps two runs of the road apart."""

import fcntl
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

from pipeline.params import read

# What DVC says when another DVC command holds its lock; waiting helps.
_BUSY = ("Unable to acquire lock", "is busy, it is being blocked by")


class Busy(RuntimeError):
    """Another DVC command is at work in this project; the same command may succeed a little later."""


class StageFailed(RuntimeError):
    """A command of the road ended with an error; the message names the stage."""


def stages(root: Path = Path()) -> tuple[str, ...]:
    """The stages' names in the order of dvc.yaml, which is the order of the road.

    Raises FileNotFoundError, or ValueError with the file and the line if it is not readable (conflict markers).
    """
    path = root / "dvc.yaml"
    if not path.is_file():
        raise FileNotFoundError(f"{path} not found: run from the project's root, where dvc.yaml is")
    found = read(path).get("stages")
    if not isinstance(found, dict):
        raise ValueError(f"{path} lists no stages: git checkout {path.name} restores the file")
    return tuple(found)


def reproduce(stage: str, root: Path = Path(), say: Callable[[str], None] = print, force: bool = False) -> bool:
    """Run `dvc repro` for this one stage, each line of its output given to `say` at once.

    True if the stage ran, False if nothing it depends on had changed. Raises StageFailed naming the stage, or Busy.
    """
    lines = dvc("repro", "--single-item", *(["--force"] if force else []), stage, name=stage, root=root, say=say)
    return not any(f"Stage '{stage}' didn't change" in line or f"Stage '{stage}' is cached" in line for line in lines)


def fetch(source: str, root: Path = Path(), say: Callable[[str], None] = print) -> list[str]:
    """Ask for what is new: data tracked by `dvc import` or `dvc import-url` is updated, then the stage `download` runs.

    `source` is `download.source`. The embedded sample never changes; every other source is looked at again, and the
    stages below run only if what came differs. What was asked, as text. Raises StageFailed or Busy.
    """
    asked = []
    imports = sorted(p for p in root.glob("data/**/*.dvc") if "frozen: true" in p.read_text())
    if imports:
        dvc("update", *(str(path.relative_to(root)) for path in imports), name="fetch", root=root, say=say)
        asked += [path.stem for path in imports]
    if source != "sample" and "download" in stages(root):
        reproduce("download", root=root, say=say, force=True)
        asked.append(f"download ({source})")
    return asked


def dvc(
    *arguments: str,
    name: str,
    root: Path = Path(),
    say: Callable[[str], None] = print,
    more: Mapping[str, str] = MappingProxyType({}),
) -> list[str]:
    """Run a dvc command, its output given to `say` line by line as it comes, and return the lines.

    `name` is what a StageFailed names, `more` is added to the environment. The child keeps the road's lock open, so the
    lock holds until it is gone too.
    """
    here = str(Path(sys.executable).parent)  # the stages' commands say `python`
    environment = {**os.environ, "PATH": f"{here}{os.pathsep}{os.environ['PATH']}", "PYTHONUNBUFFERED": "1", **more}
    lines = []
    process = subprocess.Popen(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=root,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        pass_fds=tuple(_held),
    )
    try:
        for line in process.stdout:
            if line.strip():
                lines.append(line.rstrip())
                say(line.rstrip())
        code = process.wait()
    finally:
        if process.poll() is None:  # we are being stopped: do not leave the stage behind
            process.terminate()
            process.wait()
    if code:
        if any(sign in line for line in lines for sign in _BUSY):
            raise Busy(f"{name}: another DVC command is at work in this project")
        raise StageFailed(f"stage {name} failed (dvc ended with {code}): {_reason(lines)}")
    return lines


def _reason(lines: list[str]) -> str:
    """The one line of a failed DVC command that says why: the stage's last words, or what DVC has against a file."""
    for before, line in zip(["", *lines], lines, strict=False):
        if line.startswith("ERROR: failed to reproduce"):
            return (before or line).removeprefix("error: ")
        if re.match(r"'.+' (is invalid|validation failed)", line):  # a picture of the place follows
            return line
    return lines[-1].removeprefix("ERROR: ") if lines else "no output"


_held: list[int] = []  # descriptors of the lock while this process holds it


@contextmanager
def only_one(root: Path = Path(), wait: bool = True, say: Callable[[str], None] = print) -> Iterator[None]:
    """Hold `work/road.lock` while the block runs, so that two runs of the road never overlap.

    If another process has it, say so and wait, or raise Busy when not `wait`. The system frees the lock when its
    holder and the dvc commands it started are gone, however they went: nothing stale can be left by a kill.
    """
    path = root / "work" / "road.lock"
    path.parent.mkdir(exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "another process"
            if not wait:
                raise Busy(f"another run of the road is at work ({holder})") from None
            say(f"another run of the road is at work ({holder}): waiting for it to end")
            started = time.monotonic()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            say(f"it ended; went on after {time.monotonic() - started:.0f} s")
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} since {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC\n".encode(), 0)
        _held.append(descriptor)
        try:
            yield
        finally:
            _held.remove(descriptor)
    finally:
        os.close(descriptor)
