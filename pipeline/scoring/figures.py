"""The pictures of reports/index.html, as parts of the page."""

import base64
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from uniface.config import TASKS

QUALITY = 82  # of the pictures
SPELT = {name: name.upper() for name in ("psnr", "ssim", "csim", "ape", "aee", "fid", "lpips", "fdf")}
SPELT |= {"without": "w/o", "idt": "IdT", "attrt": "AttrT"}  # as in Table 4
PICTURES = {  # file of reports/samples -> heading, text; what is not named comes first, an exam's name
    "fdf": ("Attribute transfer", "The displacement field (FDF) that the attribute embedder reads off the target, as "
            "colour (hue: direction, strength: length) and as arrows to where content goes; the source's features, "
            "by their three main components, before and after it moved them (the paper's Fig. 9)."),
    "attention": ("Identity transfer", "Where IdT looks in the warped source for four points of the target "
                  "(the paper's Fig. 8 b)."),
    "retrieval": ("Retrieval by z_t", "The pictures of other persons whose attribute vectors are nearest to the "
                  "query's: the same pose and expression, another person (the paper's Fig. 8 a)."),
}  # fmt: skip


def pictures(samples: Path, progress: Path, exams: Mapping) -> list[dict[str, Any]]:
    """The sheets in the order of the page: the exams', what their models do best and worst, over time, inside."""
    found = []
    for exam in exams:
        found.append(_picture(samples / f"{exam}.png", heading(exam), "Held-out pairs, evenly drawn."))
        text = "The best and the worst pair by each metric, with its value."
        found.append(_picture(samples / f"{exam}_extremes.png", f"{heading(exam)}: best and worst", text))
    for task in TASKS:
        text = "The same held-out pairs at several steps of the training; averaged weights, as in the result."
        found.append(_picture(progress / f"{task}.png", f"{heading(task)} over time", text))
    found += [_picture(samples / f"{name}.png", *texts) for name, texts in PICTURES.items()]
    return [picture for picture in found if picture]


def _picture(path: Path, title: str, text: str) -> dict[str, Any] | None:
    """A sheet for the page: its pictures without the labels, which the page writes; None if there is no such file."""
    from PIL import Image

    if not path.is_file():
        return None
    with Image.open(path) as image:
        place = json.loads(image.info.get("sheet", "{}"))
        pixels = np.asarray(image.convert("RGBA")).copy()
    if place:
        pixels = pixels[place["top"] :, place["left"] :]
        for axis, size in ((0, place["height"]), (1, place["width"])):  # the page shows through between the pictures
            gaps = np.arange(pixels.shape[axis]) % (size + place["gap"]) >= size
            pixels[(slice(None),) * axis + (gaps,)] = 0
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="WEBP", quality=QUALITY, method=4)
    return {
        "heading": title,
        "text": text,
        "uri": "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode(),
        "labels": place.get("labels", []),
        "rows": [name.split("\n") for name in place.get("rows", [])],
        "width": pixels.shape[1],
        "height": pixels.shape[0],
        "name": path.name,
    }


def words(name: str) -> str:
    """A name of code as people write it."""
    return " ".join(SPELT.get(word, word) for word in name.replace("id_retrieval", "IDRet").split("_"))


def heading(name: str) -> str:
    """The same with a capital letter."""
    text = words(name)
    return text[0].upper() + text[1:]
