"""The held-out pairs that `evaluate` measures on, and their exact answers where the sample made the data.

Which pairs these are follows from the seed and the data alone.
"""

import multiprocessing
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.common.code import code
from pipeline.common.files import atomic_write, digest

if TYPE_CHECKING:
    from pipeline.sections import Params, SampleParams

MEAN_FRAMES = 32  # of the source's video that the mean frame is made of


@dataclass(frozen=True)
class Pairs:
    """N pairs of one task: pictures uint8 (N, H, W, 3), whom they show, and the exact result where it is known."""

    source: np.ndarray
    target: np.ndarray
    source_identity: tuple[str, ...]
    target_identity: tuple[str, ...]
    source_key: tuple[str, ...]  # of the picture itself: equal keys are one picture
    mean_frame: np.ndarray | None = None  # of the source's video
    truth: np.ndarray | None = None
    decoys: Mapping[str, np.ndarray] = field(default_factory=dict)  # metric -> (M, K, H, W, 3) for the first M pairs

    def __len__(self) -> int:
        return len(self.source)


def clip_pairs(clips, count: int, seed: int, cross: bool) -> tuple[Pairs, list[tuple]]:
    """`count` pairs of frames of one clip, or (`cross`) of two persons' clips, and each as (source, target) references.

    A reference is (video_id, frame of the source video, box). Unreadable clips are passed over, and named.
    """
    from uniface.data import CorruptMedia

    persons = clips.column("person_id")
    if cross and len(set(persons)) < 2:
        raise ValueError(f"cross-identity reenactment needs test clips of two persons, there is only {persons[0]}")
    rng = np.random.default_rng([seed, int(cross)])
    rows, jobs = [], []
    for _ in range(2 * count + 20):
        if len(rows) == count:
            break
        i = j = int(rng.integers(len(clips)))
        while cross and persons[j] == persons[i]:
            j = int(rng.integers(len(clips)))
        a, b = int(rng.integers(clips.lengths[i])), int(rng.integers(clips.lengths[j]))
        if i == j and a == b:
            b = (b + 1) % int(clips.lengths[j])
        try:
            # the mean frame first: it fills the set's cache with the whole clip
            spread = np.unique(np.linspace(0, clips.lengths[i] - 1, MEAN_FRAMES).round().astype(int))
            mean = clips.frames(i, spread.tolist()).mean(axis=0).round().astype(np.uint8)
            rows.append((clips.frame(i, a), clips.frame(j, b), persons[i], persons[j], f"{i}#{a}", mean))
        except CorruptMedia as error:
            print(f"evaluate: passed over an unreadable clip: {error}")
            continue
        references = [clips.row(k) | {"at": frame} for k, frame in ((i, a), (j, b))]
        jobs.append(tuple((r["video_id"], r["start"] + r["at"], tuple(r["box"])) for r in references))
    if len(rows) < count:
        raise ValueError(f"only {len(rows)} of {count} test pairs could be read: restore data/clips (dvc checkout)")
    source, target, who, whom, keys, mean = zip(*rows, strict=True)
    return Pairs(np.stack(source), np.stack(target), who, whom, keys, np.stack(mean)), jobs


def portrait_pairs(pairs, count: int) -> tuple[Pairs, list[tuple[str, str]]]:
    """Up to `count` test rows of two different identities, evenly spread, and their (source, target) ids."""
    from uniface.data import CorruptMedia

    different = [k for k in range(len(pairs)) if not pairs.same(k)]
    # neighbouring rows may share their source
    spread = np.unique(np.linspace(0, len(different) - 1, min(count, len(different))).round().astype(int))
    rows, jobs = [], []
    for k in (different[i] for i in spread):
        try:
            source, target, _, ids = pairs.pair(k)
        except CorruptMedia as error:
            print(f"evaluate: passed over an unreadable pair: {error}")
            continue
        rows.append((source, target, *(str(pairs.identity(one)) for one in ids), ids[0]))
        jobs.append(ids)
    if len(rows) < 2:
        raise ValueError(
            f"{pairs.folder}/{pairs.split}.parquet holds only {len(rows)} readable pairs of two identities"
        )
    source, target, who, whom, keys = zip(*rows, strict=True)
    return Pairs(np.stack(source), np.stack(target), who, whom, keys), jobs


def others(replaced: Sequence[str], *avoided: Sequence[str]) -> np.ndarray | None:
    """For each pair another one's index, a third of the way on, whose identity is not the pair's own.

    `replaced`: the identities that change places. `avoided`: further identities that would be a hint, where possible.
    None if all pairs share one identity.
    """
    n = len(replaced)
    found = np.full(n, -1)
    for i in range(n):
        order = [(i + n // 3 + k) % n for k in range(n)]
        strangers = [j for j in order if replaced[j] != replaced[i]]
        if not strangers:
            return None
        best = [j for j in strangers if all(replaced[j] != names[i] for names in avoided)]
        found[i] = (best or strangers)[0]
    return found


_world = None  # of a rendering process


def _make_world(sample: "SampleParams", seed: int) -> None:
    global _world
    from pipeline.sample.world import World

    _world = World(sample, seed)


def _render(job: tuple) -> np.ndarray:
    from pipeline.sample import truth

    function, *arguments = job
    return getattr(truth, function)(_world, *arguments)


def exact(task: str, jobs: list[tuple], params: "Params", work: Path) -> np.ndarray:
    """The exact answers: uint8 (N, H, W, 3)."""
    wanted = [(source, target, params.image_size) for source, target in jobs]
    return rendered("swapped" if task == "swapping" else "reenacted", wanted, params, work)


def rendered(function: str, jobs: list[tuple], params: "Params", work: Path) -> np.ndarray:
    """What a function of `pipeline.sample.truth` draws for each job (its arguments but the world), stacked; by all
    cores. Kept in `work`/evaluate for the next time."""
    from tqdm import tqdm

    name = digest(function, jobs, params.sample, params.seed, code("pipeline.sample.truth"))
    kept = work / "evaluate" / f"{name}.npy"
    if kept.is_file():
        return np.load(kept)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    what = function.replace("_", " ")
    with ProcessPoolExecutor(cores, context, _make_world, (params.sample, params.seed)) as pool:
        drawn = pool.map(_render, [(function, *job) for job in jobs], chunksize=4)
        images = np.stack(list(tqdm(drawn, what, len(jobs), unit="pair", disable=None)))
    with atomic_write(kept) as part:
        np.save(part, images)
    return images
