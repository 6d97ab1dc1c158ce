"""params.yaml as typed, frozen settings: a missing, unknown or ill-typed key fails at start with its dotted name."""

import json
import os
import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from uniface.config import ModelConfig, TrainConfig


@dataclass(frozen=True)
class SampleParams:
    """Size of the embedded sample world."""

    scale: int
    persons: int
    test_persons: int
    seconds: float
    video_height: int
    portraits: int
    portrait_identities: int
    test_identities: int
    portrait_size: int


@dataclass(frozen=True)
class WeightsParams:
    """Where the frozen networks come from; D3DFR's weights need a signed licence, hence one's own file."""

    source: Literal["sample", "internet"]
    regressor: str
    regressor_sha256: str


@dataclass(frozen=True)
class DownloadParams:
    source: Literal["sample", "youtube", "folder", "videos"]
    folder: str
    annotations: str
    url: str
    max_height: int
    parallel: int
    attempts: int
    pause: float
    kilobytes_per_second: int
    cookies: str
    retry_unavailable: bool
    max_videos: int


@dataclass(frozen=True)
class CropParams:
    min_frames: int
    max_frames: int
    min_size: int
    iou_with_initial: float
    increase: float
    max_gap: int
    detect_height: int
    gop: int
    crf: int
    clips_per_shard: int


@dataclass(frozen=True)
class PairsParams:
    source: Literal["sample", "folder", "zip", "parquet"]
    path: str
    split: Literal["images", "identity", "partition"]
    test_images: int
    pairs_per_image: int
    images_per_shard: int
    align: bool
    evaluation_pairs: str


@dataclass(frozen=True)
class EvaluateParams:
    """Stage `evaluate`: how many pairs of each task, how many at a time, how many on each picture."""

    pairs: int
    batch_size: int
    grid_rows: int


@dataclass(frozen=True)
class RegisterParams:
    """Stage `register`: the name of the model in the registry."""

    name: str


@dataclass(frozen=True)
class GateParams:
    """What one metric of reports/metrics.json must reach; null turns a bound off."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)  # out of reach of `_strict` inside a dict
    better: Literal["higher", "lower"]
    floor: float | None  # absolute bound: the least where higher is better, the most where lower is
    tolerance: float | None  # how much worse than the champion is still accepted


@dataclass(frozen=True)
class PromoteParams:
    """The gates of pipeline/promote.py: metric by its dotted name -> gate, task -> least number of evaluated pairs."""

    gates: dict[str, GateParams]
    min_pairs: dict[str, int]


@dataclass(frozen=True)
class ComputeParams:
    """What this machine has. `UNIFACE_WORKERS=4` in the environment overrides `workers`, and so on."""

    workers: int
    gpus_per_worker: int
    cpus_per_worker: int
    storage: str
    loader_workers: int
    crop_workers: int


@dataclass(frozen=True)
class Params:
    """The whole of params.yaml, a field per section."""

    seed: int
    image_size: int
    sample: SampleParams
    weights: WeightsParams
    download: DownloadParams
    crop: CropParams
    pairs: PairsParams
    model: ModelConfig
    train_reenactment: TrainConfig
    train_swapping: TrainConfig
    evaluate: EvaluateParams
    register: RegisterParams
    promote: PromoteParams
    compute: ComputeParams


def _strict(cls: type) -> None:
    """Forbid unknown keys and coercions on a dataclass and every dataclass inside it."""
    cls.__pydantic_config__ = ConfigDict(extra="forbid", strict=True)
    for field in fields(cls):
        if isinstance(field.type, type) and hasattr(field.type, "__dataclass_fields__"):
            _strict(field.type)


_strict(Params)
_ADAPTER = TypeAdapter(Params)


def load(path: str | Path = "params.yaml") -> Params:
    """Read and check a params file.

    Raises FileNotFoundError if it is missing and ValueError naming every wrong key by its dotted name.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} not found: run from the project's root, where params.yaml is")
    try:
        values = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    try:
        params = _ADAPTER.validate_json(json.dumps(values))  # JSON mode: strict, yet lists fill tuples
        lines = [f"  {name}: missing" for name in _missing(Params, values)]
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, e['loc'])) or 'the file'}: {_explain(e)}" for e in error.errors()]
    if lines:
        raise ValueError(f"{path} has wrong keys or values:\n" + "\n".join(lines)) from None
    return replace(params, compute=_from_environment(params.compute))


def _missing(cls: type, values: dict, prefix: str = "") -> list[str]:
    """Dotted names of keys left out; a default in a dataclass serves Python callers, params.yaml says everything."""
    names = []
    for field in fields(cls):
        if field.name not in values:
            names.append(prefix + field.name)
        elif isinstance(field.type, type) and hasattr(field.type, "__dataclass_fields__"):
            names += _missing(field.type, values[field.name], f"{prefix}{field.name}.")
    return names


def _explain(error: dict) -> str:
    if error["type"] == "missing":
        return "missing"
    if error["type"] == "unexpected_keyword_argument":
        return "unknown key"
    return f"{error['msg']}, got {error['input']!r}"


def _from_environment(compute: ComputeParams) -> ComputeParams:
    found = {}
    for field in fields(compute):
        name = f"UNIFACE_{field.name.upper()}"
        if name in os.environ:
            try:
                found[field.name] = field.type(os.environ[name])
            except ValueError as error:
                raise ValueError(f"environment {name}={os.environ[name]!r} is not a {field.type.__name__}") from error
    return replace(compute, **found)


def load_or_exit(path: str | Path = "params.yaml") -> Params:
    """`load` for commands: prints the reason and exits with 2 instead of a traceback."""
    try:
        return load(path)
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    load_or_exit()
