"""The stage `register`: one version for each distinct pair of models, complete, and loadable by its alias."""

import dataclasses
import json
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch
from small_requests import TINY, face, text

import uniface
from pipeline import params as settings
from pipeline import register as stage
from pipeline.common.files import weights_digest
from pipeline.common.places import Places
from pipeline.results import faults, summary
from pipeline.sections import RegisterParams
from pipeline.tracking import local, versions
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
    measured = {task: weights_digest(home / f"models/{task}.safetensors") for task in stage.TASKS}
    (home / "reports/metrics.json").write_text(json.dumps(METRICS | {"weights": measured}))
    (home / "reports/samples/grid.png").write_bytes(b"a picture")
    (home / "data/weights").mkdir(parents=True, exist_ok=True)
    (home / "data/clips").mkdir(exist_ok=True)
    (home / "data/pairs").mkdir(exist_ok=True)
    nets = {"judge": {"file": "judge.onnx", "name": "judge", "licence": "MIT", "stand_in": True}}
    (home / "data/weights/weights.json").write_text(json.dumps(nets))
    return again(home, name, model.image_size)


def again(home, name="faces", size=TINY.image_size):
    """The stage with what lies there."""
    params = settings.load(ROOT / "params.yaml")
    params = dataclasses.replace(params, image_size=size, register=RegisterParams(name=name))
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


def test_people_load_a_version_by_its_alias(registered, registry, registry_home, monkeypatch):
    monkeypatch.chdir(registry_home)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    registry.set_alias("champion", "1")
    editor = uniface.load("models:/faces@champion")
    registry.client.delete_registered_model_alias("faces", "champion")
    assert editor.files.version == "faces version 1" and set(editor.files.models) == set(stage.TASKS)
    source, target = (to_tensor(np.stack([face(k)])) for k in (0, 5))
    for task, verb in (("reenactment", editor.reenact), ("swapping", editor.swap)):
        with torch.no_grad():
            expected = UniFace.load(registry_home / "models" / f"{task}.safetensors")(source, target, task=task)
        assert (verb(source, target) - expected).abs().max() < 1e-4
    with pytest.raises(ValueError, match="models:/faces@champion cannot be fetched"):
        uniface.load("models:/faces@champion")


def test_weights_onnx_and_card_are_beside_it(registered, registry, registry_home, tmp_path):
    folder = registry.download("1", "artifacts", tmp_path)
    names = {path.name for path in folder.iterdir()}
    assert names == {"card.md", *(f"{task}.{kind}" for task in stage.TASKS for kind in ("onnx", "safetensors"))}
    assert all(result.startswith("largest difference to torch") for result in registered["onnx"].values())
    model = UniFace.load(folder / "swapping.safetensors")
    source, target = (to_tensor(np.stack([face(k), face(k + 1), face(k + 2)])) for k in (0, 5))
    (answer,) = onnxruntime.InferenceSession(folder / "swapping.onnx").run(
        None, {"source": (source.numpy() + 1) / 2, "target": target.numpy()}
    )
    with torch.inference_mode():
        assert np.abs(answer - model(source, target, task="swapping").numpy()).max() < 1e-3


def test_same_weights_no_new_version_other_weights_a_new_one(registered, registry, registry_home, monkeypatch):
    monkeypatch.setitem(METRICS["swapping"], "psnr", 19.5)
    same = run(registry_home)
    assert (same["version"], same["new"]) == (1, False)
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
        digests.add(weights_digest(tmp_path / f"{n}.safetensors"))
    assert len(digests) == 1
    with torch.no_grad():
        model.identity_transfer.alpha += 1e-6
    model.save(tmp_path / "changed.safetensors")
    assert weights_digest(tmp_path / "changed.safetensors") not in digests


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(stage, "_export", lambda *_: "not exported: to save time")


@pytest.mark.parametrize("task", stage.TASKS)
def test_a_broken_model_is_not_registered(registry_home, registered, task, quick):
    run(registry_home, seed=20, name=f"broken-{task}")
    path = registry_home / f"models/{task}.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=f"{task}.safetensors is no safetensors file"):
        again(registry_home, f"broken-{task}")
    assert len(versions.Registry(f"broken-{task}", registry_home).versions()) == 1


def test_only_what_was_evaluated_is_registered(registry_home, registered, quick):
    run(registry_home, seed=30, name="measured")
    torch.manual_seed(99)
    UniFace(TINY).save(registry_home / "models/swapping.safetensors")
    with pytest.raises(ValueError, match=r"measured on another swapping\.safetensors .* --single-item evaluate"):
        again(registry_home, "measured")
    metrics = registry_home / "reports/metrics.json"
    metrics.write_text(json.dumps(METRICS))  # of an older program, which did not note what it measured
    with pytest.raises(ValueError, match="dvc repro"):
        again(registry_home, "measured")


def test_a_broken_graph_is_no_reason_but_a_broken_model_is(tmp_path, monkeypatch):
    from uniface.use import onnx

    def fail(error):
        def export(*_):
            raise error

        monkeypatch.setattr(onnx, "export", export)
        return stage._export(UniFace(TINY), "swapping", tmp_path / "a.onnx")

    assert fail(onnx.ExportError("torch cannot")) == "not exported: torch cannot"
    with pytest.raises(ValueError, match="source holds"):
        fail(ValueError("source holds something else"))


@pytest.mark.parametrize("loss", ["run in the trash", "run swept", "files gone", "files cut"])
def test_what_the_registry_lost_is_made_again(registry_home, registered, quick, loss, capsys):
    from mlflow.tracking._tracking_service.utils import _get_store

    name = loss.replace(" ", "-")
    first = run(registry_home, seed=40, name=name)
    registry = versions.Registry(name, registry_home)
    file = Path(registry.version("1").source.removeprefix("file://")) / "artifacts/swapping.safetensors"
    if loss.startswith("run"):
        registry.client.delete_run(first["run_id"])
    if loss == "run swept":
        _get_store()._hard_delete_run(first["run_id"])
    if loss == "files gone":
        file.unlink()
    if loss == "files cut":
        file.write_bytes(file.read_bytes()[:-100])
    second = again(registry_home, name)
    assert (second["version"], second["new"]) == ((1, False) if loss == "run in the trash" else (2, True))
    number = str(second["version"])
    assert registry.aliases() == {"candidate": number} and registry.metrics(number)["swapping.psnr"] == 19.0
    assert registry.client.get_run(second["run_id"]).info.lifecycle_stage == "active"
    assert again(registry_home, name)["version"] == second["version"]


def test_two_that_register_at_once_make_one_version(registry_home, registered, quick, monkeypatch):
    """The other copy of the project makes its version while we make ours: both take the first."""
    real, made = stage._create, []

    def create(*arguments):
        made.append(real(*arguments))  # the other's
        return real(*arguments)

    monkeypatch.setattr(stage, "_create", create)
    registered = run(registry_home, seed=50, name="twice")
    assert registered["version"] == 1 and registered["run_id"] == made[0][0].run_id
    assert [v.version for v in versions.Registry("twice", registry_home).versions()] == [made[0][0].version]


def test_the_summary_says_when_files_are_gone(registry_home, registered, quick):
    run(registry_home, seed=60, name="summary")
    source = versions.Registry("summary", registry_home).version("1").source.removeprefix("file://")
    shutil.rmtree(Path(source) / "artifacts")
    assert "but the files of summary version 1 are gone" in summary(Places(registry_home))


def test_a_whole_registry_here_is_read_without_mlflow(registry_home, registered, quick, monkeypatch):
    made = run(registry_home, seed=61, name="local")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)  # which MLflow has set in this process
    monkeypatch.setattr(versions, "Registry", None)
    assert faults("local", made["weights_digest"], Places(registry_home)) == []
    assert not local.serves("local", "another", registry_home) and not local.serves("other", "x", registry_home.parent)
    copied = shutil.copytree(registry_home, registry_home.parent / "copied")  # its paths lead to the old place
    assert not local.serves("local", made["weights_digest"], copied)
    with sqlite3.connect(registry_home / "mlflow.db") as database:
        row = "SELECT source FROM model_versions WHERE name = 'local'"
        model = Path(database.execute(row).fetchone()[0].removeprefix("file://")) / "artifacts/swapping.safetensors"
    model.write_bytes(model.read_bytes()[:-1])
    assert not local.serves("local", made["weights_digest"], registry_home), "a file is not whole"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert not local.serves("local", made["weights_digest"], registry_home)


def test_a_missing_input_names_the_stage_that_makes_it(tmp_path):
    params = settings.load(ROOT / "params.yaml")
    with pytest.raises(FileNotFoundError, match="dvc repro train_reenactment"):
        stage.register(params, Places(tmp_path))


def test_summary_says_what_to_look_at_next(registered, registry_home, tmp_path):
    (registry_home / "reports/registered.json").write_text(json.dumps(registered))
    found = summary(Places(registry_home))
    assert "psnr" in found and "reports/samples/grid.png" in found and "faces version 1, alias candidate" in found
    assert "dvc repro" not in found  # the registry has it
    with pytest.raises(FileNotFoundError, match="make repro"):
        summary(Places(tmp_path))
    shutil.copytree(registry_home / "reports", tmp_path / "reports")  # as of another machine, with another registry
    (tmp_path / "reports/registered.json").write_text(json.dumps(registered | {"weights_digest": "theirs"}))
    assert "does not have it: dvc repro --force --single-item register" in summary(Places(tmp_path))


def test_a_damaged_report_is_named(tmp_path):
    (tmp_path / "reports").mkdir()
    for name in ("registered", "metrics"):
        (tmp_path / f"reports/{name}.json").write_text("<<<<<<< HEAD")
    with pytest.raises(ValueError, match=r"registered\.json is damaged .* dvc repro"):
        summary(Places(tmp_path))


def test_evaluation_digest_follows_the_test_data_only(tmp_path):
    params = settings.load(ROOT / "params.yaml")
    places = Places(tmp_path)
    places.clips.mkdir(parents=True)
    first = stage.evaluation_digest(places, params)
    (places.clips / "train-00000.parquet").write_text("a")
    assert stage.evaluation_digest(places, params) == first
    (places.clips / "test-00000.parquet").write_text("a")
    second = stage.evaluation_digest(places, params)
    assert second != first
    (places.clips / "test-00000.parquet").write_text("b")  # of the same size
    assert stage.evaluation_digest(places, params) not in (first, second)
