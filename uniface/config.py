"""Typed settings of the model, the losses and the training loop. Frozen dataclasses; the values live in params.yaml."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and switches of the networks (Sec. 3.1)."""

    feature_stride: int = 8
    max_channels: int = 512
    channel_base: int = 32768


@dataclass(frozen=True)
class TrainConfig:
    """One stage of training (Sec. 3.3, 4.1)."""

    iterations: int
    batch_size: int
