"""The retraining in a small project: what it promotes and refuses, two at once. The real road: test_tiny_road.py."""

import subprocess
import sys

import pytest
import yaml
from small_project import ROOT, environment, make_project, run

from pipeline.common.notify import notify, retraining
from pipeline.tracking import versions


def test_report_says_what_ran_what_was_decided_and_what_failed():
    text = retraining(90, ["download (folder)"], {"download": True, "crop": False}, table="version 3: promoted")
    assert "done after 1.5 min" in text and "| download | ran |" in text and "| crop | up to date |" in text
    assert text.endswith("version 3: promoted")
    failed = retraining(5, [], {}, error=RuntimeError("stage crop failed"))
    assert "failed" in failed and "`RuntimeError`: stage crop failed" in failed


def test_a_dead_webhook_is_said_without_its_secret_address(monkeypatch):
    said = []
    monkeypatch.delenv("UNIFACE_WEBHOOK", raising=False)
    assert notify("text", said.append) is False and said == []
    monkeypatch.setenv("UNIFACE_WEBHOOK", "http://127.0.0.1:9/secret-token")
    assert notify("text", said.append) is False
    assert "ConnectionError" in said[0] and "secret" not in said[0]


def test_the_deployment_has_a_schedule_a_process_pool_and_one_run_at_a_time():
    (deployment,) = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    module, _, flow = deployment["entrypoint"].partition(":")
    assert (ROOT / module).is_file() and f"def {flow}(" in (ROOT / module).read_text()
    assert deployment["schedules"][0]["cron"] and deployment["work_pool"]["name"] == "uniface"
    assert deployment["concurrency_limit"]["limit"] == 1


def serving(folder):
    aliases = versions.Registry("uniface", folder).aliases()
    return aliases.get("champion"), aliases.get("previous")


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return make_project(tmp_path / "project", quality=20.0)


@pytest.mark.slow
def test_by_hand_then_new_data_then_worse_data_then_two_at_once(project, prefect_server):
    first = run(project, "flows.retrain", PREFECT_API_URL=prefect_server)
    assert first.returncode == 0, first.stdout
    assert "version 1 (no champion yet): promoted" in first.stdout and serving(project) == ("1", None)

    (project / "raw/quality.txt").write_text("12")  # what came since is bad: the new model is refused
    worse = run(project, "flows.retrain", PREFECT_API_URL=prefect_server)
    assert worse.returncode == 0 and "refused" in worse.stdout and serving(project) == ("1", None)

    (project / "raw/quality.txt").write_text("21")
    command = [sys.executable, "-m", "flows.retrain"]
    both = [
        subprocess.Popen(
            command,
            cwd=project,
            env=environment(project, PREFECT_API_URL=prefect_server),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(2)
    ]
    said = [process.communicate(timeout=240)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sum("another run of the road is at work" in text for text in said) == 1
    assert sorted("promoted" in text for text in said) == [False, True]
    assert serving(project) == ("3", "1")
