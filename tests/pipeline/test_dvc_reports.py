"""What `dvc metrics show` and `dvc plots show` make of the reports: real DVC, the real dvc.yaml, drawn numbers."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
LOSSES = ("reconstruction", "perceptual", "adversarial", "discriminator", "r1", "absolute", "edges")
BASELINES = "picture,psnr,csim,csim_target\nswapping: the model,24.2,0.66,0.08\n"
LOSSES_OF_SWAPPING = ("identity", "contextual", "colour", "border")


@pytest.fixture
def project(tmp_path):
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text("[core]\n    no_scm = true\n    analytics = false\n")
    for name in ("dvc.yaml", "params.yaml"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports/metrics.json").write_text('{"networks": {"csim": {"network": "a text"}}}')
    (tmp_path / "reports/headlines.json").write_text('{"swapping": {"csim": 0.66, "psnr": 24.2}}')
    (tmp_path / "reports/baselines.csv").write_text(BASELINES)
    for task, losses in (("reenactment", LOSSES), ("swapping", LOSSES + LOSSES_OF_SWAPPING)):
        rows = [("step", *losses), *((step, *(0.5 / step for _ in losses)) for step in (10, 20))]
        (tmp_path / f"reports/{task}.csv").write_text("".join(",".join(map(str, row)) + "\n" for row in rows))
    return tmp_path


def dvc(project, *arguments):
    command = [sys.executable, "-m", "dvc", *arguments]
    return subprocess.run(command, cwd=project, capture_output=True, text=True, check=True)


def test_the_metrics_are_the_headlines_alone(project):
    shown = json.loads(dvc(project, "metrics", "show", "--json").stdout)
    assert shown[""]["data"] == {
        "reports/headlines.json": {"data": {"swapping": {"csim": 0.66, "psnr": 24.2}}},
    }


def test_the_plots_are_every_loss_of_both_stages_and_the_baselines(project):
    done = dvc(project, "plots", "show", "--json")
    assert "could not find" not in done.stderr
    shown = json.loads(done.stdout)["data"]
    losses = {f"{name} loss" for name in LOSSES + LOSSES_OF_SWAPPING}
    assert losses < set(shown) and len(set(shown) - losses) == 3
    steps = [(point["rev"], point["step"], point["filename"]) for point in points(shown["reconstruction loss"])]
    assert len(steps) == 4 and {name for *_, name in steps} == {"reenactment.csv", "swapping.csv"}
    (bar,) = points(shown["PSNR beside the baselines"])
    assert bar["picture"] == "swapping: the model" and float(bar["psnr"]) == 24.2
    listed = yaml.safe_load((ROOT / "dvc.yaml").read_text())["plots"]
    assert len(listed) == len(shown)


def points(plots):
    (plot,) = plots
    return plot["content"]["data"]["values"]


def test_the_page_of_plots_is_not_in_git():
    assert re.search(r"^/dvc_plots/$", (ROOT / ".gitignore").read_text(), re.MULTILINE)
