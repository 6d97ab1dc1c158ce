"""Does it look right? The share of outputs nearer to the right answer than to answers with one thing wrong.

A recogniser can be pleased without a face: trained against one, a smear is judged ever more alike while nobody sees
the person in it. Decoys are exact answers but for the face, the expression or the pose (`pipeline.sample.truth`), so
only a picture that shows the right one is nearest to it. Only the sample world can draw them.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.scoring.held_out import Pairs, exact, rendered
from pipeline.sections import Params
from uniface.config import Task

if TYPE_CHECKING:
    from torch import Tensor

PAIRS = 120  # with decoys, of those evaluated: a share is sure to some .09
METRICS = {"reenactment": ("right_face", "right_expression", "right_pose"), "swapping": ("right_face",)}


def answers(task: Task, jobs: list[tuple], params: Params, work: Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The right answers uint8 (N, H, W, 3) as of `held_out.exact`, and metric -> wrong ones (M, K, H, W, 3) for the
    first pairs: those are drawn together, since they have much in common."""
    function = "swapped_decoys" if task == "swapping" else "reenacted_decoys"
    wanted = [(*job, params.image_size, number) for number, job in enumerate(jobs[:PAIRS])]
    kinds = rendered(function, wanted, params, work).swapaxes(0, 1)  # (kinds, M, 1 + K, H, W, 3)
    right, rest = kinds[0, :, 0], jobs[PAIRS:]
    if rest:
        right = np.concatenate([right, exact(task, rest, params, work)])
    return right, {metric: kind[:, 1:] for metric, kind in zip(METRICS[task], kinds, strict=True)}


def looks_right(pictures: np.ndarray, pairs: Pairs) -> dict[str, "Tensor"]:
    """Metric -> 1 for each picture (N,) that is nearer to its exact answer than to every decoy, else 0; NaN without.

    Nearness is the squared error over the whole picture.
    """
    import cv2
    import torch

    found = {}
    for metric, wrong in pairs.decoys.items():
        found[metric] = torch.full((len(pictures),), torch.nan)
        for number, (shown, right, others) in enumerate(
            zip(pictures[: len(wrong)], pairs.truth[: len(wrong)], wrong, strict=True)
        ):
            error, *errors = (cv2.norm(shown, other, cv2.NORM_L2SQR) for other in (right, *others))
            found[metric][number] = error < min(errors)
    return found
