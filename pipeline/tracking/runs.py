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


@dataclass(frozen=True)
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
