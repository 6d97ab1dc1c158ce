"""What a first `make repro` costs: this build and an earlier one in turn, a clone of each for every seed.

    python -m benchmarks.first_run --against 1dfdf18 0 1 7            # hours; writes the table into docs/results.md
    python -m benchmarks.first_run --set sample.persons=6 ... 0       # a smaller world, to try the benchmark itself

Counted is the processor time, user and system, of every process that `make repro` starts, Ray's too. Processes that
leave their parent, and those whose parent never waits for them (Ray's raylet), are missing from what `time` prints; so
the run gets a control group of its own, whose clock the kernel keeps. Where none can be made (no root), the processes
below the run are looked at four times a second and the last seen times added up: what a process does after its last
look is lost, some percent of short ones. The table says which way it was. A stage's share is what passed between the
lines with which DVC begins it and the next one. Set-up (`make setup`) comes first and is not counted.

Each run leaves its numbers in `work/first_run/<commit>-<seed>.json`; what is there is not run again.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from ruamel.yaml import YAML

from benchmarks.tables import write_between_marks
from pipeline.common.files import write_json

RESULTS = Path("docs/results.md")
BEFORE = "DVC, start"  # what is counted before the first stage and after the last one
STAGE = re.compile(r"Running stage '(\w+)'")
LOOK_EVERY = 0.25  # seconds


class Group:
    """A control group of our own that counts processor time, or ValueError if none can be made here."""

    def __init__(self, name: str) -> None:
        root = Path("/sys/fs/cgroup")
        unified = (root / "cgroup.controllers").is_file()  # else version 1, a tree for each controller
        parent = root if unified else next((root / n for n in ("cpuacct", "cpu,cpuacct") if (root / n).is_dir()), None)
        if parent is None:
            raise ValueError("this system counts no control group's processor time")
        self.folder, self._unified = parent / name, unified
        try:
            self.folder.mkdir()
        except OSError as error:
            raise ValueError(f"no control group can be made here: {error}") from error

    def entered_by(self, command: list[str]) -> list[str]:
        """The command, as one that enters the group before it begins."""
        return ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(self.folder), *command]

    def seconds(self) -> float:
        """Of all processes that are or ever were in the group."""
        if self._unified:
            found = re.search(r"usage_usec (\d+)", (self.folder / "cpu.stat").read_text())
            return int(found[1]) / 1e6
        return int((self.folder / "cpuacct.usage").read_text()) / 1e9

    def close(self) -> None:
        """Take the group away; only an empty one goes."""
        with suppress(OSError):
            self.folder.rmdir()


class Looking:
    """The same by looking at the processes below ours; for systems without a group of our own."""

    def __init__(self) -> None:
        self._ours, self._seen, self._over = psutil.Process(), {}, threading.Event()
        self._known = {self._ours.pid}
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def entered_by(self, command: list[str]) -> list[str]:
        """The command as it is."""
        return command

    def seconds(self) -> float:
        """Of all processes seen so far, to the last look at each."""
        self._look()
        return sum(list(self._seen.values()))

    def close(self) -> None:
        """Look no more."""
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(LOOK_EVERY):
            self._look()

    def _look(self) -> None:
        """Processes that left their parent are known from before, and so are their children."""
        for process in psutil.process_iter(["pid", "ppid", "create_time", "cpu_times"]):
            of = process.info
            if of["ppid"] in self._known or (of["pid"], of["create_time"]) in self._seen:
                self._known.add(of["pid"])
                if of["cpu_times"] is not None:
                    self._seen[of["pid"], of["create_time"]] = of["cpu_times"].user + of["cpu_times"].system


@contextmanager
def counter(name: str) -> Iterator[tuple["Group | Looking", str]]:
    """Whatever counts best here, and its name for the table."""
    try:
        found, way = Group(name), "control group"
    except ValueError as error:
        print(f"{error}: the processes are looked at instead")
        found, way = Looking(), "looking at processes"
    try:
        yield found, way
    finally:
        found.close()


def by_stage(lines: Iterator[str], clock: Callable[[], float]) -> dict[str, float]:
    """What the clock counted from the line that begins a stage to the next one's; the rest is DVC's and ours."""
    spent, stage, last = {}, BEFORE, clock()
    for line in lines:
        print(line, end="", flush=True)
        found = STAGE.search(line)
        # the end of the last stage: what follows is DVC's advice and the summary
        if found or line.startswith("To track the changes"):
            now = clock()
            spent[stage] = spent.get(stage, 0) + now - last
            stage, last = found[1] if found else BEFORE, now
    spent[stage] = spent.get(stage, 0) + clock() - last
    return spent


def prepared(root: Path, commit: str, seed: int, changes: dict[str, str], venv: Path | None) -> Path:
    """A clone of `commit` with these params, set up, nothing reproduced."""
    place = root / "work" / "first_run" / f"{commit}-{seed}"
    shutil.rmtree(place, ignore_errors=True)
    subprocess.run(["git", "clone", "--quiet", str(root), str(place)], check=True)
    subprocess.run(["git", "checkout", "--quiet", "--detach", commit], cwd=place, check=True)
    yaml, path = YAML(), place / "params.yaml"
    values = yaml.load(path.read_text(encoding="utf-8"))
    for name, text in ({"seed": str(seed)} | changes).items():
        *sections, key = name.split(".")
        part = values
        for section in sections:
            part = part[section]
        part[key] = yaml.load(text)
    with path.open("w", encoding="utf-8") as file:
        yaml.dump(values, file)
    if venv is None:
        subprocess.run(["make", "setup"], cwd=place, check=True)
        return place
    (place / ".venv").mkdir()  # a folder of links: make must find it newer than the clone, or it would begin it anew
    for entry in venv.resolve().iterdir():
        if entry.name != ".done":
            (place / ".venv" / entry.name).symlink_to(entry)
    (place / ".venv" / ".done").touch()
    return place


def measured(place: Path) -> dict:
    """`make repro` in the clone: processor seconds by stage, seconds of the clock, and the aims' numbers."""
    began = time.monotonic()
    with counter(f"first-run-{os.getpid()}") as (counts, way):
        run = subprocess.Popen(
            counts.entered_by(["make", "repro"]),
            cwd=place,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        stages = by_stage(run.stdout, counts.seconds)
        if run.wait():
            raise SystemExit(f"error: make repro failed in {place}")
    found = json.loads((place / "reports" / "metrics.json").read_text())
    return {"way": way, "stages": stages, "clock": time.monotonic() - began, "aims": aims(found)}


def aims(found: dict) -> dict[str, float]:
    """What README.md promises of a quick run, in its order."""
    stage1, controls, swap = found["reenactment"], found["controls"], found["swapping"]
    return {
        "dB above the mean frame": stage1["psnr"] - found["baselines"]["reenactment"]["mean_frame"]["psnr"],
        "dB lost by another driver": controls["reenactment"]["shuffled_driver"]["psnr_drop"],
        "like the source": swap["csim"],
        "like the target": swap["csim_target"],
        "right beats wrong": controls["swapping"]["wrong_source"]["right_beats_wrong"],
        "dB of face gained by the right source": controls["swapping"]["wrong_source"]["psnr_face_gain"],
        "PSNR(self)": controls["swapping"]["self"]["psnr"],
    }


def table(found: dict[str, dict[int, dict]]) -> str:
    """Builds and seeds across; stages, sums, share and aims down, as Markdown. The last build is the one compared."""
    runs = [(build, seed, run) for build, seeds in found.items() for seed, run in seeds.items()]
    lines = ["| processor seconds | " + " | ".join(f"{build}, seed {seed}" for build, seed, _ in runs) + " |"]
    lines.append("|---|" + "---:|" * len(runs))
    names = list(dict.fromkeys(name for *_, run in runs for name in run["stages"]))
    for name in names:
        lines.append(f"| {name} | " + " | ".join(f"{run['stages'].get(name, 0):.0f}" for *_, run in runs) + " |")
    sums = [sum(run["stages"].values()) for *_, run in runs]
    lines.append("| **in all** | " + " | ".join(f"**{total:.0f}**" for total in sums) + " |")
    theirs = {seed: sum(run["stages"].values()) for seed, run in found[list(found)[-1]].items()}
    shares = [f"{total / theirs[seed]:.2f}" for total, (_, seed, _) in zip(sums, runs, strict=True)]
    lines.append("| share of the earlier build's | " + " | ".join(shares) + " |")
    lines.append("| minutes of the clock | " + " | ".join(f"{run['clock'] / 60:.1f}" for *_, run in runs) + " |")
    for name in runs[0][2]["aims"]:
        lines.append(f"| {name} | " + " | ".join(f"{run['aims'][name]:.2f}" for *_, run in runs) + " |")
    ways = ", ".join(sorted({run["way"] for *_, run in runs}))
    return "\n".join([*lines, "", f"Counted by: {ways}; {os.cpu_count()} processors, {time.strftime('%Y-%m-%d')}."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seeds", type=int, nargs="+")
    parser.add_argument("--against", default="1dfdf18", metavar="COMMIT", help="the earlier build")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="to try it; writes no table")
    parser.add_argument("--venv", type=Path, help="an environment for all clones, instead of one each")
    options = parser.parse_args()
    root, changes = Path().resolve(), dict(pair.split("=", 1) for pair in options.set)
    commits = [
        subprocess.run(["git", "rev-parse", "--short", name], capture_output=True, text=True, check=True).stdout.strip()
        for name in ("HEAD", options.against)
    ]
    found: dict[str, dict[int, dict]] = {commit: {} for commit in commits}
    for seed in options.seeds:
        for commit in commits:  # in turn, so that a machine's moods meet both
            kept = root / "work" / "first_run" / f"{commit}-{seed}.json"
            if changes or not kept.is_file():
                run = measured(prepared(root, commit, seed, changes, options.venv))
                write_json(kept if not changes else kept.with_suffix(".tried.json"), run)
            else:
                run = json.loads(kept.read_text())
            found[commit][seed] = run
    print(table(found))
    if not changes:
        write_between_marks(root / RESULTS, "benchmarks/first_run.py", table(found))


if __name__ == "__main__":
    sys.exit(main())
