"""Remake a recogniser's `centre`, the mean vector of many people, from photographs that you have.

    python -m pipeline.nets.centre FOLDER -o centre.json [--net FILE] [--detector FOLDER]

FOLDER has a folder a person; each face in a picture that lies in FOLDER itself counts as a person of its own. In
this form `dlib_centre.json` is; it was made before this script, from photographs that are not here.
"""

import argparse
import json
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.common.files import atomic_write

if TYPE_CHECKING:
    from torch import nn

    from uniface.faces import Faces

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
FEW = 20
"""Persons below which their mean says more of them than of people."""
DIGITS = 5


def people(folder: Path, faces: "Faces") -> Iterator[np.ndarray]:
    """Of each person the aligned faces, uint8 (n, 112, 112, 3). Raises ValueError if there is no face at all."""
    some = False
    for entry in sorted(folder.iterdir()):
        found = [crop for path in _pictures(entry) for crop in _crops(path, faces, largest=entry.is_dir())]
        for person in [found] if entry.is_dir() else [[crop] for crop in found]:
            if person:
                some = True
                yield np.stack(person)
    if not some:
        raise ValueError(f"no face found in the pictures of {folder}")


def centre(net: "nn.Module", persons: Iterator[np.ndarray]) -> tuple[np.ndarray, int]:
    """The mean vector (D,) of a recogniser's raw answers, each person counting once, and how many persons."""
    import torch

    from uniface.images import to_tensor

    with torch.no_grad():
        means = [net(to_tensor(crops)).flatten(1).mean(0).numpy() for crops in persons]
    return np.mean(means, 0), len(means)


def write(path: Path, vector: np.ndarray, of: str, persons: int) -> None:
    """The file that `weights.roles.ROLE.centre` takes."""
    numbers = ", ".join(f"{value:.{DIGITS}f}" for value in vector)
    lines = "\n".join(textwrap.wrap(numbers, 112, initial_indent="    ", subsequent_indent="    "))
    said = f'  "of": {json.dumps(of)},\n  "from": "{persons} persons",\n  "centre": [\n{lines}\n  ]\n'
    with atomic_write(path) as part:
        part.write_text(f"{{\n{said}}}\n", encoding="utf-8")


def _pictures(entry: Path) -> list[Path]:
    files = sorted(entry.rglob("*")) if entry.is_dir() else [entry]
    return [file for file in files if file.suffix.lower() in SUFFIXES]


def _crops(path: Path, faces: "Faces", largest: bool) -> list[np.ndarray]:
    from uniface.images import read_image

    picture = read_image(path)
    found = [face for face in faces.detect(picture) if np.isfinite(face.landmarks).all()]
    if largest:  # a bystander is somebody else
        found = sorted(found, key=lambda face: -float((face.box[2:] - face.box[:2]).prod()))[:1]
    return [faces.align(picture, face.landmarks) for face in found]


def main() -> int:
    """0 if it worked, 2 after printing why not."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.nets.centre", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="photographs: a folder a person")
    parser.add_argument("-o", "--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--net", type=Path, default=Path("data/weights/judge.onnx"), help="the recogniser's ONNX file")
    parser.add_argument("--detector", type=Path, default=Path("data/weights/faces"), help="its folder or ONNX file")
    options = parser.parse_args()
    try:
        from uniface.backbones import load_recogniser
        from uniface.faces import Faces

        if not options.folder.is_dir():
            raise FileNotFoundError(f"no folder {options.folder}")
        faces, net = Faces(options.detector, recognise=False), load_recogniser(options.net).net
        vector, persons = centre(net, people(options.folder, faces))
        write(options.out, vector, options.net.name, persons)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    few = f"; with fewer than {FEW} it is rather theirs than people's" if persons < FEW else ""
    print(f"wrote {options.out}: the mean of {persons} persons{few}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
