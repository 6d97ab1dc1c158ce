"""Where MLflow writes, what a run keeps, and what never gets into a report."""

import logging
import subprocess
import sys

import pytest

from pipeline.tracking import runs, store, versions


def test_the_environment_wins_over_the_projects_database(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert store.tracking_uri(tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    assert store.tracking_uri(tmp_path) == "http://server:5000"


@pytest.mark.parametrize(
    ("uri", "public"),
    [
        ("http://me:secret@server:5000/path?token=x", "http://server:5000/path"),
        ("https://server", "https://server"),
        ("sqlite:////home/me/project/mlflow.db", "sqlite:///mlflow.db"),
        ("postgresql://me:secret@server/db", "postgresql://server/db"),
    ],
)
def test_public_uri_has_no_secret_and_no_path_of_this_machine(uri, public):
    assert store.public_uri(uri) == public


def test_flatten_and_numbers():
    nested = {"reenactment": {"psnr": 20, "net": "judge", "none": None, "ok": True}, "pairs": {"swapping": 7}}
    assert runs.flatten(nested)["reenactment.net"] == "judge"
    assert versions.numbers(nested) == {"reenactment.psnr": 20.0, "pairs.swapping": 7.0}


def test_mlflow_says_warnings_only(registry_home):
    store.initialise(registry_home)
    for name in ("mlflow", "mlflow.system_metrics.system_metrics_monitor", "mlflow.store.db.utils"):
        assert not logging.getLogger(name).isEnabledFor(logging.INFO)


def test_a_run_keeps_params_numbers_and_files(registry_home, tmp_path):
    import mlflow

    (tmp_path / "note.txt").write_text("hello")
    with runs.start_run("register", {"lr": 1e-4, "loss": {"identity": 2}}, root=registry_home) as run:
        run.log_metrics({"loss": 1.0, "psnr": 10.0}, 0)
        run.log_artifact(tmp_path / "note.txt")
        run.log_artifact(tmp_path, "folder")
    client = mlflow.MlflowClient()
    found = client.get_run(run.id)
    assert (found.info.status, found.data.metrics) == ("FINISHED", {"loss": 1.0, "psnr": 10.0})
    assert found.data.params == {"lr": "0.0001", "loss.identity": "2"}
    assert {item.path for item in client.list_artifacts(run.id)} == {"note.txt", "folder"}


def test_a_run_that_raises_is_marked_failed(registry_home):
    import mlflow

    with pytest.raises(ZeroDivisionError), runs.start_run("register", root=registry_home) as run:
        raise ZeroDivisionError
    assert mlflow.MlflowClient().get_run(run.id).info.status == "FAILED"


@pytest.mark.slow
def test_processes_may_initialise_a_fresh_database_at_once(tmp_path, monkeypatch):
    """Without the lock, sqlite's migrations collide."""
    import mlflow

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    code = """
import sys, time
from pathlib import Path
import mlflow.store.tracking.sqlalchemy_store  # all that is slow to import, so that both meet at the database
from pipeline.tracking import runs, store
Path(sys.argv[1]).touch()
while not (Path("0").exists() and Path("1").exists()):
    time.sleep(0.001)
with runs.start_run("train") as run:
    run.log_metrics({"loss": 1.0}, step=0)
"""
    started = [subprocess.Popen([sys.executable, "-c", code, str(n)], cwd=tmp_path) for n in range(2)]
    assert [process.wait(240) for process in started] == [0, 0]
    store.initialise(tmp_path)
    client = mlflow.MlflowClient()
    assert [e.name for e in client.search_experiments() if e.name == store.EXPERIMENT] == [store.EXPERIMENT]
    found = client.search_runs([client.get_experiment_by_name(store.EXPERIMENT).experiment_id])
    assert [(run.info.status, run.data.metrics) for run in found] == [("FINISHED", {"loss": 1.0})] * 2
