"""How sure a mean over pairs is: 95 % intervals by the bootstrap, over pairs or over the persons that pairs share."""

from collections.abc import Sequence

import numpy as np
from scipy import stats

LEVEL = 0.95
RESAMPLES = 2000


def interval(values: np.ndarray, groups: Sequence[str] | None = None) -> tuple[float, float] | None:
    """The interval of the mean of `values` (N,); NaN are left out, None if fewer than two groups remain.

    `groups` names whom each value belongs to: rows of one person are drawn together, since they are not independent.
    The percentiles are widened by Student's t over the normal distribution, without which the bootstrap of a few
    dozen groups is too sure of itself (Hesterberg, "What Teachers Should Know About the Bootstrap", 2015). The same
    values give the same interval.
    """
    values = np.asarray(values, float)
    known = ~np.isnan(values)
    names = np.arange(len(values)) if groups is None else np.asarray(groups)
    _, codes = np.unique(names[known], return_inverse=True)
    sums, counts = np.bincount(codes, values[known]), np.bincount(codes)
    n = len(counts)
    if n < 2:
        return None
    drawn = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), RESAMPLES)  # how often each group
    means = (drawn @ sums) / (drawn @ counts)
    mean = sums.sum() / counts.sum()
    tail = (1 - LEVEL) / 2
    wider = stats.t.isf(tail, n - 1) / stats.norm.isf(tail) * np.sqrt(n / (n - 1))
    low, high = mean + wider * (np.quantile(means, [tail, 1 - tail]) - mean)
    return float(low), float(high)


def difference(ours: np.ndarray, theirs: np.ndarray, groups: Sequence[str] | None = None) -> dict | None:
    """How much better or worse ours is on the same pairs: mean of ours - theirs and its interval, None if unknown."""
    found = interval(np.asarray(ours, float) - np.asarray(theirs, float), groups)
    if found is None:
        return None
    return {"mean": float(np.nanmean(np.asarray(ours, float) - np.asarray(theirs, float))), "interval": found}
