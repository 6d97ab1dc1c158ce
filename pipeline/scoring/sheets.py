"""Pictures of what the model does inside: the displacement field in colour, IdT's attention."""

import numpy as np
import torch

from pipeline.common.sheets import sheet
from uniface.images import to_tensor, to_uint8
from uniface.model import UniFace

# Points of the target whose attention is shown, in fractions of width and height.
POINTS = {"eye": (0.42, 0.46), "nose": (0.5, 0.57), "mouth": (0.5, 0.7), "cheek": (0.61, 0.6)}


def colour_field(fdf: np.ndarray, largest: float) -> np.ndarray:
    """A displacement field (2, h, w) as uint8 (h, w, 3): the hue is its direction, the saturation its length.

    `largest` is the length shown in full colour; white is no displacement.
    """
    from PIL import Image

    x, y = fdf
    hue = (np.arctan2(y, x) / (2 * np.pi)) % 1
    saturation = np.clip(np.hypot(x, y) / max(largest, 1e-6), 0, 1)
    hsv = np.stack([hue, saturation, np.ones_like(hue)], axis=-1)
    return np.asarray(Image.fromarray((hsv * 255).round().astype(np.uint8), "HSV").convert("RGB"))


def heat(image: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3) with attention (h, w) laid over it: grey where there is none, red to yellow where it is."""
    from PIL import Image

    height, width = image.shape[:2]
    small = Image.fromarray((weights / weights.max()).astype(np.float32))
    share = np.clip(np.asarray(small.resize((width, height), Image.Resampling.BILINEAR)), 0, 1)[..., None]
    warm = np.concatenate([np.full_like(share, 255), 230 * share, np.zeros_like(share)], axis=-1)
    grey = image.mean(axis=-1, keepdims=True) * 0.6
    return ((1 - share) * grey + share * warm).round().astype(np.uint8)


def fdf_sheet(model: UniFace, source: np.ndarray, target: np.ndarray) -> np.ndarray | None:
    """What the attribute embedder tells AttrT (as the paper's Fig. 9), for uint8 (N, H, W, 3); None without AttrT."""
    parts = model.explain(*_tensors(model, source, target), task="reenactment")
    if parts.fdf is None:
        return None
    fields = parts.fdf.float().cpu().numpy()  # (N, 2, h, w)
    edge = fields.shape[-1] // 6  # what happens at the border says nothing about the face, yet may be the largest
    inner = fields[..., edge : fields.shape[-2] - edge, edge : fields.shape[-1] - edge]
    largest = float(np.quantile(np.hypot(inner[:, 0], inner[:, 1]), 0.99))  # one scale for all rows
    coloured = np.stack([_cells(colour_field(field, largest), source.shape[1]) for field in fields])
    return sheet(("source", "target", "FDF of target", "output"), (source, target, coloured, to_uint8(parts.image)))


def attention_sheet(model: UniFace, source: np.ndarray, target: np.ndarray) -> np.ndarray | None:
    """Where in the source IdT looks for four points of the target (as the paper's Fig. 8 b); None without IdT.

    IdT sees the source's features warped to the target's pose, so the maps are laid over the target: a map that lights
    up around its own point reads the source's feature that AttrT has put there.
    """
    parts = model.explain(*_tensors(model, source, target), task="swapping")
    if parts.attention is None:
        return None
    attention = parts.attention.float().cpu().numpy()  # (N, tokens of the target, tokens of the warped source)
    side = round(attention.shape[-1] ** 0.5)
    columns = [source, np.stack([_marked(image) for image in target])]
    for x, y in POINTS.values():
        token = int(y * side) * side + int(x * side)
        columns.append(
            np.stack([heat(t, a[token].reshape(side, side)) for t, a in zip(target, attention, strict=True)])
        )
    return sheet(("source", "target", *(f"for the {name}" for name in POINTS)), columns)


def _tensors(model: UniFace, *images: np.ndarray) -> list[torch.Tensor]:
    device = next(model.parameters()).device
    return [to_tensor(image).to(device) for image in images]


def _cells(image: np.ndarray, side: int) -> np.ndarray:
    """Brought to `side` x `side` with its cells visible."""
    rows = np.arange(side) * image.shape[0] // side
    return image[rows][:, rows]


def _marked(image: np.ndarray) -> np.ndarray:
    """The picture with the points of interest as dots in dark rings."""
    image = image.copy()
    height, width = image.shape[:2]
    radius = height // 64
    for x, y in POINTS.values():
        row, column = int(y * height), int(x * width)
        image[row - radius - 1 : row + radius + 2, column - radius - 1 : column + radius + 2] = 0
        image[row - radius : row + radius + 1, column - radius : column + radius + 1] = (255, 230, 0)
    return image
