"""What the road made and what to look at next, for the terminal: the last words of `make repro`."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.common import timing
from pipeline.common.places import Places
from pipeline.tracking import local, store, versions


def summary(places: Places) -> str:
    """What the road made, as text for the terminal: scores, pictures, the version, and the next commands.

    Raises FileNotFoundError if the road has not been run to its end, ValueError if a report is damaged.
    """
    registered_path, metrics_path = places.reports / "registered.json", places.reports / "metrics.json"
    for path in (registered_path, metrics_path):
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing: run `make repro` first")
    registered, metrics = _read(registered_path), _read(metrics_path)
    pictures = sorted((places.reports / "samples").glob("*.png"))
    name, version = registered["name"], registered["version"]
    lines = ["", "Scores on held-out identities (reports/metrics.json, reports/vs_paper.csv)"]
    for exam in metrics["pairs"]:
        lines += comparison(exam, metrics)
    lines += ["", "Pictures", *(f"  {path.relative_to(places.root)}" for path in pictures)]
    lines += ["", f"Registered: {name} version {version}, alias {registered['alias']} ({registered['uri']})"]
    lines += [f"  but {fault}" for fault in faults(name, registered["weights_digest"], places)]
    lines += timing.table(places.work)
    lines += [
        "",
        "Next",
        "  open reports/index.html                                numbers, curves and pictures on one page",
        "  python -m uniface swap SOURCE TARGET -o OUT.png        try two pictures of your own",
        "  mlflow ui --backend-store-uri sqlite:///mlflow.db      curves, versions, artifacts",
        "  python -m pipeline.promote --dry-run                   would the gates let this version in?",
        "  make retrain                                           fetch, reproduce, gate, promote",
    ]
    return "\n".join(lines)


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): remove it and run dvc repro") from None


def faults(name: str, weights: str, places: Places) -> list[str]:
    """Why the registry cannot serve the weights of this digest, as sentences; none if it can."""
    if local.serves(name, weights, places.root):
        return []
    try:
        registry = versions.Registry(name, places.root)
        found = registry.all("weights_digest", weights)
        if not found:
            return [f"the registry here does not have it: {versions.REGISTER}"]
        with tempfile.TemporaryDirectory() as folder, store.plain_errors():
            registry.weights(found[-1].version, folder)
    except ValueError as error:
        return [str(error)]
    return []


def comparison(exam: str, metrics: Mapping[str, Any]) -> list[str]:
    """Lines of a table: the exam's metrics down, the model, the trivial baselines and the shuffled controls across."""
    rows = {name: value for name, value in metrics.get(exam, {}).items() if isinstance(value, int | float)}
    others = {**metrics.get("baselines", {}).get(exam, {}), **metrics.get("controls", {}).get(exam, {})}
    columns = {
        name: others[name]
        for name in ("copy_source", "copy_target", "shuffled_source", "shuffled_driver")
        if name in others
    }
    if not rows:
        return []
    head = f"  {exam:<22}{'model':>12}" + "".join(f"{name.replace('_', ' '):>17}" for name in columns)
    lines = [head]
    for name, value in rows.items():
        cells = [column.get(name) for column in columns.values()]
        lines.append(f"    {name:<20}{value:>12.4g}" + "".join(f"{'' if c is None else f'{c:.4g}':>17}" for c in cells))
    return lines


if __name__ == "__main__":
    try:
        print(summary(Places()))
    except (FileNotFoundError, ValueError) as error:
        raise SystemExit(f"error: {error}") from None
