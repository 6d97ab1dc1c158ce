"""The picture page of the crop stage: what was kept and why not, how long and how large clips are, and some of them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.common.files import atomic_write
from uniface.images import grid


def write_report(
    path: Path, report: dict, lengths: Sequence[int], sizes: Sequence[int], previews: Sequence[np.ndarray]
) -> None:
    """Draw the page. `lengths` in frames, `sizes` in source pixels and `previews`, uint8, are of kept clips."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplot_mosaic(
        [["status", "length", "size"], ["sheet"] * 3], figsize=(12, 8), height_ratios=[2, 3]
    )
    statuses = [s for s in ("kept", "short", "small", "at_border", "no_face", "corrupt") if report[s] or s == "kept"]
    bars = axes["status"].barh(statuses[::-1], [report[s] for s in statuses[::-1]], color="tab:blue")
    axes["status"].bar_label(bars, padding=2)
    axes["status"].set_title(f"{report['candidates']} candidate clips")
    axes["length"].hist(lengths, bins=30)
    axes["length"].set(title="kept: length", xlabel="frames at 25 fps")
    axes["size"].hist(sizes, bins=30)
    axes["size"].set(title="kept: side of the crop", xlabel="pixels of the source video")
    axes["sheet"].axis("off")
    if previews:
        columns = 12
        rows = [previews[start : start + columns] for start in range(0, len(previews), columns)]
        axes["sheet"].imshow(grid(rows))
    figure.tight_layout()
    with atomic_write(path) as part:
        figure.savefig(part, dpi=100, metadata={"Software": None})
    plt.close(figure)
