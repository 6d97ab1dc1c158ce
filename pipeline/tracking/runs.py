"""MLflow's runs: where they are kept, and the curves and pictures of a training.

Without MLFLOW_TRACKING_URI everything lives in the project: `mlflow.db` (sqlite) and `mlartifacts/`. With it, on that
server; nothing else changes. MLflow takes seconds to import, so it is imported inside the functions.
"""

import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

EXPERIMENT = "uniface"
FLUSH_VALUES, FLUSH_SECONDS = 500, 5.0  # one request for many values: a single log_metric costs about 25 ms

log = logging.getLogger(__name__)


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

    for name in ("alembic", "mlflow.store.db.utils", "mlflow.pyfunc"):
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


def exists(run_id: str, root: str | Path = ".") -> bool:
    """Whether MLflow still has this run: its database may have been removed or be another one."""
    import mlflow

    initialise(root)
    try:
        mlflow.MlflowClient().get_run(run_id)
    except mlflow.MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False
    return True


@dataclass
class Run:
    """An open MLflow run. Metrics are gathered and sent in batches; a server that is away for a while loses nothing."""

    id: str
    _metrics: list = field(default_factory=list)
    _sent: float = field(default_factory=time.monotonic)

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        """Note scalars at `step`; sent when enough are gathered or 5 s have gone by, and when the run closes."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._metrics += [Metric(key, float(value), now, step) for key, value in values.items()]
        if len(self._metrics) >= FLUSH_VALUES or time.monotonic() - self._sent > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> bool:
        """Send what is gathered. Where the server does not answer: keep it, warn, return False; training goes on."""
        import mlflow

        self._sent = time.monotonic()
        while self._metrics:
            batch = self._metrics[:FLUSH_VALUES]
            try:
                mlflow.MlflowClient().log_batch(self.id, metrics=batch)
            except mlflow.MlflowException as error:
                log.warning("MLflow did not take %d values, kept for later: %s", len(self._metrics), error)
                return False
            del self._metrics[: len(batch)]
        return True

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Note the settings of the run, nested mappings by their dotted names. Logged again, equal ones are fine."""
        import mlflow

        mlflow.log_params(flatten(params), run_id=self.id)

    def log_artifact(self, path: str | Path, folder: str | None = None) -> None:
        """Store a file, or a folder with all that is in it, under `folder` of the run's artifacts."""
        import mlflow

        store = mlflow.MlflowClient().log_artifacts if Path(path).is_dir() else mlflow.MlflowClient().log_artifact
        store(self.id, str(path), folder)

    def log_image(self, image: Any, key: str, step: int) -> None:
        """Store a picture, uint8 (H, W, 3), shown by MLflow as a series over steps under `key`."""
        import mlflow

        mlflow.MlflowClient().log_image(self.id, image, key=key, step=step)


@contextmanager
def start_run(
    name: str,
    params: Mapping[str, Any] | None = None,
    *,
    run_id: str | None = None,
    tags: Mapping[str, str] | None = None,
    system_metrics: bool = False,
    root: str | Path = ".",
) -> Iterator[Run]:
    """An MLflow run of the experiment `uniface`; with `run_id` an interrupted one goes on.

    `system_metrics` adds CPU, memory, disk and GPU every 10 s. The run ends as FINISHED, or as FAILED if the block
    raises. A worker in another folder passes the project's `root`, or has MLFLOW_TRACKING_URI in its environment.
    """
    import mlflow

    initialise(root)
    experiment = mlflow.MlflowClient().get_experiment_by_name(EXPERIMENT).experiment_id
    with mlflow.start_run(
        run_id=run_id,
        experiment_id=None if run_id else experiment,
        run_name=name,
        tags=dict(tags or {}),
        log_system_metrics=system_metrics,
    ) as active:
        run = Run(active.info.run_id)
        if params:
            run.log_params(params)
        try:
            yield run
        finally:
            run.flush()


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
