"""The stages one by one, what is said when one fails, and the lock: in small projects with real DVC."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pipeline.common import repro as road

ROOT = Path(__file__).resolve().parents[3]
DVC_YAML = """
stages:
  one:
    cmd: python -c "print('hello from one'); open('one.txt', 'w').write(open('raw.txt').read())"
    deps: [raw.txt]
    outs: [one.txt]
  download:
    cmd: python -c "open('two.txt', 'w').write(open('one.txt').read() * 2)"
    deps: [one.txt]
    outs: [two.txt]
  broken:
    cmd: python -c "raise SystemExit('no such face')"
    deps: [two.txt]
"""


@pytest.fixture
def project(tmp_path):
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text("[core]\n    no_scm = true\n    analytics = false\n")
    (tmp_path / "dvc.yaml").write_text(DVC_YAML)
    (tmp_path / "raw.txt").write_text("a")
    return tmp_path


def test_stages_run_in_order_and_only_when_something_changed(project):
    assert road.stages(project) == ("one", "download", "broken")
    said = []
    assert road.reproduce("one", project, said.append) is True
    assert "hello from one" in said
    assert road.reproduce("one", project, said.append) is False
    assert road.reproduce("download", project, said.append) is True
    assert (project / "two.txt").read_text() == "aa"
    with pytest.raises(road.StageFailed, match=r"^stage broken failed \(dvc ended with \d+\): no such face$"):
        road.reproduce("broken", project, said.append)
    assert "no such face" in said


def test_fetch_runs_download_again_unless_the_source_is_the_sample(project):
    said = []
    road.reproduce("one", project, said.append)
    assert road.fetch("sample", project, said.append) == []
    assert not (project / "two.txt").exists()
    assert road.fetch("folder", project, said.append) == ["download (folder)"]
    assert (project / "two.txt").read_text() == "aa"


def test_a_dvc_lock_is_told_from_a_failure(project, tmp_path_factory):
    """While another dvc command holds the lock, the stage is Busy, which a flow retries; it did not fail."""
    (project / "dvc.yaml").write_text("stages:\n  slow:\n    cmd: sleep 30\n    outs: [two.txt]\n")
    command = [sys.executable, "-m", "dvc", "repro"]
    other = subprocess.Popen(command, cwd=project, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert any("sleep 30" in line for line in other.stdout)
        with pytest.raises(road.Busy, match="slow: another DVC command"):
            road.reproduce("slow", project, print)
    finally:
        subprocess.run(["kill", *_children(other.pid)], check=False)
        other.kill()
        other.wait()


def _children(pid):
    return subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False).stdout.split()


def test_no_dvc_yaml_says_where_to_stand(tmp_path):
    with pytest.raises(FileNotFoundError, match="run from the project's root"):
        road.stages(tmp_path)


CONFLICT = "schema: '2.0'\nstages:\n<<<<<<< HEAD\n  one:\n    cmd: a\n=======\n  one:\n    cmd: b\n>>>>>>> theirs\n"


def test_conflict_markers_are_said_with_their_file(project):
    (project / "dvc.lock").write_text(CONFLICT)
    with pytest.raises(road.StageFailed) as caught:
        road.reproduce("one", project, print)
    assert str(caught.value).endswith("'./dvc.lock' is invalid (possible merge conflicts).")
    (project / "dvc.yaml").write_text(CONFLICT)
    with pytest.raises(ValueError, match=r"dvc\.yaml, line \d is not valid YAML"):
        road.stages(project)


def test_what_a_killed_process_started_ends_with_it(tmp_path):
    child = "import time; time.sleep(100); 'words-of-a-server'"
    other = "import time; time.sleep(100); 'something-else'"
    body = f"""
import subprocess, sys, time
from pipeline.common.orphans import end_with_us
end_with_us("words-of-a-server")
print(*(subprocess.Popen([sys.executable, "-c", code]).pid for code in ({child!r}, {other!r})), flush=True)
time.sleep(100)
"""
    process = subprocess.Popen([sys.executable, "-c", body], stdout=subprocess.PIPE, text=True)
    server, kept = (psutil.Process(int(pid)) for pid in process.stdout.readline().split())
    process.kill()
    process.wait()
    try:
        server.wait(30)
        assert kept.is_running() and kept.status() != psutil.STATUS_ZOMBIE
    finally:
        kept.kill()


HOLD = """
import sys, time
from pipeline.common.repro import only_one
with only_one():
    print('in', flush=True)
    {}
"""


def holder(folder, body):
    code = HOLD.format(body)
    return subprocess.Popen([sys.executable, "-c", code], cwd=folder, stdout=subprocess.PIPE, text=True)


def test_a_second_run_waits_and_says_so(tmp_path):
    first = holder(tmp_path, "sys.stdin.readline(); time.sleep(0.7)")
    assert first.stdout.readline() == "in\n"
    with pytest.raises(road.Busy, match=f"process {first.pid} since"), road.only_one(tmp_path, wait=False):
        pass
    said = []
    with road.only_one(tmp_path, say=said.append):
        assert first.poll() is not None or first.wait(5) == 0
    assert "waiting" in said[0] and "went on after" in said[1]


def test_a_killed_holder_leaves_nothing_behind(tmp_path):
    first = holder(tmp_path, "time.sleep(60)")
    assert first.stdout.readline() == "in\n"
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    with road.only_one(tmp_path, wait=False):
        assert f"process {os.getpid()} " in (tmp_path / "work/road.lock").read_text()


def test_the_lock_holds_while_an_orphaned_dvc_is_at_work(project):
    """kill -9 of a flow leaves its dvc command running; the next flow waits for that too."""
    (project / "dvc.yaml").write_text("stages:\n  slow:\n    cmd: sleep 3\n    outs: [two.txt]\n")
    body = "from pipeline.common.repro import reproduce; reproduce('slow', say=lambda line: print(line, flush=True))"
    first = holder(project, body)
    assert any("sleep 3" in line for line in first.stdout)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    with pytest.raises(road.Busy), road.only_one(project, wait=False):
        pass
    started = time.monotonic()
    with road.only_one(project, say=lambda line: None):
        assert time.monotonic() - started < 30
