"""MLflow, and the only home of it: curves of the training runs, the model registry, and their artifacts.

Without MLFLOW_TRACKING_URI everything lives in the project: `mlflow.db` (sqlite) and `mlartifacts/`. With it, on that
server; nothing else changes. MLflow takes seconds to import, so it is imported inside the functions.
"""

import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
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


# --- the registry ---------------------------------------------------------------------------------------------------


def numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a nested metrics file by their dotted names, as MLflow keeps them (text and nulls left out)."""
    return {k: float(v) for k, v in flatten(metrics).items() if isinstance(v, int | float) and not isinstance(v, bool)}


def log_pyfunc(
    code: str | Path,
    artifacts: Mapping[str, str],
    settings: Mapping[str, Any],
    example: Any,
    requirements: Sequence[str],
    code_paths: Sequence[str | Path] = (),
) -> str:
    """Store, in the open run, the model that the file `code` sets (models-from-code: nothing is pickled); its id.

    `example` is a DataFrame with the columns task, source, target. An image is base64 text or an array, so the
    signature leaves the type of the last two open.
    """
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types.schema import AnyType, ColSpec, DataType, Schema

    inputs = Schema([ColSpec(DataType.string, "task"), ColSpec(AnyType(), "source"), ColSpec(AnyType(), "target")])
    outputs = Schema([ColSpec(AnyType(), "image")])
    info = mlflow.pyfunc.log_model(
        name="model",
        python_model=str(code),
        code_paths=[str(path) for path in code_paths],
        artifacts=dict(artifacts),
        model_config=dict(settings),
        signature=ModelSignature(inputs, outputs),
        input_example=example,
        pip_requirements=list(requirements),
    )
    return info.model_id


class Registry:
    """The versions of one registered model, their tags and aliases. MLflow's own calls, behind the names we use."""

    def __init__(self, name: str, root: str | Path = "."):
        import mlflow

        self.name = name
        self.uri = initialise(root)
        self.client = mlflow.MlflowClient()

    def versions(self) -> list:
        """All versions, oldest first; empty if the model was never registered."""
        found = self.client.search_model_versions(f"name='{self.name}'")
        return sorted(found, key=lambda version: int(version.version))

    def find(self, tag: str, value: str) -> Any | None:
        """The newest version whose `tag` has `value`, or None."""
        return next((v for v in reversed(self.versions()) if v.tags.get(tag) == value), None)

    def create(self, model_id: str, tags: Mapping[str, str]) -> Any:
        """A new version of the model that `log_pyfunc` stored, born with its tags."""
        import mlflow

        if not self.client.search_registered_models(f"name='{self.name}'"):
            try:
                self.client.create_registered_model(self.name)
            except mlflow.MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another machine made it in between
                    raise
        model = self.client.get_logged_model(model_id)
        return self.client.create_model_version(
            self.name, model.artifact_location, run_id=model.source_run_id, tags=dict(tags), model_id=model_id
        )

    def aliases(self) -> dict[str, str]:
        """Alias -> version number."""
        found = self.client.search_registered_models(f"name='{self.name}'")
        return {alias: str(version) for alias, version in found[0].aliases.items()} if found else {}

    def version(self, number: str) -> Any:
        """One version by its number."""
        return self.client.get_model_version(self.name, number)

    def set_alias(self, alias: str, number: str | None) -> None:
        """Move an alias to a version; None takes it away."""
        if number is None:
            self.client.delete_registered_model_alias(self.name, alias)
        else:
            self.client.set_registered_model_alias(self.name, alias, number)

    def describe(self, number: str, text: str) -> None:
        """Set the description of a version (markdown), which the registry's page shows."""
        self.client.update_model_version(self.name, number, text)

    def tag(self, number: str, values: Mapping[str, str]) -> None:
        """Set tags of a version."""
        for key, value in values.items():
            self.client.set_model_version_tag(self.name, number, key, value)

    def tags(self) -> dict[str, str]:
        """Tags of the registered model itself."""
        found = self.client.search_registered_models(f"name='{self.name}'")
        return dict(found[0].tags) if found else {}

    def set_tag(self, key: str, value: str | None) -> None:
        """Set a tag of the registered model itself; None takes it away."""
        if value is not None:
            self.client.set_registered_model_tag(self.name, key, value)
        elif key in self.tags():
            self.client.delete_registered_model_tag(self.name, key)

    def metrics(self, number: str) -> dict[str, float]:
        """The last value of every metric of the run that made a version, by dotted names."""
        return dict(self.client.get_run(self.version(number).run_id).data.metrics)

    def log_metrics(self, number: str, values: Mapping[str, float]) -> None:
        """Note metrics of a version (at its run), all in one request."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self.client.log_batch(self.version(number).run_id, metrics=[Metric(k, v, now, 0) for k, v in values.items()])

    def log_json(self, number: str, values: Any, name: str) -> None:
        """Store `values` as the JSON artifact `name` of a version's run."""
        self.client.log_dict(self.version(number).run_id, values, name)

    def read_json(self, number: str, name: str) -> Any:
        """The JSON artifact `name` of a version's run."""
        import mlflow

        return mlflow.artifacts.load_dict(f"runs:/{self.version(number).run_id}/{name}")

    def log_folder(self, number: str, folder: str | Path, name: str | None = None) -> None:
        """Store a folder's files among the artifacts of a version's run."""
        self.client.log_artifacts(self.version(number).run_id, str(folder), name)

    def download(self, number: str, path: str, out: str | Path) -> Path:
        """Fetch the file or folder `path` of a version's model (`artifacts/swapping.safetensors`) into `out`."""
        import mlflow

        uri = f"models:/{self.name}/{number}/{path}"
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(out)))
