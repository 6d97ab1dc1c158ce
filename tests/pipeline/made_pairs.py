"""Made pairs, clips and portraits for the tests of the evaluation, and small params."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from pipeline.params import load
from pipeline.scoring.held_out import Pairs
from pipeline.sections import Params
from uniface.data import CorruptMedia

SIZE = 32
ROOT = Path(__file__).parents[2]


def small_params() -> Params:
    """The quick run's at `SIZE`, with a world of a few persons; the data are one's own."""
    p = load(ROOT / "params.yaml")
    sample = replace(
        p.sample, persons=4, test_persons=2, seconds=3.0, portraits=8, portrait_identities=4, test_identities=2
    )
    return replace(
        p,
        image_size=SIZE,
        sample=sample,
        download=replace(p.download, source="folder"),
        pairs=replace(p.pairs, source="folder"),
        evaluate=replace(p.evaluate, pairs=5, batch_size=2, grid_rows=2),
    )


def picture(seed: int) -> np.ndarray:
    """Coarse random colours, (SIZE, SIZE, 3)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return cv2.resize(coarse, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)


def made_pairs(n: int = 6, truth: bool = True) -> Pairs:
    """Sources and targets of n identities; the exact answer is the target with the source's middle."""
    source = np.stack([picture(i) for i in range(n)])
    target = np.stack([picture(100 + i) for i in range(n)])
    answer = target.copy()
    answer[:, 8:24, 8:24] = source[:, 8:24, 8:24]
    who, whom = (tuple(f"{kind}{i}" for i in range(n)) for kind in "st")
    return Pairs(source, target, who, whom, who, whom, source.copy(), answer if truth else None)


def paste(source, target):
    """A perfect model of that world."""
    answer = target.copy()
    answer[:, 8:24, 8:24] = source[:, 8:24, 8:24]
    return answer


class Clips:
    """ClipDataset's face: two clips of each video, two videos of each person; red the clip, green the frame."""

    def __init__(self, count=16, broken=()):
        self.count, self.broken, self.lengths = count, broken, np.full(count, 10)

    def __len__(self):
        return self.count

    def column(self, name):
        return [self.row(i)[name] for i in range(self.count)]

    def row(self, i):
        row = {"person_id": f"p{i // 4}", "video_id": f"v{i // 2}", "utterance": "u", "chunk": i % 2}
        return row | {"start": 100 * i, "box": [0.0, 1.0, 2.0, float(i)]}

    def frames(self, i, indices):
        if i in self.broken:
            raise CorruptMedia(f"clip {i}")
        return np.stack([np.full((4, 4, 3), (i, k, 0), np.uint8) for k in indices])

    def frame(self, i, k):
        return self.frames(i, [k])[0]
