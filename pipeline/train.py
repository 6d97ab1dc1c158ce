"""Stages `train_reenactment` and `train_swapping` under Ray Train: `python -m pipeline.train reenactment|swapping`.

On this machine, or on the cluster of RAY_ADDRESS; how many workers is the business of the section `compute`. State lies
in `work/<stage>/<digest of params and inputs>/`: a killed worker is started again from the last checkpoint, a killed
driver goes on when the same command is run again, and changed params or inputs start afresh.
"""

import csv
import os
import shutil
import sys
from functools import partial
from pathlib import Path

from pipeline.common import lost
from pipeline.common.bucket import project_id
from pipeline.common.checkpoints import forget_missing
from pipeline.common.cluster import connect, disconnect, in_thread, is_ours
from pipeline.common.files import atomic_write, work_folder
from pipeline.common.joining import check_room
from pipeline.common.places import Places, main
from pipeline.sections import ComputeParams, Params
from pipeline.tracking.watch import watched
from pipeline.training.job import TrainJob, fingerprint, inputs, make_job
from pipeline.training.progress import write_progress
from pipeline.training.worker import STATE, check_nets, train_worker
from uniface.config import TASKS, Task
from uniface.model import UniFace
from uniface.store import filesystem, is_url
from uniface.use.bundle import facts

MAX_FAILURES = 2  # of a worker, before training gives up


def train_stage(task: Task, params: Params, places: Places) -> Path:
    """Train one task from `data/`; write `models/<task>.safetensors`, whose path it returns, and `reports/<task>.csv`.

    Also `reports/progress/<task>.png`, what the model made of the same pairs at several steps.
    Raises FileNotFoundError if an input is missing, ValueError if one is unfit, RuntimeError if training fails.
    """
    places, stage = Places(places.root.resolve()), f"train_{task}"
    job = make_job(task, params, places)
    folder = work_folder(stage, *fingerprint(job), work=places.work)
    model, report = places.model(task), places.reports / f"{task}.csv"
    progress = places.reports / "progress" / f"{task}.png"
    finished = {folder / model.name: model, folder / report.name: report, folder / "progress.png": progress}
    if all(path.is_file() for path in finished):
        print(f"{stage}: trained before ({folder.relative_to(places.root)}), writing the outputs again", flush=True)
    else:
        check_nets(job)
        state = run_on_ray(job, params.compute, folder, places)
        write_results(job, state, folder / model.name, folder / report.name)
        write_progress(folder / "samples", folder / "progress.png", job.model.image_size)
        shutil.rmtree(folder / "ray", ignore_errors=True)
    for path, out in finished.items():
        with atomic_write(out) as part:
            shutil.copyfile(path, part)
    return model


def run_on_ray(job: TrainJob, compute: ComputeParams, folder: Path, places: Places) -> dict:
    """Train on Ray, showing progress and logging curves meanwhile; the final training state.

    Where Ray is lost on the way and is ours, the command begins again (`lost.begin_again`). Raises RuntimeError with
    the worker's error if it failed more than `MAX_FAILURES` times, or if Ray is gone.
    """
    connect(compute)  # before Ray is imported, which reads the environment then
    import ray

    try:
        return fit_on_ray(job, compute, folder, places)
    except ray.exceptions.RayError as error:
        said = f"train_{job.task}: Ray was lost ({reason(error)})"
        if is_ours() and lost.in_command():
            lost.begin_again(said)
        disconnect()
        raise RuntimeError(f"{said}: the same command goes on from the last checkpoint") from error


def fit_on_ray(job: TrainJob, compute: ComputeParams, folder: Path, places: Places) -> dict:
    """`run_on_ray`, once. Raises ray.exceptions.RayError if Ray is lost."""
    import ray
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.util.queue import Queue
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # a busy machine starts a worker, with all its imports, in minutes; Ray's own limit of 60 s would start it in vain
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "600")
    # how often Ray looks whether the workers have ended; at its 2 s a short training waits seconds for its end
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    if is_ours():  # nobody takes this machine away, and a process that watches for it costs 2 s of the processor
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    connect(compute)
    check_room(compute)
    gpus = gpus_per_worker(compute, ray.cluster_resources().get("GPU", 0))
    storage, name = run_place(compute, folder, places)
    runs = Path(storage, name)
    forget_missing(runs)
    files, storage = filesystem(storage) if is_url(storage) else (None, storage)
    # on the driver's machine: lost with another one, it would fail every worker that is started again
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    messages = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={
            "job": job,
            "inputs": inputs(job, "" if is_ours() else compute.data),
            "messages": messages,
            "checkpoints": str(runs),
        },
        torch_config=TorchConfig(backend="nccl" if gpus else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=compute.workers,
            use_gpu=gpus > 0,
            resources_per_worker={"CPU": compute.cpus_per_worker} | ({"GPU": gpus} if gpus else {}),
        ),
        run_config=RunConfig(
            name=name,
            storage_path=storage,
            storage_filesystem=files,
            failure_config=FailureConfig(max_failures=MAX_FAILURES),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
        ),
    )
    with watched(job.task, job.config, messages, folder, places.root):
        try:
            checkpoint = in_thread(trainer.fit).checkpoint
        except ray.train.TrainingFailedError as error:
            raise RuntimeError(f"train_{job.task} failed: {reason(error)}") from error
    with checkpoint.as_directory() as place:
        state = read_state(Path(place) / STATE)
    assert state["step"] == job.config.iterations, state["step"]
    return state


def run_place(compute: ComputeParams, folder: Path, places: Places) -> tuple[str, str]:
    """Folder or URL of the checkpoints, and the run's name there.

    In a place that all machines see, the name tells projects and stages apart. Raises ValueError if there must be one.
    """
    import ray

    place = compute.storage or (f"{compute.data}/runs" if compute.data and not is_ours() else "")
    if place:
        return place, f"{folder.parent.name}-{folder.name}-{project_id(places.work)}"
    if (machines := sum(node["Alive"] for node in ray.nodes())) > 1:  # Ray would write where nobody finds it
        raise ValueError(
            f"the Ray cluster has {machines} machines, which share no folder that this project knows: set compute.data "
            "(s3://bucket/prefix), or compute.storage to a folder that all of them see (docs/cluster.md)"
        )
    return str(folder), "ray"


def gpus_per_worker(compute: ComputeParams, available: float) -> int:
    """How many GPUs a worker gets; -1 in the settings means one each if there are enough."""
    if compute.gpus_per_worker >= 0:
        return compute.gpus_per_worker
    return int(available >= compute.workers)


def reason(error: Exception) -> str:
    """The last line of a failure that Ray wraps: the worker's own error."""
    failures = getattr(error, "worker_failures", None) or {}
    text = str(next(iter(failures.values()), error)).strip()
    return text.splitlines()[-1] if text else type(error).__name__


def read_state(path: Path) -> dict:
    """The training state a finished run left, on the CPU."""
    import torch

    return torch.load(path, map_location="cpu", weights_only=True)


def write_results(job: TrainJob, state: dict, model: Path, report: Path) -> None:
    """The averaged weights as a model file, and the curve as a table with a column per loss."""
    net = UniFace(job.model)
    net.load_state_dict(state["average"])
    extra = {"task": job.task, "step": state["step"], "skipped": state["skipped"]}
    detector = Path(job.nets) / "faces" / "detector.onnx"
    if detector.is_file():  # with which the faces of the training data were found, and are to be found by its users
        extra |= facts(job.task, detector, job.detect_height)
    net.save(model, extra)
    columns = list(dict.fromkeys(name for row in state["curve"] for name in row))
    with atomic_write(report) as part, part.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, columns, restval="")
        table.writeheader()
        table.writerows(state["curve"])


def main_of_task() -> None:
    """The stage of the task that the command line names."""
    if len(sys.argv) != 2 or sys.argv[1] not in TASKS:
        raise SystemExit(f"usage: python -m pipeline.train {'|'.join(TASKS)}")
    main(partial(train_stage, sys.argv[1]), f"train_{sys.argv[1]}")


if __name__ == "__main__":
    main_of_task()
