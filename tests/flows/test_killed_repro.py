"""`dvc repro` and kill -9 in mid-training: of a worker, of the driver, of everything at once, of dvc alone."""

import os
import re
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch
from tiny_project import command, make_tiny, ran, start, until
from tiny_training import make_trainable

from pipeline import params
from pipeline.common.places import Places
from pipeline.training.job import make_job
from pipeline.training.worker import make_trainer, open_data
from uniface.model import UniFace
from uniface.stream import sample_stream
from uniface.train import train as train_loop

REPRO = ("dvc", "repro", "--single-item", "train_reenactment")  # its clips are drawn here, no stage before it runs
STEPS, EVERY = 200, 10  # of the training, and from checkpoint to checkpoint
CHECKPOINTS = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "2"}  # seconds; see until_safe
DRIVER, WORKER = r"\S+ -m pipeline\.train ", r"ray::\S*RayTrainWorker"


@pytest.fixture
def project(tmp_path):
    made = make_tiny(tmp_path / "project")
    make_trainable(made, iterations=STEPS, checkpoint_every=EVERY, log_every=EVERY // 2, sample_every=STEPS // 2)
    return made


@pytest.fixture
def repro(project, tmp_path):
    """Starts the command, or another; the process and the file with its output."""
    begun = []

    def begin(*arguments: str) -> tuple[subprocess.Popen, Path]:
        log = tmp_path / f"repro{len(begun)}.txt"
        begun.append(start(project, log, *(arguments or REPRO), **CHECKPOINTS))
        return begun[-1], log

    yield begin
    for process in begun:  # nothing is left, unless the test failed
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def below(process: subprocess.Popen, pattern: str) -> psutil.Process:
    """The one process under this one whose command line begins like that."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        with suppress(psutil.Error):  # it has ended meanwhile
            if re.match(pattern, " ".join(child.cmdline())):
                found.append(child)
    assert len(found) == 1, found
    return found[0]


def resumed(process: subprocess.Popen, log: Path) -> int:
    """The step at which the training says that it goes on, once it does."""
    until(log, "resuming at step", process)
    return int(re.search(r"resuming at step (\d+) of", log.read_text())[1])


def until_safe(process: subprocess.Popen, log: Path, step: int) -> None:
    """Until the checkpoint after `step` is on disk and known to Ray.

    Ray takes checkpoints up every 2 seconds here, and a worker that is one ahead waits for that with its next. Whoever
    works on beyond the third has seen Ray come for the second, and be done with the first. (Ours is every half second,
    in which so small a training would be over before it is killed thrice.)
    """
    far = step + 3 * EVERY + EVERY // 2
    while not any(int(at) >= far for at in re.findall(rf"train_reenactment (\d+)/{STEPS}", log.read_text())):
        assert process.poll() is None, log.read_text()[-3000:]
        time.sleep(0.2)


@pytest.mark.slow
def test_ray_that_is_killed_is_started_again_by_the_same_command(project, repro):
    """Ray's own code ends a driver that has lost its servers; the command is there before, and goes on."""
    process, log = repro()
    until_safe(process, log, 0)
    below(process, r"\S+/gcs_server ").kill()
    at = resumed(process, log)
    assert at >= EVERY
    until_safe(process, log, at)
    below(process, r"\S+/raylet ").kill()
    assert process.wait(900) == 0, log.read_text()[-3000:]
    said = log.read_text()
    assert said.count("beginning again from what is done") == 2
    _, second = map(int, re.findall(r"resuming at step (\d+) of", said))
    assert second >= at + EVERY
    assert (project / "models/reenactment.safetensors").is_file()


@pytest.mark.slow
def test_ctrl_c_in_mid_training_is_one_sentence_and_the_next_run_goes_on(repro):
    command = "python", "-m", "pipeline.train", "reenactment"
    process, log = repro(*command)
    until_safe(process, log, 0)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130, log.read_text()[-3000:]
    said = log.read_text()
    assert said.endswith("interrupted: what is done is kept, the same command goes on from there\n")
    assert "Traceback" not in said
    process, log = repro(*command)
    assert resumed(process, log) >= EVERY
    assert process.wait(300) == 0, log.read_text()[-3000:]


@pytest.mark.road
def test_kill_9_in_mid_training_costs_nothing(project, repro):
    """Whoever is killed, it goes on from a checkpoint; the model equals, to the bit, the one nothing disturbed."""
    first, log = repro()
    until_safe(first, log, 0)
    below(first, WORKER).kill()
    at = resumed(first, log)  # by itself, within the same command
    assert at >= EVERY
    until_safe(first, log, at)
    below(first, DRIVER).kill()
    assert first.wait(60) != 0
    assert "failed to reproduce 'train_reenactment'" in log.read_text()

    second, log = repro()
    before, at = at, resumed(second, log)
    assert at >= before + EVERY
    until_safe(second, log, at)
    os.killpg(second.pid, signal.SIGKILL)  # dvc, driver and Ray at once; nothing can tell the workers to end
    second.wait()

    third, log = repro()
    before, at = at, resumed(third, log)
    assert at >= before + EVERY
    worker = below(third, WORKER)
    worker.suspend()  # else the training might be over before the next command comes upon it
    try:
        third.kill()  # dvc alone: the training is left behind
        third.wait()
        fourth, log = repro()
        until(log, "another run of this stage is at work here, waiting for it to end", fourth)
    finally:
        worker.resume()
    assert fourth.wait(300) == 0, log.read_text()[-3000:]
    assert ran(log.read_text()) == ["train_reenactment"]
    assert "trained before" in log.read_text() and "resuming" not in log.read_text()

    again = command(project, *REPRO)
    assert again.returncode == 0 and ran(again.stdout) == [], again.stdout[-3000:]
    disturbed = UniFace.load(project / "models/reenactment.safetensors").state_dict()
    job = make_job("reenactment", params.load(project / "params.yaml"), Places(project))
    torch.set_num_threads(1)
    trainer = make_trainer(job)
    augment = job.config.augmentation
    train_loop(trainer, sample_stream(open_data(job, "train"), job.seed, job.config.batch_size, augment=augment))
    for name, value in trainer.average.state_dict().items():
        assert torch.equal(disturbed[name], value), name
    curve = (project / "reports/reenactment.csv").read_text().splitlines()
    assert len(curve) == 1 + STEPS // (EVERY // 2)
