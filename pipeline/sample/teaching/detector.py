"""Teaching the sample's face detector: which cells are faces, where their boxes and five key points are."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.sample.teaching import data as net_data
from pipeline.sample.teaching.models import ANCHORS, STRIDES, Detector

MARGIN = 0.22  # cells closer to the face's centre than this share of its size are positive
RATIO = 1.45  # an anchor size answers for faces up to this many times larger or smaller
BATCH = 8


def anchors(height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Centres (A, 2) in x, y, sizes (A,) and strides (A,) of all anchors, in the order of the detector's outputs.

    The centres lie on the cells' upper left corners, where insightface takes them to be.
    """
    centres, sizes, strides = [], [], []
    for stride, pair in zip(STRIDES, ANCHORS, strict=True):
        y, x = torch.meshgrid(torch.arange(height // stride), torch.arange(width // stride), indexing="ij")
        cells = torch.stack([x, y], -1).reshape(-1, 1, 2).repeat(1, 2, 1).reshape(-1, 2) * float(stride)
        centres.append(cells)
        sizes.append(torch.tensor(pair).repeat(len(cells) // 2))
        strides.append(torch.full((len(cells),), float(stride)))
    return torch.cat(centres), torch.cat(sizes), torch.cat(strides)


def assigned(boxes: Tensor, centres: Tensor, sizes: Tensor) -> Tensor:
    """Which face (index) each anchor answers for, -1 for none, -2 for "near one: neither"; boxes (M, 4)."""
    answer = torch.full((len(centres),), -1)
    for index, box in enumerate(boxes):
        if torch.isnan(box).any():
            continue
        side = (box[2:] - box[:2]).clamp_min(1).prod().sqrt()
        offset = (centres - (box[:2] + box[2:]) / 2).abs().amax(1) / side
        ratio = torch.maximum(sizes / side, side / sizes)
        fits = ratio <= max(RATIO, float(ratio.min()) + 1e-4)
        near = (offset < 0.5) & (ratio < 2.2)
        answer[near & (answer == -1)] = -2
        chosen = (offset < MARGIN) & fits
        if not chosen.any():  # a small face between cells: the nearest one
            chosen = (offset == offset[fits].min()) & fits
        answer[chosen] = index
    return answer


def loss(outputs: tuple[Tensor, ...], boxes: Tensor, points: Tensor, grid: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Focal loss of the scores, IoU loss of the boxes, smooth L1 of the key points, per positive anchor.

    boxes (B, M, 4) and points (B, M, 5, 2) in pixels, NaN where there is no face.
    """
    centres, sizes, strides = grid
    scores, distances, offsets = (
        torch.cat(outputs[i : i + 3], 1) for i in (0, 3, 6)
    )  # (B, A, 1), (B, A, 4), (B, A, 10)
    total = scores.new_zeros(())
    positives = 0
    for i in range(len(boxes)):
        answer = assigned(boxes[i], centres, sizes)
        positive = answer >= 0
        certain = answer != -2
        score = scores[i, :, 0]
        p = score.sigmoid()
        label = positive.float()
        focal = F.binary_cross_entropy_with_logits(score, label, reduction="none") * (label - p).abs() ** 2
        total = total + (focal * certain * torch.where(positive, 1.0, 0.5)).sum() * 2
        positives += int(positive.sum())
        if not positive.any():
            continue
        face = answer[positive]
        origin, size, stride = centres[positive], sizes[positive, None], strides[positive, None]
        near, far = origin - distances[i, positive, :2] * stride, origin + distances[i, positive, 2:] * stride
        box = boxes[i, face]
        cross = (torch.minimum(far, box[:, 2:]) - torch.maximum(near, box[:, :2])).clamp_min(0).prod(1)
        union = (far - near).clamp_min(0).prod(1) + (box[:, 2:] - box[:, :2]).prod(1) - cross
        total = total + 2 * (1 - cross / union.clamp_min(1)).sum()
        total = total + F.smooth_l1_loss(torch.cat([near, far], 1) / size, box / size, beta=0.1, reduction="sum")
        found = (origin[:, None] + offsets[i, positive].view(-1, 5, 2) * stride[:, None]) / size[:, None]
        total = total + 2 * F.smooth_l1_loss(found, points[i, face] / size[:, None], beta=0.05, reduction="sum")
    return total / max(positives, 1)


def train_detector(seed: int, frames: net_data.Frames, steps: int, rate: float = 3e-3) -> Detector:
    """A detector that has seen `frames`, mirrored, shifted and recoloured."""
    generator = np.random.default_rng(seed)
    detector = Detector()
    optimiser = torch.optim.AdamW(detector.parameters(), rate, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps, pct_start=0.1)
    height, width = (-(-side // 32) * 32 for side in net_data.FRAME)
    grid = anchors(height, width)
    detector.train()
    for _ in range(steps):
        chosen = generator.integers(len(frames.images), size=BATCH)
        images, boxes, points = _batch(frames, chosen, generator, height, width)
        optimiser.zero_grad()
        loss(detector(images), boxes, points, grid).backward()
        torch.nn.utils.clip_grad_norm_(detector.parameters(), 10.0)
        optimiser.step()
        schedule.step()
    return detector.eval()


def _batch(
    frames: net_data.Frames, chosen: np.ndarray, generator: np.random.Generator, height: int, width: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Images (B, 3, height, width) as insightface feeds them, boxes and key points in their pixels."""
    images = np.zeros((len(chosen), height, width, 3), np.float32)
    boxes, points = frames.boxes[chosen].copy(), frames.landmarks[chosen].copy()
    high, wide = frames.images.shape[1:3]
    for i, index in enumerate(chosen):
        image = frames.images[index].astype(np.float32)
        if generator.uniform() < 0.5:  # mirrored: left and right change places, also among the key points
            image = image[:, ::-1]
            boxes[i] = np.stack([wide - boxes[i][:, 2], boxes[i][:, 1], wide - boxes[i][:, 0], boxes[i][:, 3]], 1)
            points[i] = points[i][:, [1, 0, 2, 4, 3]]
            points[i][..., 0] = wide - 1 - points[i][..., 0]
        down, right = int(generator.integers(height - high + 1)), int(generator.integers(width - wide + 1))
        gain = generator.uniform(0.75, 1.25, 3).astype(np.float32)
        images[i, down : down + high, right : right + wide] = np.clip(image * gain, 0, 255)
        boxes[i] += np.array([right, down, right, down], np.float32)
        points[i] += np.array([right, down], np.float32)
    scaled = (torch.from_numpy(images).permute(0, 3, 1, 2) - 127.5) / 128
    return scaled, torch.from_numpy(boxes), torch.from_numpy(points)
