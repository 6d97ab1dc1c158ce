"""Stage `register`: both trained models become one version in the MLflow registry, alias `candidate`.

One version for each distinct pair of weight files; the same weights again only refresh the numbers of theirs, unless
its run or its files are gone: then they are made anew.
"""

import base64
import dataclasses
import io
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from pipeline.common.files import contents, digest, read_json, sha256, weights_digest, write_json
from pipeline.common.nets import MANIFEST
from pipeline.common.places import Places, main
from pipeline.sections import Params
from pipeline.tracking import runs, store, versions
from pipeline.tracking.card import card
from pipeline.tracking.journal import send_leftovers
from uniface.config import TASKS, Task
from uniface.tables import ELSEWHERE
from uniface.use.bundle import DETECTOR

if TYPE_CHECKING:
    from uniface.model import UniFace

NETWORKS = (".onnx", ".pth", ".safetensors")  # endings of their files

# to serve a version
NEEDED = (
    "mlflow",
    "torch",
    "numpy",
    "pandas",
    "pillow",
    "safetensors",
    "opencv-python-headless",
    "c2pa-python",
)
BATCH = 8  # images a served model takes at once
HERE = Path(__file__).parent


@store.plain_errors()
def register(params: Params, places: Places) -> dict[str, Any]:
    """Log both models with all that explains them, and write `reports/registered.json`, whose contents it returns.

    Raises FileNotFoundError naming the stage that makes a missing input, ValueError for a model that does not load or
    is not the one that `evaluate` measured, and for an MLflow that does not answer.
    """
    models = {task: places.model(task) for task in TASKS}
    metrics = places.reports / "metrics.json"
    for task, path in models.items():
        _need(path, f"train_{task}")
    _need(metrics, "evaluate")
    scores = read_json(metrics)
    nets = _load(models, scores)
    registry = versions.Registry(params.register.name, places.root)
    send_leftovers(places.root.resolve())
    tags = {
        "weights_digest": versions.pair_digest(models),
        "params_digest": digest(dataclasses.replace(params, compute=None, promote=None)),
        "data_digest": digest(_sums(places, places.clips), _sums(places, places.pairs)),
        "evaluation_digest": evaluation_digest(places, params),
        "git_commit": git_commit(places.root),
    }
    known = registry.all("weights_digest", tags["weights_digest"])
    version = next((found for found in reversed(known) if _is_whole(registry, found.version)), None)
    new = version is None
    if new:
        print(f"registering a new version of {params.register.name}", flush=True)
        made, onnx = _create(registry, nets, scores, tags, params, places)
        version = _only_one(registry, made, [found.version for found in known])
    else:
        print(f"the weights of version {version.version} again: no new version, its numbers are refreshed", flush=True)
        registry.log_metrics(version.version, versions.numbers(scores))
        registry.tag(version.version, {key: tags[key] for key in ("data_digest", "evaluation_digest")})
        onnx = {task: version.tags[f"onnx_{task}"] for task in TASKS}
        with tempfile.TemporaryDirectory() as folder:
            write_json(Path(folder) / "metrics.json", scores)
            for path in _pages(places):
                copy = shutil.copytree if path.is_dir() else shutil.copy
                copy(path, Path(folder) / path.name)
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
        "tracking_uri": store.public_uri(registry.uri),
        "uri": f"models:/{registry.name}@candidate",
    }
    write_json(places.reports / "registered.json", registered)
    print(f"{registry.name} version {version.version}, alias candidate; onnx: {onnx}")
    return registered


def _pages(places: Places) -> list[Path]:
    """What a person and the next evaluation read of a version: the page, and the numbers of every pair."""
    return [path for name in ("index.html", "rows", "pairs") if (path := places.reports / name).exists()]


def _need(path: Path, stage: str) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; the stage {stage} makes it: dvc repro {stage}")


def _load(models: Mapping[Task, Path], scores: Mapping[str, Any]) -> dict[Task, "UniFace"]:
    """Both models. ValueError if one does not load, or is not the one that the scores are of."""
    from uniface.model import UniFace

    nets = {task: UniFace.load(path) for task, path in models.items()}
    for task, path in models.items():
        if scores.get("weights", {}).get(task) != weights_digest(path):
            raise ValueError(
                f"reports/metrics.json was measured on another {path.name} than the one in models/: "
                "dvc repro (if it finds nothing to do: dvc repro --force --single-item evaluate)"
            )
    return nets


def _is_whole(registry: versions.Registry, number: str) -> bool:
    """Has a version its run and its files still? A run in the trash is taken out of it."""
    if not registry.restore_run(number):
        print(f"the run of version {number} is gone", flush=True)
        return False
    with tempfile.TemporaryDirectory() as folder:
        try:
            registry.weights(number, folder)
        except ValueError as error:
            print(f"version {number} cannot serve: {error}", flush=True)
            return False
    return True


def _only_one(registry: versions.Registry, made: Any, known: list[str]) -> Any:
    """The version to use of those not `known` before: of two made at once of the same weights, all take the first."""
    same = registry.all("weights_digest", made.tags["weights_digest"])
    first = next(version for version in same if version.version not in known)
    if first.version != made.version:
        print(f"another project registered these weights just now: version {first.version} it is", flush=True)
        registry.delete(made.version)
    return first


def _create(
    registry: versions.Registry,
    nets: Mapping[Task, "UniFace"],
    scores: Mapping[str, Any],
    tags: Mapping[str, str],
    params: Params,
    places: Places,
) -> tuple[Any, dict[str, str]]:
    """The new version, and how the ONNX export of each task went."""
    manifest, samples = places.nets / MANIFEST, places.reports / "samples"
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder)
        onnx = {t: _export(nets[t], t, files / f"{t}.onnx") for t in TASKS}
        facts = {"paper": "UniFace, ECCV 2022", **tags}
        frozen = read_json(manifest) if manifest.is_file() else {}
        text = card(registry.name, params.image_size, facts, scores, frozen, onnx)
        (files / "card.md").write_text(text)
        artifacts = {task: str(places.model(task)) for task in TASKS}
        if (places.nets / "faces" / DETECTOR).is_file():  # what finds the faces that these models take
            artifacts["detector"] = str(places.nets / "faces" / DETECTOR)
        artifacts |= {path.stem if path.suffix == ".md" else path.name: str(path) for path in files.iterdir()}
        with runs.start_run("register", dataclasses.asdict(params), tags=tags, root=places.root) as run:
            run.log_metrics(versions.numbers(scores), step=0)
            write_json(files / "reports" / "metrics.json", scores)
            run.log_artifact(files / "reports", "reports")
            if samples.is_dir():
                run.log_artifact(samples, "reports/samples")
            for path in _pages(places):
                run.log_artifact(path, f"reports/{path.name}" if path.is_dir() else "reports")
            for name in ("dvc.lock", "dvc.yaml", "params.yaml"):
                if (places.root / name).is_file():
                    run.log_artifact(places.root / name, "project")
            run.log_artifact(files / "card.md")
            stored = versions.log_pyfunc(
                code=HERE / "tracking" / "serving.py",
                artifacts=artifacts,
                settings={"image_size": params.image_size, "batch_size": BATCH},
                example=example(params.image_size),
                requirements=[f"{name}=={metadata.version(name)}" for name in NEEDED],
                code_paths=[HERE.parent / "uniface"],  # the version keeps the code that its weights fit
            )
            made = registry.create(stored, {**tags, **{f"onnx_{task}": onnx[task] for task in TASKS}})
    registry.describe(made.version, text)
    return made, onnx


def _export(model: "UniFace", task: str, out: Path) -> str:
    from uniface.use.onnx import ExportError, export

    try:
        difference = export(model, task, out)[out]
    except ExportError as error:
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


def evaluation_digest(places: Places, params: Params) -> str:
    """12 hex digits of what `evaluate` measures with: the test clips and pairs, the frozen nets, its settings.

    Scores of two versions are comparable only where this is equal.
    """
    clips, pairs = dict(_sums(places, places.clips)), dict(_sums(places, places.pairs))
    files = [found for name, found in clips.items() if PurePath(name).match("test-*.parquet")]
    files += [pairs[name] for name in ("test.parquet", "evaluation.parquet") if name in pairs]
    files += [found for name, found in pairs.items() if PurePath(name).match("images-*.parquet")]
    files += [found for _, found in _sums(places, places.faceforensics)]
    files += [found[ELSEWHERE] for found in (clips, pairs) if ELSEWHERE in found]
    files += [sha256(file) for file in sorted(places.nets.rglob("*")) if file.suffix in NETWORKS]
    files += [sha256(file) for file in sorted((places.root / params.evaluate.pair_lists).glob("*.csv"))]
    return digest(*(["file", found] for found in files), params.evaluate, params.seed, params.image_size)


def _sums(places: Places, folder: Path) -> list[list[str]]:
    """[path, sha256] of every file below a folder of data; only what changed is read again."""
    found = contents(folder, places.work / "contents" / f"{folder.name}.json")
    return [[name, one] for name, one in found.items()]


def git_commit(root: Path) -> str:
    """The commit checked out at `root`, with `-dirty` where tracked files differ from it; `unknown` without git."""
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        found = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()


if __name__ == "__main__":
    main(register)
