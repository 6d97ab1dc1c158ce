"""params.yaml as typed, frozen settings: every wrong key, value or combination is named, all at once, at start.

The file is read as DVC reads it (YAML 1.2): `dvc exp run -S train_reenactment.lr=0.00001` makes DVC write `1e-05`, a
number there and a text in YAML 1.1.
"""

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_args

from pydantic import ConfigDict, TypeAdapter, ValidationError

from pipeline.checks import closest, combinations, paths
from pipeline.sections import ComputeParams, ExamParams, GateParams, Params, Role, RoleParams
from uniface.config import WrongSettings


def _strict(cls: type) -> None:
    """Forbid unknown keys and coercions on a dataclass and every dataclass inside it."""
    cls.__pydantic_config__ = ConfigDict(extra="forbid", strict=True)
    for field in fields(cls):
        if is_dataclass(field.type):
            _strict(field.type)


_strict(Params)
_strict(GateParams)  # out of reach inside a dict, like the next
_strict(RoleParams)
_strict(ExamParams)
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
        yield f"  {name}: unknown key{closest(place[-1], get_args(Role))}"
    else:
        yield f"  {name}: {error['msg']}, got {error['input']!r}"


def _meant(place: list[str]) -> str:
    """The key of a section that an unknown one looks like, as a question."""
    section = Params
    for name in place[:-1]:
        section = next((field.type for field in fields(section) if field.name == name), None)
        if not is_dataclass(section):
            section = {"weights": RoleParams, "evaluate": ExamParams}.get(place[0], GateParams)  # inside a mapping
            break
    return closest(place[-1], [field.name for field in fields(section)])


def _expanded(params: Params) -> Params:
    """With ~ in paths as the home that it means."""

    def home(path: str) -> str:
        return os.path.expanduser(path)

    roles = {
        role: replace(choice, file=home(choice.file), centre=home(choice.centre), landmarks=home(choice.landmarks))
        for role, choice in params.weights.roles.items()
    }
    return replace(
        params,
        weights=replace(params.weights, roles=roles),
        download=replace(params.download, cookies=home(params.download.cookies)),
        pairs=replace(params.pairs, evaluation_pairs=home(params.pairs.evaluation_pairs)),
        compute=replace(params.compute, storage=home(params.compute.storage), data=params.compute.data.rstrip("/")),
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
