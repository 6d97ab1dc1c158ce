"""Which checkpoint a training goes on from: the newest that can be read."""

import re
from collections.abc import Callable
from pathlib import Path


def forget_missing(runs: Path) -> None:
    """Remove Ray's list of checkpoints if it names one that is gone, with which it would never start again."""
    path = runs / "checkpoint_manager_snapshot.json"
    if path.is_file():
        named = re.findall(r"checkpoint_[0-9][\w.-]*", path.read_text(encoding="utf-8"))
        if not all((runs / name).is_dir() for name in named):
            path.unlink()


def take_up(load: Callable[[Path], None], runs: Path, name: str, told: Path | None) -> list[str]:
    """`load` the file `name` of a run's newest readable checkpoint; what is to be said of those that are not.

    Ray tells (`told`) only of those it had taken up before it was killed, and looks into none of them.
    """
    found = sorted((path for path in runs.glob("checkpoint_*") if path.is_dir()), reverse=True)
    if told and told not in found:  # a storage that is no folder of this machine
        found.insert(0, told)
    warnings = []
    for place in found:
        try:
            load(place / name)
            return warnings
        except (ValueError, OSError) as error:
            warnings.append(f"{place.name} cannot be used, trying the one before ({type(error).__name__}: {error})")
    return [*warnings, "no checkpoint can be used, training starts from the beginning"] if warnings else []
