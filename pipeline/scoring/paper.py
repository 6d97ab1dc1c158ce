"""The paper's own numbers, ours beside them, and whether the two may be compared at all."""

import csv
from pathlib import Path

from pipeline.common.files import atomic_write
from pipeline.sections import Params

# Tables 1, 2 and 3, "Ours"; IDRet is a percentage there.
PAPER = {
    ("fid", "reconstruction"): 45.91,
    ("lpips", "reconstruction"): 0.1907,
    ("aee", "reconstruction"): 1.70,
    ("ape", "reconstruction"): 0.042,
    ("csim", "reconstruction"): 0.8607,
    ("fid", "reenactment"): 54.34,
    ("aee", "reenactment"): 3.15,
    ("ape", "reenactment"): 0.070,
    ("csim", "reenactment"): 0.5703,
    ("id_retrieval", "swapping"): 0.9945,
    ("aee", "swapping"): 3.21,
    ("ape", "swapping"): 0.052,
}

# Why a number of the paper has no counterpart here.
MISSING = {
    "fid": "Inception v3 is not there (weights.source internet)",
    "lpips": "VGG16 and LPIPS's weights are not there (weights.source internet)",
    "ape": "no regressor whose pose is good enough to quote",
    "aee": "no regressor whose expression is good enough to quote",
}


def write_comparison(path: Path, report: dict, params: Params) -> None:
    """vs_paper.csv: ours beside Tables 1 to 3, and whether the two may be compared at all."""
    with atomic_write(path) as part, part.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("metric", "task", "ours", "paper", "comparable", "why"))
        for (metric, task), value in PAPER.items():
            if task not in report["exams"]:
                continue
            ours = report[task].get(metric, "")
            why = _not_comparable(metric, task, report, params)
            writer.writerow((metric, task, ours, value, "no" if why else "yes", why))


def _not_comparable(metric: str, task: str, report: dict, params: Params) -> str:
    """Why our number says nothing about the paper's; empty if it does."""
    network = report["networks"].get(metric)
    if network is None:
        return f"not measured: {MISSING[metric]}"
    source = (params.pairs if task == "swapping" else params.download).source
    reasons = [
        f"stand-in network ({network['network']})" if network["stand_in"] else "",
        f"another network ({network['network']})" if network["source"] in ("packages", "yours") else "",
        "the sample's data" if source == "sample" else "",
        f"{params.image_size} px, not 256" if params.image_size != 256 else "",
        "the paper swaps on FaceForensics++" if task == "swapping" else "",
        f"{report['pairs'][task]} pairs, not 6,000" if metric == "fid" and report["pairs"][task] != 6000 else "",
    ]
    return "; ".join(reason for reason in reasons if reason)
