"""params.yaml as typed, frozen settings: every wrong key, value or combination is named, all at once, at start.

The file is read as DVC reads it (YAML 1.2): `dvc exp run -S train_reenactment.lr=0.00001` makes DVC write `1e-05`, a
number there and a text in YAML 1.1.
"""

import difflib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from pipeline.checks import combinations, paths
from uniface.config import ModelConfig, TrainConfig, WrongSettings

Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Number = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


@dataclass(frozen=True)
class SampleParams:
    """Size of the embedded sample world."""

    scale: Count
    persons: Count
    test_persons: Count
    seconds: Annotated[float, Field(gt=0, le=3600)]
    video_height: Annotated[int, Field(ge=64, le=4320, multiple_of=2)]
    portraits: Count
    portrait_identities: Count
    test_identities: Count
    portrait_size: Annotated[int, Field(ge=32, le=4096)]


Role = Literal["detector", "recogniser", "judge", "perceptual", "contextual", "lpips", "inception", "regressor"]


@dataclass(frozen=True)
class RoleParams:
    """The network of one role, otherwise than weights.source says: of another source, or a file of yours.

    `file` is a path or an address, with its `sha256`. What it takes is (pixel - mean) / scale of pixels in 0..255, in
    this order of `channels`; without mean and scale [-1, 1]. `centre` is a JSON file with the mean vector of many
    faces, which a recogniser may need. `self_test` tries it on a photograph.
    """

    source: Literal["", "sample", "packages", "internet"] = ""
    file: str = ""
    sha256: Annotated[str, Field(pattern="^([0-9a-f]{64})?$")] = ""
    channels: Literal["rgb", "bgr"] = "rgb"
    mean: Finite | None = None
    scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    centre: str = ""
    self_test: bool = True


@dataclass(frozen=True)
class WeightsParams:
    """Where the frozen networks come from, and single ones from elsewhere."""

    source: Literal["sample", "packages", "internet"]
    roles: dict[Role, RoleParams]


@dataclass(frozen=True)
class DownloadParams:
    """Stage `download`: which videos, and how to get them."""

    source: Literal["sample", "youtube", "folder", "videos"]
    folder: str
    annotations: str
    url: str
    max_height: Annotated[int, Field(ge=144)]
    parallel: Count
    attempts: Count
    pause: Amount
    kilobytes_per_second: Number
    cookies: str
    retry_unavailable: bool
    max_videos: Number


@dataclass(frozen=True)
class CropParams:
    """Stage `crop`: FOMM's protocol, and how clips are stored."""

    min_frames: Count
    max_frames: Count
    min_size: Count
    iou_with_initial: Share
    increase: Annotated[float, Field(ge=0, le=10)]
    max_gap: Number
    border: Literal["reject", "pad"]
    shape: Literal["square", "stretch"]
    detect_height: Annotated[int, Field(ge=32, le=4320)]
    gop: Count
    crf: Annotated[int, Field(ge=0, le=51)]
    clips_per_shard: Count


@dataclass(frozen=True)
class PairsParams:
    """Stage `pairs`: which images, how they are divided, and how many pairs."""

    source: Literal["sample", "folder", "zip", "parquet"]
    path: Annotated[str, Field(min_length=1)]
    split: Literal["images", "identity", "partition"]
    test_images: Count
    pairs_per_image: Annotated[int, Field(ge=5, multiple_of=5)]
    images_per_shard: Count
    align: bool
    evaluation_pairs: str
    level: Number = 0
    pattern: Annotated[str, Field(min_length=1)] = "*.parquet"
    identity_column: str = ""


@dataclass(frozen=True)
class EvaluateParams:
    """Stage `evaluate`: how many pairs of each exam, how many at a time, how many on each picture."""

    pairs: Annotated[int, Field(ge=2)]
    batch_size: Count
    grid_rows: Count


@dataclass(frozen=True)
class RegisterParams:
    """Stage `register`: the name of the model in the registry."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 _.-]*$")]


@dataclass(frozen=True)
class GateParams:
    """What one metric of reports/metrics.json must reach; null turns a bound off."""

    better: Literal["higher", "lower"]
    floor: Finite | None  # absolute bound: the least where higher is better, the most where lower is
    tolerance: Amount | None  # how much worse than the champion is still accepted


Exam = Literal["reconstruction", "reenactment", "swapping"]
Metric = Annotated[str, Field(pattern=r"^(reconstruction|reenactment|swapping)\.\w+$")]


@dataclass(frozen=True)
class PromoteParams:
    """The gates of pipeline/promote.py: metric by its dotted name -> gate, exam -> least number of evaluated pairs."""

    gates: dict[Metric, GateParams]
    min_pairs: dict[Exam, Number]


@dataclass(frozen=True)
class ComputeParams:
    """What this machine has. `UNIFACE_WORKERS=4` in the environment overrides `workers`, and so on."""

    workers: Count
    gpus_per_worker: Annotated[int, Field(ge=-1)]
    cpus_per_worker: Count
    storage: str
    loader_workers: Number
    crop_workers: Number


@dataclass(frozen=True)
class Params:
    """The whole of params.yaml, a field per section. `model.image_size` is the top one, not a key of its section."""

    seed: Seed
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
        if is_dataclass(field.type):
            _strict(field.type)


_strict(Params)
_strict(GateParams)  # out of reach inside a dict, like the next
_strict(RoleParams)
_ADAPTER = TypeAdapter(Params)


def load(path: str | Path = "params.yaml") -> Params:
    """Read and check a params file.

    Raises FileNotFoundError if it is missing and ValueError naming every wrong key by its dotted name.
    """
    path = Path(path)
    values = read(path)
    model = values.get("model")
    own = [f"  model.image_size: unknown key: {path.name} has one image_size, at its top"] if _has_size(model) else []
    if isinstance(model, dict):
        values["model"] = {"image_size": values.get("image_size"), **model}
    values["compute"] = _from_environment(values.get("compute"))
    try:
        text = json.dumps(_texts(values), default=str)  # dates
        params = _ADAPTER.validate_json(text)  # JSON mode: strict, yet lists fill tuples
        lines = [f"  {name}: missing" for name in _missing(Params, values)]
        lines = lines or [f"  {line}" for line in (*combinations(params), *paths(params, path.parent))]
    except ValidationError as error:
        lines = list(dict.fromkeys(line for one in error.errors() for line in _explain(one)))
    if own or lines:
        raise ValueError(f"{path} has wrong keys or values:\n" + "\n".join(own + lines)) from None
    return _expanded(params)


def _texts(value: object) -> object:
    """The value with keys of mappings as texts: YAML allows dates and lists there."""
    if isinstance(value, dict):
        return {str(key): _texts(one) for key, one in value.items()}
    return [_texts(one) for one in value] if isinstance(value, list) else value


def _has_size(model: object) -> bool:
    return isinstance(model, dict) and "image_size" in model


def read(path: Path) -> dict[str, Any]:
    """The values of a YAML 1.2 file with a mapping at its top, unchecked.

    Raises FileNotFoundError, or ValueError for what is no such file or has a key twice.
    """
    from ruamel.yaml import YAML, YAMLError

    if not path.is_file():
        raise FileNotFoundError(f"{path} not found: run from the project's root, where params.yaml is")
    try:
        values = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except (YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        reason = (getattr(error, "problem", None) or str(error)).strip().splitlines()[0]
        raise ValueError(f"{path}{where} is not valid YAML: {reason}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds no settings: git checkout {path.name} restores the file")
    return values


def _missing(cls: type, values: dict, prefix: str = "") -> Iterator[str]:
    """Dotted names of keys left out; a default in a dataclass serves Python callers, params.yaml says everything."""
    for field in fields(cls):
        if field.name not in values:
            yield prefix + field.name
        elif is_dataclass(field.type):
            yield from _missing(field.type, values[field.name], f"{prefix}{field.name}.")


def _explain(error: dict) -> Iterator[str]:
    """One line for each thing that a pydantic error says is wrong."""
    # what belongs to a key of a mapping, or to one choice of a union, is an error of the key
    place = [str(part) for part in error["loc"] if part not in ("[key]", "float")]
    name = ".".join(place) or "the file"
    reason = error.get("ctx", {}).get("error")
    if isinstance(reason, WrongSettings):
        for key, text in reason.fields.items():
            yield f"  {'image_size' if (name, key) == ('model', 'image_size') else f'{name}.{key}'}: {text}"
    elif error["type"] == "missing":
        yield f"  {name}: missing"
    elif error["type"] == "unexpected_keyword_argument":
        yield f"  {name}: unknown key{_meant(place)}"
    elif name == "model.image_size":
        yield f"  image_size: {error['msg']}, got {error['input']!r}"
    elif error["type"] == "literal_error" and "[key]" in error["loc"]:
        known = get_args(Role) if place[0] == "weights" else get_args(Exam)
        yield f"  {name}: unknown key{_closest(place[-1], known)}"
    else:
        yield f"  {name}: {error['msg']}, got {error['input']!r}"


def _meant(place: list[str]) -> str:
    """The key of a section that an unknown one looks like, as a question."""
    section = Params
    for name in place[:-1]:
        section = next((field.type for field in fields(section) if field.name == name), None)
        if not is_dataclass(section):
            section = RoleParams if place[0] == "weights" else GateParams  # those inside a mapping
            break
    return _closest(place[-1], [field.name for field in fields(section)])


def _closest(name: str, known: Sequence[str]) -> str:
    found = difflib.get_close_matches(name, known, 1)
    return f", did you mean {found[0]}?" if found else ""


def _expanded(params: Params) -> Params:
    """With ~ in paths as the home that it means."""

    def home(path: str) -> str:
        return os.path.expanduser(path)

    roles = {
        role: replace(choice, file=home(choice.file), centre=home(choice.centre))
        for role, choice in params.weights.roles.items()
    }
    return replace(
        params,
        weights=replace(params.weights, roles=roles),
        download=replace(params.download, cookies=home(params.download.cookies)),
        pairs=replace(params.pairs, evaluation_pairs=home(params.pairs.evaluation_pairs)),
        compute=replace(params.compute, storage=home(params.compute.storage)),
    )


def _from_environment(values: object) -> object:
    """The section `compute` with what the environment says of it."""
    if not isinstance(values, dict):
        return values
    found = dict(values)
    for field in fields(ComputeParams):
        name = f"UNIFACE_{field.name.upper()}"
        kind = (get_args(field.type) or (field.type,))[0]
        if name in os.environ:
            try:
                found[field.name] = kind(os.environ[name])
            except ValueError as error:
                raise ValueError(f"environment {name}={os.environ[name]!r} is not a {kind.__name__}") from error
    return found


def load_or_exit(path: str | Path = "params.yaml") -> Params:
    """`load` for commands: prints the reason and exits with 2 instead of a traceback."""
    try:
        return load(path)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    load_or_exit()
