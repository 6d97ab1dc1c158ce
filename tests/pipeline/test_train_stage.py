"""The launcher: what decides a training's digest, what comes out, and which checkpoint is taken up."""

import csv
import dataclasses
import json
import os
import queue
import shutil
import sys
import threading
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from tiny_training import SIZE, make_trainable

from pipeline import params, train
from pipeline.common import checkpoints
from pipeline.common.files import digest
from pipeline.common.places import Places
from pipeline.tracking import watch
from pipeline.tracking.journal import Journal
from pipeline.training import worker
from pipeline.training.job import fingerprint, make_job
from uniface.model import UniFace, read_metadata
from uniface.stream import sample_stream
from uniface.train import train as train_loop


@pytest.fixture
def project(tmp_path) -> Path:
    make_trainable(tmp_path)
    return tmp_path


@pytest.fixture
def loaded(project) -> params.Params:
    return params.load(project / "params.yaml")


def run_name(project: Path, loaded: params.Params) -> str:
    return digest(*fingerprint(make_job("reenactment", loaded, Places(project))))


def test_params_inputs_and_code_decide_the_run_and_the_machine_does_not(project, loaded, monkeypatch):
    name = run_name(project, loaded)
    assert name == run_name(project, loaded)
    machine = dataclasses.replace(loaded.compute, cpus_per_worker=2, loader_workers=1, workers=2)
    assert run_name(project, dataclasses.replace(loaded, compute=machine)) == name
    names = {name, run_name(project, dataclasses.replace(loaded, seed=1))}
    slower = dataclasses.replace(loaded.train_reenactment, lr=1e-5)
    names.add(run_name(project, dataclasses.replace(loaded, train_reenactment=slower)))
    manifest = project / "data" / "weights" / "weights.json"
    manifest.write_text(manifest.read_text().replace('"1"', '"2"'))
    names.add(run_name(project, loaded))
    shard = project / "data" / "clips" / "train-00000.parquet"
    shard.write_bytes(shard.read_bytes() + b"more")
    names.add(run_name(project, loaded))
    monkeypatch.setattr("pipeline.training.job.code", lambda module: f"another {module}")
    names.add(run_name(project, loaded))
    assert len(names) == 6


def test_other_pictures_in_a_shard_of_the_same_size_are_another_run(project, loaded):
    """Even put in place by hand, in the same file and under the old time."""
    name, shard = run_name(project, loaded), project / "data" / "clips" / "train-00000.parquet"
    before = shard.stat()
    content = bytearray(shard.read_bytes())
    half = slice(len(content) // 4, len(content) // 2)
    content[half] = bytes(255 - byte for byte in content[half])
    with shard.open("r+b") as file:
        file.write(content)
    os.utime(shard, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert shard.stat().st_size == before.st_size and shard.stat().st_ino == before.st_ino
    assert run_name(project, loaded) != name


def test_swapping_depends_on_stage_1(project, loaded):
    (project / "data" / "pairs").mkdir()
    with pytest.raises(FileNotFoundError, match=r"run python -m pipeline\.train reenactment"):
        make_job("swapping", loaded, Places(project))
    torch.manual_seed(5)
    model = UniFace(loaded.model)
    path = project / "models" / "reenactment.safetensors"
    model.save(path)
    job = make_job("swapping", loaded, Places(project))
    name = digest(*fingerprint(job))
    made = worker.make_trainer(job)
    for key, value in model.attribute_embedder.state_dict().items():
        assert torch.equal(made.model.attribute_embedder.state_dict()[key], value)
    name_of_one = next(k for k, v in model.identity_embedder.state_dict().items() if v.std() > 0)
    mine, theirs = (net.identity_embedder.state_dict()[name_of_one] for net in (made.model, model))
    assert not torch.equal(mine, theirs)
    UniFace(loaded.model).save(path)
    assert digest(*fingerprint(job)) != name


def test_a_contextual_map_beyond_the_net_is_named_before_training(project, loaded, tmp_path):
    weights = dataclasses.replace(loaded.train_reenactment.weights, contextual=0.1)
    job = make_job("reenactment", loaded, Places(project))
    values = [onnx.helper.make_tensor_value_info(name, 1, ["b", 3, "h", "w"]) for name in ("images", "a", "b", "c")]
    nodes = [onnx.helper.make_node("Relu", ["images"], [name]) for name in ("a", "b", "c")]
    onnx.save(
        onnx.helper.make_model(onnx.helper.make_graph(nodes, "maps", values[:1], values[1:])),
        project / "data/weights/p.onnx",
    )
    config = dataclasses.replace(job.config, weights=weights, contextual_maps=(0, 2))
    with pytest.raises(ValueError, match="needs the networks perceptual"):
        worker.check_nets(dataclasses.replace(job, config=config))
    (project / "data/weights/weights.json").write_text('{"perceptual": {"file": "p.onnx", "sha256": "1"}}')
    worker.check_nets(dataclasses.replace(job, config=config))
    config = dataclasses.replace(config, contextual_maps=(3,))
    with pytest.raises(ValueError, match=r"train_reenactment\.contextual_maps: \[3\], but the net has 3 maps, 0 to 2"):
        worker.check_nets(dataclasses.replace(job, config=config))


def test_alignment_needs_the_detector_which_then_decides_the_run(project, loaded):
    weights = dataclasses.replace(loaded.train_reenactment.weights, identity=1.0)
    config = dataclasses.replace(loaded.train_reenactment, weights=weights, identity_crop="aligned")
    job = make_job("reenactment", dataclasses.replace(loaded, train_reenactment=config), Places(project))
    with pytest.raises(ValueError, match=r"train_reenactment needs the networks recogniser, detector, .* no detector"):
        worker.face_points(job)
    assert worker.face_points(make_job("reenactment", loaded, Places(project))) is None
    manifest = project / "data" / "weights" / "weights.json"
    entries, names = json.loads(manifest.read_text()), set()
    for digits in "12":
        entries["detector"] = {"file": "faces/detector.onnx", "sha256": digits}
        manifest.write_text(json.dumps(entries))
        names.add(digest(*fingerprint(job)))
    assert len(names) == 2 and worker.face_points(job) is not None


def test_missing_data_is_named(project, loaded):
    with pytest.raises(FileNotFoundError, match="data/pairs is missing"):
        make_job("swapping", loaded, Places(project))


def test_results_are_the_averaged_weights_and_the_curve(project, loaded, tmp_path):
    job = make_job("reenactment", loaded, Places(project))
    trainer = worker.make_trainer(job)
    train_loop(trainer, sample_stream(worker.open_data(job, "train"), job.seed, job.config.batch_size))
    train.write_results(job, trainer.state_dict(), tmp_path / "m.safetensors", tmp_path / "c.csv")
    net = UniFace.load(tmp_path / "m.safetensors")
    for name, value in trainer.average.state_dict().items():
        assert torch.equal(net.state_dict()[name], value)
    assert read_metadata(tmp_path / "m.safetensors")[1] == {"task": "reenactment", "step": 12, "skipped": 0}
    rows = list(csv.DictReader((tmp_path / "c.csv").open()))
    assert [int(row["step"]) for row in rows] == [2, 4, 6, 8, 10, 12]
    assert float(rows[-1]["reconstruction"]) < float(rows[0]["reconstruction"])


def test_sample_grid_shows_held_out_pairs(project, loaded):
    job = make_job("reenactment", loaded, Places(project))
    batch = worker.previews(job)
    assert batch["source"].shape[1:] == batch["target"].shape[1:] == (3, SIZE, SIZE)
    assert not torch.equal(batch["source"], batch["target"])
    picture = worker.sample_grid(worker.make_trainer(job), batch)
    rows, columns = len(batch["source"]), 3
    assert picture.shape == (rows * (SIZE + 2) - 2, columns * (SIZE + 2) - 2, 3)


def test_watcher_shows_and_logs_and_outlives_a_full_disk(tmp_path, capsys, monkeypatch):
    messages, done = queue.Queue(), threading.Event()
    journal = Journal(tmp_path / "work/train_x/abc/mlflow", tmp_path)
    journal.begin("train_x", {"lr": 1e-3})
    real = watch.write_image

    def write_image(path, picture):
        if path.stem == "0000004":
            raise OSError("no space left on device")
        real(path, picture)

    monkeypatch.setattr(watch, "write_image", write_image)
    picture = np.zeros((4, 4, 3), np.uint8)
    values = {"reconstruction": 0.25, "lr": 1e-3, "pairs_per_second": 8.0, "skipped": 0, "unreadable": 3}
    warning = ("warn", 0, "checkpoint_1 cannot be used")
    for message in (warning, ("start", 2, 2), ("sample", 4, picture), ("log", 6, values), ("sample", 6, picture)):
        messages.put(message)
    done.set()
    watch.Watcher("train_x", 10, journal, tmp_path).follow(messages, done)
    out, err = capsys.readouterr()
    assert "train_x: resuming at step 2 of 10 steps, 2 workers" in out
    assert "train_x 6/10, 8.0 pairs/s" in out and "reconstruction 0.25" in out and "unreadable 3" in out
    assert "warning: train_x: checkpoint_1 cannot be used" in err
    assert "warning: train_x, sample at step 4: no space left on device" in err
    begin, metrics, image = map(json.loads, journal.lines.read_text().splitlines())
    assert begin["params"] == {"lr": "0.001"} and (metrics["step"], metrics["values"]) == (6, values)
    assert (image["step"], image["path"]) == (6, "samples/0000006.png")
    assert (tmp_path / "samples" / "0000006.png").is_file()


def test_a_log_file_gets_a_line_a_tenth_of_the_way(tmp_path, capsys):
    messages, done = queue.Queue(), threading.Event()
    journal = Journal(tmp_path / "mlflow", tmp_path)
    journal.begin("train_x", {})
    values = {"reconstruction": 0.25, "lr": 1e-3, "pairs_per_second": 8.0, "skipped": 0, "unreadable": 0}
    messages.put(("start", 0, 1))
    for step in range(10, 4181, 10):
        messages.put(("log", step, values))
    done.set()
    watch.Watcher("train_x", 4180, journal, tmp_path).follow(messages, done)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("train_x ")]
    assert (
        len(lines) == 10
        and lines[-1].startswith("train_x 4180/4180")
        and len(journal.lines.read_text().splitlines()) == 419
    )


def test_a_queue_that_died_with_ray_ends_the_watching(tmp_path):
    class Dead:
        def get(self, timeout):
            raise ConnectionError("the actor is gone")

    watch.Watcher("train_x", 10, Journal(tmp_path / "mlflow", tmp_path), tmp_path).follow(Dead(), threading.Event())


def test_ctrl_c_ends_the_watching_though_the_workers_go_on(project, loaded, monkeypatch):
    class Endless:
        def get(self, timeout):
            time.sleep(0.01)
            return "warn", 0, "still at work"

    monkeypatch.setattr(watch, "kept", lambda *arguments: nullcontext())
    config, began = loaded.train_reenactment, time.monotonic()
    with pytest.raises(KeyboardInterrupt), watch.watched("reenactment", config, Endless(), project, project):
        raise KeyboardInterrupt
    assert time.monotonic() - began < 30


def saved(trainer, folder: Path, step: int) -> Path:
    trainer.step = step
    folder.mkdir(parents=True)
    trainer.save(folder / worker.STATE)
    return folder


def test_a_damaged_checkpoint_gives_way_to_the_one_before(project, loaded, tmp_path):
    trainer = worker.make_trainer(make_job("reenactment", loaded, Places(project)))
    first, second, third = (saved(trainer, tmp_path / f"ray/checkpoint_2026-0{n}", 4 * n) for n in (1, 2, 3))
    trainer.step = 0

    def take_up():
        return checkpoints.take_up(trainer.load, tmp_path / "ray", worker.STATE, third)

    assert take_up() == [] and trainer.step == 12  # the newest, though Ray may know an older one only
    whole = (third / worker.STATE).read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"x" * 100):
        (third / worker.STATE).write_bytes(content)
        (said,) = take_up()
        assert "checkpoint_2026-03 cannot be used, trying the one before" in said and trainer.step == 8
    shutil.rmtree(third)
    assert len(take_up()) == 1 and trainer.step == 8
    (first / worker.STATE).unlink()
    (second / worker.STATE).unlink()
    trainer.step = 0
    assert take_up()[-1] == "no checkpoint can be used, training starts from the beginning" and trainer.step == 0
    assert checkpoints.take_up(trainer.load, tmp_path / "nothing yet", worker.STATE, None) == []


def test_rays_list_is_forgotten_if_a_checkpoint_of_it_is_gone(tmp_path):
    snapshot = tmp_path / "checkpoint_manager_snapshot.json"
    (tmp_path / "checkpoint_2026-11-28_12-00-00.000001").mkdir()
    snapshot.write_text('{"checkpoint_results": [{"checkpoint_dir_name": "checkpoint_2026-11-28_12-00-00.000001"}]}')
    checkpoints.forget_missing(tmp_path)
    assert snapshot.is_file()
    (tmp_path / "checkpoint_2026-11-28_12-00-00.000001").rmdir()
    checkpoints.forget_missing(tmp_path)
    assert not snapshot.exists()


def test_ray_lost_in_mid_training_lets_the_command_begin_again_where_it_is_ours(project, loaded, monkeypatch):
    import ray

    class Begun(Exception):
        pass

    def fit(*arguments):
        raise ray.exceptions.RaySystemError("Socket closed rpc_code: 14")

    def begin_again(said):
        raise Begun(said)

    job, places = make_job("reenactment", loaded, Places(project)), Places(project)
    monkeypatch.setattr(train, "fit_on_ray", fit)
    monkeypatch.setattr(train, "connect", lambda compute: None)
    monkeypatch.setattr(train.lost, "begin_again", begin_again)
    monkeypatch.setattr(train.lost, "in_command", lambda: True)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(Begun, match=r"train_reenactment: Ray was lost \(.*Socket closed"):
        train.run_on_ray(job, loaded.compute, project, places)
    sentence = r"Socket closed.*the same command goes on from the last checkpoint"
    monkeypatch.setattr(train.lost, "in_command", lambda: False)  # as in a notebook
    with pytest.raises(RuntimeError, match=sentence):
        train.run_on_ray(job, loaded.compute, project, places)
    monkeypatch.setattr(train.lost, "in_command", lambda: True)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(RuntimeError, match=sentence):
        train.run_on_ray(job, loaded.compute, project, places)


def test_gpus_follow_the_settings_or_what_there_is(loaded):
    compute = dataclasses.replace(loaded.compute, gpus_per_worker=-1, workers=2)
    assert [train.gpus_per_worker(compute, n) for n in (0, 1, 2)] == [0, 0, 1]
    assert train.gpus_per_worker(dataclasses.replace(compute, gpus_per_worker=0), 8) == 0


@pytest.mark.parametrize("arguments", [[], ["faces"], ["swapping", "now"]])
def test_usage(arguments, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train", *arguments])
    with pytest.raises(SystemExit, match=r"usage: python -m pipeline\.train reenactment"):
        train.main_of_task()
