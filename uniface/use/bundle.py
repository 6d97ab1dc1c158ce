"""Which files belong together: a model for each task, the detector that its training data was cut with, the version.

A model file says in its metadata which crop and which detector it wants (`facts`, written by training).
"""

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from uniface.model import read_metadata

CROPS = {"reenactment": "fomm", "swapping": "ffhq"}
"""How each task's training data is cut (Sec. 4.1): FOMM's boxes, CelebA-HQ's alignment."""
HOMES = ("models", "pretrained")
DETECTOR = "detector.onnx"
HEIGHT = 240
"""Rows at which a detector looks first, where the model does not say: few enough for a face that fills the picture."""


@dataclass(frozen=True)
class Bundle:
    """`models`: task to file. `detector` is None where none lies near the models. `version` is for people."""

    models: dict[str, Path]
    detector: Path | None
    version: str
    extra: dict[str, dict[str, Any]] = field(default_factory=dict)  # task to the values in its file's metadata


def default() -> Path:
    """The folder of models to use where none is named: what was trained here, else what the repository brings.

    Raises FileNotFoundError if there is neither.
    """
    for folder in map(Path, HOMES):
        if any(folder.glob("*.safetensors")):
            return folder
    raise FileNotFoundError(f"no model in {' or '.join(HOMES)}: train one (dvc repro), or name it with --model")


def facts(task: str, detector: Path, height: int) -> dict[str, Any]:
    """What training writes into a model's metadata (`UniFace.save(path, extra)`), so that its crops can be made again.

    `height`: rows at which the detector saw the training frames.
    """
    return {"crop": CROPS[task], "detector": {"sha256": sha256(detector), "height": height}}


def find(where: str | Path, detector: str | Path | None = None) -> Bundle:
    """The bundle at `where`: a model file, a folder of them, or a registered version such as models:/uniface@champion.

    The detector is `detector` (a file, or a folder with detector.onnx), or lies beside the models, in their project's
    data/weights/faces, or in that of the current folder. Raises FileNotFoundError or ValueError saying what is wrong.
    """
    version = Path(where).name  # goes into the mark: no folders of this machine
    if str(where).startswith("models:/"):
        folder, version = _download(str(where))
        models = {task: folder / "artifacts" / f"{task}.safetensors" for task in CROPS}
        near = [folder / "artifacts" / DETECTOR]
    elif Path(where).is_dir():
        models = {task: Path(where) / f"{task}.safetensors" for task in CROPS}
        near = _near(Path(where))
    else:
        read_metadata(where)  # its errors name the file
        models = dict.fromkeys(CROPS, Path(where))
        near = _near(Path(where).parent)
    extra = {task: read_metadata(file)[1] for task, file in models.items() if file.is_file()}
    models = {task: models[task] for task, values in extra.items() if values.get("task", task) == task}
    if not models:
        raise FileNotFoundError(f"{where} holds neither {' nor '.join(f'{task}.safetensors' for task in CROPS)}")
    if detector is not None:
        given = Path(detector) / DETECTOR if Path(detector).is_dir() else Path(detector)
        if not given.is_file():
            raise FileNotFoundError(f"no detector at {given}")
        return Bundle(models, given, version, extra)
    wanted = {values["detector"]["sha256"] for task, values in extra.items() if task in models and "detector" in values}
    fits = (file for file in near if file.is_file() and (not wanted or sha256(file) in wanted))
    return Bundle(models, next(fits, None), version, extra)


def _near(folder: Path) -> list[Path]:
    inside = Path("data") / "weights" / "faces" / DETECTOR
    return [folder / DETECTOR, folder.resolve().parent / inside, inside]


def _download(uri: str) -> tuple[Path, str]:
    """The files of a registered version, and "name version N"."""
    try:
        import mlflow
    except ImportError as error:
        raise ValueError(f"{uri} is in an MLflow registry: pip install mlflow to fetch it") from error

    home = f"sqlite:///{Path('mlflow.db').resolve()}"
    if "MLFLOW_TRACKING_URI" not in os.environ:
        if not Path("mlflow.db").is_file():
            raise FileNotFoundError(f"no registry for {uri}: set MLFLOW_TRACKING_URI, or go where mlflow.db is")
        mlflow.set_tracking_uri(home)
    try:
        name, _, wanted = uri.removeprefix("models:/").replace("/", "@", 1).partition("@")
        client = mlflow.MlflowClient()
        found = (
            client.get_model_version(name, wanted)
            if wanted.isdigit()
            else client.get_model_version_by_alias(name, wanted)
        )
        folder = mlflow.artifacts.download_artifacts(f"models:/{name}/{found.version}")
    except mlflow.MlflowException as error:
        raise ValueError(f"{uri} cannot be fetched: {str(error).splitlines()[0]}") from error
    return Path(folder), f"{name} version {found.version}"


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
