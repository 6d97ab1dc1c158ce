"""Where stage 1's quality on the sample comes from and ends: more steps, or exact answers to learn from.

    python -m benchmarks.learning 220 440 880 [--supervised 440] [--answers 5000]

After `make repro`, in this process. Each number of steps is a training of its own, its schedule stretched to fit, as
stage 1 trains: source, driver and answer from one clip, one person. `--supervised` trains once more from what no real
data set has: source and driver of two training persons and the rendered exact answer. That is an upper bound for this
network at that many steps, not a recipe. Prints `evaluate`'s numbers on the same held-out pairs as Markdown.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from pipeline.common.places import Places
from pipeline.evaluate import Runner, measure
from pipeline.params import load
from pipeline.scoring.held_out import clip_pairs, exact
from pipeline.scoring.scorer import Scorer
from pipeline.sections import Params
from pipeline.training.job import make_job
from pipeline.training.worker import make_trainer, open_data
from uniface.images import to_tensor
from uniface.objective import Batch
from uniface.stream import sample_stream
from uniface.train import train


def stretched(params: Params, steps: int) -> Params:
    """`params` with stage 1 of so many steps, of which the discriminator takes part in the same share."""
    config = params.train_reenactment
    start = round(config.adversarial_from * steps / config.iterations)
    return replace(params, train_reenactment=replace(config, iterations=steps, adversarial_from=start))


def answered(params: Params, places: Places, count: int) -> Iterator[Batch]:
    """Endless batches of (source, driver of another person, exact answer), from `count` pairs of training clips."""
    job = make_job("reenactment", params, places)
    pairs, jobs = clip_pairs(open_data(job, "train"), count, params.seed + 1, cross=True)
    truth = exact("reenactment", jobs, params, places.work)
    rng = np.random.default_rng(params.seed)
    while True:
        rows = rng.integers(0, count, job.config.batch_size)
        images = {"source": pairs.source, "driver": pairs.target, "target": truth}
        yield {name: to_tensor(pictures[rows]) for name, pictures in images.items()}


def row(name: str, params: Params, places: Places, batches: Iterator[Batch] | None, tests: dict) -> str:
    """Train stage 1 from `batches`, its own data if None, and measure it."""
    job = make_job("reenactment", params, places)
    trainer = make_trainer(job)
    if batches is None:
        batches = sample_stream(
            open_data(job, "train"), job.seed, job.config.batch_size, augment=job.config.augmentation
        )
    train(trainer, batches, lambda step, values: print(f"{name}: step {step}", end="\r", flush=True))
    scorer = Scorer(places.nets, params.evaluate.batch_size, torch.device("cpu"))
    act = Runner(trainer.average, "reenactment", params.evaluate.batch_size)
    same = measure("reenactment", act, tests["reconstruction"], scorer, same=True)[0]
    made, basis, control, *_ = measure("reenactment", act, tests["reenactment"], scorer)
    cells = [same["psnr"], made["psnr"], control["truth_as_driver"]["psnr"], basis["mean_frame"]["psnr"]]
    drops = [-control[kind]["psnr_drop"] for kind in ("shuffled_driver", "shuffled_source")]
    return f"| {name} | " + " | ".join([*(f"{x:.2f}" for x in cells), *(f"{x:+.2f}" for x in drops)]) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps", type=int, nargs="+")
    parser.add_argument("--supervised", type=int, metavar="STEPS")
    parser.add_argument("--answers", type=int, default=5000)
    options = parser.parse_args()
    places = Places(Path().resolve())
    params = load()
    clips = open_data(make_job("reenactment", params, places), "test")
    cross, jobs = clip_pairs(clips, params.evaluate.pairs, params.seed, cross=True)
    same, _ = clip_pairs(clips, params.evaluate.pairs, params.seed, cross=False)
    tests = {
        "reconstruction": replace(same, truth=same.target),
        "reenactment": replace(cross, truth=exact("reenactment", jobs, params, places.work)),
    }
    lines = ["| stage 1, steps | own face | PSNR | exact truth as driver | mean frame | other driver | other source |"]
    lines.append("|---|" + "---:|" * 6)
    for steps in options.steps:
        lines.append(row(str(steps), stretched(params, steps), places, None, tests))
    if options.supervised:
        changed = stretched(params, options.supervised)
        batches = answered(changed, places, options.answers)
        lines.append(row(f"{options.supervised}, exact answers", changed, places, batches, tests))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
