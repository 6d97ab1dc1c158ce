"""A small project with the real flows, and how to run commands in it."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]

# The road in small: every stage really runs under DVC and really writes what the flows need.
DVC_YAML = """
stages:
  download:
    cmd: python road.py download
    deps: [raw]
    outs: [data/videos]
  train:
    cmd: python road.py train
    deps: [data/videos, road.py]
    outs: [models]
  register:
    cmd: python road.py register
    deps: [models]
    outs: [reports/registered.json]
"""
ROAD = """
import json
import sys
from pathlib import Path
import torch
from pipeline.tracking import runs, versions
from uniface.config import ModelConfig
from uniface.model import UniFace

SMALL = {"image_size": 32, "max_channels": 8, "channel_base": 256, "attribute_channels": 8, "attribute_max_channels": 8}
stage = sys.argv[1]
raw = Path("raw/quality.txt").read_text()
if stage == "download":
    Path("data/videos").mkdir(parents=True)
    Path("data/videos/quality.txt").write_text(raw)
elif stage == "train":
    quality = float(Path("data/videos/quality.txt").read_text())
    Path("models").mkdir()
    Path("models/model.txt").write_text(str(quality))
    torch.manual_seed(int(quality * 100))
    for task in ("reenactment", "swapping"):
        UniFace(ModelConfig(**SMALL)).save(f"models/{task}.safetensors")
else:
    quality = float(Path("models/model.txt").read_text())
    registry = versions.Registry("uniface")
    with runs.start_run("register") as run:
        run.log_metrics({name: quality for name in ("reenactment.psnr", "swapping.psnr")}, step=0)
        run.log_metrics({"pairs.reenactment": 500, "pairs.swapping": 500}, step=0)
        run.log_artifact("models", "model/artifacts")
    if not registry.versions():
        registry.client.create_registered_model("uniface")
    source = registry.client.get_run(run.id).info.artifact_uri + "/model"
    weights = versions.pair_digest({task: Path(f"models/{task}.safetensors") for task in ("reenactment", "swapping")})
    tags = {"evaluation_digest": "same", "weights_digest": weights}
    made = registry.client.create_model_version("uniface", source, run.id, tags=tags)
    registry.set_alias("candidate", made.version)
    Path("reports").mkdir(exist_ok=True)
    Path("reports/registered.json").write_text(json.dumps({**tags, "version": made.version}))
"""
PARAMS_EDIT = {"reenactment.psnr": ("higher", 18.0, 0.2), "swapping.psnr": ("higher", 18.0, 0.2)}


def make_project(folder: Path, quality: float) -> Path:
    """A project in `folder` whose trained model will score `quality`."""
    (folder / "raw").mkdir(parents=True)
    (folder / "raw/quality.txt").write_text(str(quality))
    (folder / "dvc.yaml").write_text(DVC_YAML)
    (folder / "road.py").write_text(ROAD)
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["download"]["source"] = "folder"
    params["promote"] = {
        "gates": {n: {"better": b, "floor": f, "tolerance": t} for n, (b, f, t) in PARAMS_EDIT.items()},
        "min_pairs": {"reenactment": 100},
    }
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    (folder / ".dvc").mkdir()
    (folder / ".dvc/config").write_text("[core]\n    no_scm = true\n    analytics = false\n")
    shutil.copytree(ROOT / "flows", folder / "flows", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def environment(folder: Path, **more: str) -> dict[str, str]:
    """The environment of a command in the project: its own Prefect home, no server but the one in `more`."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_", "UNIFACE_"))}
    return {**clean, "PREFECT_HOME": str(folder / ".prefect"), "PYTHONPATH": str(ROOT), "NO_COLOR": "1", **more}


def run(folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess:
    """`python -m ARGUMENTS` in the project, to its end."""
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=folder,
        env=environment(folder, **more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
        check=False,
    )


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def wait_for(url: str, process: subprocess.Popen, seconds: float = 120) -> None:
    """Until `url` answers; AssertionError if the process ends or time is up."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert process.poll() is None, f"{process.args} ended with {process.returncode}"
        try:
            urllib.request.urlopen(url, timeout=2).close()
            return
        except OSError:
            time.sleep(0.3)
    raise AssertionError(f"{url} did not answer in {seconds} s")
