"""The held-out pairs that `evaluate` measures on, and their exact answers where the sample made the data.

Which pairs these are follows from the seed and the data alone.
"""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.common.code import code
from pipeline.common.files import atomic_write, digest

if TYPE_CHECKING:
    from pipeline.sections import Params, SampleParams

MEAN_FRAMES = 32  # of the source's video that the mean frame is made of
SEEDS = 6  # Sec. 4.2: 1,000 videos, 6,000 pairs


@dataclass(frozen=True)
class Pairs:
    """N pairs of one task: pictures uint8 (N, H, W, 3), whom they show, and the exact result where it is known."""

    source: np.ndarray
    target: np.ndarray
    source_identity: tuple[str, ...]
    target_identity: tuple[str, ...]
    source_key: tuple[str, ...]  # of the picture itself: equal keys are one picture
    target_key: tuple[str, ...]
    mean_frame: np.ndarray | None = None  # of the source's video
    truth: np.ndarray | None = None
    decoys: Mapping[str, np.ndarray] = field(default_factory=dict)  # metric -> (M, K, H, W, 3) for the first M pairs

    def __len__(self) -> int:
        return len(self.source)


def clip_pairs(clips, count: int, seed: int, cross: bool) -> tuple[Pairs, list[tuple]]:
    """`count` pairs of frames of one clip, or (`cross`) of two persons' clips, and each as (source, target) references.

    A reference is (video_id, frame of the source video, box). Unreadable clips are passed over, and named.
    """
    persons = _persons(clips, cross)
    rng = np.random.default_rng([seed, int(cross)])

    def draw() -> Iterator[FramePair]:
        for _ in range(2 * count + 20):
            i = j = int(rng.integers(len(clips)))
            while cross and persons[j] == persons[i]:
                j = int(rng.integers(len(clips)))
            yield i, j, *_frames(clips.lengths, i, j, rng)

    return _gathered(clips, draw(), count)


def video_pairs(clips, count: int, seed: int, cross: bool) -> tuple[Pairs, list[tuple]]:
    """The paper's pairs (Sec. 4.2): a sixth of `count` test videos at random, each of them source under six seeds.

    The target is another frame of the same clip, or (`cross`) of another person's clip among these videos. Otherwise
    as `clip_pairs`. Raises ValueError where there are fewer videos.
    """
    persons, videos = _persons(clips, cross), clips.column("video_id")
    by_video: dict[str, list[int]] = {}
    for i, name in enumerate(videos):
        by_video.setdefault(name, []).append(i)
    wanted = -(-count // SEEDS)
    if len(by_video) < wanted:
        raise ValueError(
            f"{count} pairs are {wanted} test videos under {SEEDS} seeds, and there are {len(by_video)} videos: "
            f"lower evaluate.pairs to {len(by_video) * SEEDS}"
        )
    order = np.random.default_rng([seed, 2]).permutation(len(by_video))[:wanted]
    chosen = [list(by_video.values())[k] for k in order]
    if cross and len({persons[clip] for video in chosen for clip in video}) < 2:
        raise ValueError("cross-identity reenactment needs test videos of two persons among those chosen")

    def draw() -> Iterator[FramePair]:
        for round_ in range(2 * SEEDS):  # the second half only where clips were unreadable
            rng = np.random.default_rng([seed, 3, round_, int(cross)])
            for video in chosen:
                i = j = video[int(rng.integers(len(video)))]
                while cross and persons[j] == persons[i]:
                    other = chosen[int(rng.integers(len(chosen)))]
                    j = other[int(rng.integers(len(other)))]
                yield i, j, *_frames(clips.lengths, i, j, rng)

    return _gathered(clips, draw(), count)


def listed_clips(clips, wanted: Sequence[tuple[str, str]]) -> tuple[Pairs, list[tuple]]:
    """The pairs of frames with these names, as `Pairs.source_key` and `target_key` have them."""
    number = {_clip_name(clips.row(i)): i for i in range(len(clips))}
    rows = []
    for pair in wanted:
        places = []
        for key in pair:
            name, _, frame = key.rpartition("@")
            if name not in number or not frame.isdecimal() or int(frame) >= clips.lengths[number[name]]:
                raise ValueError(f"the list names {key!r}, and no test clip has that frame")
            places.append((number[name], int(frame)))
        (i, a), (j, b) = places
        rows.append((i, j, a, b))
    return _gathered(clips, iter(rows), len(rows))


FramePair = tuple[int, int, int, int]
"""Clips of source and target, and their frames."""


def _persons(clips, cross: bool) -> list[str]:
    persons = clips.column("person_id")
    if cross and len(set(persons)) < 2:
        raise ValueError(f"cross-identity reenactment needs test clips of two persons, there is only {persons[0]}")
    return persons


def _frames(lengths: np.ndarray, i: int, j: int, rng: np.random.Generator) -> tuple[int, int]:
    """Random frames of two clips; two different ones of one clip."""
    a, b = int(rng.integers(lengths[i])), int(rng.integers(lengths[j]))
    return (a, (b + 1) % int(lengths[j])) if i == j and a == b else (a, b)


def _clip_name(row: dict) -> str:
    return "/".join(str(row[key]) for key in ("person_id", "video_id", "utterance", "chunk"))


def _gathered(clips, drawn: Iterator[FramePair], count: int) -> tuple[Pairs, list[tuple]]:
    """The first `count` readable ones of the drawn pairs."""
    from uniface.data import CorruptMedia

    persons, rows, jobs = clips.column("person_id"), [], []
    for i, j, a, b in drawn:
        try:
            # the mean frame first: it fills the set's cache with the whole clip
            spread = np.unique(np.linspace(0, clips.lengths[i] - 1, MEAN_FRAMES).round().astype(int))
            mean = clips.frames(i, spread.tolist()).mean(axis=0).round().astype(np.uint8)
            images = clips.frame(i, a), clips.frame(j, b)
        except CorruptMedia as error:
            print(f"evaluate: passed over an unreadable clip: {error}")
            continue
        references = [clips.row(k) | {"at": frame} for k, frame in ((i, a), (j, b))]
        names = [f"{_clip_name(r)}@{r['at']}" for r in references]
        rows.append((*images, persons[i], persons[j], *names, mean))
        jobs.append(tuple((r["video_id"], r["start"] + r["at"], tuple(r["box"])) for r in references))
        if len(rows) == count:
            break
    if len(rows) < count:
        raise ValueError(f"only {len(rows)} of {count} test pairs could be read: restore data/clips (dvc checkout)")
    source, target, who, whom, keys, target_keys, mean = zip(*rows, strict=True)
    return Pairs(np.stack(source), np.stack(target), who, whom, keys, target_keys, np.stack(mean)), jobs


def portrait_pairs(pairs, count: int) -> tuple[Pairs, list[tuple[str, str]]]:
    """Up to `count` test rows of two different identities, evenly spread, and their (source, target) ids."""
    different = [k for k in range(len(pairs)) if not pairs.same(k)]
    # neighbouring rows may share their source
    spread = np.unique(np.linspace(0, len(different) - 1, min(count, len(different))).round().astype(int))
    return _portraits(pairs, [partial(pairs.pair, different[i]) for i in spread])


def listed_portraits(pairs, wanted: Sequence[tuple[str, str]]) -> tuple[Pairs, list[tuple[str, str]]]:
    """The pairs of pictures with these ids."""

    def fetch(source: str, target: str) -> tuple:
        try:
            return pairs.image(source), pairs.image(target), source == target, (source, target)
        except KeyError as error:
            raise ValueError(f"the list names {error}, and {pairs.folder} has no such picture") from None

    return _portraits(pairs, [partial(fetch, *ids) for ids in wanted])


def _portraits(pairs, fetches: Sequence[Callable[[], tuple]]) -> tuple[Pairs, list[tuple[str, str]]]:
    """The readable ones of pairs of pictures: each call gives source, target, whether they are one, and their ids."""
    from uniface.data import CorruptMedia

    rows, jobs = [], []
    for fetch in fetches:
        try:
            source, target, _, ids = fetch()
        except CorruptMedia as error:
            print(f"evaluate: passed over an unreadable pair: {error}")
            continue
        rows.append((source, target, *(str(pairs.identity(one)) for one in ids), *ids))
        jobs.append(ids)
    if len(rows) < 2:
        raise ValueError(
            f"{pairs.folder}/{pairs.split}.parquet holds only {len(rows)} readable pairs of two identities"
        )
    source, target, who, whom, keys, target_keys = zip(*rows, strict=True)
    return Pairs(np.stack(source), np.stack(target), who, whom, keys, target_keys), jobs


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


FEW = 8  # pairs that are drawn here before a process for them had started
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


@lru_cache(maxsize=1)
def _drawers(sample: "SampleParams", seed: int) -> ProcessPoolExecutor:
    """A process for each core that knows this world; kept, since to start one takes as long as to draw many pairs."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    return ProcessPoolExecutor(cores, context, _make_world, (sample, seed))


def rendered(function: str, jobs: list[tuple], params: "Params", work: Path) -> np.ndarray:
    """What a function of `pipeline.sample.truth` draws for each job (its arguments but the world), stacked; by all
    cores. Kept in `work`/evaluate for the next time."""
    from tqdm import tqdm

    name = digest(function, jobs, params.sample, params.seed, code("pipeline.sample.truth"))
    kept = work / "evaluate" / f"{name}.npy"
    if kept.is_file():
        return np.load(kept)
    todo = [(function, *job) for job in jobs]
    if len(jobs) > FEW:
        drawn = _drawers(params.sample, params.seed).map(_render, todo, chunksize=4)
    else:
        _make_world(params.sample, params.seed)
        drawn = map(_render, todo)
    images = np.stack(list(tqdm(drawn, function.replace("_", " "), len(jobs), unit="pair", disable=None)))
    with atomic_write(kept) as part:
        np.save(part, images)
    return images
