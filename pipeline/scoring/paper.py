"""The paper's Tables 1 to 3, ours beside every number, and whether the two may be compared at all."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.common.files import atomic_write
from pipeline.sections import Params

COLUMNS = (
    "table", "task", "method", "metric", "paper", "exam", "ours", "low", "high", "network", "data", "comparable", "why"
)  # fmt: skip
OURS = "UniFace"  # "Ours" in the paper's tables


@dataclass(frozen=True)
class Published:
    """A table of the paper: method -> its numbers in the order of `metrics`, None where the paper has none."""

    number: int
    title: str
    data: str
    task: str
    kinds: tuple[str, ...]  # of pairs, in `evaluate.exams`: the first that is examined stands beside the table
    metrics: tuple[str, ...]
    rows: Mapping[str, tuple[float | None, ...]]


# IDRet and the human study's shares are percentages and shares in the paper; here both are shares of 1.
TABLES = (
    Published(
        1, "reconstruction", "VoxCeleb2", "reenactment", ("videos_same", "one_clip"),
        ("fid", "lpips", "aee", "ape", "csim", "authentic"),
        {
            "X2Face": (93.99, 0.3612, 2.76, 0.194, 0.6122, 0.12),
            "Bi-layer": (149.14, 0.5443, 1.92, 0.055, 0.7002, None),
            "FOMM": (48.96, 0.1817, 1.55, 0.044, 0.8462, 0.30),
            "PIRenderer": (55.57, 0.2634, 2.09, 0.059, 0.8186, 0.25),
            OURS: (45.91, 0.1907, 1.70, 0.042, 0.8607, 0.33),
        },
    ),
    Published(
        2, "reenactment", "VoxCeleb2", "reenactment", ("videos_cross", "two_persons"),
        ("fid", "aee", "ape", "csim", "authentic"),
        {
            "X2Face": (119.32, 3.99, 0.274, 0.4329, 0.09),
            "Bi-layer": (195.67, 3.18, 0.073, 0.5353, None),
            "FOMM": (72.20, 3.25, 0.067, 0.5365, 0.26),
            "PIRenderer": (73.73, 3.08, 0.079, 0.4737, 0.21),
            OURS: (54.34, 3.15, 0.070, 0.5703, 0.44),
        },
    ),
    Published(
        3, "swapping", "FaceForensics++", "swapping", ("faceforensics", "portraits"),
        ("id_retrieval", "aee", "ape", "like_both", "authentic"),
        {
            "DeepFakes": (0.7984, 3.75, 0.260, 0.04, 0.02),
            "FaceShifter": (0.9259, 3.47, 0.206, 0.11, 0.13),
            "SimSwap": (0.9002, 3.13, 0.039, 0.13, 0.08),
            "MegaFS": (0.9387, 3.45, 0.202, 0.13, 0.10),
            OURS: (0.9945, 3.21, 0.052, 0.59, 0.67),
        },
    ),
)  # fmt: skip

ABLATED = (
    ("without_attrt", "reenactment", "ape", 1, "w/o AttrT the pose of reenactment is worse"),
    ("without_idt", "swapping", "csim", -1, "w/o IdT the identity of swapping is worse"),
)
"""What Table 4 finds: variant, exam, metric, sign of a difference to the full model that is worse, in words."""

# Why a number of the paper has no counterpart here.
MISSING = {
    "fid": "Inception v3 is not there (weights.source internet)",
    "lpips": "VGG16 and LPIPS's weights are not there (weights.source internet)",
    "ape": "no regressor whose pose is good enough to quote",
    "aee": "no regressor whose expression is good enough to quote",
    "authentic": "people were asked which picture looks most real",
    "like_both": "people were asked which picture is like the source and keeps the target's attributes",
}
# What is measured in a way that the paper does not say.
UNKNOWN = {
    "aee": "ours is the mean absolute difference of the coefficients; the paper's norm or sum of them is not published",
}
SOURCES = {"sample": "the sample", "youtube": "VoxCeleb2"}  # of download and pairs; the others are your own


def write_comparison(path: Path, report: dict, params: Params) -> None:
    """vs_paper.csv: each published number of Tables 1 to 3, ours of the same metric, and whether they compare."""
    with atomic_write(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(comparison(report, params))


def comparison(report: dict, params: Params) -> list[dict]:
    """The rows of vs_paper.csv, a row for each published number; `ours` is the same for all methods of a metric."""
    lines = []
    for published in TABLES:
        exam = exam_of(published, report)
        for metric in published.metrics:
            ours = _ours(metric, published, exam, report, params)
            for method, numbers in published.rows.items():
                line = {"table": published.number, "task": published.title, "method": method, "metric": metric}
                lines.append(line | {"paper": numbers[published.metrics.index(metric)]} | ours)
    return lines


def findings(ablations: Sequence[Mapping[str, str]]) -> list[str]:
    """Which of `ABLATED` the rows of reports/ablations.csv show, a sentence each; none for what is not in them."""
    found = []
    for variant, exam, metric, worse, words in ABLATED:
        for line in ablations:
            if (line["variant"], line["exam"], line["metric"]) == (variant, exam, metric) and line["difference"]:
                low, high = sorted(worse * float(line[f"difference_{end}"]) for end in ("low", "high"))
                so = "so here" if low > 0 else ("here it is better" if high < 0 else "here the interval holds 0")
                change = f"{metric.upper()} {float(line['difference']):+.3g}"
                ends = f"{line['difference_low']} to {line['difference_high']}"
                found.append(f"The paper: {words}; {so} ({change}; 95 % interval {ends}).")
    return found


def exam_of(published: Published, report: dict) -> str | None:
    """The exam that asks what a table of the paper does, of the model that the paper would ask; None without one."""
    for kind in published.kinds:
        for name, exam in report["exams"].items():
            if exam["pairs"] == kind and exam["task"] == exam["model"] == published.task:
                return name
    return None


def _ours(metric: str, published: Published, exam: str | None, report: dict, params: Params) -> dict:
    """What we measured of a metric, on what and by which network, and why it says nothing about the paper's."""
    if exam is None:
        why = f"not examined: evaluate.exams has none with pairs {' or '.join(published.kinds)}"
        return dict.fromkeys(("exam", "ours", "low", "high", "network", "data")) | {"comparable": "no", "why": why}
    low, high = report["intervals"].get(exam, {}).get(metric, (None, None))
    why = _not_comparable(metric, published, exam, report, params)
    return {
        "exam": exam,
        "ours": report[exam].get(metric),
        "low": low,
        "high": high,
        "network": report["networks"].get(metric, {}).get("network"),
        "data": f"{data(exam, report, params)}, {report['pairs'][exam]} pairs at {params.image_size} px",
        "comparable": "no" if why else "yes",
        "why": why,
    }


def data(exam: str, report: dict, params: Params) -> str:
    """Whose pictures an exam is on."""
    kind = report["exams"][exam]["pairs"]
    if kind == "faceforensics":
        return "FaceForensics++"
    source = (params.pairs if kind == "portraits" else params.download).source
    return SOURCES.get(source, f"your own ({source})")


def _not_comparable(metric: str, published: Published, exam: str, report: dict, params: Params) -> str:
    """Why our number says nothing about the paper's; empty if it does."""
    network = report["networks"].get(metric)
    if network is None or metric not in report[exam]:
        return f"not measured: {MISSING.get(metric, 'no network for it')}"
    pairs, ours = report["pairs"][exam], data(exam, report, params)
    reasons = [
        f"stand-in network ({network['network']})" if network["stand_in"] else "",
        f"another network ({network['network']})" if network["source"] in ("packages", "yours") else "",
        "the sample's data" if ours == "the sample" else "",
        f"{params.image_size} px, not 256" if params.image_size != 256 else "",
        f"the paper swaps on {published.data}" if published.number == 3 and ours != published.data else "",
        UNKNOWN.get(metric, ""),
        f"{pairs} pairs, not 6,000" if metric == "fid" and pairs != 6000 else "",
    ]
    return "; ".join(reason for reason in reasons if reason)
