"""How sure a mean over pairs is: 95 % intervals by the bootstrap, over pairs or over the persons that pairs share."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

LEVEL = 0.95
RESAMPLES = 2000

Names = Sequence[str]


def interval(
    values: np.ndarray, groups: Names | None = None, others: Names | None = None
) -> tuple[float, float] | None:
    """The interval of the mean of `values` (N,); NaN are left out, None if fewer than two groups remain.

    `groups` names whom each value belongs to: rows of one person are drawn together, since they are not independent.
    A pair that shows two persons has `others` too: the spreads over the one and over the other add up, less that over
    the pairs, which is in both (Cameron, Gelbach and Miller, "Robust Inference with Multiway Clustering", 2011). The
    same values give the same interval.
    """
    values = np.asarray(values, float)
    known = ~np.isnan(values)
    values = values[known]
    if not len(values):
        return None
    one = _codes(np.arange(len(known)) if groups is None else groups, known)
    found = _reach(values, one)
    if found is None:
        return None
    if others is not None:
        two = _codes(others, known)
        second, both = _reach(values, two), _reach(values, np.unique(one * len(values) + two, return_inverse=True)[1])
        if second is None:
            return None
        found = np.sqrt(np.maximum(found**2 + second**2 - both**2, np.maximum(found, second) ** 2))
    return float(values.mean() - found[0]), float(values.mean() + found[1])


def difference(
    ours: np.ndarray, theirs: np.ndarray, groups: Names | None = None, others: Names | None = None
) -> dict | None:
    """How much better or worse ours is on the same pairs: mean of ours - theirs and its interval, None if unknown."""
    values = np.asarray(ours, float) - np.asarray(theirs, float)
    found = interval(values, groups, others)
    return None if found is None else {"mean": float(np.nanmean(values)), "interval": found}


def _codes(names: Names, known: np.ndarray) -> np.ndarray:
    """Names of the known values as numbers from 0 on."""
    return np.unique(np.asarray(names)[known], return_inverse=True)[1]


def _reach(values: np.ndarray, codes: np.ndarray) -> np.ndarray | None:
    """How far the interval reaches below and above the mean, if groups are drawn; None of fewer than two.

    The percentiles are widened by Student's t over the normal distribution, without which the bootstrap of a few
    dozen groups is too sure of itself (Hesterberg, "What Teachers Should Know About the Bootstrap", 2015).
    """
    from scipy import stats

    sums, counts = np.bincount(codes, values - values.mean()), np.bincount(codes)
    n = len(counts)
    if n < 2:
        return None
    drawn = _draws(n)
    means = (drawn @ sums.astype(np.float32)) / (drawn @ counts.astype(np.float32))
    tail = (1 - LEVEL) / 2
    wider = stats.t.isf(tail, n - 1) / stats.norm.isf(tail) * np.sqrt(n / (n - 1))
    low, high = np.quantile(means, [tail, 1 - tail])
    return wider * np.maximum([-low, high], 0)


@lru_cache(maxsize=4)
def _draws(n: int) -> np.ndarray:
    """How often each of n groups is drawn in each resample: (RESAMPLES, n)."""
    drawn = np.random.default_rng(0).integers(0, n, (RESAMPLES, n)) + n * np.arange(RESAMPLES)[:, None]
    return np.bincount(drawn.ravel(), minlength=RESAMPLES * n).reshape(RESAMPLES, n).astype(np.float32)
