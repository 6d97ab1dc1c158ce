"""The training loop of both stages (Sec. 3.3, 4.1). No framework: the outside enters as callables and an iterator.

    trainer = Trainer("reenactment", UniFace(config), Discriminator(config), LossNets(perceptual=net), train_config)
    train(trainer, batches, on_log=print)

A batch is a dict of images `(B, 3, H, W)` in [-1, 1]: `source`, `target` and, where the loader augments it, `driver`
(what the attribute embedder sees instead of the target); for swapping also `same` `(B,)`. Under an initialised process
group every process holds the same weights and its share of the batch, and gradients are averaged. `batches` must begin
at `trainer.step`; then a run that was stopped and resumed equals an uninterrupted one bit for bit on one CPU worker.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from uniface.objective import Batch, Values
from uniface.trainer import Trainer, average_over_processes, processes, rate_factor


def train(
    trainer: Trainer,
    batches: Iterable[Batch],
    on_log: Callable[[int, dict[str, float]], None] = lambda step, values: None,
    on_checkpoint: Callable[[int], None] = lambda step: None,
    on_sample: Callable[[int], None] = lambda step: None,
) -> None:
    """Train until `config.iterations`; `batches` begins at `trainer.step`.

    `on_log(step, values)` gets the mean of each loss since the last log, over all processes, the learning rate, the
    number of skipped iterations and `pairs_per_second`. The callables are called after the iteration that `step`
    counts; the last iteration is always logged, sampled and checkpointed.
    """
    config = trainer.config
    sums: Values = {}
    counts: dict[str, int] = {}
    pairs, began = 0, time.perf_counter()
    stream: Iterator[Batch] = iter(batches)
    while trainer.step < config.iterations:
        batch = next(stream, None)
        if batch is None:
            raise ValueError(f"the data ended at step {trainer.step} of {config.iterations}")
        batch = {name: value.to(trainer.device, non_blocking=True) for name, value in batch.items()}
        for name, value in trainer.train_step(batch).items():
            sums[name] = sums.get(name, 0) + value
            counts[name] = counts.get(name, 0) + 1
        pairs += len(batch["source"]) * processes()
        step, last = trainer.step, trainer.step == config.iterations
        if step % config.log_every == 0 or last:
            means = torch.stack([sums[name] / counts[name] for name in sorted(sums)])
            average_over_processes([means])
            values = dict(zip(sorted(sums), means.tolist(), strict=True))
            values["lr"] = config.lr * rate_factor(step - 1, config)
            values["skipped"] = trainer.skipped
            trainer.curve.append({"step": step, **values})
            values["pairs_per_second"] = pairs / (time.perf_counter() - began)
            if trainer.device.type == "cuda":
                values["gpu_memory_gb"] = torch.cuda.max_memory_allocated(trainer.device) / 1e9
            on_log(step, values)
            sums, counts, pairs, began = {}, {}, 0, time.perf_counter()
        if step % config.sample_every == 0 or last:
            on_sample(step)
        if step % config.checkpoint_every == 0 or last:
            on_checkpoint(step)


def start_from_reenactment(model: nn.Module, path: str | Path) -> None:
    """Initialise swapping: of stage 1's model only the attribute embedder (Sec. 4.1); nothing if the model has none.

    Raises FileNotFoundError or ValueError if the file is missing, or fits another model.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no model at {path}: train stage 1 first (python -m pipeline.train reenactment)")
    if model.attribute_embedder is None:  # Table 4, without AttrT
        return
    prefix = "attribute_embedder."
    weights = {k.removeprefix(prefix): v for k, v in load_file(path).items() if k.startswith(prefix)}
    try:
        model.attribute_embedder.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{path} has another attribute embedder: train stage 1 again ({error})") from error
