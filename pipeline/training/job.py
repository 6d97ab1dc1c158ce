"""What a training must know, and what decides its result."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.common.bucket import Copied, copied, disk
from pipeline.common.code import code
from pipeline.common.files import contents
from pipeline.common.nets import read_manifest
from pipeline.common.places import Places
from pipeline.sections import Params
from uniface.config import ModelConfig, Task, TrainConfig
from uniface.store import Disk
from uniface.tables import ELSEWHERE

NETS = ("recogniser", "perceptual", "lpips", "contextual")  # roles that a loss may look through


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
    disk: Disk  # where a worker keeps what it reads from a store
    detect_height: int  # rows at which faces were found in the training data


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
        disk=disk(params.compute),
        detect_height=params.crop.detect_height,
    )


@dataclass(frozen=True)
class Inputs:
    """The files of a job as its workers find them, which may run on machines that see nothing of the driver's."""

    data: Copied
    nets: Copied
    stage1: Copied | None

    def of(self, job: TrainJob) -> TrainJob:
        """The job with paths of the machine that calls this."""
        stage1 = self.stage1 and str(self.stage1.here())
        return replace(job, data=str(self.data.here()), nets=str(self.nets.here()), stage1=stage1)


def inputs(job: TrainJob, data: str) -> Inputs:
    """Copy what workers elsewhere need to the store `data`; "": they see the driver's folders.

    Raises ValueError if the shards themselves lie here only.
    """
    if data and not (Path(job.data) / ELSEWHERE).is_file():
        name = Path(job.data).name
        stage = "crop" if job.task == "reenactment" else "pairs"
        raise ValueError(
            f"the shards of data/{name} lie on this machine, and compute.data says {data}: make them again, there "
            f"(dvc repro --force --single-item {stage})"
        )
    stage1 = copied(Path(job.stage1), data) if job.stage1 else None
    return Inputs(copied(Path(job.data), data), copied(Path(job.nets), data), stage1)


def fingerprint(job: TrainJob) -> tuple[Any, ...]:
    """What decides the result, for the digest: params, inputs and the code that computes, not the machine.

    All files of the data set count by their bytes, which are read again only of files that changed.
    """
    folder = Path(job.data)
    data = contents(folder, folder.parents[1] / "work" / "contents" / f"{folder.name}.json")
    manifest = read_manifest(Path(job.nets))
    roles = NETS if job.config.identity_crop == "fixed" else (*NETS, "detector")
    nets = {role: [manifest[role]["sha256"], manifest[role].get("centre")] for role in roles if role in manifest}
    stage1 = Path(job.stage1) if job.stage1 else None
    return job.task, job.model, job.config, job.seed, data, nets, stage1, code("pipeline.train")
