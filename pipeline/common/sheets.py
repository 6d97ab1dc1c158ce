"""Labelled sheets of pictures for a person to look at."""

from collections.abc import Sequence

import numpy as np

from uniface.images import grid, resize

TILE = 128  # pixels of the shown side: smaller images are enlarged to it
LABEL = 18  # pixels of a line of text


def sheet(labels: Sequence[str], columns: Sequence[np.ndarray]) -> np.ndarray:
    """Columns of uint8 pictures (N, H, W, 3), each under its label, one row per picture: uint8 (h, w, 3)."""
    from PIL import Image, ImageDraw, ImageFont

    rows = [[_tile(column[i]) for column in columns] for i in range(len(columns[0]))]
    body = grid(rows)
    head = Image.new("RGB", (body.shape[1], LABEL), "white")
    draw, font = ImageDraw.Draw(head), ImageFont.load_default(12)
    for i, label in enumerate(labels):
        draw.text((i * (rows[0][0].shape[1] + 2) + 4, 2), label, fill="black", font=font)
    return np.concatenate([np.asarray(head), body])


def captioned(image: np.ndarray, text: str) -> np.ndarray:
    """A picture, uint8 (H, W, 3), with a line of text below it."""
    from PIL import Image, ImageDraw

    tile = _tile(image)
    strip = Image.new("RGB", (tile.shape[1], LABEL), "white")
    ImageDraw.Draw(strip).text((2, 2), text, fill="black")
    return np.concatenate([tile, np.asarray(strip)])


def _tile(image: np.ndarray) -> np.ndarray:
    return image if image.shape[0] >= TILE else resize(image, (TILE, TILE))
