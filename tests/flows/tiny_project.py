"""The real project as a fresh git checkout on the tiny profile: every stage at 32 px with a few steps."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import yaml
from small_project import ROOT, environment

STAGES = (
    "weights",
    "download",
    "crop",
    "pairs",
    "faceforensics",
    "train_reenactment",
    "train_swapping",
    "evaluate",
    "register",
)
TINY = {
    "image_size": 32,
    "sample": {
        "persons": 6,
        "test_persons": 2,
        "seconds": 3.5,
        "portraits": 24,
        "portrait_identities": 12,
        "test_identities": 4,
        "portrait_size": 64,
    },
    "model": {"max_channels": 16, "channel_base": 256},
    # one person's videos are left for training, too few for the loss `person`
    "train_reenactment": {"iterations": 4, "batch_size": 2, "adversarial_from": 2, "weights": {"person": 0.0}},
    "train_swapping": {"iterations": 4, "batch_size": 2, "skip_from": 2, "adversarial_from": 2, "half_until": 0},
    "evaluate": {"pairs": 4, "batch_size": 4, "grid_rows": 2},
    "compute": {"workers": 1, "cpus_per_worker": 1, "crop_workers": 1},
}
# Loose: what is shown is that the road ends in a decision; the decisions themselves have tests of their own.
PROMOTE = {
    "gates": {"reenactment.psnr": {"better": "higher", "floor": 0.0, "tolerance": 50.0}},
    "min_pairs": {"reenactment": 4, "swapping": 4},
}


def make_tiny(folder: Path) -> Path:
    """The working tree's files in a git repository of their own, nothing reproduced yet."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file() and not name.startswith("reports/") and name != "dvc.lock":
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    change_params(folder, TINY, promote=PROMOTE)
    git(folder, "init", "--quiet")
    commit(folder, "tiny profile")
    return folder


def change_params(folder: Path, changes: dict, **replaced: dict) -> None:
    """Set values of params.yaml, by sections and sections of these; `replaced` are whole sections."""

    def changed(values: object, change: object) -> object:
        if not isinstance(change, dict):
            return change
        return values | {name: changed(values.get(name), new) for name, new in change.items()}

    path = folder / "params.yaml"
    values = changed(yaml.safe_load(path.read_text()), changes)
    path.write_text(yaml.safe_dump(values | replaced, sort_keys=False))


def change_code(folder: Path, name: str, old: str, new: str) -> None:
    """Replace a piece of the code that is there once."""
    text = (folder / name).read_text()
    assert text.count(old) == 1, f"{name} has {old!r} {text.count(old)} times"
    (folder / name).write_text(text.replace(old, new))


def git(folder: Path, *arguments: str) -> None:
    """A git command that must succeed."""
    subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True)


def commit(folder: Path, message: str) -> None:
    """Everything that git does not ignore, as a commit."""
    git(folder, "add", "--all")
    git(folder, "-c", "user.name=Test", "-c", "user.email=test@localhost", "commit", "--quiet", "--message", message)


def tiny_environment(folder: Path, **more: str) -> dict[str, str]:
    """As of an activated environment, in which the checkout's own code comes first."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    clean = environment(folder, PATH=path, PYTHONPATH=str(folder), PWD=str(folder), PYTHONUNBUFFERED="1")
    return {name: value for name, value in clean.items() if not name.startswith("RAY_")} | more


def command(folder: Path, *arguments: str, seconds: float = 900, **more: str) -> subprocess.CompletedProcess:
    """A command of the environment's own bin in the checkout, to its end; both streams in `stdout`."""
    return subprocess.run(
        arguments,
        cwd=folder,
        env=tiny_environment(folder, **more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds,
        check=False,
    )


def start(folder: Path, log: Path, *arguments: str, **more: str) -> subprocess.Popen:
    """A command in a process group of its own, its output in the file `log`."""
    with log.open("w") as file:
        return subprocess.Popen(
            arguments,
            cwd=folder,
            env=tiny_environment(folder, **more),
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # as from a terminal: a shell has what it starts in the background ignore Ctrl-C
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )


def until(log: Path, text: str, process: subprocess.Popen, seconds: float = 900) -> None:
    """Wait for `text` in the output of a running command; AssertionError if it ends before, or time is up."""
    end = time.monotonic() + seconds
    while text not in log.read_text():
        assert process.poll() is None, f"ended with {process.returncode} before {text!r}:\n{log.read_text()[-3000:]}"
        assert time.monotonic() < end, f"no {text!r} in {seconds} s:\n{log.read_text()[-3000:]}"
        time.sleep(0.2)


def ran(output: str) -> list[str]:
    """The stages that DVC says it ran, in their order."""
    return re.findall(r"Running stage '(\w+)'", output)
