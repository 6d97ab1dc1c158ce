"""The versions of the registered model: what each holds, its numbers, tags and aliases."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.common.files import digest, weights_digest
from pipeline.tracking.runs import flatten
from pipeline.tracking.store import initialise, public_uri
from uniface.config import TASKS, Task

REGISTER = "dvc repro --force --single-item register"
"""The command that makes in the registry what is missing there; a plain `dvc repro` does not look into it."""


def numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a nested metrics file by their dotted names, as MLflow keeps them (text and nulls left out)."""
    return {k: float(v) for k, v in flatten(metrics).items() if isinstance(v, int | float) and not isinstance(v, bool)}


def pair_digest(models: Mapping[Task, Path]) -> str:
    """12 hex digits of the weights of both tasks: a version's tag `weights_digest`."""
    return digest(*(weights_digest(models[task]) for task in TASKS))


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

    def all(self, tag: str, value: str) -> list:
        """The versions whose `tag` has `value`, oldest first."""
        return [version for version in self.versions() if version.tags.get(tag) == value]

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

    def delete(self, number: str) -> None:
        """Take a version, and the aliases that point to it, out of the registry."""
        self.client.delete_model_version(self.name, number)

    def restore_run(self, number: str) -> bool:
        """Take the run that made a version out of the trash; False if it is gone for good (`mlflow gc`)."""
        import mlflow

        run_id = self.version(number).run_id
        try:
            if self.client.get_run(run_id).info.lifecycle_stage == "deleted":
                self.client.restore_run(run_id)
        except mlflow.MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return False
        return True

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
        """The last value of every metric of the run that made a version, by dotted names; none if the run is gone."""
        import mlflow

        try:
            return dict(self.client.get_run(self.version(number).run_id).data.metrics)
        except mlflow.MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return {}

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

    def artifact(self, number: str, path: str, out: str | Path) -> Path | None:
        """Fetch the file or folder `path` of a version's run into `out`; None if the run has no such thing."""
        import mlflow

        run_id = self.version(number).run_id
        if not self.client.list_artifacts(run_id, path):
            return None
        return Path(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=path, dst_path=str(out)))

    def download(self, number: str, path: str, out: str | Path) -> Path:
        """Fetch the file or folder `path` of a version's model (`artifacts/swapping.safetensors`) into `out`."""
        import mlflow

        uri = f"models:/{self.name}/{number}/{path}"
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(out)))

    def weights(self, number: str, out: str | Path) -> dict[Task, Path]:
        """A version's own model files, fetched into `out`; ValueError if they are gone or not what was registered."""
        import mlflow

        tag = self.version(number).tags.get("weights_digest")
        try:
            files = {task: self.download(number, f"artifacts/{task}.safetensors", Path(out) / task) for task in TASKS}
        except (OSError, mlflow.MlflowException) as error:
            self.version(number)  # raises if it is the server that is gone
            text = f"the files of {self.name} version {number} are gone from {public_uri(self.uri)}: {REGISTER}"
            raise ValueError(text) from error
        try:
            whole = pair_digest(files) == tag
        except ValueError:  # not even the beginning of a model file
            whole = False
        if not whole:
            raise ValueError(f"the files of {self.name} version {number} are not what was registered: {REGISTER}")
        return files
