"""How far a long stage is: a bar where a person watches, a plain line a tenth of the way where a log does."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

LINES = 10
"""Plain lines of a whole run: one a tenth of the way."""


def progress(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """The same items, reported on stderr as they pass: count, rate and the time left."""
    if sys.stderr.isatty():
        from tqdm import tqdm

        yield from tqdm(items, total=total, unit=f" {what}", smoothing=0.1)
        return
    began, told = time.monotonic(), 0
    for count, item in enumerate(items, 1):
        yield item
        if step_due(count, told, total):
            told = count
            print(line(count, total, what, time.monotonic() - began), file=sys.stderr, flush=True)


def step_due(count: int, told: int, total: int) -> bool:
    """Whether `count` of `total` is due for a line after the one at `told`: another tenth of the way, or the end."""
    return count >= total or count * LINES // total > told * LINES // total


def line(count: int, total: int, what: str, seconds: float) -> str:
    """`120/400 videos, 2.0/s, 140 s left`."""
    rate = count / max(seconds, 1e-9)
    left = f", {(total - count) / rate:.0f} s left" if count < total else f" in {seconds:.0f} s"
    return f"{count}/{total} {what}, {rate:.1f}/s{left}"
