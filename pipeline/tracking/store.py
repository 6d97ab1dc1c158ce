"""Where MLflow keeps its runs and versions, and what to do when that place was moved, is older, or does not answer.

Without MLFLOW_TRACKING_URI everything lives in the project: `mlflow.db` (sqlite) and `mlartifacts/`. With it, on that
server; nothing else changes. MLflow takes seconds to import, so it is imported inside the functions.
"""

import logging
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

EXPERIMENT = "uniface"
ARTIFACTS = "mlartifacts"
MEND = "python -m pipeline.promote mend"
# A server that does not answer costs seconds; by MLflow's defaults, every call to it takes four minutes.
PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1"}
# Set before MLflow is imported: it would tell its makers what is called, which nobody here has been asked about.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# MLflow makes every path absolute, whatever it is given: these columns hold them.
PATHS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


def tracking_uri(root: str | Path = ".") -> str:
    """MLFLOW_TRACKING_URI if the environment has it, else the sqlite file `mlflow.db` of the project at `root`."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path(root).resolve() / 'mlflow.db'}"


def public_uri(uri: str) -> str:
    """`uri` as it may be written into a report: no user, no password, no query; a local file by its name alone."""
    parts = urlsplit(uri)
    if parts.scheme in ("sqlite", "file", ""):
        return f"{parts.scheme or 'file'}:///{Path(parts.path).name}"
    host = parts.hostname or ""
    return urlunsplit((parts.scheme, f"{host}:{parts.port}" if parts.port else host, parts.path, "", ""))


def initialise(root: str | Path = ".") -> str:
    """Point MLflow at `tracking_uri(root)`, make the database and the experiment if missing; returns the URI.

    Several processes may call it at once: a file lock keeps them from making one sqlite database at the same time,
    which breaks it. Raises ValueError if the store does not answer, is of another MLflow, or was moved.
    """
    import mlflow
    from filelock import FileLock

    for name in ("alembic", "mlflow", "mlflow.store.db.utils", "mlflow.pyfunc"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("mlflow.system_metrics").setLevel(logging.CRITICAL)  # what it cannot send is no news of its own
    for name, value in (*PATIENCE.items(), ("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")):
        os.environ.setdefault(name, value)
    uri = tracking_uri(root)
    mlflow.set_tracking_uri(uri)
    with plain_errors():
        if not uri.startswith("sqlite:"):
            experiment()
            return uri
        home = _database(uri).parent
        with FileLock(home / "mlflow.db.lock"):
            _check_tables(uri)
            experiment((home / ARTIFACTS).as_uri())
    return uri


def _check_tables(uri: str) -> None:
    """MLflow itself would upgrade many an older database on sight, without a copy and without a word."""
    path = _database(uri)
    if not path.is_file():
        return
    with closing(sqlite3.connect(path)) as database:
        if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").fetchone():
            return  # nothing in it yet
        found = database.execute("SELECT version_num FROM alembic_version").fetchone()
    if found is not None and found[0] != _newest_tables():
        raise ValueError(f"{path.name} is of another MLflow than the installed one: {MEND} (it keeps a copy)")


@cache
def _newest_tables() -> str:
    from mlflow.store.db import utils

    return utils._get_latest_schema_revision()


def experiment(artifacts: str | None = None) -> str:
    """The id of our experiment, made if missing and taken out of the trash; its files are to lie at `artifacts`."""
    import mlflow

    client = mlflow.MlflowClient()
    found = client.get_experiment_by_name(EXPERIMENT)
    if found is None:
        try:
            return client.create_experiment(EXPERIMENT, artifact_location=artifacts)
        except mlflow.MlflowException:  # another machine made it in between
            found = client.get_experiment_by_name(EXPERIMENT)
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":  # its name stays taken, and no run can be made in it
        client.restore_experiment(found.experiment_id)
        print(f"the MLflow experiment {EXPERIMENT} had been deleted: restored", flush=True)
    there = found.artifact_location.rstrip("/")
    if artifacts and there != artifacts and _is_local(there) and there.endswith(f"/{ARTIFACTS}"):
        raise ValueError(f"this project was moved or copied, its mlflow.db still keeps its files in {there}: {MEND}")
    return found.experiment_id


@contextmanager
def plain_errors() -> Iterator[None]:
    """What MLflow raises, as a ValueError of one sentence that says which store it is and what to do."""
    import mlflow
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (mlflow.MlflowException, SQLAlchemyError, sqlite3.DatabaseError) as error:
        name, text = public_uri(mlflow.get_tracking_uri()), (str(error).strip() or type(error).__name__).splitlines()[0]
        if "file is not a database" in text or "malformed" in text:
            raise ValueError(f"{name} is damaged: put a copy in its place, or move it away to begin anew") from error
        if "API request" in text:
            raise ValueError(f"the MLflow server {name} does not answer now") from error
        raise ValueError(f"MLflow ({name}): {text}") from error


def mend(root: str | Path = ".") -> list[str]:
    """Make the project's `mlflow.db` fit this folder and the installed MLflow; what was done, as sentences.

    A copy of the database is kept. Raises ValueError for a server's store, a missing database, or a newer one.
    """
    from filelock import FileLock

    uri = tracking_uri(root)
    if not uri.startswith("sqlite:"):
        raise ValueError(f"{public_uri(uri)} is a server: what it keeps is mended there (mlflow db upgrade)")
    path = _database(uri)
    if not path.is_file():
        raise ValueError(f"there is no {path.name} here: dvc repro --force --single-item register")
    with FileLock(path.parent / "mlflow.db.lock"):
        copy = path.with_name(f"{path.name}.{datetime.now(UTC):%Y%m%d-%H%M%S}.bak")
        try:
            with closing(sqlite3.connect(path)) as old, closing(sqlite3.connect(copy)) as new:
                old.backup(new)
            done = [f"a copy is in {copy.name}", *_upgrade(uri), *_move(path)]
        except sqlite3.DatabaseError as error:
            copy.unlink(missing_ok=True)
            raise ValueError(f"{path.name} is damaged ({error}): put a copy in its place") from error
    return done


def _upgrade(uri: str) -> list[str]:
    from alembic.util import CommandError
    from mlflow.store.db import utils

    engine = utils.create_sqlalchemy_engine_with_retry(uri)
    try:
        found, wanted = utils._get_schema_version(engine), _newest_tables()
        if found == wanted:
            return []
        utils._upgrade_db(engine)  # what `mlflow db upgrade` calls
    except CommandError as error:
        name = public_uri(uri)
        raise ValueError(f"{name} was written by a newer MLflow than the installed one: make setup") from error
    finally:
        engine.dispose()
    return [f"its tables went from revision {found} to {wanted}"]


def _move(path: Path) -> list[str]:
    """Let every path that begins with the experiment's old folder begin with the folder beside the database."""
    here = path.parent / ARTIFACTS
    with closing(sqlite3.connect(path)) as database, database:
        row = database.execute("SELECT artifact_location FROM experiments WHERE name = ?", (EXPERIMENT,)).fetchone()
        old = row[0].rstrip("/") if row else here.as_uri()
        if old == here.as_uri() or not _is_local(old):
            return ["its paths are right"]
        plain = unquote(urlsplit(old).path)
        changed = 0
        for table, column in PATHS:
            for start, new in ((old, here.as_uri()), (plain, str(here))):
                changed += database.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column} || '/', 1, ?) = ?",
                    (new, len(start) + 1, len(start) + 1, f"{start}/"),
                ).rowcount
    return [f"{changed} paths moved from {plain} to {here}"]


def _database(uri: str) -> Path:
    return Path(uri.removeprefix("sqlite:///")).resolve()


def _is_local(uri: str) -> bool:
    return urlsplit(uri).scheme in ("file", "")
