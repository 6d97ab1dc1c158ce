"""Pictures known by a digest before they are made, and what networks say of them, kept on disk under it.

So one pass over a set of pictures serves every metric, pictures that are two sets' are looked at once, an evaluation
that was interrupted goes on, and the next one of the same model on the same data computes nothing.
"""

import hashlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.common.files import digest
from uniface.files import atomic_write

BLOCK = 100
"""Pictures that are computed, and kept, together: what an interruption can cost."""
MADE_BYTES = 256 << 20
"""Of pictures of one set that are remembered once they are made: each is looked at several times."""
TOGETHER = 20
"""Pictures that are made together, whichever of them are asked for: a network's last bits depend on the batch."""
KEPT_DAYS = 60
"""Days after which what no evaluation has asked for goes."""


class Pictures:
    """N pictures, uint8 (N, H, W, 3): an array, or what a function makes of the arrays of other pictures.

    `make` gets the same rows of `inputs`; `name` says what it does, so that equal names with equal inputs give equal
    pictures. Without a name they are made at once. Rows are read by slices and lists of numbers, as from an array.
    """

    def __init__(self, array: np.ndarray | None, name: str = "", make: Callable | None = None, inputs: tuple = ()):
        self._array, self._name, self._make, self._inputs = array, name, make, inputs
        self._made: dict[int, np.ndarray] = {}  # number of a picture -> what was made
        self._keys: dict[int, str] = {}

    @classmethod
    def made(cls, make: Callable, *inputs: "Pictures", name: str = "") -> "Pictures":
        """What `make` makes of other pictures."""
        return cls(None, name, make, inputs) if name else cls(make(*(np.asarray(one) for one in inputs)))

    def __len__(self) -> int:
        return len(self._inputs[0] if self._array is None else self._array)

    def __getitem__(self, rows: slice | list[int]) -> np.ndarray:
        if self._array is not None:
            return self._array[rows]
        wanted = range(len(self))[rows] if isinstance(rows, slice) else rows
        for start in sorted({k - k % TOGETHER for k in wanted if k not in self._made}):
            group = range(start, min(start + TOGETHER, len(self)))
            made = self._make(*(one[start : group.stop] for one in self._inputs))
            self._made.update(zip(group, made, strict=True))
        found = np.stack([self._made[k] for k in wanted])
        while len(self._made) * found[0].nbytes > MADE_BYTES:
            self._made.pop(next(iter(self._made)))
        return found

    def __array__(self, dtype: type | None = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)

    def blocks(self) -> Iterator[slice]:
        """All rows in blocks."""
        for start in range(0, len(self), BLOCK):
            yield slice(start, min(start + BLOCK, len(self)))

    def key(self, rows: slice) -> str:
        """A digest of a block of them."""
        if rows.start not in self._keys:
            if self._array is None:
                found = digest(self._name, [one.key(rows) for one in self._inputs])
            else:
                block = np.ascontiguousarray(self._array[rows])
                found = hashlib.sha256(f"{block.shape}".encode() + block.tobytes()).hexdigest()
            self._keys[rows.start] = found
        return self._keys[rows.start]


class Store:
    """Tensors by key in the safetensors files of a folder; None keeps nothing."""

    def __init__(self, folder: Path | None):
        self.folder = folder

    def get(self, key: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """What is kept under the key, made first if need be."""
        if self.folder is None:
            return make()
        from safetensors import SafetensorError
        from safetensors.torch import load_file, save_file

        path = self.folder / f"{key}.safetensors"
        if path.is_file():
            try:
                found = load_file(path)
            except SafetensorError:
                path.unlink()  # a disk that was full, a file cut short: made again
            else:
                path.touch()
                return found
        found = {name: values.contiguous() for name, values in make().items()}
        with atomic_write(path) as part:
            save_file(found, part)
        return found

    def tidy(self) -> None:
        """Remove what nobody has asked for in a long time."""
        for path in self.folder.glob("*.safetensors"):
            if time.time() - path.stat().st_mtime > KEPT_DAYS * 86400:
                path.unlink(missing_ok=True)


def joined(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The blocks' tensors as those of all pictures."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
