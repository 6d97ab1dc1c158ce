"""How good the sample's frozen nets are, on pictures that no net has seen: what report.json says of each."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.sample.teaching import data as net_data
from pipeline.videos.fomm import iou
from uniface.backbones import recogniser_input
from uniface.images import to_tensor


@torch.no_grad()
def predicted(net: nn.Module, view, pictures: np.ndarray) -> tuple[Tensor, Tensor]:
    """Standardised face parameters and attributes of pictures, as seen through 64 px."""
    parts = [net(view(seen_at_64(to_tensor(pictures[i : i + 100])))) for i in range(0, len(pictures), 100)]
    return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])


def seen_at_64(images: Tensor) -> Tensor:
    return enlarged(F.avg_pool2d(images, 2))


def enlarged(images: Tensor) -> Tensor:
    return F.interpolate(images, scale_factor=2.0, mode="bilinear", align_corners=False)


def r2(prediction: Tensor, truth: Tensor) -> Tensor:
    return 1 - ((prediction - truth) ** 2).mean(0) / truth.var(0, correction=0).clamp_min(1e-6)


@torch.no_grad()
def judge_check(embed: nn.Module, swaps: net_data.Swaps, persons: np.ndarray) -> dict[str, float]:
    """May this recogniser judge swaps? On the exact swap it must see the source, and look past the target."""

    def embedding(pictures: np.ndarray) -> Tensor:
        return F.normalize(embed(recogniser_input(seen_at_64(to_tensor(pictures)))), dim=1)

    source, target, swapped = (embedding(p) for p in (swaps.source, swaps.target, swaps.swapped))
    to_source, to_target = (swapped * source).sum(1), (swapped * target).sum(1)
    everyone = swapped @ source.T
    right, wrong = everyone.diagonal(), everyone[~torch.eye(len(source), dtype=torch.bool)]
    first, second = embedding(persons[:, 0]), embedding(persons[:, 1])
    same, other = (first * second).sum(1), (first * second.roll(1, 0)).sum(1)
    scores = torch.cat([same, other])
    accuracy = max(float(((same >= t).float().mean() + (other < t).float().mean()) / 2) for t in scores)
    return {
        "similarity_to_source": float(to_source.mean()),
        "similarity_to_target": float(to_target.mean()),
        "difference": float((to_source - to_target).mean()),
        "right_share": float((to_source > to_target).float().mean()),
        "auc": float((right[:, None] > wrong[None]).float().mean()),
        "verification_accuracy": accuracy,
        "pairs": len(source),
    }


def detector_quality(path: Path, seed: int, scenes: int) -> dict[str, float]:
    """Recall at IoU >= 0.7, mean IoU, landmark error in eye distances, on held-out frames, through insightface."""
    from uniface.faces import Faces

    frames = net_data.frames(seed, net_data.HELD_OUT_FRAMES, scenes, 1)
    faces = Faces(path.parent, threads=1, recognise=False)
    overlaps, errors, surplus = [], [], 0
    for image, boxes, landmarks in zip(frames.images, frames.boxes, frames.landmarks, strict=True):
        found = faces.detect(image)
        matched = 0
        for box, points in zip(boxes, landmarks, strict=True):
            if np.isnan(box).any():
                continue
            best = max(((iou(box, one.box), one) for one in found), key=lambda pair: pair[0], default=(0.0, None))
            overlaps.append(best[0])
            if best[0] >= 0.5:
                matched += 1
                eyes = np.linalg.norm(points[0] - points[1])
                errors.append(np.linalg.norm(best[1].landmarks - points, axis=1).mean() / eyes)
        surplus += len(found) - matched
    return {
        "recall_at_iou_0.7": float(np.mean(np.array(overlaps) >= 0.7)),
        "mean_iou": float(np.mean(overlaps)),
        "landmark_error": float(np.median(errors)) if errors else None,
        "surplus_per_frame": surplus / len(frames.images),
        "faces": len(overlaps),
    }
