"""`python -m flows.reproduce` with no server: what `dvc repro` does, and a failing stage by its name."""

import logging
import subprocess
import sys
import time

import psutil
import pytest
from small_project import environment, make_project, run

from pipeline.common.repro import Busy, StageFailed


class State:
    """A failed task's state, as Prefect hands it to the retry condition."""

    def __init__(self, error):
        self.error = error

    def result(self, raise_on_failure):
        assert raise_on_failure is False
        return self.error


def test_only_a_busy_lock_is_retried():
    from flows.reproduce import only_if_busy  # Prefect takes a second to import, which the other tests do without

    assert only_if_busy(None, None, State(Busy("held")))
    assert not only_if_busy(None, None, State(StageFailed("stage crop failed")))


def test_an_expected_failure_is_logged_without_its_traceback():
    from flows.reproduce import without_tracebacks

    for error, kept in ((StageFailed("stage crop failed"), False), (ZeroDivisionError(), True)):
        record = logging.LogRecord("", logging.ERROR, "", 0, "failed", (), (type(error), error, None))
        assert without_tracebacks(record)
        assert bool(record.exc_info) is kept


@pytest.mark.slow
def test_without_a_server_every_stage_then_a_failing_one(tmp_path):
    project = make_project(tmp_path / "project", quality=20.0)
    (project / "dvc.yaml").write_text(
        "stages:\n"
        "  one:\n    cmd: echo hello\n    deps: [raw]\n"
        "  crop:\n    cmd: python -c \"raise SystemExit('no face')\"\n    deps: [raw]\n"
        "  after:\n    cmd: touch after.txt\n    deps: [raw]\n"
    )
    done = run(project, "flows.reproduce")
    assert done.returncode == 1
    assert "Task run 'one' - hello" in done.stdout and "no face" in done.stdout
    assert "error: stage crop failed" in done.stdout and "Traceback" not in done.stdout
    assert not (project / "after.txt").exists()


@pytest.mark.slow
def test_a_flow_killed_with_9_leaves_no_server_behind(tmp_path):
    from flows.reproduce import TEMPORARY_SERVER

    project = make_project(tmp_path / "project", quality=20.0)
    (project / "dvc.yaml").write_text("stages:\n  one:\n    cmd: echo asleep && sleep 5\n    deps: [raw]\n")
    command, environ = [sys.executable, "-m", "flows.reproduce"], environment(project)
    with (tmp_path / "log.txt").open("w") as log:
        flow = subprocess.Popen(command, cwd=project, env=environ, stdout=log, stderr=subprocess.STDOUT)
    end = time.monotonic() + 240
    while "- asleep" not in (tmp_path / "log.txt").read_text():
        assert flow.poll() is None and time.monotonic() < end, (tmp_path / "log.txt").read_text()
        time.sleep(0.2)
    children = psutil.Process(flow.pid).children(recursive=True)
    servers = [child for child in children if TEMPORARY_SERVER in " ".join(child.cmdline()[:8])]
    assert any("uvicorn" in server.cmdline() for server in servers)
    flow.kill()
    flow.wait()
    assert psutil.wait_procs(servers, 60)[1] == []
