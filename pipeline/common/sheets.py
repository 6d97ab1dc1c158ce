"""Labelled sheets of pictures for a person to look at."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.common.files import atomic_write
from uniface.images import grid, resize

TILE = 128  # pixels of the shown side: smaller images are enlarged to it
LABEL = 18  # pixels of a line of text
MARGIN = 150  # pixels that the rows' names are given
GAP = 2  # white pixels between two pictures


def sheet(labels: Sequence[str], columns: Sequence[np.ndarray], rows: Sequence[str] = ()) -> np.ndarray:
    """Columns of uint8 pictures (N, H, W, 3), each under its label, one row per picture: uint8 (h, w, 3).

    `rows`: names of the rows, on their left; lines in a name are lines there.
    """
    from PIL import Image, ImageDraw, ImageFont

    tiles = [[_tile(column[i]) for column in columns] for i in range(len(columns[0]))]
    body, side = grid(tiles, GAP), tiles[0][0].shape[1] + GAP
    left = MARGIN if rows else 0
    page = Image.new("RGB", (left + body.shape[1], LABEL + body.shape[0]), "white")
    page.paste(Image.fromarray(body), (left, LABEL))
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(12)
    for i, label in enumerate(labels):
        draw.text((left + i * side + 4, 2), label, fill="black", font=font)
    for i, name in enumerate(rows):
        draw.multiline_text((4, LABEL + i * (tiles[0][0].shape[0] + GAP) + 4), name, fill="black", font=font)
    return np.asarray(page)


def write_sheet(path: Path, labels: Sequence[str], columns: Sequence[np.ndarray], rows: Sequence[str] = ()) -> None:
    """`sheet` as a PNG whose text `sheet` says what is where on it, so that its pictures can be shown otherwise."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    picture, height, width = sheet(labels, columns, rows), *_tile(columns[0][0]).shape[:2]
    text = PngInfo()
    place = {"left": MARGIN if rows else 0, "top": LABEL, "width": width, "height": height, "gap": GAP}
    text.add_text("sheet", json.dumps({"labels": list(labels), "rows": list(rows), **place}))
    with atomic_write(path) as part:
        Image.fromarray(picture).save(part, format="PNG", pnginfo=text)


def captioned(image: np.ndarray, text: str) -> np.ndarray:
    """A picture, uint8 (H, W, 3), with a line of text below it."""
    from PIL import Image, ImageDraw

    tile = _tile(image)
    strip = Image.new("RGB", (tile.shape[1], LABEL), "white")
    ImageDraw.Draw(strip).text((2, 2), text, fill="black")
    return np.concatenate([tile, np.asarray(strip)])


def _tile(image: np.ndarray) -> np.ndarray:
    return image if image.shape[0] >= TILE else resize(image, (TILE, TILE))
