"""reports/index.html: one page that a person opens, with all that the road made, read from the files that lie there.

Nothing on it is fetched: pictures and plots are part of it. What has not been made is left out. The last step of
`evaluate` writes it, and `python -m pipeline.scoring.page` writes it again, such as after `make ablations`.
"""

import csv
import json
import sys
from collections import Counter
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.common.files import atomic_write, read_json
from pipeline.common.nets import MANIFEST
from pipeline.common.places import Places, main
from pipeline.params import read
from pipeline.scoring.figures import heading, pictures, words
from pipeline.scoring.paper import findings
from pipeline.scoring.tables import CHAMPION, MODEL, better
from pipeline.sections import Params
from uniface.config import TASKS

TEMPLATE = Path(__file__).with_name("page.html")
PACKAGES = (
    "torch", "torchvision", "torchmetrics", "torch-fidelity", "lpips", "insightface", "onnxruntime", "decord", "av",
    "pyarrow", "ray", "dvc", "mlflow", "prefect", "numpy", "scipy", "opencv-python-headless"
)  # fmt: skip
SHOWN = (
    "psnr",
    "ssim",
    "psnr_face",
    "right_face",
    "right_expression",
    "right_pose",
    "csim",
    "csim_target",
    "id_retrieval",
    "ape",
    "aee",
    "no_face",
)
"""Metrics of the page's main tables, with those that are called by their network; the others are in intervals.csv."""
PLOTTED = ("psnr", "csim", "csim_target", "ape")
LOSSES = ("reconstruction", "perceptual", "identity", "contextual", "adversarial", "discriminator", "r1", "absolute",
          "edges", "colour", "border")  # fmt: skip


def write_page(params: Params, places: Places) -> Path:
    """Write the page and return where it is. FileNotFoundError if nothing has been evaluated."""
    import jinja2

    if not (places.reports / "metrics.json").is_file():
        raise FileNotFoundError(f"{places.reports}/metrics.json is missing: dvc repro evaluate")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": _number, "words": words, "heading": heading}
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(**facts(params, places))
    out = places.reports / "index.html"
    with atomic_write(out) as part:
        part.write_text(page, encoding="utf-8")
    return out


def facts(params: Params, places: Places) -> dict[str, Any]:
    """All that the template shows."""
    report = read_json(places.reports / "metrics.json")
    lines, ablations = (_rows(places.reports / f"{name}.csv") for name in ("intervals", "ablations"))
    exams = [_exam(name, report, lines) for name in report["exams"]]
    manifest = places.nets / MANIFEST
    nets = read_json(manifest) if manifest.is_file() else {}
    ours, paper = (_values(places.root / name) for name in ("params.yaml", "params.paper.yaml"))
    return {
        "size": params.image_size,
        "stand_ins": sorted({entry["network"] for entry in report["networks"].values() if entry["stand_in"]}),
        "on_sample": [name for name in ("download", "pairs") if getattr(params, name).source == "sample"],
        "exams": exams,
        "definitions": report["definitions"],
        "networks": report["networks"],
        "stages": [_stage(task, params, report, places) for task in TASKS],
        "tables": _paper(_rows(places.reports / "vs_paper.csv")),
        "ablations": _ablations(ablations),
        "findings": findings(ablations),
        "curves": _curves(places),
        "pictures": pictures(places.reports / "samples", places.reports / "progress", report["exams"]),
        "inputs": _inputs(places),
        "params": _differences(ours, paper),
        "nets": nets,
        "versions": {name: metadata.version(name) for name in PACKAGES if _installed(name)},
        "python": ".".join(map(str, sys.version_info[:3])),
        "champion": next((True for line in lines if line["picture"] == CHAMPION), False),
    }


def _installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def _rows(path: Path) -> list[dict[str, str]]:
    """The rows of a csv; none of a missing one."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _number(value: Any, digits: int = 4) -> str:
    """A number as people read it, with a true minus; nothing for none."""
    if value is None or value == "":
        return ""
    text = f"{float(value):#.{digits}g}" if abs(float(value)) < 10**digits else f"{float(value):,.0f}"
    return text.rstrip(".").replace("-", "−")


# --- numbers -------------------------------------------------------------------------------------------------------


def _exam(name: str, report: Mapping, lines: list[dict[str, str]]) -> dict[str, Any]:
    """An exam's table: a row for each picture, a cell for each metric, and a plot of the main ones."""
    from markupsafe import Markup

    from pipeline.scoring.plots import forest

    ours = [line for line in lines if line["exam"] == name]
    found = {(line["picture"], line["metric"]): line for line in ours}
    pictures = list(dict.fromkeys(line["picture"] for line in ours))
    named = [metric for metric in report[name] if metric in SHOWN or _by_network(metric)]
    cells = {p: {m: _cell(found.get((p, m)), m, name) for m in named} for p in pictures}
    panels = {}
    for metric in PLOTTED:
        rows = [found[p, metric] for p in pictures if (p, metric) in found and _fits(p, metric)]
        if rows and rows[0]["picture"] == MODEL:
            panels[words(metric)] = [
                (words(r["picture"]), float(r["value"]), *(float(r[k]) if r[k] else None for k in ("low", "high")))
                for r in rows
            ]
    return {
        "name": name,
        "task": report["exams"][name]["task"],
        "model": report["models"][name],
        "pairs": report["pairs"][name],
        "frechet": report.get("frechet", {}).get(name),
        "metrics": {metric: better(metric, name) for metric in named},
        "rows": cells,
        "headline": [found[MODEL, m] | {"words": words(m)} for m in PLOTTED if (MODEL, m) in found],
        "plot": Markup(forest(panels, f"{name}: the model beside baselines and controls")) if panels else "",
    }


def _by_network(metric: str) -> bool:
    """Is a metric called by its network, FID and LPIPS among them?"""
    return metric.startswith(("perceptual_", "frechet_")) or metric in ("fid", "lpips")


def _fits(picture: str, metric: str) -> bool:
    """The exact truth's PSNR is 80, and would press all others together."""
    return (picture, metric) != ("exact_truth", "psnr")


def _cell(line: Mapping[str, str] | None, metric: str, exam: str) -> dict | None:
    """A number with its interval, and `sure`: is the model better or worse than this, beyond the interval?"""
    if line is None:
        return None
    sure = ""
    if line["difference_low"]:
        low, high = float(line["difference_low"]), float(line["difference_high"])
        if low > 0 or high < 0:
            sure = "better" if (low > 0) == (better(metric, exam) == "higher") else "worse"
    return {**line, "sure": sure}


def _paper(lines: list[dict[str, str]]) -> list[dict[str, Any]]:
    """The paper's tables with ours as a last row."""
    found = []
    for number in dict.fromkeys(line["table"] for line in lines):
        ours = [line for line in lines if line["table"] == number]
        first = {line["metric"]: line for line in reversed(ours)}
        metrics = list(dict.fromkeys(line["metric"] for line in ours))
        methods = list(dict.fromkeys(line["method"] for line in ours))
        values = {(line["method"], line["metric"]): line["paper"] for line in ours}
        reasons: dict[str, list[str]] = {}
        for metric in metrics:
            reasons.setdefault(first[metric]["why"] or "comparable", []).append(metric)
        found.append({
            "number": number,
            "task": ours[0]["task"],
            "exam": ours[0]["exam"],
            "data": ours[0]["data"],
            "metrics": {m: "higher" if m in ("csim", "id_retrieval", "authentic", "like_both") else "lower"
                        for m in metrics},
            "rows": {method: [_printed(values[method, m], m, values) for m in metrics] for method in methods},
            "ours": [first[m] for m in metrics],
            "reasons": reasons,
        })  # fmt: skip
    return found


def _printed(value: str, metric: str, values: Mapping[tuple[str, str], str]) -> str:
    """A published number with as many decimals as the paper gives the others of its column."""
    decimals = max(len(v.partition(".")[2]) for (_, m), v in values.items() if m == metric)
    return f"{float(value):.{decimals}f}" if value else "–"


def _ablations(lines: list[dict[str, str]]) -> list[dict[str, Any]]:
    """A table for each exam: variants down, metrics across."""
    found = []
    for exam in dict.fromkeys(line["exam"] for line in lines):
        ours = [line for line in lines if line["exam"] == exam]
        metrics = list(dict.fromkeys(line["metric"] for line in ours))
        values = {(line["variant"], line["metric"]): line for line in ours}
        variants = list(dict.fromkeys(line["variant"] for line in ours))
        found.append({
            "exam": exam,
            "metrics": {m: better(m, exam) for m in metrics},
            "rows": {v: [_cell(values.get((v, m)), m, exam) for m in metrics] for v in variants},
        })  # fmt: skip
    return found


# --- training ------------------------------------------------------------------------------------------------------


def _stage(task: str, params: Params, report: Mapping, places: Places) -> dict[str, Any]:
    """What one stage was trained on, with what, for how long."""
    train = getattr(params, f"train_{task}")
    weights = {name: value for name, value in vars(train.weights).items() if value}
    facts = {
        "objective": ", ".join(f"{value:g} {name}" for name, value in weights.items()),
        "iterations": f"{train.iterations:,} of {train.batch_size} pairs",
        "learning rate": f"{train.lr:g}",
    }
    summary = places.reports / ("clips.json" if task == "reenactment" else "pairs.json")
    if summary.is_file():
        found = read_json(summary)
        if task == "reenactment":
            split = found["splits"].get("train", {})
            facts["trained on"] = f"{split.get('kept', 0):,} clips of {split.get('persons', 0):,} persons"
        else:
            persons = found["identities"].get("train", 0)
            facts["trained on"] = f"{found['pairs'].get('train', 0):,} pairs of portraits of {persons:,} persons"
    source = (params.download if task == "reenactment" else params.pairs).source
    facts["data"] = "the embedded sample: drawn heads, no photographs" if source == "sample" else source
    facts["starts from"] = "scratch" if task == "reenactment" else "stage 1's attribute embedder"
    facts["weights"] = report.get("weights", {}).get(task, "")[:12]
    return {"task": task, "number": 1 + TASKS.index(task), "facts": facts}


def _curves(places: Places) -> Any:
    """Every loss over the steps of both stages, as SVG; nothing without curves."""
    from markupsafe import Markup

    from pipeline.scoring.plots import curves

    losses: dict[str, dict] = {}
    for task in TASKS:
        rows = _rows(places.reports / f"{task}.csv")
        for loss in LOSSES:
            points = [(float(row["step"]), float(row[loss])) for row in rows if row.get(loss)]
            if len(points) > 1:
                losses.setdefault(loss, {})[task] = tuple(np.array(points).T)
    none = np.empty(0), np.empty(0)  # keeps each stage's colour
    found = {loss: {task: losses[loss].get(task, none) for task in TASKS} for loss in LOSSES if loss in losses}
    return Markup(curves(found, "losses over the steps of both stages")) if found else ""


# --- data and settings ---------------------------------------------------------------------------------------------


def _inputs(places: Places) -> list[dict[str, Any]]:
    """What became of every video, clip and portrait: counts by status and reason, from the tables of the stages."""
    tables = {
        "videos": ("ok", "videos", places.data / "videos.parquet"),
        "clips": ("kept", "clip_index", places.clips / "index.parquet"),
        "portraits": ("kept", "image_index", places.pairs / "index.parquet"),
        "FaceForensics++": ("kept", "faceforensics", places.faceforensics / "videos.parquet"),
    }
    found = []
    for name, (good, schema, path) in tables.items():
        if not path.is_file():
            continue
        from uniface.tables import read_table

        table = read_table(path, schema, ["status", "reason"])
        counts = Counter(zip(table["status"].to_pylist(), table["reason"].to_pylist(), strict=True))
        total = sum(counts.values())
        if not total:
            continue
        rows: dict[str, dict] = {}
        for (status, reason), count in sorted(counts.items(), key=lambda item: (-item[1], str(item[0]))):
            row = rows.setdefault(status, {"count": 0, "good": status == good, "reasons": []})
            row["count"] += count
            if reason:
                row["reasons"].append((reason, count))
        for row in rows.values():
            row["share"] = 100 * row["count"] / total
        found.append({"name": name, "total": total, "rows": rows})
    return found


def _values(path: Path) -> dict[str, Any]:
    """A params file by dotted names, without the machine's section; nothing of a missing one."""
    if not path.is_file():
        return {}
    flat: dict[str, Any] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict) and value:
            for key, inner in value.items():
                walk(f"{prefix}.{key}" if prefix else str(key), inner)
        else:
            flat[prefix] = value

    walk("", read(path))
    return {name: value for name, value in flat.items() if not name.startswith("compute.")}


def _differences(ours: Mapping[str, Any], paper: Mapping[str, Any]) -> dict[str, list[tuple[str, str, str]]]:
    """Section -> (name, here, the paper's preset) of what is not the same."""
    found: dict[str, list] = {}
    for name in [*ours, *(name for name in paper if name not in ours)] if paper else []:
        here, there = (json.dumps(values[name]) if name in values else "–" for values in (ours, paper))
        if here != there:
            section, _, rest = name.partition(".")
            found.setdefault(section if rest else "general", []).append((rest or section, here, there))
    return found


if __name__ == "__main__":
    main(write_page, "page")
