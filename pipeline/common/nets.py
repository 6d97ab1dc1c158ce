"""What the folder of frozen networks says about itself: weights.json, which the stage `weights` writes."""

from collections.abc import Iterable
from pathlib import Path

from pipeline.common.files import read_json

MANIFEST = "weights.json"
OFFERS = {
    "sample": ("detector", "recogniser", "judge", "perceptual", "regressor"),
    "packages": ("detector", "judge", "perceptual"),
    "internet": ("detector", "recogniser", "judge", "perceptual", "lpips", "contextual", "inception"),
}
"""The roles that each source of networks fills (pipeline/nets/catalogue.py)."""


def read_manifest(folder: Path, needed: Iterable[str] = (), stage: str = "") -> dict[str, dict]:
    """`weights.json` of a weights folder, role -> entry.

    Raises FileNotFoundError saying how to make it, and ValueError if a role of `needed` is not filled, saying which
    roles `stage` needs and where each could come from.
    """
    path = Path(folder) / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(f"no {path}: run the stage `weights` first (python -m pipeline.weights)")
    manifest = read_json(path)
    needed = list(needed)
    missing = [role for role in needed if role not in manifest]
    if missing:
        choices = [
            f"{role} from {' or '.join(name for name, roles in OFFERS.items() if role in roles) or 'no source'}"
            for role in missing
        ]
        raise ValueError(
            f"{stage} needs the networks {', '.join(needed)}, and {folder} has no {' and no '.join(missing)}. Choose"
            f" {', '.join(choices)}, or a file of yours, in params.yaml (weights.source, weights.roles), then run"
            " python -m pipeline.weights"
        )
    return manifest
