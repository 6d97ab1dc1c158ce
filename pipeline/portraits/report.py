"""A sheet of pairs with their identities: `python -m pipeline.portraits.report data/pairs -o pairs.png`."""

import argparse
from pathlib import Path

from pipeline.common.sheets import LABEL, captioned
from uniface.data import PairDataset
from uniface.images import grid, write_image

ACROSS = 5  # pairs in a row of the sheet: one same, four different


def draw_pairs(folder: Path, out: Path, split: str = "train", count: int = 20) -> None:
    """A picture of the first `count` pairs of a split: source left, target right, with image ids and identities."""
    dataset = PairDataset(folder, split)
    cells = []
    for k in range(min(count, len(dataset))):
        source, target, same, ids = dataset.pair(k)
        shown = [
            captioned(image, f"{name}, id {dataset.identity(name)}"[:21])
            for image, name in zip((source, target), ids, strict=True)
        ]
        pair = grid([shown], gap=0)
        pair[-LABEL:, -6:] = (0, 140, 0) if same else (200, 0, 0)  # a green mark: same
        cells.append(pair)
    write_image(out, grid([cells[i : i + ACROSS] for i in range(0, len(cells), ACROSS)], gap=8))


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.portraits.report", description="A sheet of pairs.")
    parser.add_argument("folder", type=Path, help="data/pairs")
    parser.add_argument("-o", "--out", type=Path, required=True, help="the picture to write")
    parser.add_argument("--split", default="train", help="train, test or evaluation")
    parser.add_argument("--count", type=int, default=20, help="number of pairs")
    chosen = parser.parse_args(arguments)
    try:
        draw_pairs(chosen.folder, chosen.out, chosen.split, chosen.count)
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
