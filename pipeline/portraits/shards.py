"""Image shards: kept pictures with whom they show, in the order of their rows."""

from collections.abc import Iterable
from pathlib import Path

from pipeline import schemas


def write_shard(path: Path, blocks: Iterable[list[tuple[bytes, dict]]]) -> list[dict]:
    """Write the images that were kept, block by block; the rows of all, with shard and row put in."""
    rows, kept = [], 0
    with schemas.writer(path, schemas.IMAGES) as file:
        for block in blocks:
            cells = []
            for image, row in block:
                row |= {"shard": None, "row": None}
                if row["status"] == "kept":
                    row |= {"shard": path.name, "row": kept + len(cells)}
                    cells.append({key: row[key] for key in ("image_id", "identity", "split")} | {"image": image})
            schemas.append(file, cells)
            kept += len(cells)
            rows += [row for _, row in block]
    return rows
