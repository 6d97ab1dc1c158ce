"""`make ablations`: each variant is a real DVC experiment of a small road, done once, and Table 4 is one table."""

import csv
import shutil
import subprocess
import sys

import pytest
import yaml
from tiny_project import ROOT, command, commit, git

from pipeline.ablations import COLUMNS, VARIANTS

pytestmark = pytest.mark.slow

DVC_YAML = """
stages:
  evaluate:
    cmd: python road.py
    deps: [road.py]
    params: [model, train_reenactment, train_swapping]
    outs:
    - reports/rows
    - reports/pairs:
        cache: false
    metrics:
    - reports/metrics.json:
        cache: false
"""
# What a variant scores follows from its settings: without IdT the source's identity is lost, and so on.
ROAD = """
import json
from pathlib import Path
import numpy as np
import yaml

values = yaml.safe_load(Path("params.yaml").read_text())
lost = 0.4 * (not values["model"]["use_idt"]) + 0.3 * (values["train_swapping"]["weights"]["identity"] == 0)
pose = 2.0 * (not values["model"]["use_attrt"]) + 0.5 * (values["train_reenactment"]["weights"]["adversarial"] == 0)
rng = np.random.default_rng(0)
noise = rng.normal(0, 0.05, 40)
reports = Path("reports")
for name in ("rows", "pairs"):
    (reports / name).mkdir(parents=True, exist_ok=True)
report = {"exams": {}}
for exam in ("reenactment", "swapping"):
    csim, ape = 0.8 - lost + noise, 1.0 + pose + noise
    lines = [f"model,{k},{csim[k]:.6g},{ape[k]:.6g}" for k in range(40)]
    lines += [f"copy_source,{k},1,0" for k in range(40)]
    (reports / f"rows/{exam}.csv").write_text("picture,pair,csim,ape\\n" + "\\n".join(lines) + "\\n")
    who = "\\n".join(f"s{k},t{k},p{k % 10},q{k}" for k in range(40))
    (reports / f"pairs/{exam}.csv").write_text("source,target,source_identity,target_identity\\n" + who + "\\n")
    report[exam] = {"csim": csim.mean(), "ape": ape.mean(), "frechet_x": 3.0}
    report["exams"][exam] = {"task": exam}
(reports / "metrics.json").write_text(json.dumps(report))
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    root = tmp_path_factory.mktemp("ablations")
    (root / "dvc.yaml").write_text(DVC_YAML)
    (root / "road.py").write_text(ROAD)
    (root / ".gitignore").write_text("/reports/rows\n/work\n/.dvc/tmp\n/.dvc/cache\n")
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values["evaluate"]["exams"] |= {"reconstruction": None}
    values["promote"] = {"gates": {}, "min_pairs": {}}
    (root / "params.yaml").write_text(yaml.safe_dump(values))
    for package in ("pipeline", "uniface"):
        shutil.copytree(
            ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__", "nets", "teaching")
        )
    git(root, "init", "--quiet")
    subprocess.run([sys.executable, "-m", "dvc", "init", "--quiet"], cwd=root, check=True)
    commit(root, "small road")
    return root


def table(root) -> dict[tuple[str, str, str], dict[str, str]]:
    with open(root / "reports/ablations.csv", newline="") as file:
        reader = csv.DictReader(file)
        assert tuple(reader.fieldnames) == COLUMNS
        return {(row["variant"], row["exam"], row["metric"]): row for row in reader}


def test_every_variant_is_an_experiment_and_the_table_tells_them_apart(project):
    done = command(project, sys.executable, "-m", "pipeline.ablations")
    assert done.returncode == 0, done.stdout[-3000:]
    found = table(project)
    assert {variant for variant, *_ in found} == set(VARIANTS)
    assert len(found) == len(VARIANTS) * 2 * 3
    full, lost = (found[variant, "swapping", "csim"] for variant in ("full", "without_idt"))
    assert float(full["low"]) < float(full["value"]) < float(full["high"]) and full["pairs"] == "40"
    assert float(lost["difference"]) == pytest.approx(-0.4, abs=1e-4) and float(lost["difference_high"]) < 0
    pose = found["without_attrt", "reenactment", "ape"]
    assert float(pose["difference_low"]) > 0 and full["difference"] == ""
    assert found["without_contextual", "swapping", "csim"]["difference"] == "0"
    assert found["full", "swapping", "frechet_x"] | {"low": "", "high": ""} == found["full", "swapping", "frechet_x"]
    again = command(project, sys.executable, "-m", "pipeline.ablations")
    assert again.returncode == 0 and "Running stage" not in again.stdout  # done once
    assert "6 of 6 variants" in again.stdout


def test_the_settings_of_the_variants_are_those_that_params_yaml_has():
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    for sets in VARIANTS.values():
        for one in sets:
            name, _, _ = one.partition("=")
            section = values
            for key in name.split("."):
                assert key in section, name
                section = section[key]
