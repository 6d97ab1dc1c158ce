"""How long stages take: what a stage says when it begins, and what `make repro` says at its end.

Each stage that ends well is noted in `work/times.json` with how much it had to do; the next time is reckoned from that.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.params import read
from uniface.files import atomic_write

TIMES = "times.json"
# Seconds per unit of `amount`, for a stage that never ran here: one `make repro` on two cores that had other work too.
ELSEWHERE = {
    "download": 0.21,
    "crop": 0.20,
    "pairs": 0.013,
    "train_reenactment": 0.021,
    "train_swapping": 0.014,
}


def amount(stage: str, params: Any) -> float | None:
    """How much a stage of the sample has to do: seconds of video, portraits, pictures trained on at 64 px, pairs
    measured; 1 where nothing counts; None for data of your own, of which nobody knows before they are looked at."""
    sample, area = params.sample, (params.image_size / 64) ** 2
    if stage in ("download", "crop"):
        return sample.persons * sample.scale * sample.seconds if params.download.source == "sample" else None
    if stage == "pairs":
        return float(sample.portraits * sample.scale) if params.pairs.source == "sample" else None
    if stage in ("train_reenactment", "train_swapping"):
        settings = getattr(params, stage)
        return settings.iterations * settings.batch_size * area
    return params.evaluate.pairs * area if stage == "evaluate" else 1.0


def expected(stage: str, params: Any, work: Path) -> str:
    """How long a stage is going to take, as far as that is known; else nothing."""
    todo, last = amount(stage, params), _read(work).get(stage)
    if todo is None:
        return ""
    if last and last["amount"]:
        return f"; about {_words(last['seconds'] * todo / last['amount'])}, by the last time here"
    if stage in ELSEWHERE:
        return f"; perhaps {_words(ELSEWHERE[stage] * todo)}, as on two busy cores elsewhere"
    return ""


@contextmanager
def timed(stage: str, params: Any, work: Path) -> Iterator[None]:
    """Say what a stage does (dvc.yaml has it), and about how long, and note how long the block took unless it failed.

    What is no stage of the dvc.yaml here passes in silence.
    """
    try:
        words = read(work.parent / "dvc.yaml")["stages"][stage]["desc"]
    except (FileNotFoundError, ValueError, KeyError):
        yield
        return
    print(f"{stage}: {words}{expected(stage, params, work)}", flush=True)
    began = time.time()
    yield
    ended = time.time()
    noted = {"ended": ended, "seconds": ended - began, "amount": amount(stage, params)}
    with atomic_write(work / TIMES) as part:
        part.write_text(json.dumps(_read(work) | {stage: noted}, indent=1), encoding="utf-8")


def table(work: Path) -> list[str]:
    """Lines for the terminal: how long each stage took when it last ran here, in the order in which they ended."""
    found = sorted(_read(work).items(), key=lambda item: item[1]["ended"])
    if not found:
        return []
    lines = ["", "Time of each stage when it last ran here"]
    for stage, noted in found:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(noted["ended"]))
        lines.append(f"  {stage:<20}{_words(noted['seconds']):>12}   until {when}")
    return [*lines, f"  {'together':<20}{_words(sum(noted['seconds'] for _, noted in found)):>12}"]


def _read(work: Path) -> dict[str, dict]:
    """What is noted; nothing if nothing is, or what a crash left of it."""
    try:
        return json.loads((work / TIMES).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _words(seconds: float) -> str:
    """`40 s`, `3 min 20 s`, `2 h 10 min`."""
    whole = max(round(seconds), 1)
    if whole < 100:
        return f"{whole} s"
    if whole < 6000:
        return f"{whole // 60} min {whole % 60} s" if whole < 600 else f"{round(whole / 60)} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
