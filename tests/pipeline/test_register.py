"""The stage `register`: one version for each distinct pair of models, complete, and loadable by its alias."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch
from small_requests import TINY, face, text

from pipeline import params as settings
from pipeline import register as stage
from pipeline.common.places import Places
from pipeline.results import summary
from pipeline.tracking import versions
from uniface.images import to_tensor
from uniface.model import UniFace

ROOT = Path(__file__).resolve().parents[2]
METRICS = {
    "reenactment": {"psnr": 20.5, "truth": "sample"},
    "swapping": {"psnr": 19.0},
    "pairs": {"reenactment": 40, "swapping": 40},
}


def run(home, seed=0, name="faces", model=TINY):
    """Models with weights of this seed, then the stage."""
    for task in stage.TASKS:
        torch.manual_seed(seed + (task == "swapping"))
        UniFace(model).save(home / f"models/{task}.safetensors")
    (home / "reports/samples").mkdir(parents=True, exist_ok=True)
    (home / "reports/metrics.json").write_text(json.dumps(METRICS))
    (home / "reports/samples/grid.png").write_bytes(b"a picture")
    (home / "data/weights").mkdir(parents=True, exist_ok=True)
    (home / "data/clips").mkdir(exist_ok=True)
    (home / "data/pairs").mkdir(exist_ok=True)
    nets = {"judge": {"file": "judge.onnx", "name": "judge", "licence": "MIT", "stand_in": True}}
    (home / "data/weights/weights.json").write_text(json.dumps(nets))
    params = settings.load(ROOT / "params.yaml")
    params = dataclasses.replace(params, image_size=model.image_size, register=settings.RegisterParams(name=name))
    return stage.register(params, Places(home))


@pytest.fixture(scope="module")
def registered(registry_home):
    return run(registry_home)


@pytest.fixture
def registry(registry_home, registered):
    return versions.Registry("faces", registry_home)


def test_the_report_says_what_was_registered(registered, registry_home, registry):
    assert registered == json.loads((registry_home / "reports/registered.json").read_text())
    assert (registered["version"], registered["alias"], registered["new"]) == (1, "candidate", True)
    assert str(registry_home) not in json.dumps(registered)
    version = registry.version("1")
    assert registry.aliases() == {"candidate": "1"}
    for tag in ("weights_digest", "params_digest", "data_digest", "evaluation_digest", "git_commit"):
        assert version.tags[tag] == registered[tag]
    assert registry.metrics("1") == {
        "reenactment.psnr": 20.5,
        "swapping.psnr": 19.0,
        "pairs.reenactment": 40.0,
        "pairs.swapping": 40.0,
    }
    assert "| psnr | 20.5 |" in version.description and "judge (stand-in; licence: MIT)" in version.description
    stored = {item.path for item in registry.client.list_artifacts(version.run_id, "reports")}
    assert stored == {"reports/metrics.json", "reports/samples"}


def test_it_loads_by_alias_and_does_both_tasks(registered):
    import mlflow

    model = mlflow.pyfunc.load_model(registered["uri"])
    answer = model.predict(stage.example(32))
    assert list(answer.columns) == ["image"] and len(answer) == 2
    arrays = [{"task": task, "source": face(0), "target": text(face(1))} for task in stage.TASKS]
    images = model.predict(pd.DataFrame(arrays))["image"]
    assert [image.shape for image in images] == [(32, 32, 3)] * 2
    assert not np.array_equal(*images)


def test_weights_onnx_and_card_are_beside_it(registered, registry, registry_home, tmp_path):
    folder = registry.download("1", "artifacts", tmp_path)
    names = {path.name for path in folder.iterdir()}
    assert names == {"card.md", *(f"{task}.{kind}" for task in stage.TASKS for kind in ("onnx", "safetensors"))}
    assert all(result.startswith("largest difference to torch") for result in registered["onnx"].values())
    model = UniFace.load(folder / "swapping.safetensors")
    source, target = (to_tensor(np.stack([face(k), face(k + 1), face(k + 2)])) for k in (0, 5))
    (answer,) = onnxruntime.InferenceSession(folder / "swapping.onnx").run(
        None, {"source": source.numpy(), "target": target.numpy()}
    )
    with torch.inference_mode():
        assert np.abs(answer - model(source, target, task="swapping").numpy()).max() < 1e-3


def test_same_weights_no_new_version_other_weights_a_new_one(registered, registry, registry_home, monkeypatch):
    monkeypatch.setitem(METRICS["swapping"], "psnr", 19.5)
    again = run(registry_home)
    assert (again["version"], again["new"]) == (1, False)
    assert len(registry.versions()) == 1 and registry.metrics("1")["swapping.psnr"] == 19.5
    monkeypatch.setattr(stage, "_export", lambda *_: "not exported: to save time")
    other = run(registry_home, seed=10)
    assert (other["version"], other["new"], registry.aliases()) == (2, True, {"candidate": "2"})
    back = run(registry_home)  # the first pair again: the candidate moves, no third version
    assert (back["version"], len(registry.versions()), registry.aliases()) == (1, 2, {"candidate": "1"})


def test_weights_digest_is_that_of_tensors_and_config(tmp_path):
    torch.manual_seed(0)
    model = UniFace(TINY)
    digests = set()
    for n in range(4):  # the order of the metadata in the file changes from one to the next
        model.save(tmp_path / f"{n}.safetensors", extra={"step": n})
        digests.add(stage.weights_digest(tmp_path / f"{n}.safetensors"))
    assert len(digests) == 1
    with torch.no_grad():
        model.identity_transfer.alpha += 1e-6
    model.save(tmp_path / "changed.safetensors")
    assert stage.weights_digest(tmp_path / "changed.safetensors") not in digests


def test_a_missing_input_names_the_stage_that_makes_it(tmp_path):
    params = settings.load(ROOT / "params.yaml")
    with pytest.raises(FileNotFoundError, match="dvc repro train_reenactment"):
        stage.register(params, Places(tmp_path))


def test_summary_says_what_to_look_at_next(registered, registry_home, tmp_path):
    found = summary(Places(registry_home))
    assert "psnr" in found and "reports/samples/grid.png" in found and "faces version 1, alias candidate" in found
    assert "dvc repro" not in found  # the registry has it
    with pytest.raises(FileNotFoundError, match="make repro"):
        summary(Places(tmp_path))
    shutil.copytree(registry_home / "reports", tmp_path / "reports")  # as of another machine, with another registry
    (tmp_path / "reports/registered.json").write_text(json.dumps(registered | {"weights_digest": "theirs"}))
    assert "does not have it: dvc repro --force --single-item register" in summary(Places(tmp_path))


def test_evaluation_digest_follows_the_test_data_only(tmp_path):
    params = settings.load(ROOT / "params.yaml")
    places = Places(tmp_path)
    places.clips.mkdir(parents=True)
    first = stage.evaluation_digest(places, params)
    (places.clips / "train-00000.parquet").write_text("a")
    assert stage.evaluation_digest(places, params) == first
    (places.clips / "test-00000.parquet").write_text("a")
    assert stage.evaluation_digest(places, params) != first
