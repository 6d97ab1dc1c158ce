"""`make ablations`: each variant is a real DVC experiment of a small road, done once, and Table 4 is one table."""

import csv
import shutil
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import yaml
from tiny_project import ROOT, command, commit, git, make_tiny, start, until

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
import time
from pathlib import Path
import numpy as np
import yaml
from pipeline.common.places import make_work

make_work(Path("work"))  # that of all variants
values = yaml.safe_load(Path("params.yaml").read_text())
lost = 0.4 * (not values["model"]["use_idt"]) + 0.3 * (values["train_swapping"]["weights"]["identity"] == 0)
pose = 2.0 * (not values["model"]["use_attrt"]) + 0.5 * (values["train_reenactment"]["weights"]["adversarial"] == 0)
rng = np.random.default_rng(0)
noise = rng.normal(0, 0.05, 40)
contextual = values["train_swapping"]["weights"]["contextual"]
with Path("work/log.txt").open("a") as file:
    print(lost, pose, contextual, file=file)
while pose == 2.0 and Path("work/wait").exists():
    time.sleep(0.1)
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


def processes(root) -> list[psutil.Process]:
    """Those that work below a folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()).is_relative_to(root):
                found.append(process)
        except (psutil.Error, OSError):  # it has ended, or is not ours
            continue
    return found


def kill_all(root) -> None:
    """As when the machine loses its power: the command, DVC and what they have started."""
    while found := processes(root):
        for process in found:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(found, 5)


@pytest.fixture(scope="module")
def finished(project, tmp_path_factory):
    """Killed in the third of six variants, and run again to its end."""
    log = tmp_path_factory.mktemp("log") / "log.txt"
    (project / "work/ablations").mkdir(parents=True)
    for name in ("wait", "log.txt"):
        (project / "work/ablations" / name).touch()
    started = start(project, log, sys.executable, "-m", "pipeline.ablations")
    until(project / "work/ablations/log.txt", "0.0 2.0", started)
    kill_all(project)
    started.wait()
    (project / "work/ablations/wait").unlink()
    return command(project, sys.executable, "-m", "pipeline.ablations")


def test_every_variant_is_an_experiment_and_the_table_tells_them_apart(project, finished):
    assert finished.returncode == 0, finished.stdout[-3000:]
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
    assert "w/o IdT the identity of swapping is worse; so here (CSIM -0.4" in finished.stdout


def test_what_was_done_before_a_kill_is_not_done_again(project, finished):
    runs = Counter((project / "work/ablations/log.txt").read_text().splitlines())
    assert len(runs) == len(VARIANTS) and sorted(runs.values()) == [1, 1, 1, 1, 1, 2]
    assert next(run for run, times in runs.items() if times == 2).startswith("0.0 2.0")
    again = command(project, sys.executable, "-m", "pipeline.ablations")
    assert again.returncode == 0 and "Running stage" not in again.stdout
    assert "6 of 6 variants" in again.stdout


def test_a_variant_that_fails_is_named(project, finished, tmp_path):
    copy = tmp_path / "failing"
    shutil.copytree(project, copy, symlinks=True, ignore=shutil.ignore_patterns("tmp", "work"))
    (copy / "road.py").write_text(ROAD + "assert lost == 0\n")
    commit(copy, "a road that fails without identity")
    done = command(copy, sys.executable, "-m", "pipeline.ablations")
    assert done.returncode == 1
    last = done.stdout.strip().splitlines()[-1]
    assert last == "error: ablations: without_idt, without_identity failed, as said above"
    assert "stage without_idt failed" in done.stdout
    assert {variant for variant, *_ in table(copy)} == set(VARIANTS) - {"without_idt", "without_identity"}


def test_the_tiny_profile_goes_on_after_a_kill_and_trains_only_what_a_variant_changes(tmp_path):
    project = make_tiny(tmp_path / "project")
    made = command(project, "dvc", "repro", "evaluate", seconds=1800)
    assert made.returncode == 0, made.stdout[-3000:]
    commit(project, "reproduced")
    log = tmp_path / "log.txt"
    started = start(project, log, sys.executable, "-m", "pipeline.ablations")
    until(log, "Running stage 'train_swapping'", started)
    kill_all(project)
    started.wait()
    done = command(project, sys.executable, "-m", "pipeline.ablations", seconds=3600)
    assert done.returncode == 0, done.stdout[-3000:]
    assert {variant for variant, *_ in table(project)} == set(VARIANTS)
    trained = {
        stage: list((project / "work/ablations" / stage).iterdir()) for stage in ("train_reenactment", "train_swapping")
    }
    assert len(trained["train_reenactment"]) == 3  # without IdT, AttrT, L_adv; the full model is that of the road
    assert len(trained["train_swapping"]) == 5
    assert 'id="ablations"' in (project / "reports/index.html").read_text()


def test_the_settings_of_the_variants_are_those_that_params_yaml_has():
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    for sets in VARIANTS.values():
        for one in sets:
            name, _, _ = one.partition("=")
            section = values
            for key in name.split("."):
                assert key in section, name
                section = section[key]
