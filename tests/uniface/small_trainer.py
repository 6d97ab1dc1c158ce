"""A small trainer and its batches: real losses and steps on nets of a few layers."""

import torch
import torch.nn.functional as F
from torch import nn

from uniface.config import LossWeights, TrainConfig
from uniface.objective import LossNets
from uniface.trainer import Trainer

SIZE = 16
WEIGHTS = LossWeights(
    adversarial=0.5,
    reconstruction=1.0,
    perceptual=1.0,
    identity=1.0,
    contextual=0.0,
    absolute=0.5,
    edges=0.5,
    colour=0.5,
    border=0.5,
    person=0.0,
    cycle=0.0,
)
CONFIG = TrainConfig(
    iterations=10,
    batch_size=4,
    accumulate=1,
    weights=WEIGHTS,
    lr=2e-3,
    betas=(0.0, 0.99),
    muon=False,
    attribute_lr=0.1,
    scalar_lr=0.5,
    warm_up=3,
    decay_from=0.5,
    ema=0.9,
    r1_weight=1.0,
    r1_every=4,
    gradient_clip=5.0,
    augmentation=(),
    target_candidates=1,
    foreign_drivers=0.0,
    foreign_from=0,
    face_weight=1.0,
    skip_from=0,
    half_until=0,
    adversarial_from=0,
    perceptual_same=False,
    contextual_maps=(0,),
    identity_crop="fixed",
    amp=False,
    compile=False,
    max_bad_steps=3,
    log_every=2,
    sample_every=5,
    checkpoint_every=2,
)


class Small(nn.Module):
    """The interface of UniFace, with two convolutions."""

    def __init__(self):
        super().__init__()
        self.attribute_embedder = nn.Conv2d(3, 4, 3, 1, 1)
        self.generator = nn.Conv2d(7, 3, 3, 1, 1)
        self.skip_enabled, self.half_size = True, False

    def forward(self, source, target, driver=None, *, task):
        attributes = self.attribute_embedder(target if driver is None else driver)
        if not self.skip_enabled:
            source = torch.zeros_like(source)
        return self.generator(torch.cat([source, attributes], 1))


class Critic(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, 2, 1)
        self.out = nn.Linear(4, 1)

    def forward(self, images):
        return self.out(F.softplus(self.conv(images)).mean((2, 3)))


class Maps(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 6, 3, 2, 1)

    def forward(self, images):
        first = self.first(images).tanh()
        return [first, self.second(first).tanh()]


class Vector(Maps):
    def forward(self, images):
        return F.normalize(super().forward(images)[1].mean((2, 3)), dim=1)


def frozen() -> LossNets:
    torch.manual_seed(7)
    nets = [Vector(), Maps()]
    for net in nets:
        net.eval().requires_grad_(False)
    return LossNets(recogniser=nets[0], perceptual=nets[1])


def trainer(config: TrainConfig = CONFIG, task: str = "swapping") -> Trainer:
    torch.manual_seed(0)
    return Trainer(task, Small(), Critic(), frozen(), config)


def batches(start: int = 0, rank: int = 0, world: int = 1, size: int = 4):
    """Endless batches by step; two ranks with half the size see together what one sees."""
    step = start
    while True:
        draw = torch.Generator().manual_seed(step)
        images = {name: torch.rand(size, 3, SIZE, SIZE, generator=draw) * 2 - 1 for name in ("source", "target")}
        images["same"] = (torch.arange(size) % 4 == 0).float()
        yield {name: value[rank::world] for name, value in images.items()}
        step += 1


def assert_equal_states(a: dict, b: dict) -> None:
    assert a.keys() == b.keys()
    for key, value in a.items():
        if isinstance(value, dict):
            assert_equal_states(value, b[key])
        elif isinstance(value, torch.Tensor):
            assert torch.equal(value, b[key]), key
        else:
            assert value == b[key], key
