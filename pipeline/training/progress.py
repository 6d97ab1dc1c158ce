"""What a training's fixed held-out pairs looked like at several of its steps."""

from pathlib import Path

import numpy as np

from pipeline.common.sheets import write_sheet
from uniface.images import read_image

STEPS = 6  # columns of outputs, evenly spread, the last step among them
ROWS = 4
GAP = 2  # of the sample grids: `uniface.images.grid`


def write_progress(samples: Path, out: Path, size: int) -> None:
    """One sheet of the sample grids in a folder, `<step>.png` with rows of source, target and output of `size` pixels.

    Those are written beside the training, and a full disk may have cost one or all: then the sheet says so.
    """
    found = [(int(path.stem), _cut(read_image(path), size)) for path in sorted(samples.glob("*.png"))]
    if not found:
        write_sheet(out, ["no sample grid was kept"], [np.full((1, size, size, 3), 128, np.uint8)])
        return
    chosen = [found[k] for k in np.unique(np.linspace(0, len(found) - 1, STEPS).round().astype(int))]
    source, target, _ = chosen[-1][1]
    outputs = {f"step {step:,}": made for step, (_, _, made) in chosen}
    write_sheet(out, ["source", "target", *outputs], [source, target, *outputs.values()])


def _cut(picture: np.ndarray, size: int) -> list[np.ndarray]:
    """The columns of a sample grid, (rows, size, size, 3) each."""
    places = [k * (size + GAP) for k in range(ROWS) if k * (size + GAP) < len(picture)]
    return [
        np.stack([picture[y : y + size, x : x + size] for y in places]) for x in (k * (size + GAP) for k in range(3))
    ]
