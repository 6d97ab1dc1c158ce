"""Typed settings of the model, the losses and the training loop. Frozen dataclasses; the values live in params.yaml."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and switches of the networks (Sec. 3.1)."""

    feature_stride: int = 8
    max_channels: int = 512
    channel_base: int = 32768


@dataclass(frozen=True)
class LossWeights:
    """Weights of uniface/losses.py; 0 turns a term off. The first five are Eq. 7, the rest extras of the sample."""

    adversarial: float
    reconstruction: float
    perceptual: float
    identity: float
    contextual: float
    absolute: float
    edges: float
    colour: float
    border: float
    attribute: float


@dataclass(frozen=True)
class TrainConfig:
    """One stage of training (Sec. 3.3, 4.1)."""

    iterations: int
    batch_size: int  # over all workers
    accumulate: int  # the batch of a worker is computed in so many parts
    weights: LossWeights
    lr: float
    betas: tuple[float, float]  # of Adam
    attribute_lr: float  # times lr, for the attribute embedder
    warm_up: int  # iterations over which lr rises linearly
    decay_from: float  # share of the iterations after which lr falls linearly to 3 %; 1: never
    ema: float  # decay of the averaged weights
    r1_weight: float
    r1_every: int
    gradient_clip: float  # largest norm; 0: no clipping
    skip_from: int  # iteration at which the generator's skip connection opens
    contextual_maps: tuple[int, ...]  # which maps of the perceptual net L_ctx compares
    amp: bool  # bf16 autocast on a GPU
    compile: bool  # torch.compile
    max_bad_steps: int  # stop after so many steps in a row with a non-finite loss or gradient
    log_every: int
    sample_every: int
    checkpoint_every: int

    def __post_init__(self) -> None:
        if self.checkpoint_every % self.log_every:
            # the means of a log window are not in the checkpoint: a resumed run would draw another curve
            raise ValueError(f"checkpoint_every {self.checkpoint_every} is no multiple of log_every {self.log_every}")
