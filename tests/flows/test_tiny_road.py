"""The real road on the tiny profile under real servers and kills: by schedule, two at once, killed, pushed and pulled.

The tests share one project and run in this order: the scheduled run makes what the later ones start from.
"""

import json
import os
import re
import signal
import subprocess
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta

import pytest
from tiny_project import STAGES, change_params, command, commit, git, make_tiny, ran, start, until

from pipeline.common.files import weights_digest
from pipeline.tracking import versions

pytestmark = pytest.mark.slow


def call(api, path, body=None):
    """The answer of Prefect's API: GET, or POST with a body. Asked again when busy, as Prefect's own clients do."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(api + path, data, {"Content-Type": "application/json"})
    for wait in (1, 2, 4, 8, None):
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:  # its sqlite was locked
            if error.code != 503 or wait is None:
                raise
            time.sleep(wait)


def aliases(project):
    return versions.Registry("uniface", project).aliases()


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield make_tiny(tmp_path_factory.mktemp("tiny") / "project")


@pytest.fixture(scope="module")
def scheduled(project, prefect_server, prefect_log, tmp_path_factory):
    """The deployment, and its two runs brought to their end by a worker: one by hand, one by a tick of cron."""
    api = {"PREFECT_API_URL": prefect_server}
    for arguments in (["work-pool", "create", "uniface", "--type", "process"], ["--no-prompt", "deploy", "--all"]):
        done = command(project, "prefect", *arguments, **api)
        assert done.returncode == 0, done.stdout
    deployment = call(prefect_server, "/deployments/name/retrain/weekly")
    triggered = call(prefect_server, f"/deployments/{deployment['id']}/create_flow_run", {})
    due = datetime.now(UTC) + timedelta(seconds=100)  # a tick beside the weekly one, about a minute ahead
    tick = {"schedule": {"cron": f"{due.minute} {due.hour} * * *", "timezone": "UTC"}, "active": True}
    call(prefect_server, f"/deployments/{deployment['id']}/schedules", [tick])
    planned(prefect_server, deployment["id"], prefect_log)
    log = tmp_path_factory.mktemp("worker") / "log.txt"
    worker = start(project, log, "prefect", "worker", "start", "--pool", "uniface", **api)
    try:
        by_hand, by_cron = finished(prefect_server, deployment["id"], triggered["id"], worker, log)
    finally:
        worker.terminate()
        try:
            worker.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()
    return {"deployment": deployment, "by_hand": by_hand, "by_cron": by_cron, "log": log.read_text(), "due": due}


def planned(api, deployment, log, seconds=60):
    """Wait for the scheduler to make runs of the deployment: without it, a cron schedule is there and never fires."""
    end, asked = time.monotonic() + seconds, {"deployments": {"id": {"any_": [deployment]}}}
    while not any(run["auto_scheduled"] for run in call(api, "/flow_runs/filter", asked)):
        assert time.monotonic() < end, f"nothing scheduled in {seconds} s:\n{log.read_text()[-3000:]}"
        time.sleep(1)


def finished(api, deployment, triggered, worker, log, seconds=1500):
    """Wait for the triggered run and one that the scheduler made to complete; both."""
    end, asked = time.monotonic() + seconds, {"deployments": {"id": {"any_": [deployment]}}}
    while time.monotonic() < end:
        assert worker.poll() is None, log.read_text()[-3000:]
        runs = call(api, "/flow_runs/filter", asked)
        states = {run["id"]: run["state"]["type"] for run in runs}
        assert not {"FAILED", "CRASHED"} & set(states.values()), log.read_text()[-3000:]
        done = [run for run in runs if states[run["id"]] == "COMPLETED"]
        by_hand = [run for run in done if run["id"] == triggered]
        by_cron = [run for run in done if run["auto_scheduled"]]
        if by_hand and by_cron:
            return by_hand[0], by_cron[0]
        time.sleep(1)
    raise AssertionError(f"not completed in {seconds} s: {states}\n{log.read_text()[-3000:]}")


def test_the_deployment_has_its_schedule_its_limit_and_its_folder(project, scheduled):
    deployment = scheduled["deployment"]
    assert [(s["schedule"]["cron"], s["active"]) for s in deployment["schedules"]] == [("0 3 * * 1", True)]
    assert deployment["global_concurrency_limit"]["limit"] == 1
    assert deployment["concurrency_options"]["collision_strategy"] == "ENQUEUE"
    (pull,) = deployment["pull_steps"]
    assert pull["prefect.deployments.steps.set_working_directory"]["directory"] == str(project)


def test_a_triggered_run_completes_the_whole_retraining(project, scheduled, prefect_server):
    assert ran(scheduled["log"]) == list(STAGES)  # once each: the run by cron found nothing changed
    assert aliases(project) == {"candidate": "1", "champion": "1"}
    registered = json.loads((project / "reports/registered.json").read_text())
    assert registered["version"] == 1 and registered["alias"] == "candidate"
    reports = call(prefect_server, "/artifacts/filter", {"artifacts": {"key": {"any_": ["retraining"]}}})
    reports = {item["flow_run_id"]: item["data"] for item in reports}
    assert "version 1 (no champion yet): promoted" in reports[scheduled["by_hand"]["id"]]
    assert "version 1 is the champion already" in reports[scheduled["by_cron"]["id"]]


def test_the_tick_of_cron_fired_by_itself_and_waited_for_the_run_before(scheduled):
    by_hand, by_cron = scheduled["by_hand"], scheduled["by_cron"]
    at, started, ended = (
        datetime.fromisoformat(run[name])
        for run, name in ((by_cron, "start_time"), (by_hand, "start_time"), (by_hand, "end_time"))
    )
    assert at >= scheduled["due"].replace(second=0, microsecond=0)
    assert at >= ended > started


def test_two_at_once_and_kill_9_in_the_middle(project, scheduled, prefect_server, tmp_path):
    """The second waits; its forerunner is killed; it goes on and is killed with all its children; a third completes."""
    change_params(project, {"train_reenactment": {"iterations": 5}})
    logs = [tmp_path / f"{name}.txt" for name in ("first", "second", "third")]
    retrain, api = ("python", "-m", "flows.retrain"), {"PREFECT_API_URL": prefect_server}
    first = start(project, logs[0], *retrain, **api)
    until(logs[0], "Running stage 'train_reenactment'", first)
    second = start(project, logs[1], *retrain, **api)
    until(logs[1], "another run of the road is at work", second)
    assert ran(logs[1].read_text()) == []

    os.kill(first.pid, signal.SIGKILL)  # the flow alone: its dvc is left behind, and holds the lock until it is gone
    first.wait()
    until(logs[1], "Running stage 'train_swapping'", second)
    assert "it ended; went on after" in logs[1].read_text()
    os.killpg(second.pid, signal.SIGKILL)  # all of it, as when the power goes
    second.wait()
    assert aliases(project)["champion"] == "1"

    third = command(project, *retrain, **api)
    assert third.returncode == 0, third.stdout[-3000:]
    assert ran(third.stdout)[-3:] == ["train_swapping", "evaluate", "register"]
    assert aliases(project) == {"candidate": "2", "champion": "2", "previous": "1"}
    registry = versions.Registry("uniface", project)
    for task in ("reenactment", "swapping"):
        stored = registry.download("2", f"artifacts/{task}.safetensors", tmp_path / task)
        assert weights_digest(stored) == weights_digest(project / f"models/{task}.safetensors")
    clean = command(project, "dvc", "status")
    assert "up to date" in clean.stdout, clean.stdout


def test_a_second_clone_reproduces_what_was_pushed_without_training(project, scheduled, tmp_path):
    """`dvc push` here; there `git clone`, then `dvc repro --pull`."""
    added = command(project, "dvc", "remote", "add", "--default", "--force", "store", str(tmp_path / "store"))
    assert added.returncode == 0, added.stdout
    commit(project, "reproduced")
    pushed = command(project, "dvc", "push")
    assert pushed.returncode == 0, pushed.stdout

    clone = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", str(project), str(clone))
    done = command(clone, "dvc", "repro", "--pull")
    assert done.returncode == 0, done.stdout[-3000:]
    assert ran(done.stdout) == []
    pulled = set(re.findall(r"Pulling data for stage: '(\w+)'", done.stdout))
    assert pulled >= {"weights", "download", "crop", "pairs", "train_reenactment", "train_swapping"}
    for name in ("models/reenactment.safetensors", "models/swapping.safetensors", "data/clips/index.parquet"):
        assert (clone / name).read_bytes() == (project / name).read_bytes()
    clean = command(clone, "dvc", "status")
    assert "up to date" in clean.stdout, clean.stdout
