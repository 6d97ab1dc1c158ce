"""Every stage as a command: what a user can mend ends in one sentence and exit status 1, and the road in dvc.yaml."""

import importlib
from functools import partial
from pathlib import Path

import pytest
import yaml

from pipeline.common import places
from pipeline.train import train_stage
from uniface.config import TASKS

ROOT = Path(__file__).resolve().parents[2]
STAGES = {name: getattr(importlib.import_module(f"pipeline.{name}"), name) for name in (
    "weights", "download", "crop", "pairs", "faceforensics", "evaluate", "register")}  # fmt: skip
STAGES |= {f"train_{task}": partial(train_stage, task) for task in TASKS}
# What is wrong in an empty folder, where the sample would be made from nothing.
CHANGES = {
    "weights": {"weights": {"roles": {"regressor": {"file": "missing.onnx", "sha256": "0" * 64}}}},
    "download": {"download": {"source": "folder", "folder": "missing"}},
    "pairs": {"pairs": {"source": "zip", "path": "missing.zip"}},
    "faceforensics": {"faceforensics": {"folder": "missing"}},
}


def test_these_are_the_stages_of_the_road():
    assert set(STAGES) == set(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"])


@pytest.mark.parametrize("stage", STAGES)
def test_what_is_missing_is_said_in_one_sentence(stage, tmp_path, monkeypatch, capsys):
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    for section, changes in CHANGES.get(stage, {}).items():
        values[section] |= changes
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        places.main(STAGES[stage], stage)
    assert end.value.code == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1


def test_wrong_params_end_in_status_2(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        places.main(STAGES["crop"])
    assert end.value.code == 2 and "params.yaml not found" in capsys.readouterr().err
