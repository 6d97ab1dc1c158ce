"""Endless training batches, each a function of (seed, step) alone: to resume is to start at a later step."""

from collections.abc import Callable, Iterator, Sequence
from itertools import count

import numpy as np
import torch

from uniface.alignment import fixed_points
from uniface.data import ClipDataset, PairDataset
from uniface.images import to_tensor

Points = Callable[[np.ndarray], np.ndarray | None]
"""Finds landmarks: `uniface.alignment.FacePoints`."""


class _Batches(torch.utils.data.Dataset):
    """Batch number `step` of one rank, made from nothing but the step."""

    def __init__(
        self,
        dataset: ClipDataset | PairDataset,
        seed: int,
        batch_size: int,
        rank: int,
        world: int,
        augment: Sequence[str],
        candidates: int,
        points: Points | None,
    ) -> None:
        self.dataset, self.seed, self.augment, self.candidates = dataset, seed, augment, candidates
        self.batch_size, self.rank, self.world, self.points = batch_size, rank, world, points

    def __getitem__(self, step: int) -> tuple[dict[str, torch.Tensor], int, int]:
        first = (step * self.world + self.rank) * self.batch_size
        samples, skips = zip(
            *(self.dataset.sample(first + i, self.seed, self.augment, self.candidates) for i in range(self.batch_size)),
            strict=True,
        )
        arrays = {key: np.stack([sample[key] for sample in samples]) for key in samples[0]}
        missing = 0
        for name in ("source", "target") if self.points else ():
            found = [self.points(picture) for picture in arrays[name]]
            missing += sum(points is None for points in found)
            arrays[f"{name}_points"] = np.stack([fixed_points() if points is None else points for points in found])
        tensors = {k: torch.from_numpy(a) if a.dtype != np.uint8 else to_tensor(a) for k, a in arrays.items()}
        return tensors, sum(skips), missing


class SampleStream:
    """Endless batches; see `sample_stream`. `step` is the number of the next batch, `skipped` counts samples that
    were unreadable and gave way to the next one, `without_face` pictures whose points were not found."""

    def __init__(self, batches: _Batches, start_step: int, loader_workers: int) -> None:
        self.step, self.skipped, self.without_face = start_step, 0, 0
        if loader_workers:
            loader = torch.utils.data.DataLoader(
                batches,
                batch_size=None,
                sampler=count(start_step),
                num_workers=loader_workers,
                worker_init_fn=_one_thread,
                pin_memory=torch.cuda.is_available(),
            )
            self._batches = iter(loader)
        else:
            self._batches = map(batches.__getitem__, count(start_step))

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        return self

    def __next__(self) -> dict[str, torch.Tensor]:
        tensors, skipped, without_face = next(self._batches)
        self.step += 1
        self.skipped += skipped
        self.without_face += without_face
        return tensors


def _one_thread(worker: int) -> None:
    import cv2

    cv2.setNumThreads(0)  # each worker is one process on one core


def sample_stream(
    dataset: ClipDataset | PairDataset,
    seed: int,
    batch_size: int,
    rank: int = 0,
    world: int = 1,
    start_step: int = 0,
    loader_workers: int = 0,
    augment: Sequence[str] = (),
    candidates: int = 1,
    points: Points | None = None,
) -> SampleStream:
    """Endless training batches of one of `world` ranks, each a function of (seed, step) alone.

    Clips give {source, target, driver, person}, pairs {source, target, partner, same}: images (B, 3, H, W) in [-1, 1],
    same (B,) bool, person (B,) int64. With `points` also source_points and target_points (B, 5, 2), shares of the side:
    where no face is found, those that make of the alignment the fixed crop.
    Step t of all ranks together holds samples t * world * batch_size onwards, each once, in the order of ranks: two
    ranks with batch b see what one rank with batch 2b sees. To resume, start at the step to come. `loader_workers`
    processes decode ahead, in order; 0 decodes in this process.
    """
    if batch_size < 1 or not 0 <= rank < world:
        raise ValueError(f"batch_size {batch_size}, rank {rank} of {world}: need batch_size >= 1 and 0 <= rank < world")
    batches = _Batches(dataset, seed, batch_size, rank, world, augment, candidates, points)
    return SampleStream(batches, start_step, loader_workers)
