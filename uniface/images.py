"""Pictures as arrays: the antialiased resize of the crop protocol, tensors in [-1, 1] and back, files, grids.

uint8 arrays are RGB, (H, W, 3); this module, `faces.py` and the video decoder are the only places that hold them.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from uniface.files import atomic_write

if TYPE_CHECKING:
    import torch

HUGE = 16
"""Factor of a reduction from which `resize` goes in two steps: a face of 4,096 pixels, not one of a video."""

LEFT = 8
"""Factor that the second step is left with at least: blocks of an eighth of its pixels are fine enough."""


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A uint8 image (H, W) or (H, W, C) brought to `size` = (height, width), antialiased.

    Equals scikit-image's `resize(image, size, anti_aliasing=True)`, which FOMM's preprocessing calls, to 60 dB or
    better (a Gaussian of sigma (factor - 1) / 2 for each reduced axis, then bilinear), at some 26 times its speed.
    Reductions by `HUGE` and more take means of blocks of pixels first and a narrower Gaussian after: 58 dB.
    """
    import cv2

    height, width = image.shape[:2]
    if (height, width) == tuple(size):
        return image.copy()
    sigmas = [max(0.0, (old / new - 1) / 2) for old, new in zip((height, width), size, strict=True)]
    border = cv2.BORDER_REFLECT_101
    if any(old / new >= HUGE for old, new in zip((height, width), size, strict=True)):
        image, sigmas = _means(image, size, sigmas)
        border = cv2.BORDER_REFLECT  # about the edge of a block, which is the edge of the picture
    blurred = image.astype(np.float32)
    vertical, horizontal = (_gaussian(sigma) for sigma in sigmas)
    if len(vertical) > 1 or len(horizontal) > 1:
        blurred = cv2.sepFilter2D(blurred, -1, horizontal, vertical, borderType=border)
    small = cv2.resize(blurred, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
    return cv2.convertScaleAbs(small)  # rounded as by np.rint; nothing in it is negative


def _means(image: np.ndarray, size: tuple[int, int], sigmas: list[float]) -> tuple[np.ndarray, list[float]]:
    """The image in means of blocks, an eighth of the reduction left to do, and the sigmas that are left, in blocks.

    Variances add: a mean over k pixels has (k^2 - 1) / 12, and bilinear sampling at a share p between two blocks, not
    two pixels, (k^2 - 1) p (1 - p).
    """
    import cv2

    shape, left = [], []
    for old, new, sigma in zip(image.shape, size, sigmas, strict=False):
        now = round(old / max(1, old // (LEFT * new)))
        k = old / now
        between = ((np.arange(new) + 0.5) * now / new - 0.5) % 1
        variance = sigma**2 - (k**2 - 1) * (1 / 12 + float(np.mean(between * (1 - between))))
        shape.append(now)
        left.append(max(0.0, variance) ** 0.5 / k)
    return cv2.resize(image.astype(np.float32), shape[::-1], interpolation=cv2.INTER_AREA), left


@lru_cache(64)  # a clip's frames share theirs
def _gaussian(sigma: float) -> np.ndarray:
    """A normalised Gaussian kernel cut at four sigmas, as scipy's `gaussian_filter` makes it; [1] for sigma 0."""
    radius = int(4 * sigma + 0.5)
    offsets = np.arange(-radius, radius + 1, dtype=np.float64)
    kernel = np.exp(-0.5 * (offsets / sigma) ** 2) if radius else np.ones(1)
    return (kernel / kernel.sum()).astype(np.float32)


def to_tensor(image: np.ndarray) -> "torch.Tensor":
    """uint8 (H, W, 3) or (N, H, W, 3) to float (3, H, W) or (N, 3, H, W) in [-1, 1]."""
    import torch  # here, not above: processes that only draw or crop need none, and it takes seconds to start

    pixels = torch.from_numpy(np.ascontiguousarray(image)).movedim(-1, -3)  # (..., 3, H, W)
    return pixels.contiguous().float().div_(127.5).sub_(1.0)


def to_uint8(images: "torch.Tensor") -> np.ndarray:
    """float (3, H, W) or (N, 3, H, W) in [-1, 1] to uint8 (H, W, 3) or (N, H, W, 3); values outside are clipped."""
    import torch

    levels = images.detach().float().add(1.0).mul(127.5).round().clamp(0, 255)
    return levels.to(torch.uint8).movedim(-3, -1).contiguous().cpu().numpy()


def read_image(path: str | Path) -> np.ndarray:
    """A picture file as uint8 (H, W, 3) RGB, turned upright by its EXIF orientation.

    Raises FileNotFoundError if there is no such file and ValueError if it is not a picture.
    """
    from PIL import Image, ImageOps

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no picture at {path}")
    try:
        with Image.open(path) as picture:
            return np.array(ImageOps.exif_transpose(picture).convert("RGB"))
    except (OSError, SyntaxError) as error:  # PIL reports a broken PNG as SyntaxError
        raise ValueError(f"{path} is not a readable picture: {error}") from error


def write_image(path: str | Path, image: np.ndarray) -> None:
    """Write uint8 (H, W, 3) RGB to a file whose suffix says the format; its folder is made. The write is atomic.

    Raises ValueError for a suffix of no picture format.
    """
    from PIL import Image

    path = Path(path)
    if Image.registered_extensions().get(path.suffix.lower()) not in Image.SAVE:
        raise ValueError(f"{path} does not end as a picture does: give it a name such as {path.stem or 'out'}.png")
    with atomic_write(path) as part:
        Image.fromarray(image).save(part)


def grid(rows: Sequence[Sequence[np.ndarray]], gap: int = 2) -> np.ndarray:
    """One uint8 (H, W, 3) picture from rows of equally sized uint8 pictures, `gap` white pixels apart.

    Short rows are filled with white. Raises ValueError without any picture, or if sizes differ.
    """
    shapes = {image.shape for row in rows for image in row}
    if len(shapes) != 1:
        raise ValueError(f"a grid needs pictures of one size, got {sorted(shapes) or 'none'}")
    height, width, channels = shapes.pop()
    columns = max(len(row) for row in rows)
    size = (len(rows) * (height + gap) - gap, columns * (width + gap) - gap, channels)
    sheet = np.full(size, 255, np.uint8)
    for r, row in enumerate(rows):
        for c, image in enumerate(row):
            top, left = r * (height + gap), c * (width + gap)
            sheet[top : top + height, left : left + width] = image
    return sheet
