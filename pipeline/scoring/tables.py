"""The values of every pair as a table on disk, and what follows from it: intervals, and differences on the same pairs.

Sets that have no value of their own for each pair (the Frechet distance) have no interval; `frechet_bias` says instead
how much of the number is due to the few pairs.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.common.files import atomic_write
from pipeline.scoring.intervals import difference, interval

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.common.places import Places
    from pipeline.scoring.held_out import Pairs

MODEL, CHAMPION = "model", "champion"
INTERVALS = (
    "exam", "picture", "metric", "value", "low", "high", "difference", "difference_low", "difference_high", "pairs"
)  # fmt: skip
HIGHER = (
    "psnr", "ssim", "psnr_face", "above_mean_frame", "csim", "id_retrieval", "right_face", "right_expression",
    "right_pose"
)  # fmt: skip
"""Metrics of which more is better, also with a crop or a network in their name; of the others less."""

Values = Mapping[str, np.ndarray]  # metric -> its value for each pair (N,)


@dataclass(frozen=True)
class Table:
    """What each picture of an exam scored: the model's, the baselines' and the controls', on the same N pairs."""

    names: tuple[tuple[str, str], ...]  # of source and target
    identities: tuple[tuple[str, str], ...]
    rows: Mapping[str, Values]  # picture -> metric -> (N,), NaN where there is no value

    def interval(self, picture: str, metric: str) -> tuple[float, float] | None:
        """Of the mean, over the persons that pairs share."""
        return interval(self.rows[picture][metric], *zip(*self.identities, strict=True))

    def difference(self, ours: np.ndarray, theirs: np.ndarray) -> dict | None:
        """Of two pictures' values on these pairs."""
        return difference(ours, theirs, *zip(*self.identities, strict=True))


def better(metric: str, exam: str) -> str:
    """`higher` or `lower`: which values of a metric are the good ones. In swapping the target's identity has to go."""
    if metric.startswith("csim_target"):
        return "higher" if "reconstruction" in exam else "lower"
    known = metric.removesuffix("_fixed_crop").removesuffix("_loss_recogniser")
    return "higher" if known in HIGHER else "lower"


def table(pairs: "Pairs", rows: Mapping[str, Mapping[str, "Tensor"]]) -> Table:
    """The table of an exam's pairs; `rows` as `Scorer` gives them."""
    return Table(
        tuple(zip(pairs.source_key, pairs.target_key, strict=True)),
        tuple(zip(pairs.source_identity, pairs.target_identity, strict=True)),
        {picture: {metric: v.double().numpy() for metric, v in row.items()} for picture, row in rows.items()},
    )


def read_table(reports: Path, exam: str) -> Table:
    """The table of an exam that was written as pairs/EXAM.csv and rows/EXAM.csv. ValueError for other files."""
    pairs, lines = _read(reports / "pairs" / f"{exam}.csv"), _read(reports / "rows" / f"{exam}.csv")
    rows: dict[str, dict[str, np.ndarray]] = {}
    try:
        for picture in dict.fromkeys(line["picture"] for line in lines):
            ours = sorted((line for line in lines if line["picture"] == picture), key=lambda line: int(line["pair"]))
            if len(ours) != len(pairs):
                raise ValueError(f"{picture} has {len(ours)} rows")
            metrics = [name for name in ours[0] if name not in ("picture", "pair")]
            values = {metric: np.array([float(line[metric] or "nan") for line in ours]) for metric in metrics}
            rows[picture] = {metric: found for metric, found in values.items() if not np.isnan(found).all()}
        names = tuple((pair["source"], pair["target"]) for pair in pairs)
        return Table(names, tuple((pair["source_identity"], pair["target_identity"]) for pair in pairs), rows)
    except (KeyError, ValueError) as error:
        raise ValueError(f"{reports}/rows/{exam}.csv and pairs/{exam}.csv do not go together: {error}") from error


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def champion(places: "Places", exam: str) -> Table | None:
    """What the version that serves scored on the pairs of an exam, as `pipeline.promote` kept it, or None."""
    kept = places.work / "champion"
    try:
        return read_table(kept, exam)
    except FileNotFoundError:
        return None
    except ValueError as error:
        print(f"evaluate: the champion is not compared with: {error}")
        return None


def beside(found: Table, champion: Table | None) -> Table:
    """With the champion's row among the others, if it was measured on the same pairs."""
    if champion is None or champion.names != found.names or MODEL not in champion.rows:
        return found
    return Table(found.names, found.identities, {**found.rows, CHAMPION: champion.rows[MODEL]})


def intervals(exam: str, found: Table, sets: Mapping[str, Mapping[str, float]]) -> list[dict]:
    """Every picture's metrics with their intervals, and how much better or worse the model is on the same pairs.

    `sets`: picture -> numbers that have no value for each pair. Rows have the keys of `INTERVALS`.
    """
    ours, lines = found.rows[MODEL], []
    for picture, row in found.rows.items():
        for metric, values in row.items():
            if np.isnan(values).all():
                continue
            low, high = found.interval(picture, metric) or (None, None)
            beyond = None
            if picture != MODEL and metric in ours:
                beyond = found.difference(ours[metric], values)
            ends = beyond["interval"] if beyond else (None, None)
            numbers = (float(np.nanmean(values)), low, high, beyond and beyond["mean"], *ends)
            lines.append(_line(exam, picture, metric, numbers, int((~np.isnan(values)).sum())))
        for metric, value in sets.get(picture, {}).items():
            gap = sets.get(MODEL, {}).get(metric)
            beyond = None if picture == MODEL or gap is None else gap - value
            lines.append(_line(exam, picture, metric, (value, None, None, beyond, None, None), len(found.names)))
    return lines


def _line(exam: str, picture: str, metric: str, numbers: Sequence[float | None], pairs: int) -> dict:
    rounded = (None if number is None else round(number, 5) for number in numbers)
    return dict(zip(INTERVALS, (exam, picture, metric, *rounded, pairs), strict=True))


def write_intervals(path: Path, lines: Sequence[Mapping]) -> None:
    """The rows of `intervals` of all exams as a csv."""
    with atomic_write(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, INTERVALS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)


STEPS, DRAWS = 5, 4  # how many sizes of subsets, and how many of each


def frechet_bias(found: "Tensor", source: "Tensor", target: "Tensor") -> dict:
    """What a Frechet distance of few pictures would be of very many: it is too large by about a constant over n.

    Features (N, D) of the outputs and of both inputs. A line over 1/n through the distances of subsets of pairs, at
    1/n = 0 (Chong and Forsyth, "Effectively Unbiased FID", 2020). None where half of the pairs are fewer than D: there
    the covariances have no full rank, and no line holds.
    """
    import torch

    from uniface.metrics import frechet

    n, width = found.shape
    report = {"pairs": n, "features": width, "at_infinity": None, "bias": None}
    if n // 2 < width:
        return report
    rng = np.random.default_rng(0)
    sizes, distances = [], []
    for size in np.linspace(n // 2, n, STEPS).round().astype(int):
        for _ in range(1 if size == n else DRAWS):
            chosen = torch.from_numpy(rng.permutation(n)[:size])
            sizes.append(size)
            distances.append(frechet(found[chosen], torch.cat([source[chosen], target[chosen]])))
    limit = float(np.polynomial.Polynomial.fit(1 / np.array(sizes), distances, 1)(0.0))
    report["at_infinity"] = round(limit, 5)
    report["bias"] = round(distances[-1] - limit, 5)
    return report
