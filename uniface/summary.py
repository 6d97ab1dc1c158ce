"""Parameters and arithmetic per part, counted on fake tensors: no memory and no arithmetic at any size."""

from dataclasses import dataclass

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from uniface.config import TASKS, ModelConfig
from uniface.discriminator import Discriminator
from uniface.model import UniFace


@dataclass(frozen=True)
class Cost:
    """Parameters, and floating point operations (2 x multiply-add) for one pair, of a part; None where unused."""

    parameters: int
    reenactment: int | None
    swapping: int | None


def costs(config: ModelConfig) -> dict[str, Cost]:
    """Cost of each part, of the whole ("UniFace"), and of the discriminator for one image."""
    with FakeTensorMode(), torch.no_grad():
        model, discriminator = UniFace(config), Discriminator(config)
        model.train()  # no look at pixel values, which fake tensors do not have
        model.requires_grad_(False)  # the counter otherwise hooks gradients
        discriminator.requires_grad_(False)
        image = torch.zeros(1, 3, config.image_size, config.image_size)
        counted = {}
        for task in TASKS:
            with FlopCounterMode(display=False) as counter:
                model(image, image, task=task)
            counted[task] = counter.get_flop_counts()
        with FlopCounterMode(display=False) as counter:
            discriminator(image)
    found = {}
    for name, part in model.named_children():
        flops = [sum(counted[task].get(f"UniFace.{name}", {}).values()) or None for task in TASKS]
        found[name] = Cost(_size(part), *flops)
    found["UniFace"] = Cost(_size(model), *(sum(counted[task]["Global"].values()) for task in TASKS))
    found["discriminator"] = Cost(_size(discriminator), *([counter.get_total_flops()] * 2))
    return found


def _size(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def table(config: ModelConfig) -> str:
    """`costs` as a Markdown table."""
    size = config.image_size
    rows = ["| part | parameters | GFLOP reenactment | GFLOP swapping |", "|---|---:|---:|---:|"]
    for name, cost in costs(config).items():
        flops = [
            "-" if n is None else f"{n / 1e9:.{1 if n >= 1e10 else 3}f}" for n in (cost.reenactment, cost.swapping)
        ]
        rows.append(f"| {name} | {cost.parameters / 1e6:.2f} M | {flops[0]} | {flops[1]} |")
    return f"{size} x {size}, one pair, 2 x multiply-add\n\n" + "\n".join(rows)
