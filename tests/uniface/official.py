"""The recipe of the golden vectors: official state dicts filled with known numbers, and the inputs."""

import json
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

GOLDEN = Path(__file__).parent / "golden"
MODULES = json.loads((GOLDEN / "uniface_official_keys.json").read_text())["modules"]

Normal = Callable[[str, tuple[int, ...]], np.ndarray]


def normal(name: str, shape: tuple[int, ...], salt: str = "") -> np.ndarray:
    """Standard normal numbers that depend on the name alone; another `salt` gives other ones."""
    generator = np.random.Generator(np.random.PCG64(zlib.crc32((salt + name).encode("utf-8"))))
    return generator.standard_normal(shape, dtype=np.float32)


def state_dict(module: str, draw: Normal = normal) -> dict[str, torch.Tensor]:
    """An official state dict: official keys and shapes, buffers included."""
    state = {}
    for key, shape in MODULES[module]["state_dict"].items():
        if key in MODULES[module]["buffers"]:
            state[key] = torch.zeros(shape)  # blur kernels: built in, so whatever is here must not matter
            continue
        z = draw(f"{module}:{key}", tuple(shape))
        fan_in = int(np.prod(shape[1:]))
        if key == "style_mix.gamma":
            z = np.full(shape, 0.5, np.float32)
        elif key.endswith(".conv.gamma.bias"):
            z = 1 + np.float32(0.1) * z
        elif key.endswith("bias"):
            z = np.float32(0.1) * z
        elif key in ("style_mix.cq.0.weight", "style_mix.ck.0.weight"):
            z = 4 * z
        elif module == "Encoder_Pose":
            z = z * np.float32((0.2 if key == "out2.2.weight" else 1) * np.sqrt(2 / fan_in))
        state[key] = torch.from_numpy(z)
    return state


def image(name: str, draw: Normal = normal, size: int = 256) -> torch.Tensor:
    """Input image `name` (2, 3, size, size)."""
    coarse = draw(f"input.{name}.coarse", (2, 3, 16, 16)).repeat(size // 16, -2).repeat(size // 16, -1)
    return torch.from_numpy(np.tanh(coarse + np.float32(0.25) * draw(f"input.{name}", (2, 3, size, size))))


def flow(draw: Normal = normal, size: int = 64) -> torch.Tensor:
    """The fixed flow (2, 2, size, size)."""
    coarse = draw("input.flow.coarse", (2, 2, 8, 8)).repeat(size // 8, -2).repeat(size // 8, -1)
    fine = coarse + np.float32(0.25) * draw("input.flow", (2, 2, size, size))
    return torch.from_numpy(np.float32(0.25) * np.tanh(fine))
