"""One worker of a training: its networks, its data, its pictures."""

import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.common.checkpoints import take_up
from pipeline.common.nets import read_manifest
from pipeline.training.job import TrainJob
from uniface.alignment import FacePoints
from uniface.backbones import count_maps, load_lpips_weights, load_perceptual, load_recogniser
from uniface.data import ClipDataset, PairDataset
from uniface.discriminator import Discriminator
from uniface.images import grid, to_tensor, to_uint8
from uniface.model import UniFace
from uniface.objective import LossNets
from uniface.stream import sample_stream
from uniface.train import start_from_reenactment, train
from uniface.trainer import Trainer

STATE = "state.pt"
PREVIEWS = 6  # rows of a sample grid


def train_worker(config: dict[str, Any]) -> None:
    """One worker: build, take up the last checkpoint if there is one, train. Only rank 0 writes and tells."""
    import ray.train
    import ray.train.torch
    import torch

    job, messages = config["inputs"].of(config["job"]), config["messages"]
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
        candidates=job.config.target_candidates,
        points=face_points(job),
    )

    def on_log(step: int, values: dict[str, float]) -> None:
        values |= {"without_face": stream.without_face} if stream.without_face else {}
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
    persons = open_data(job, "train").persons if job.config.weights.person else 0
    return Trainer(job.task, model, discriminator, load_nets(job), job.config, device, persons)


def net_files(job: TrainJob) -> dict[str, Path]:
    """The files in `data/weights` of the nets there, by role. Raises ValueError if one is missing that a loss needs."""
    folder, weights = Path(job.nets), job.config.weights
    perceptual = weights.perceptual or (weights.contextual and "contextual" not in read_manifest(folder))
    roles = {"recogniser": weights.identity, "perceptual": perceptual, "detector": job.config.identity_crop != "fixed"}
    needed = [role for role, needs in roles.items() if needs]
    return {r: folder / entry["file"] for r, entry in read_manifest(folder, needed, f"train_{job.task}").items()}


def load_nets(job: TrainJob) -> LossNets:
    """The frozen nets that the job's losses need, from `data/weights`."""
    files, weights = net_files(job), job.config.weights
    contextual = bool(weights.contextual)
    perceptual = weights.perceptual or (contextual and "contextual" not in files)
    centre = read_manifest(Path(job.nets)).get("recogniser", {}).get("centre")
    return LossNets(
        recogniser=load_recogniser(files["recogniser"], centre) if weights.identity else None,
        perceptual=load_perceptual(files["perceptual"]) if perceptual else None,
        channels=load_lpips_weights(files["lpips"]) if weights.perceptual and _is_vgg16(files) else None,
        contextual=load_perceptual(files["contextual"]) if contextual and "contextual" in files else None,
    )


def face_points(job: TrainJob) -> FacePoints | None:
    """What finds the faces that L_id aligns; None where it sees the fixed crop."""
    if job.config.identity_crop == "fixed":
        return None
    return FacePoints(net_files(job)["detector"])


def check_nets(job: TrainJob) -> None:
    """Raise ValueError if a net is missing that a loss needs, or the settings name a map that that of L_ctx lacks."""
    files = net_files(job)
    if job.config.weights.contextual:
        count = count_maps(files["contextual" if "contextual" in files else "perceptual"])
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
    return (ClipDataset if job.task == "reenactment" else PairDataset)(job.data, split, disk=job.disk)


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
