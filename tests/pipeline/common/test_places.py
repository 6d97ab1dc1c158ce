"""How a stage's command runs: once at a time, in folders of its own, and ended by Ctrl-C."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.common.places import Places, only_one_of

ROOT = Path(__file__).resolve().parents[3]
STAGE = """
import sys, time
from pipeline.common.places import main

def crop(params, places):
    print("at work", flush=True)
    {}

main(crop)
"""


def start(folder: Path, body: str) -> subprocess.Popen:
    (folder / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    code = [sys.executable, "-c", STAGE.format(body)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        code,
        cwd=folder,
        env=environment,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # started by a shell in the background, pytest ignores Ctrl-C, and so would what it starts
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def test_a_second_run_of_a_stage_waits_and_says_so(tmp_path):
    first = start(tmp_path, "sys.stdin.readline()")
    assert first.stdout.readline() == "at work\n"
    second = start(tmp_path, "pass")
    assert second.stdout.readline() == "crop: another run of this stage is at work here, waiting for it to end\n"
    with only_one_of("pairs", tmp_path / "work"):  # another stage does not wait
        first.communicate("go on\n", timeout=60)
    assert second.communicate(timeout=60) == ("at work\n", "") and second.returncode == first.returncode == 0


def test_ctrl_c_is_one_sentence_and_130(tmp_path):
    process = start(tmp_path, "time.sleep(60)")
    assert process.stdout.readline() == "at work\n"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert said == "interrupted: what is done is kept, the same command goes on from there\n"
    assert process.returncode == 130


@pytest.mark.parametrize("name", ["data", "data/videos", "data/clips", "data/pairs", "models", "reports"])
def test_outputs_on_another_disk_by_a_link_are_refused_before_the_work(tmp_path, name):
    elsewhere = tmp_path / "disk"
    elsewhere.mkdir()
    project = tmp_path / "project"
    (project / name).parent.mkdir(parents=True)
    (project / name).symlink_to(elsewhere)
    process = start(project, "pass")
    said, error = process.communicate(timeout=60)
    assert process.returncode == 1 and said == ""
    (line,) = error.splitlines()
    assert line.startswith(f"error: {name} is a link to {elsewhere}") and "dvc cache dir" in line
    assert (project / "work/failed.txt").read_text() == error  # what make shows last


def test_a_link_for_the_work_or_below_the_outputs_is_fine(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "work").symlink_to(tmp_path / "disk")
    (tmp_path / "data/clips").mkdir(parents=True)
    (tmp_path / "data/clips/train-00000.parquet").symlink_to(tmp_path / "disk")  # as DVC links into its cache
    Places(tmp_path).check()
