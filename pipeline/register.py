"""Stage `register`: both trained models become one version in the MLflow registry, alias `candidate`.

One version for each distinct pair of weight files; the same weights again only refresh the numbers of theirs.
`python -m pipeline.register summary` prints what the road made and what to look at next.
"""

import base64
import dataclasses
import hashlib
import io
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from pipeline import params as settings
from pipeline import tracking
from pipeline.card import card
from pipeline.files import digest, sha256, write_json
from pipeline.params import Params

TASKS = ("reenactment", "swapping")
NEEDED = ("mlflow", "torch", "numpy", "pandas", "pillow", "safetensors", "opencv-python-headless")  # to serve a version
BATCH = 8  # images a served model takes at once
HERE = Path(__file__).parent


def register(
    models: Mapping[str, Path], metrics: Path, samples: Path, data: Path, out: Path, params: Params, root: Path = Path()
) -> dict[str, Any]:
    """Log the pair of `models` (task -> safetensors file) with all that explains it, and write `out`, which it returns.

    `metrics` is reports/metrics.json, `samples` the folder of pictures, `data` the folder of clips, pairs and frozen
    nets, `root` the project. Raises FileNotFoundError naming the stage that makes a missing input.
    """
    for path, stage in ((models[t], f"train_{t}") for t in TASKS):
        _need(path, stage)
    _need(metrics, "evaluate")
    scores = json.loads(metrics.read_text())
    registry = tracking.Registry(params.register.name, root)
    tags = {
        "weights_digest": digest(*(weights_digest(models[task]) for task in TASKS)),
        "params_digest": digest(dataclasses.replace(params, compute=None, promote=None)),
        "data_digest": digest(data / "clips", data / "pairs"),
        "evaluation_digest": evaluation_digest(data, params),
        "git_commit": git_commit(root),
    }
    version = registry.find("weights_digest", tags["weights_digest"])
    new = version is None
    if new:
        print(f"registering a new version of {params.register.name}", flush=True)
        version, onnx = _create(registry, models, scores, samples, data, tags, params, root)
    else:
        print(f"the weights of version {version.version} again: no new version, its numbers are refreshed", flush=True)
        registry.log_metrics(version.version, tracking.numbers(scores))
        registry.tag(version.version, {key: tags[key] for key in ("data_digest", "evaluation_digest")})
        onnx = {task: version.tags[f"onnx_{task}"] for task in TASKS}
        with tempfile.TemporaryDirectory() as folder:
            write_json(Path(folder) / "metrics.json", scores)
            registry.log_folder(version.version, folder, "reports")
    registry.set_alias("candidate", version.version)
    registered = {
        "name": registry.name,
        "version": int(version.version),
        "alias": "candidate",
        "new": new,
        **tags,
        "models": {task: sha256(models[task]) for task in TASKS},
        "onnx": onnx,
        "run_id": version.run_id,
        "tracking_uri": tracking.public_uri(registry.uri),
        "uri": f"models:/{registry.name}@candidate",
    }
    write_json(out, registered)
    return registered


def _need(path: Path, stage: str) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; the stage {stage} makes it: dvc repro {stage}")


def _create(
    registry: tracking.Registry,
    models: Mapping[str, Path],
    scores: Mapping[str, Any],
    samples: Path,
    data: Path,
    tags: Mapping[str, str],
    params: Params,
    root: Path,
) -> tuple[Any, dict[str, str]]:
    """The new version, and how the ONNX export of each task went."""
    nets = data / "weights" / "weights.json"
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder)
        onnx = {task: _export(models[task], task, params.image_size, files / f"{task}.onnx") for task in TASKS}
        facts = {"paper": "UniFace, ECCV 2022", **tags}
        frozen = json.loads(nets.read_text()) if nets.is_file() else {}
        text = card(registry.name, params.image_size, facts, scores, frozen, onnx)
        (files / "card.md").write_text(text)
        artifacts = {task: str(models[task]) for task in TASKS}
        artifacts |= {path.stem if path.suffix == ".md" else path.name: str(path) for path in files.iterdir()}
        with tracking.start_run("register", dataclasses.asdict(params), tags=tags, root=root) as run:
            run.log_metrics(tracking.numbers(scores), step=0)
            write_json(files / "reports" / "metrics.json", scores)
            run.log_artifact(files / "reports", "reports")
            if samples.is_dir():
                run.log_artifact(samples, "reports/samples")
            for name in ("dvc.lock", "dvc.yaml", "params.yaml"):
                if (root / name).is_file():
                    run.log_artifact(root / name, "project")
            run.log_artifact(files / "card.md")
            stored = tracking.log_pyfunc(
                code=HERE / "serving.py",
                artifacts=artifacts,
                settings={"image_size": params.image_size, "batch_size": BATCH},
                example=example(params.image_size),
                requirements=[f"{name}=={metadata.version(name)}" for name in NEEDED],
                code_paths=[HERE.parent / "uniface"],  # the version keeps the code that its weights fit
            )
            made = registry.create(stored, {**tags, **{f"onnx_{task}": onnx[task] for task in TASKS}})
    registry.describe(made.version, text)
    return made, onnx


def _export(path: Path, task: str, size: int, out: Path) -> str:
    from pipeline.export import export
    from uniface.model import UniFace

    try:
        difference = export(UniFace.load(path), task, size, out)
    except ValueError as error:
        return f"not exported: {error}"
    return f"largest difference to torch {difference:.1e}"


def example(size: int) -> Any:
    """A request with one row for each task: a DataFrame of task, source, target (drawn images, base64 text)."""
    import numpy as np
    import pandas as pd
    from PIL import Image

    def draw(hue: int) -> str:
        ramp = np.linspace(40, 215, size, dtype=np.uint8)
        image = np.stack(np.broadcast_arrays(ramp[:, None], ramp[None, :], np.uint8(hue)), axis=-1)  # (H, W, 3)
        file = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(image)).save(file, format="PNG")
        return base64.b64encode(file.getvalue()).decode()

    return pd.DataFrame({"task": TASKS, "source": [draw(60)] * 2, "target": [draw(190)] * 2})


def weights_digest(path: Path) -> str:
    """The sha256 of a safetensors file's tensors and model config.

    Not of its bytes: safetensors writes the entries of its metadata in any order, so equal files may differ.
    """
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        config = json.loads(header.pop("__metadata__", {}).get("config", "{}"))
        total = hashlib.sha256(json.dumps([header, config], sort_keys=True).encode())
        while block := file.read(1 << 20):
            total.update(block)
    return total.hexdigest()


def evaluation_digest(data: Path, params: Params) -> str:
    """12 hex digits of what `evaluate` measures with: the test clips and pairs, the frozen nets, its settings.

    Scores of two versions are comparable only where this is equal.
    """
    files = [*sorted((data / "clips").glob("test-*.parquet")), data / "pairs" / "test.parquet"]
    files += sorted((data / "pairs").glob("images-*.parquet")) + sorted((data / "weights").rglob("*.onnx"))
    return digest(*(file for file in files if file.is_file()), params.evaluate, params.seed, params.image_size)


def git_commit(root: Path) -> str:
    """The commit checked out at `root`, with `-dirty` where tracked files differ from it; `unknown` without git."""
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        found = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()


def summary(root: Path = Path()) -> str:
    """What the road made, as text for the terminal: scores, pictures, the version, and the next commands.

    Raises FileNotFoundError if the road has not been run to its end.
    """
    registered_path, metrics_path = root / "reports/registered.json", root / "reports/metrics.json"
    for path in (registered_path, metrics_path):
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing: run `make repro` first")
    registered, metrics = json.loads(registered_path.read_text()), json.loads(metrics_path.read_text())
    pictures = sorted((root / "reports/samples").glob("*.png"))
    name, version = registered["name"], registered["version"]
    lines = ["", "Scores on held-out identities (reports/metrics.json, reports/vs_paper.csv)"]
    for task in ("reconstruction", *TASKS):
        lines += comparison(task, metrics)
    lines += ["", "Pictures", *(f"  {path.relative_to(root)}" for path in pictures)]
    lines += ["", f"Registered: {name} version {version}, alias {registered['alias']} ({registered['uri']})"]
    if tracking.Registry(name, root).find("weights_digest", registered["weights_digest"]) is None:
        lines += ["  but the registry here does not have it: dvc repro --force --single-item register"]
    lines += [
        "",
        "Next",
        "  open reports/samples/ and look",
        "  python -m uniface swap SOURCE TARGET -o OUT.png        try two pictures of your own",
        "  mlflow ui --backend-store-uri sqlite:///mlflow.db      curves, versions, artifacts",
        "  python -m pipeline.promote --dry-run                   would the gates let this version in?",
        "  make retrain                                           fetch, reproduce, gate, promote",
    ]
    return "\n".join(lines)


def comparison(task: str, metrics: Mapping[str, Any]) -> list[str]:
    """Lines of a table: the task's metrics down, the model, the trivial baselines and the shuffled controls across."""
    rows = {name: value for name, value in metrics.get(task, {}).items() if isinstance(value, int | float)}
    others = {**metrics.get("baselines", {}).get(task, {}), **metrics.get("controls", {}).get(task, {})}
    columns = {
        name: others[name]
        for name in ("copy_source", "copy_target", "shuffled_source", "shuffled_driver")
        if name in others
    }
    if not rows:
        return []
    head = f"  {task:<22}{'model':>12}" + "".join(f"{name.replace('_', ' '):>17}" for name in columns)
    lines = [head]
    for name, value in rows.items():
        cells = [column.get(name) for column in columns.values()]
        lines.append(f"    {name:<20}{value:>12.4g}" + "".join(f"{'' if c is None else f'{c:.4g}':>17}" for c in cells))
    return lines


def main(arguments: list[str]) -> None:
    if arguments not in ([], ["summary"]):
        raise SystemExit("usage: python -m pipeline.register [summary]")
    if arguments:
        try:
            print(summary())
        except FileNotFoundError as error:
            raise SystemExit(f"error: {error}") from None
        return
    found = register(
        models={task: Path(f"models/{task}.safetensors") for task in TASKS},
        metrics=Path("reports/metrics.json"),
        samples=Path("reports/samples"),
        data=Path("data"),
        out=Path("reports/registered.json"),
        params=settings.load_or_exit(),
    )
    print(f"{found['name']} version {found['version']}, alias {found['alias']}; onnx: {found['onnx']}")


if __name__ == "__main__":
    main(sys.argv[1:])
