"""What `evaluate` writes of its numbers and pictures: tables for DVC's plots, every pair's numbers, sheets."""

import csv
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.common import sheets
from pipeline.common.files import atomic_write
from pipeline.scoring import tables
from pipeline.scoring.held_out import Pairs
from uniface.config import Task

if TYPE_CHECKING:
    from pipeline.scoring.features import Pictures
    from pipeline.scoring.scorer import Row
    from uniface.model import UniFace

HEADLINES = ("psnr", "above_mean_frame", "right_face", "right_expression", "right_pose", "csim", "csim_target", "ape")


def headlines(report: Mapping[str, dict]) -> dict[str, dict[str, float]]:
    """The few numbers of `dvc metrics show`: exam -> metric -> number; what was not measured is left out."""
    found = {}
    for exam in report["exams"]:
        wrong = report["controls"][exam].get("wrong_source", {})
        found[exam] = {name: report[exam][name] for name in HEADLINES if name in report[exam]}
        found[exam] |= {name: wrong[name] for name in ("right_beats_wrong",) if name in wrong}
    return found


def beside(exam: str, report: Mapping[str, dict]) -> dict[str, dict[str, float]]:
    """The numbers of the model, and of those baselines and controls that were measured as the model was."""
    found = {tables.MODEL: report[exam], **report["baselines"][exam], **report["controls"][exam]}
    return {name: values for name, values in found.items() if "csim" in values}


def write_baselines(path: Path, report: Mapping[str, dict]) -> None:
    """The model beside baselines and controls, a row each, for `dvc plots show`."""
    rows = []
    for exam in report["exams"]:
        for name, values in beside(exam, report).items():
            label = f"{exam}: {'the model' if name == tables.MODEL else name.replace('_', ' ')}"
            rows.append([label, *(values.get(metric, "") for metric in ("psnr", "csim", "csim_target"))])
    with atomic_write(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("picture", "psnr", "csim", "csim_target"))
        writer.writerows(rows)


def write_rows(path: Path, rows: "Mapping[str, Row]") -> None:
    """Every pair's numbers: a row for the model, each baseline and each control.

    `pair` counts the rows of pairs/*.csv from 0.
    """
    metrics = list(rows["model"])
    with atomic_write(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("picture", "pair", *metrics))
        for picture, values in rows.items():
            for pair, numbers in enumerate(zip(*(values[metric].tolist() for metric in metrics), strict=True)):
                writer.writerow((picture, pair, *("" if math.isnan(number) else f"{number:.6g}" for number in numbers)))


def columns(pairs: Pairs, made: "Mapping[str, Pictures]", same: bool) -> dict:
    """Label -> pictures (N, H, W, 3), in the order of the sheet."""
    found = {"source": pairs.source, "target": pairs.target, "output": made["right"]}
    if not same:
        found |= {"exact truth": pairs.truth, "mean frame": pairs.mean_frame}
        found |= {f"{kind}: output": made.get(kind) for kind in ("wrong source", "wrong driver")}
    return {label: pictures for label, pictures in found.items() if pictures is not None}


def write_sheet(path: Path, pictures: dict[str, np.ndarray], rows: int) -> None:
    """The first pairs as a labelled sheet."""
    sheets.write_sheet(path, list(pictures), [column[:rows] for column in pictures.values()])


def write_extremes(path: Path, exam: str, pairwise: tables.Table, pictures: Mapping) -> None:
    """The best and the worst pair by each metric, as a sheet."""
    from pipeline.scoring.sheets import extremes_sheet

    shown = {label: pictures[label] for label in ("source", "target", "output", "exact truth") if label in pictures}
    drawn, names = extremes_sheet(exam, pairwise, shown)
    if names:
        sheets.write_sheet(path, *drawn, names)


def explain(model: "UniFace", task: Task, pairs: Pairs, folder: Path, rows: int) -> None:
    """Fig. 9's displacement field and Fig. 8's retrieval (reenactment), Fig. 8's attention (swapping)."""
    from pipeline.scoring.sheets import attention_sheet, fdf_sheet, retrieval_sheet

    first = pairs.source[:rows], pairs.target[:rows]
    if task == "swapping":
        found = {"attention": attention_sheet(model, *first)}
    else:
        found = {"fdf": fdf_sheet(model, *first), "retrieval": retrieval_sheet(model, pairs)}
    for name, drawn in found.items():
        if drawn is not None:
            sheets.write_sheet(folder / f"{name}.png", *drawn)
