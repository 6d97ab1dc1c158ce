"""Ray's servers that end: the command begins again, twice. Real servers killed: tests/flows/test_killed_repro.py."""

import os
import subprocess
import sys
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[3]
BEGIN = """
import importlib.machinery, os, socket, subprocess, sys, time
from pipeline.common import lost
sys.modules["__main__"].__spec__ = importlib.machinery.ModuleSpec({name!r}, None)
print("begun", flush=True)
"""
SERVER = """
lost.SERVERS = ("sleep",)
server, other = subprocess.Popen(["sleep", "60"]), subprocess.Popen(["sleep", "61"])
print("children", server.pid, other.pid, flush=True)
lost.watch(None)
if {leaving}:
    lost.leave()
time.sleep(2.5)
print("at work", flush=True)
server.kill()
time.sleep({seconds})
other.kill()
"""
CLUSTER = """
lost.PATIENCE = 1
listening = socket.create_server(("127.0.0.1", 0))
lost.watch("127.0.0.1:%d" % listening.getsockname()[1])
time.sleep(2)
print("it answers", flush=True)
listening.close()
time.sleep(60)
"""


def run(folder: Path, code: str, name: str = "pipeline.train") -> subprocess.CompletedProcess:
    """The code in a process that takes itself for the command of a module called `name`."""
    (folder / "work").mkdir()
    code = BEGIN.format(name=name) + code
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )


def runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_command_begins_again_twice_and_then_says_how_it_ends(tmp_path):
    done = run(tmp_path, SERVER.format(leaving=False, seconds=60))
    assert done.returncode == 1 and done.stdout.count("begun\n") == done.stdout.count("at work\n") == 3
    *again, last = done.stderr.splitlines()
    assert again == ["warning: Ray was lost, beginning again from what is done"] * 2
    assert last == "error: Ray was lost 3 times: the same command goes on from what is done"
    assert (tmp_path / "work/failed.txt").read_text() == f"{last}\n"
    started = [int(pid) for line in done.stdout.splitlines() if line.startswith("children") for pid in line.split()[1:]]
    assert len(started) == 6 and not any(map(runs, started))


def test_who_leaves_ray_or_is_no_command_goes_on(tmp_path):
    for name, leaving in (("pipeline.train", True), ("__main__", False)):
        folder = tmp_path / name
        folder.mkdir()
        done = run(folder, SERVER.format(leaving=leaving, seconds=4), name)
        assert (done.returncode, done.stdout.count("begun"), done.stderr) == (0, 1, "")


def test_a_cluster_that_is_gone_is_one_sentence(tmp_path):
    done = run(tmp_path, CLUSTER)
    assert done.returncode == 1 and done.stdout == "begun\nit answers\n"
    (said,) = done.stderr.splitlines()
    assert said.startswith("error: the Ray cluster at 127.0.0.1:") and said.endswith(
        " is gone: the same command goes on from what is done"
    )
