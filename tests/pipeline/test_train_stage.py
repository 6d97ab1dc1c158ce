"""The launcher: what decides a run's identity, what comes out, and kills of worker and driver that cost nothing."""

import csv
import dataclasses
import io
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from pathlib import Path

import av
import numpy as np
import pytest
import torch
import yaml

from pipeline import params, schemas, train, watch
from pipeline.files import digest
from uniface.data import sample_stream
from uniface.model import UniFace, read_metadata
from uniface.train import train as train_loop

ROOT = Path(__file__).resolve().parents[2]
SIZE, FRAMES = 32, 6


def mp4(colour: int) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as file:
        stream = file.add_stream("libx264", rate=25, options={"crf": "10", "g": "4"})
        stream.width = stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        for n in range(FRAMES):
            image = np.full((SIZE, SIZE, 3), (colour, 100, 128), np.uint8)
            image[8 + 2 * n : 20 + 2 * n, 8:20] = 230
            file.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        file.mux(stream.encode())
    return buffer.getvalue()


def write_clips(folder: Path) -> None:
    index = []
    for split, first, count in (("train", 0, 4), ("test", 4, 3)):
        rows = [
            {
                "person_id": f"id{n:05d}", "video_id": f"video{n:06d}", "utterance": "00001", "chunk": 0, "start": 0,
                "end": FRAMES, "box": [0.0, 0.0, 32.0, 32.0], "width": 64, "height": 48, "fps": 25.0, "frames": FRAMES,
            }
            for n in range(first, first + count)
        ]  # fmt: skip
        videos = [{"video": mp4(30 * n)} for n in range(first, first + count)]
        shard = f"{split}-00000.parquet"
        schemas.write(folder / shard, [row | video for row, video in zip(rows, videos, strict=True)], schemas.CLIPS)
        kept = {"split": split, "status": "kept", "reason": None, "shard": shard}
        index += [row | kept | {"row": i} for i, row in enumerate(rows)]
    schemas.write(folder / "index.parquet", index, schemas.CLIP_INDEX)


def settings() -> dict:
    """The sample's params, cut down to seconds; no loss needs a frozen net."""
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values["image_size"] = values["model"]["image_size"] = SIZE
    values["model"] |= {"max_channels": 8, "channel_base": 256, "attribute_channels": 8, "attribute_max_channels": 8}
    weights = dict.fromkeys(values["train_reenactment"]["weights"], 0.0) | {"reconstruction": 1.0, "adversarial": 0.1}
    for stage in ("train_reenactment", "train_swapping"):
        values[stage] |= {
            "iterations": 12, "batch_size": 2, "log_every": 2, "checkpoint_every": 4, "sample_every": 6, "skip_from": 0,
            "adversarial_from": 0,
            "weights": weights, "perceptual_same": False, "contextual_maps": [],
        }  # fmt: skip
    values["compute"] |= {"workers": 1, "cpus_per_worker": 1, "gpus_per_worker": 0, "loader_workers": 0, "storage": ""}
    return values


@pytest.fixture
def project(tmp_path) -> Path:
    write_clips(tmp_path / "data" / "clips")
    (tmp_path / "data" / "weights").mkdir()
    (tmp_path / "data" / "weights" / "weights.json").write_text('{"recogniser": {"file": "r.onnx", "sha256": "1"}}')
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(settings()))
    return tmp_path


@pytest.fixture
def loaded(project) -> params.Params:
    return params.load(project / "params.yaml")


def run_name(project: Path, loaded: params.Params) -> str:
    return digest(*train.identity(train.make_job("reenactment", loaded, project)))


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
    monkeypatch.setattr(train, "CODE", ("losses", "metrics"))
    names.add(run_name(project, loaded))
    assert len(names) == 6


def test_swapping_depends_on_stage_1(project, loaded):
    (project / "data" / "pairs").mkdir()
    with pytest.raises(FileNotFoundError, match=r"run python -m pipeline\.train reenactment"):
        train.make_job("swapping", loaded, project)
    torch.manual_seed(5)
    model = UniFace(loaded.model)
    path = project / "models" / "reenactment.safetensors"
    model.save(path)
    job = train.make_job("swapping", loaded, project)
    name = digest(*train.identity(job))
    made = train.make_trainer(job)
    for key, value in model.attribute_embedder.state_dict().items():
        assert torch.equal(made.model.attribute_embedder.state_dict()[key], value)
    name_of_one = next(k for k, v in model.identity_embedder.state_dict().items() if v.std() > 0)
    mine, theirs = (net.identity_embedder.state_dict()[name_of_one] for net in (made.model, model))
    assert not torch.equal(mine, theirs)
    UniFace(loaded.model).save(path)
    assert digest(*train.identity(job)) != name


def test_missing_data_and_uneven_batches_are_named(project, loaded):
    with pytest.raises(FileNotFoundError, match="data/pairs is missing"):
        train.make_job("swapping", loaded, project)
    three = dataclasses.replace(loaded, compute=dataclasses.replace(loaded.compute, workers=3))
    with pytest.raises(ValueError, match=r"batch_size 2 does not divide by compute\.workers x accumulate, 3"):
        train.make_job("reenactment", three, project)


def test_results_are_the_averaged_weights_and_the_curve(project, loaded, tmp_path):
    job = train.make_job("reenactment", loaded, project)
    trainer = train.make_trainer(job)
    train_loop(trainer, sample_stream(train.open_data(job, "train"), job.seed, job.config.batch_size))
    train.write_results(job, trainer.state_dict(), tmp_path / "m.safetensors", tmp_path / "c.csv")
    net = UniFace.load(tmp_path / "m.safetensors")
    for name, value in trainer.average.state_dict().items():
        assert torch.equal(net.state_dict()[name], value)
    assert read_metadata(tmp_path / "m.safetensors")[1] == {"task": "reenactment", "step": 12, "skipped": 0}
    rows = list(csv.DictReader((tmp_path / "c.csv").open()))
    assert [int(row["step"]) for row in rows] == [2, 4, 6, 8, 10, 12]
    assert float(rows[-1]["reconstruction"]) < float(rows[0]["reconstruction"])


def test_sample_grid_shows_held_out_pairs(project, loaded):
    job = train.make_job("reenactment", loaded, project)
    batch = train.previews(job)
    assert batch["source"].shape[1:] == batch["target"].shape[1:] == (3, SIZE, SIZE)
    assert not torch.equal(batch["source"], batch["target"])
    picture = train.sample_grid(train.make_trainer(job), batch)
    rows, columns = len(batch["source"]), 3
    assert picture.shape == (rows * (SIZE + 2) - 2, columns * (SIZE + 2) - 2, 3)


def test_one_training_of_a_stage_at_a_time(tmp_path, capsys):
    lock, order = tmp_path / "stage.lock", []
    started, release = threading.Event(), threading.Event()

    def first():
        with train.only_training(lock, "train_x"):
            started.set()
            release.wait(10)
            order.append("first")

    thread = threading.Thread(target=first)
    thread.start()
    started.wait(10)
    threading.Timer(0.3, release.set).start()
    with train.only_training(lock, "train_x"):
        order.append("second")
    thread.join()
    assert order == ["first", "second"]
    assert "another training of this stage is running" in capsys.readouterr().out


class Run:
    id = "r"

    def __init__(self):
        self.metrics, self.images = [], []

    def log_metrics(self, values, step):
        self.metrics.append((step, values))

    def log_image(self, image, key, step):
        if step == 4:
            raise OSError("no server")
        self.images.append((key, step))


def test_watcher_shows_and_logs_and_outlives_an_absent_server(tmp_path, capsys):
    messages, run, done = queue.Queue(), Run(), threading.Event()
    picture = np.zeros((4, 4, 3), np.uint8)
    values = {"reconstruction": 0.25, "lr": 1e-3, "pairs_per_second": 8.0, "skipped": 0, "unreadable": 3}
    for message in (("start", 2, 2), ("sample", 4, picture), ("log", 6, values), ("sample", 6, picture)):
        messages.put(message)
    done.set()
    watch.Watcher("train_x", 10, run, tmp_path).follow(messages, done)
    out, err = capsys.readouterr()
    assert "train_x: resuming at step 2 of 10 steps, 2 workers" in out
    assert "train_x 6/10, 8.0 pairs/s" in out and "reconstruction 0.25" in out and "unreadable 3" in out
    assert "warning: train_x, sample at step 4: no server" in err
    assert run.metrics == [(6, values)] and run.images == [("sample", 6)]
    assert (tmp_path / "samples" / "0000006.png").is_file()


def test_gpus_follow_the_settings_or_what_there_is(loaded):
    compute = dataclasses.replace(loaded.compute, gpus_per_worker=-1, workers=2)
    assert [train.gpus_per_worker(compute, n) for n in (0, 1, 2)] == [0, 0, 1]
    assert train.gpus_per_worker(dataclasses.replace(compute, gpus_per_worker=0), 8) == 0


@pytest.mark.parametrize("arguments", [[], ["faces"], ["swapping", "now"]])
def test_usage(arguments, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train", *arguments])
    with pytest.raises(SystemExit, match=r"usage: python -m pipeline\.train reenactment"):
        train.main()


# --- real runs ------------------------------------------------------------------------------------------------------


def start(project: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline.train", "reenactment"],
        cwd=project,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": ""},
    )


def until(process: subprocess.Popen, text: str) -> list[str]:
    """Its lines up to the first with `text`."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return lines
    raise AssertionError("".join(lines))


def longer(project: Path) -> None:
    values = settings()
    values["train_reenactment"] |= {"iterations": 120, "checkpoint_every": 10, "log_every": 5, "sample_every": 60}
    (project / "params.yaml").write_text(yaml.safe_dump(values))


@pytest.mark.slow
def test_killed_worker_and_killed_driver_cost_nothing(project):
    """A worker is killed, then the driver; the model equals, to the bit, the one that nothing disturbed."""
    import psutil

    longer(project)
    process = start(project)
    until(process, "train_reenactment 15/120")
    workers = [
        p for p in psutil.Process(process.pid).children(recursive=True) if "RayTrainWorker" in " ".join(p.cmdline())
    ]
    assert len(workers) == 1
    workers[0].send_signal(signal.SIGKILL)
    lines = until(process, "resuming at step")
    assert int(lines[-1].split("step ")[1].split()[0]) >= 10
    until(process, "train_reenactment 45/120")
    process.send_signal(signal.SIGKILL)
    process.wait()
    again = start(project)
    lines = until(again, "resuming at step")
    assert int(lines[-1].split("step ")[1].split()[0]) >= 40
    rest = again.stdout.read()
    assert again.wait() == 0, rest
    model = project / "models" / "reenactment.safetensors"
    disturbed = UniFace.load(model).state_dict()
    curve = (project / "reports" / "reenactment.csv").read_text()

    job = train.make_job("reenactment", params.load(project / "params.yaml"), project)
    torch.set_num_threads(1)
    trainer = train.make_trainer(job)
    train_loop(trainer, sample_stream(train.open_data(job, "train"), job.seed, job.config.batch_size))
    for name, value in trainer.average.state_dict().items():
        assert torch.equal(disturbed[name], value), name
    assert len(curve.splitlines()) == 1 + 24
    # and once more: nothing is trained, the outputs are written again
    model.unlink()
    third = start(project)
    output = third.stdout.read()
    assert third.wait() == 0 and "trained before" in output
    assert json.dumps(sorted(UniFace.load(model).state_dict())) == json.dumps(sorted(disturbed))
