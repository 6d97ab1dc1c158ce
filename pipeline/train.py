"""Stages `train_reenactment` and `train_swapping` under Ray Train: `python -m pipeline.train reenactment|swapping`.

On this machine, or on the cluster of RAY_ADDRESS; how many workers is the business of the section `compute`. State lies
in `work/<stage>/<digest of params and inputs>/`: a killed worker is started again from the last checkpoint, a killed
driver goes on when the same command is run again, and changed params or inputs start afresh.
"""

import csv
import os
import shutil
import sys
import tempfile
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.common.checkpoints import forget_missing, take_up
from pipeline.common.cluster import connect, disconnect, in_thread, is_ours
from pipeline.common.code import code
from pipeline.common.files import atomic_write, contents, work_folder
from pipeline.common.nets import read_manifest
from pipeline.common.places import Places, main
from pipeline.params import ComputeParams, Params
from pipeline.tracking.watch import watched
from uniface.backbones import load_lpips_weights, load_perceptual, load_recogniser
from uniface.config import TASKS, ModelConfig, Task, TrainConfig
from uniface.data import ClipDataset, PairDataset
from uniface.discriminator import Discriminator
from uniface.images import grid, to_tensor, to_uint8
from uniface.model import UniFace
from uniface.objective import LossNets
from uniface.stream import sample_stream
from uniface.train import Trainer, start_from_reenactment, train
from uniface.use.bundle import facts

NETS = ("recogniser", "perceptual", "lpips", "contextual")  # roles that a loss may look through
STATE = "state.pt"
MAX_FAILURES = 2  # of a worker, before training gives up
LOSSES = 2  # of our own Ray, before training gives up
PREVIEWS = 6  # rows of a sample grid


@dataclass(frozen=True)
class TrainJob:
    """What a worker must know; plain values and absolute paths, since workers run elsewhere."""

    task: Task
    model: ModelConfig
    config: TrainConfig
    seed: int
    data: str
    nets: str
    stage1: str | None  # model file whose attribute embedder swapping starts from
    loader_workers: int
    threads: int
    detect_height: int  # rows at which faces were found in the training data


def train_stage(task: Task, params: Params, places: Places) -> Path:
    """Train one task from `data/`; write `models/<task>.safetensors`, whose path it returns, and `reports/<task>.csv`.

    Raises FileNotFoundError if an input is missing, ValueError if one is unfit, RuntimeError if training fails.
    """
    places, stage = Places(places.root.resolve()), f"train_{task}"
    job = make_job(task, params, places)
    folder = work_folder(stage, *fingerprint(job), work=places.work)
    model, report = places.model(task), places.reports / f"{task}.csv"
    finished = {folder / model.name: model, folder / report.name: report}
    if all(path.is_file() for path in finished):
        print(f"{stage}: trained before ({folder.relative_to(places.root)}), writing the outputs again", flush=True)
    else:
        check_contextual_maps(job)
        state = run_on_ray(job, params.compute, folder, places)
        write_results(job, state, folder / model.name, folder / report.name)
        shutil.rmtree(folder / "ray", ignore_errors=True)
    for path, out in finished.items():
        with atomic_write(out) as part:
            shutil.copyfile(path, part)
    return model


def make_job(task: Task, params: Params, places: Places) -> TrainJob:
    """The work of one stage. Raises FileNotFoundError or ValueError naming what is missing or does not fit."""
    config = {"reenactment": params.train_reenactment, "swapping": params.train_swapping}[task]
    data = places.clips if task == "reenactment" else places.pairs
    if not data.is_dir():
        raise FileNotFoundError(f"data/{data.name} is missing: run the stage before (dvc repro, or dvc pull)")
    stage1 = places.model("reenactment") if task == "swapping" else None
    if stage1 and not stage1.is_file():
        raise FileNotFoundError("models/reenactment.safetensors is missing: run python -m pipeline.train reenactment")
    return TrainJob(
        task=task,
        model=params.model,
        config=config,
        seed=params.seed,
        data=str(data),
        nets=str(places.nets),
        stage1=stage1 and str(stage1),
        loader_workers=params.compute.loader_workers,
        threads=params.compute.cpus_per_worker,
        detect_height=params.crop.detect_height,
    )


def fingerprint(job: TrainJob) -> tuple[Any, ...]:
    """What decides the result, for the digest: params, inputs and the code that computes, not the machine.

    All files of the data set count by their bytes, which are read again only of files that changed.
    """
    folder = Path(job.data)
    data = contents(folder, folder.parents[1] / "work" / "contents" / f"{folder.name}.json")
    manifest = read_manifest(Path(job.nets))
    nets = {role: [manifest[role]["sha256"], manifest[role].get("centre")] for role in NETS if role in manifest}
    stage1 = Path(job.stage1) if job.stage1 else None
    return job.task, job.model, job.config, job.seed, data, nets, stage1, code("pipeline.train")


def run_on_ray(job: TrainJob, compute: ComputeParams, folder: Path, places: Places) -> dict:
    """Train on Ray, showing progress and logging curves meanwhile; the final training state.

    A Ray of our own that is lost on the way is started again, `LOSSES` times. Raises RuntimeError with the worker's
    error if it failed more than `MAX_FAILURES` times, or if Ray is gone.
    """
    import ray

    again = LOSSES if is_ours() else 0
    while True:
        try:
            return fit_on_ray(job, compute, folder, places)
        except ray.exceptions.RayError as error:
            disconnect()
            said = f"train_{job.task}: Ray was lost ({reason(error)})"
            if not again:
                raise RuntimeError(f"{said}: the same command goes on from the last checkpoint") from error
            print(f"warning: {said}, starting it again from the last checkpoint", file=sys.stderr, flush=True)
            again -= 1


def fit_on_ray(job: TrainJob, compute: ComputeParams, folder: Path, places: Places) -> dict:
    """`run_on_ray`, once. Raises ray.exceptions.RayError if Ray is lost."""
    import ray
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.util.queue import Queue

    # a busy machine starts a worker, with all its imports, in minutes; Ray's own limit of 60 s would start it in vain
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "600")
    # how often Ray looks whether the workers have ended; at its 2 s a short training waits seconds for its end
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    connect(compute)
    gpus = gpus_per_worker(compute, ray.cluster_resources().get("GPU", 0))
    # a folder of this machine, or one that all machines see: there the run's name must tell stages apart
    storage = (compute.storage, f"{folder.parent.name}-{folder.name}") if compute.storage else (str(folder), "ray")
    runs = Path(*storage)
    forget_missing(runs)
    messages = Queue(actor_options={"num_cpus": 0})
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"job": job, "messages": messages, "checkpoints": str(runs)},
        torch_config=TorchConfig(backend="nccl" if gpus else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=compute.workers,
            use_gpu=gpus > 0,
            resources_per_worker={"CPU": compute.cpus_per_worker} | ({"GPU": gpus} if gpus else {}),
        ),
        run_config=RunConfig(
            name=storage[1],
            storage_path=storage[0],
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


def train_worker(config: dict[str, Any]) -> None:
    """One worker: build, take up the last checkpoint if there is one, train. Only rank 0 writes and tells."""
    import ray.train
    import ray.train.torch
    import torch

    job, messages = config["job"], config["messages"]
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    torch.set_num_threads(job.threads)  # Ray sets OMP_NUM_THREADS to 1

    def tell(*message: Any) -> None:
        if rank == 0:
            messages.put(message)

    trainer = make_trainer(job, ray.train.torch.get_device())
    checkpoint = ray.train.get_checkpoint()
    with checkpoint.as_directory() if checkpoint else nullcontext() as place:
        for warning in take_up(trainer.load, Path(config["checkpoints"]), STATE, place and Path(place)):
            tell("warn", trainer.step, warning)
    first = trainer.step
    tell("start", first, world)

    def on_checkpoint(step: int) -> None:
        with tempfile.TemporaryDirectory() as place:
            if rank == 0:
                trainer.save(Path(place) / STATE)
            here = ray.train.Checkpoint.from_directory(place) if rank == 0 else None
            ray.train.report({"step": step}, checkpoint=here)

    fixed = previews(job)

    def on_sample(step: int) -> None:
        tell("sample", step, sample_grid(trainer, fixed))

    stream = sample_stream(
        open_data(job, "train"),
        seed=job.seed,
        batch_size=job.config.batch_size // world,
        rank=rank,
        world=world,
        start_step=trainer.step,
        loader_workers=job.loader_workers,
        augment=job.config.augmentation,
    )

    def on_log(step: int, values: dict[str, float]) -> None:
        tell("log", step, values | {"unreadable": stream.skipped})

    train(trainer, stream, on_log, on_checkpoint, on_sample if rank == 0 else lambda step: None)
    if first == trainer.step:  # killed between its last checkpoint and its end: Ray may know an older one only
        on_checkpoint(trainer.step)


def make_trainer(job: TrainJob, device: Any = "cpu") -> Trainer:
    """Networks and frozen nets of a job, before any training; the same on every worker."""
    import torch

    torch.manual_seed(job.seed)
    model, discriminator = UniFace(job.model), Discriminator(job.model)
    if job.stage1:
        start_from_reenactment(model, job.stage1)
    return Trainer(job.task, model, discriminator, load_nets(job), job.config, device)


def load_nets(job: TrainJob) -> LossNets:
    """The frozen nets that the job's losses need, from `data/weights`."""
    folder, weights = Path(job.nets), job.config.weights
    manifest = read_manifest(folder)
    contextual = bool(weights.contextual)
    perceptual = weights.perceptual or (contextual and "contextual" not in manifest)
    needed = [role for role, needs in (("recogniser", weights.identity), ("perceptual", perceptual)) if needs]
    files = {r: folder / entry["file"] for r, entry in read_manifest(folder, needed, f"train_{job.task}").items()}
    centre = manifest.get("recogniser", {}).get("centre")
    return LossNets(
        recogniser=load_recogniser(files["recogniser"], centre) if weights.identity else None,
        perceptual=load_perceptual(files["perceptual"]) if perceptual else None,
        channels=load_lpips_weights(files["lpips"]) if weights.perceptual and _is_vgg16(files) else None,
        contextual=load_perceptual(files["contextual"]) if contextual and "contextual" in files else None,
    )


def check_contextual_maps(job: TrainJob) -> None:
    """Raise ValueError if the settings name a map that the net of L_ctx does not have."""
    import torch

    nets = load_nets(job)
    net = nets.contextual or nets.perceptual
    if job.config.weights.contextual and net is not None:
        with torch.no_grad():
            count = len(net(torch.zeros(1, 3, job.model.image_size, job.model.image_size)))
        if max(job.config.contextual_maps) >= count:
            raise ValueError(
                f"train_{job.task}.contextual_maps: {list(job.config.contextual_maps)}, but the net has {count} maps, "
                f"0 to {count - 1}"
            )


def _is_vgg16(files: dict[str, Path]) -> bool:
    """Whether the perceptual net is the one that LPIPS's weights were learnt for, and they are there."""
    return "lpips" in files and files["perceptual"].name.startswith("vgg16")


def open_data(job: TrainJob, split: str) -> ClipDataset | PairDataset:
    """The data set of the job's task."""
    return (ClipDataset if job.task == "reenactment" else PairDataset)(job.data, split)


def previews(job: TrainJob) -> dict[str, Any]:
    """Held-out sources and targets of different identities for the sample grids, (n, 3, H, W) each."""
    data = open_data(job, "test")
    if job.task == "reenactment":
        clips = [round(i * (len(data) - 1) / PREVIEWS) for i in range(PREVIEWS + 1)]
        middle = [data.frame(i, int(data.lengths[i]) // 2) for i in clips]
        sources, targets = middle[:-1], middle[1:]
    else:
        rows = [k for k in range(min(len(data), 50 * PREVIEWS)) if not data.same(k)][:PREVIEWS]
        sources, targets = zip(*(data.pair(k)[:2] for k in rows), strict=True)
    return {"source": to_tensor(np.stack(sources)), "target": to_tensor(np.stack(targets))}


def sample_grid(trainer: Trainer, batch: dict[str, Any]) -> np.ndarray:
    """One picture: a row per pair with source, target and what the averaged weights make of them."""
    made = trainer.preview({name: images.to(trainer.device) for name, images in batch.items()})
    columns = [to_uint8(images) for images in (batch["source"], batch["target"], made)]
    return grid(list(zip(*columns, strict=True)))


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
