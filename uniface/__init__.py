"""UniFace (ECCV 2022): one framework for face reenactment and face swapping.

`source` gives the identity, `target` gives the attributes; always these two words, always in this order.
Images are float RGB `(B, 3, H, W)` in [-1, 1]; uint8 `(H, W, 3)` is what the readers
of `data.py` and `images.py` give and what `augment.py` and `faces.py` take.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from uniface.use.api import FaceEditor


def load(where: Any, device: str = "cpu", detector: Any = None, half: bool = False) -> "FaceEditor":
    """A trained model for pictures and videos, from a file, a folder or an MLflow registry; see `uniface.use.api`."""
    from uniface.use.api import load  # not above: `import uniface` stays light

    return load(where, device, detector, half)
