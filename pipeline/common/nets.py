"""What the folder of frozen networks says about itself: weights.json, which the stage `weights` writes."""

import json
from pathlib import Path

MANIFEST = "weights.json"


def read_manifest(folder: Path) -> dict[str, dict]:
    """`weights.json` of a weights folder. Raises FileNotFoundError saying how to make it."""
    path = Path(folder) / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(f"no {path}: run the stage `weights` first (python -m pipeline.weights)")
    return json.loads(path.read_text(encoding="utf-8"))
