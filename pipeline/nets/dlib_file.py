"""Layers of a network that dlib has saved, read byte by byte; nothing of the file is run.

How dlib writes (seen in `dlib_face_recognition_resnet_model_v1.dat`): a whole number is a byte with its length, and the
sign in the highest bit, then its digits, lowest byte first; a real number is a whole mantissa and a power of two; a
text is its length and its bytes; a truth is the character 0 or 1; a tensor is a version, four sizes and its values as
little-endian float32. A network begins with its loss; the input's settings follow the nested versions of all layers,
and then come the layers, the one next to the input first, each with its settings, three truths and three tensors of the
training that a saved network has emptied.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

INPUT = b"\x15input_rgb_image_sized"  # with its length before it
_LONGEST_NAME = 32


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer with its weights: `values` (n,) float32, as one run, and whole-numbered `settings`."""

    name: str
    settings: tuple[int, ...] = ()
    values: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32))


@dataclass(frozen=True)
class Saved:
    """A saved network: the mean (3,) of red, green and blue in 0..255, the input's side in pixels and the layers."""

    mean: tuple[float, ...]
    size: int
    layers: tuple[Layer, ...]


def read(path: Path) -> Saved:
    """The network in a file. Raises ValueError if it is not one of dlib's with an RGB input and known layers."""
    content = Path(path).read_bytes()
    start = content.find(INPUT, 0, 4096)
    if start < 0:
        raise ValueError(f"{path} is not a network of dlib's for RGB pictures of one size")
    reader = _Reader(content, start + len(INPUT))
    try:
        mean = tuple(reader.real() for _ in range(3))
        size, other = reader.whole(), reader.whole()
        layers = tuple(reader.layers())
    except (IndexError, KeyError, ValueError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is broken, or its layers are others than dlib's face network has: {error}") from None
    if size != other:
        raise ValueError(f"{path} takes pictures of {size} x {other}, not square ones")
    return Saved(mean, size, layers)


class _Reader:
    def __init__(self, content: bytes, position: int):
        self._content, self._position = content, position

    def take(self, length: int) -> bytes:
        taken = self._content[self._position : self._position + length]
        if len(taken) < length:
            raise IndexError(f"it ends at byte {len(self._content)}")
        self._position += length
        return taken

    def whole(self) -> int:
        head = self.take(1)[0]
        digits = int.from_bytes(self.take(head & 0x0F), "little")
        return -digits if head & 0x80 else digits

    def real(self) -> float:
        mantissa = self.whole()
        return mantissa * 2.0 ** self.whole()

    def text(self) -> str:
        length = self.whole()
        if length > _LONGEST_NAME:
            raise ValueError(f"a name of {length} letters")
        return self.take(length).decode("ascii")

    def wholes(self, count: int) -> tuple[int, ...]:
        return tuple(self.whole() for _ in range(count))

    def tensor(self) -> np.ndarray:
        sizes = self.wholes(5)[1:]  # its version first
        count = int(np.prod(sizes))
        return np.frombuffer(self.take(4 * count), "<f4").copy()

    def training(self) -> None:
        """What a layer remembers of its training: three truths and three empty tensors."""
        self.take(3)
        for _ in range(3):
            self.tensor()

    def layers(self) -> Iterator[Layer]:
        kinds: dict[str, Callable[[], Layer]] = {
            "con_4": self._convolution,
            "affine_": self._affine,
            "fc_2": self._linear,
            "relu_": lambda: Layer("relu"),
            "add_prev_": lambda: Layer("add"),
            "max_pool_2": lambda: Layer("max_pool", self.wholes(6)),  # rows, columns, strides and paddings of both
            "avg_pool_2": lambda: Layer("avg_pool", self.wholes(6)),
        }
        yield kinds[self.text()]()
        self.training()
        self.whole()  # how many pictures the input makes of one
        while self._position < len(self._content):
            yield kinds[self.text()]()
            self.training()

    def _convolution(self) -> Layer:
        """Settings: filters, inputs, rows, columns, stride and padding (both ways the same)."""
        values = self.tensor()
        filters, rows, columns, stride, _, padding, _ = self.wholes(7)
        _, _, inputs, *_ = self.wholes(5)  # where the filters are in `values`, after a version
        self.wholes(5)  # where the biases are
        self._rates()
        return Layer("con", (filters, inputs, rows, columns, stride, padding), values)

    def _affine(self) -> Layer:
        values = self.tensor()  # factors, then summands
        self.wholes(5)
        self.wholes(5)
        self.whole()  # after a convolution or a linear layer
        return Layer("affine", (), values)

    def _linear(self) -> Layer:
        outputs, inputs = self.wholes(2)
        values = self.tensor()
        self.wholes(5)
        self.wholes(5)
        self.whole()  # with or without bias
        self._rates()
        return Layer("fc", (outputs, inputs), values)

    def _rates(self) -> None:
        for _ in range(4):  # factors of learning rate and weight decay, of weights and of biases
            self.real()
