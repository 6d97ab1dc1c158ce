"""MLflow's runs: one that is open while a block runs, for what must be in MLflow or fail (the stage `register`).

A training writes to a `journal` instead, which outlives an absent server.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.tracking.store import experiment, initialise


<<<<<<< HEAD
@dataclass(frozen=True)
=======
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

    Call it once in the parent before workers start: they may then call it too (a file lock keeps several processes
    from making one sqlite database at the same time, which breaks it).
    """
    import mlflow
    from filelock import FileLock

    for name in ("alembic", "mlflow", "mlflow.store.db.utils", "mlflow.pyfunc"):
        logging.getLogger(name).setLevel(logging.WARNING)
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    uri = tracking_uri(root)
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(os.environ.get("MLFLOW_REGISTRY_URI") or uri)
    if not uri.startswith("sqlite:"):
        _experiment(None)
        return uri
    home = Path(uri.removeprefix("sqlite:///")).parent
    with FileLock(home / "mlflow.db.lock"):
        _experiment((home / "mlartifacts").as_uri())
    return uri


def _experiment(artifacts: str | None) -> str:
    import mlflow

    client = mlflow.MlflowClient()
    found = client.get_experiment_by_name(EXPERIMENT)
    if found is not None:
        return found.experiment_id
    try:
        return client.create_experiment(EXPERIMENT, artifact_location=artifacts)
    except mlflow.MlflowException:  # another machine made it in between
        found = client.get_experiment_by_name(EXPERIMENT)
        if found is None:
            raise
        return found.experiment_id


@dataclass
>>>>>>> e2cbc74 (Few headline metrics and named plots for DVC; reasons last where a stage or DVC fails; no Prefect server left by a killed flow; less noise)
class Run:
    """An open MLflow run."""

    id: str

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        """Note scalars at `step`, all in one request."""
        import mlflow
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(key, float(value), now, step) for key, value in values.items()]
        mlflow.MlflowClient().log_batch(self.id, metrics=metrics)

    def log_artifact(self, path: str | Path, folder: str | None = None) -> None:
        """Store a file, or a folder with all that is in it, under `folder` of the run's artifacts."""
        import mlflow

        store = mlflow.MlflowClient().log_artifacts if Path(path).is_dir() else mlflow.MlflowClient().log_artifact
        store(self.id, str(path), folder)


@contextmanager
def start_run(
    name: str,
    params: Mapping[str, Any] | None = None,
    *,
    tags: Mapping[str, str] | None = None,
    root: str | Path = ".",
) -> Iterator[Run]:
    """An MLflow run of the experiment `uniface`, which ends as FINISHED, or as FAILED if the block raises."""
    import mlflow

    initialise(root)
    with mlflow.start_run(experiment_id=experiment(), run_name=name, tags=dict(tags or {})) as active:
        if params:
            mlflow.log_params(flatten(params))
        yield Run(active.info.run_id)


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, keys joined by dots: {"a": {"b": 1}} -> {"a.b": 1}."""
    flat = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{name}.")
        else:
            flat[name] = value
    return flat
