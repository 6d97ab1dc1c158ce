"""The whole road for real, tiny: `dvc repro` in a fresh copy of the project at 32 px with a few steps."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
STAGES = ("weights", "download", "crop", "pairs", "train_reenactment", "train_swapping", "evaluate", "register")
TINY = {
    "image_size": 32,
    "sample": {
        "persons": 6,
        "test_persons": 2,
        "seconds": 3.5,
        "portraits": 40,
        "portrait_identities": 20,
        "test_identities": 6,
        "portrait_size": 64,
    },
    "model": {"image_size": 32, "max_channels": 16, "channel_base": 256},
    "train_reenactment": {"iterations": 6, "batch_size": 2, "adversarial_from": 3},
    "train_swapping": {"iterations": 6, "batch_size": 2, "skip_from": 3, "adversarial_from": 3},
    "evaluate": {"pairs": 4, "batch_size": 4, "grid_rows": 2},
}


def merge(values: dict, changes: dict) -> dict:
    return values | {k: merge(values[k], v) if isinstance(v, dict) else v for k, v in changes.items()}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A fresh git checkout of the working tree with the tiny profile."""
    folder = tmp_path_factory.mktemp("project")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file() and not name.startswith("reports/") and name != "dvc.lock":
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    values = yaml.safe_load((folder / "params.yaml").read_text())
    (folder / "params.yaml").write_text(yaml.safe_dump(merge(values, TINY), sort_keys=False))
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    return folder


def run(folder: Path, *command: str) -> subprocess.CompletedProcess:
    """Run a command of the environment's own bin in `folder`, with the folder's code first on the path."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(folder)}
    environment = {k: v for k, v in environment.items() if k not in {"MLFLOW_TRACKING_URI", "RAY_ADDRESS"}}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def ran(output: str) -> list[str]:
    return [stage for stage in STAGES if f"Running stage '{stage}'" in output]


@pytest.mark.road
def test_the_whole_road(project):
    done = run(project, "dvc", "repro")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert ran(done.stdout) and set(ran(done.stdout)) == set(STAGES)
    metrics = json.loads((project / "reports/metrics.json").read_text())
    for task in ("reconstruction", "reenactment", "swapping"):
        assert metrics[task]["psnr"] > 0
    for name in ("reenactment", "swapping"):
        assert (project / f"models/{name}.safetensors").stat().st_size > 10_000
        assert (project / f"reports/samples/{name}.png").read_bytes()[:4] == b"\x89PNG"
    registered = json.loads((project / "reports/registered.json").read_text())
    assert registered["alias"] == "candidate" and int(registered["version"]) == 1

    clean = run(project, "dvc", "status")
    assert "up to date" in clean.stdout
    again = run(project, "python", "-m", "flows.reproduce")
    assert again.returncode == 0, again.stdout[-3000:] + again.stderr[-3000:]
    assert not ran(again.stdout + again.stderr)

    # the registered model, by its alias, answers for both tasks
    code = """
import base64, io, mlflow, pandas
from PIL import Image
from pipeline import tracking
tracking.initialise()
file = io.BytesIO()
Image.new("RGB", (32, 32), "gray").save(file, "PNG")
image = base64.b64encode(file.getvalue()).decode()
rows = pandas.DataFrame({"source": [image] * 2, "target": [image] * 2, "task": ["reenactment", "swapping"]})
print("answers:", len(mlflow.pyfunc.load_model("models:/uniface@candidate").predict(rows)))
"""
    answer = run(project, "python", "-c", code)
    assert "answers: 2" in answer.stdout, answer.stderr[-3000:]

    # one changed training value and a stage that fails: only what is below runs again, and the flow names the stage
    path = project / "params.yaml"
    text = path.read_text()
    last = text.rindex("iterations: 6")  # of train_swapping
    path.write_text(text[:last] + "iterations: 7" + text[last + len("iterations: 6") :])
    (project / "pipeline/evaluate.py").write_text("raise SystemExit('broken on purpose')\n")
    failed = run(project, "python", "-m", "flows.reproduce")
    output = failed.stdout + failed.stderr
    assert failed.returncode != 0
    assert ran(output) == ["train_swapping", "evaluate"], output[-3000:]
    assert any(line.startswith("error:") and "evaluate" in line for line in output.splitlines()), output[-3000:]
