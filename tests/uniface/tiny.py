"""A model small enough for tests, and pictures for it."""

import torch

from uniface.config import ModelConfig

SIZE = 32


def config(**changes) -> ModelConfig:
    """The paper's structure at 32 px with few channels."""
    small = {
        "image_size": SIZE,
        "max_channels": 32,
        "channel_base": 512,
        "attribute_dim": 16,
        "attribute_channels": 8,
        "attribute_max_channels": 32,
    }
    return ModelConfig(**small | changes)


def images(count: int = 2, seed: int = 0, size: int = SIZE) -> torch.Tensor:
    """Smooth random pictures (count, 3, size, size) in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 3, 8, 8, generator=generator)
    return torch.tanh(torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear"))
