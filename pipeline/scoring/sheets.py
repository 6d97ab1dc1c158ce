"""Sheets of what the model does inside: the displacement field in colour, IdT's attention."""

import numpy as np
import torch

from pipeline.common.sheets import sheet
from uniface.explain import POINTS, cells, colour_field, longest, looked_at, marked
from uniface.images import to_tensor, to_uint8
from uniface.model import UniFace


def fdf_sheet(model: UniFace, source: np.ndarray, target: np.ndarray) -> np.ndarray | None:
    """What the attribute embedder tells AttrT (as the paper's Fig. 9), for uint8 (N, H, W, 3); None without AttrT."""
    parts = model.explain(*_tensors(model, source, target), task="reenactment")
    if parts.fdf is None:
        return None
    fields = parts.fdf.float().cpu().numpy()  # (N, 2, h, w)
    largest = longest(fields)  # one scale for all rows
    coloured = np.stack([cells(colour_field(field, largest), source.shape[1]) for field in fields])
    return sheet(("source", "target", "FDF of target", "output"), (source, target, coloured, to_uint8(parts.image)))


def attention_sheet(model: UniFace, source: np.ndarray, target: np.ndarray) -> np.ndarray | None:
    """Where in the source IdT looks for four points of the target (as the paper's Fig. 8 b); None without IdT.

    A map that lights up around its own point reads the source's feature that AttrT has put there.
    """
    parts = model.explain(*_tensors(model, source, target), task="swapping")
    if parts.attention is None:
        return None
    attention = parts.attention.float().cpu().numpy()  # (N, tokens of the target, tokens of the warped source)
    columns = [source, np.stack([marked(image) for image in target])]
    for point in POINTS:
        columns.append(np.stack([looked_at(t, a, point) for t, a in zip(target, attention, strict=True)]))
    return sheet(("source", "target", *(f"for the {name}" for name in POINTS)), columns)


def _tensors(model: UniFace, *images: np.ndarray) -> list[torch.Tensor]:
    device = next(model.parameters()).device
    return [to_tensor(image).to(device) for image in images]
