"""The project's MLflow store when it was moved or copied, is older, newer, damaged, or does not answer."""

import shutil
import sqlite3
import time
from contextlib import closing

import pytest

from pipeline import promote
from pipeline.tracking import runs, store, versions

OLDER = "6f8d9c3b2a1e"  # a revision of MLflow's tables, some before the newest


@pytest.fixture(autouse=True)
def no_server(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def copied(registry_home, tmp_path):
    """The project in another folder, with a space in its name, and one of its runs, which holds a file."""
    (tmp_path / "note.txt").write_text("hello")
    with runs.start_run("test", root=registry_home) as run:
        run.log_artifact(tmp_path / "note.txt")
    home = tmp_path / "moved here"
    shutil.copytree(registry_home / "mlartifacts" / run.id, home / "mlartifacts" / run.id)
    shutil.copy(registry_home / "mlflow.db", home)
    return home, run.id


def test_a_copied_project_is_mended_by_one_command(copied, registry_home, monkeypatch, capsys):
    import mlflow

    home, run = copied
    for use in (lambda: store.initialise(home), lambda: versions.Registry("faces", home)):
        with pytest.raises(
            ValueError, match=r"moved or copied.*registry0/mlartifacts: python -m pipeline\.promote mend"
        ):
            use()
    monkeypatch.setattr(promote, "load_or_exit", lambda: None)
    monkeypatch.chdir(home)
    assert promote.main(["mend"]) == 0
    said = capsys.readouterr().out
    assert "a copy is in mlflow.db." in said and f"to {home}/mlartifacts" in said
    store.initialise(home)
    found = mlflow.MlflowClient().get_run(run).info.artifact_uri
    assert found == (home / "mlartifacts" / run / "artifacts").as_uri()
    assert mlflow.artifacts.load_text(f"{found}/note.txt") == "hello"
    with runs.start_run("test", root=home) as new:  # and what is new goes here
        new.log_metrics({"loss": 1.0}, 0)
    assert str(registry_home) not in mlflow.MlflowClient().get_run(new.id).info.artifact_uri
    for path in home.glob("mlflow.db*"):
        if path.suffix == ".bak":
            with closing(sqlite3.connect(path)) as database:
                kept = database.execute("SELECT artifact_location FROM experiments").fetchall()
            assert str(registry_home) in str(kept)
    assert store.mend(home)[-1] == "its paths are right"


def test_mending_moves_every_column_that_holds_a_path(registry_home):
    """A column that a later MLflow adds would show here."""
    with closing(sqlite3.connect(registry_home / "mlflow.db")) as database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        columns = {(t, row[1]) for t in tables for row in database.execute(f"PRAGMA table_info({t})")}
        start = f"%{registry_home}/mlartifacts%"
        held = {
            (t, c)
            for t, c in columns
            if database.execute(f'SELECT 1 FROM {t} WHERE "{c}" LIKE ? LIMIT 1', (start,)).fetchone()
        }
    assert set(store.PATHS) <= columns
    assert held <= set(store.PATHS)


def test_a_newer_database_is_one_sentence(registry_home, tmp_path):
    path = tmp_path / "mlflow.db"
    shutil.copy(registry_home / "mlflow.db", path)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE alembic_version SET version_num = 'fffffffffff1'")
    with pytest.raises(ValueError, match=r"of another MLflow than the installed one: python -m pipeline\.promote mend"):
        store.initialise(tmp_path)
    with pytest.raises(ValueError, match="written by a newer MLflow"):
        store.mend(tmp_path)


def test_a_damaged_database_is_one_sentence(tmp_path):
    (tmp_path / "mlflow.db").write_bytes(b"no database at all" * 1000)
    with pytest.raises(ValueError, match=r"mlflow\.db is damaged"):
        store.initialise(tmp_path)
    with pytest.raises(ValueError, match=r"mlflow\.db is damaged"):
        store.mend(tmp_path)
    assert not list(tmp_path.glob("*.bak"))


def test_there_must_be_something_to_mend(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"there is no mlflow\.db here"):
        store.mend(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    with pytest.raises(ValueError, match=r"http://127\.0\.0\.1:9 is a server"):
        store.mend(tmp_path)


def test_a_server_that_is_not_there_is_one_sentence_within_seconds(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    for name in store.PATIENCE:
        monkeypatch.delenv(name, raising=False)
    import mlflow  # noqa: F401  its import is not what is timed

    started = time.monotonic()
    with pytest.raises(ValueError, match=r"^the MLflow server http://127\.0\.0\.1:9 does not answer now"):
        store.initialise(tmp_path)
    assert time.monotonic() - started < 30  # 247 s by MLflow's defaults


def test_a_deleted_experiment_is_restored(registry_home, capsys):
    import mlflow

    store.initialise(registry_home)
    client = mlflow.MlflowClient()
    number = client.get_experiment_by_name(store.EXPERIMENT).experiment_id
    client.delete_experiment(number)
    with runs.start_run("test", root=registry_home) as run:
        run.log_metrics({"loss": 1.0}, 0)
    assert client.get_run(run.id).info.experiment_id == number
    assert "had been deleted: restored" in capsys.readouterr().out


@pytest.mark.slow
def test_an_older_database_is_upgraded_and_a_copy_kept(tmp_path):
    from alembic import command
    from mlflow.store.db import utils
    from mlflow.store.tracking.dbmodels.initial_models import Base as InitialBase

    uri = store.tracking_uri(tmp_path)
    engine = utils.create_sqlalchemy_engine_with_retry(uri)
    InitialBase.metadata.create_all(engine)
    config = utils._get_alembic_config(uri)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, OLDER)
    engine.dispose()
    with pytest.raises(ValueError, match=r"of another MLflow.*python -m pipeline\.promote mend"):
        store.initialise(tmp_path)
    assert f"its tables went from revision {OLDER}" in " ".join(store.mend(tmp_path))
    (copy,) = tmp_path.glob("mlflow.db.*.bak")
    with closing(sqlite3.connect(copy)) as database:
        assert database.execute("SELECT version_num FROM alembic_version").fetchall() == [(OLDER,)]
    store.initialise(tmp_path)


def test_mlflow_tells_its_makers_nothing():
    from mlflow.environment_variables import MLFLOW_DISABLE_TELEMETRY

    assert MLFLOW_DISABLE_TELEMETRY.get() is True
