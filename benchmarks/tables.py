"""The tables of README.md, docs/results.md and pretrained/README.md: what `evaluate` measured of quick and long run.

    python -m benchmarks.tables        # after make repro and make ablations; writes between the marks of the files

The quick run's numbers are those of reports/metrics.json, the long run's of pretrained/metrics.json.
"""

import csv
import json
from collections.abc import Sequence
from pathlib import Path

from pipeline.scoring.figures import words

README, RESULTS, LONG = Path("README.md"), Path("docs/results.md"), Path("pretrained/README.md")
WANTED = {  # of the long run, in the order in which the tables show them
    "reenactment": {
        "psnr": "", "ssim": "", "above_mean_frame": "2.0", "perceptual_stand_in": "1.3", "right_face": ".60",
        "right_expression": ".40", "right_pose": ".95", "csim": "", "csim_target": "", "ape": "",
    },
    "swapping": {
        "psnr": "", "psnr_face": "", "perceptual_stand_in": "", "right_face": ".60", "csim": "", "csim_target": "",
        "ape": "",
    },
}  # fmt: skip
NAMES = {
    "psnr": "PSNR", "ssim": "SSIM", "above_mean_frame": "dB above the mean frame", "psnr_face": "face PSNR",
    "perceptual_stand_in": "perceptual distance (stand-in)", "right_face": "right face of five",
    "right_expression": "right expression of five", "right_pose": "right pose of five",
    "csim": "judge: like source", "csim_target": "judge: like target", "ape": "APE (stand-in)",
}  # fmt: skip
BESIDE = {
    "reenactment": ("copy_source", "mean_frame", "blurred_truth"),
    "swapping": ("copy_target", "blurred_target", "blurred_truth"),
}
ABLATED = (("reenactment", "psnr"), ("reenactment", "ape"), ("reenactment", "right_pose"), ("swapping", "csim"),
           ("swapping", "csim_target"), ("swapping", "psnr_face"), ("swapping", "ape"))  # fmt: skip
SHOWN = ("psnr", "right_face", "right_expression", "right_pose", "csim")  # in README.md


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, all columns but the first to the right."""
    first, *others = ("| " + " | ".join(line) + " |" for line in (head, *rows))
    return "\n".join([first, "|---|" + "---:|" * (len(head) - 1), *others])


def number(values: dict, name: str) -> str:
    return f"{values[name]:.2f}" if name in values else ""


def compared(task: str, quick: dict, long: dict) -> list[list[str]]:
    """Long run, quick run, baselines and aims, a row a metric."""
    basis = quick["baselines"][task]
    return [
        [NAMES[name], *(number(v, name) for v in (long[task], quick[task], *(basis[b] for b in BESIDE[task]))), wanted]
        for name, wanted in WANTED[task].items()
    ]


def controls(found: dict, task: str) -> dict[str, str]:
    """What no cheat survives: name of the row -> its cell."""
    control = found["controls"][task]
    if task == "reenactment":
        truth = control["truth_as_driver"]
        return {
            "PSNR and right face, exact truth as driver": f"{truth['psnr']:.2f}, {truth['right_face']:.2f}",
            "another driver costs, dB": f"{control['shuffled_driver']['psnr_drop']:.2f}",
            "another source costs, dB": f"{control['shuffled_source']['psnr_drop']:.2f}",
        }
    wrong = control["wrong_source"]
    return {
        "right source beats a wrong one (face PSNR)": f"{wrong['right_beats_wrong']:.1%}",
        "by, dB": f"{wrong['psnr_face_gain']:.2f}",
        "fixed crop: like source / target": f"{found[task]['csim_fixed_crop']:.2f} / "
        f"{found[task]['csim_target_fixed_crop']:.2f}",
        "PSNR of the target swapped into itself": f"{control['self']['psnr']:.2f}",
    }


def of_task(task: str, quick: dict, long: dict) -> str:
    """The table of a task in docs/results.md."""
    pairs = quick["pairs"][task]
    beside = [name.replace("_", " ") for name in BESIDE[task]]
    rows = compared(task, quick, long)
    ours, theirs = controls(quick, task), controls(long, task)
    rows += [[name, theirs[name], ours[name], *[""] * (len(beside) + 1)] for name in ours]
    return table([f"{task}, {pairs} pairs (decoys 120)", "long run", "quick run", *beside, "wanted"], rows)


def aligned(found: dict) -> str:
    """The judge's numbers on aligned faces and in the released protocol's crop."""
    lines = []
    for task, kinds in (
        ("swapping", ("exact_truth", "copy_source", "copy_target", "shuffled_source")),
        ("reenactment", ("exact_truth", "mean_frame", "shuffled_source")),
    ):
        known = found["baselines"][task] | found["controls"][task]
        for name, values in ((f"{task}: the model", found[task]), *((k.replace("_", " "), known[k]) for k in kinds)):
            cells = [f"{values[m]:.2f} / {values[m + '_fixed_crop']:.2f}" for m in ("csim", "csim_target")]
            share = f"{values['id_retrieval']:.0%} / {values['id_retrieval_fixed_crop']:.0%}"
            lines.append([name.replace("shuffled source", "wrong source"), *cells, share, f"{values['no_face']:.1%}"])
    return table([f"{found['pairs']['swapping']} pairs", "like source", "like target", "retrieval", "no face"], lines)


def ablated(rows: Sequence[dict[str, str]]) -> str:
    """Each variant of `make ablations`: with a star what differs from all parts together outside its interval."""
    found = {(row["variant"], row["exam"], row["metric"]): row for row in rows}

    def cell(row: dict[str, str]) -> str:
        low, high = row["difference_low"], row["difference_high"]
        apart = low and (float(low) > 0 or float(high) < 0)
        return f"{float(row['value']):.2f}{'*' if apart else ''}"

    variants = dict.fromkeys(row["variant"] for row in rows)
    lines = [[words(name), *(cell(found[name, *key]) for key in ABLATED)] for name in variants]
    return table(["", *(f"{task}: {NAMES[metric]}" for task, metric in ABLATED)], lines)


def gate(found: dict) -> str:
    """May the judge judge? What it sees in exact swaps, on aligned faces and in the released protocol's crop."""
    check = found["controls"]["swapping"]["judge_check"]
    rows = [
        [name, *(f"{part[key]:.3f}" for part in (check, check["fixed_crop"])), least]
        for name, key, least in (
            ("nearer to the source than to the target", "right_share", ".95"),
            ("by, in cosine", "margin", ".5"),
        )
    ]
    return table(["the judge on exact swaps", "aligned faces", "fixed crop", "at least"], rows)


def for_readme(quick: dict, long: dict) -> str:
    """What README.md shows of reenactment."""
    rows = [[f"reenactment: {row[0]}", row[2], row[1], *row[3:-1]] for row in compared("reenactment", quick, long)]
    wanted = {f"reenactment: {NAMES[name]}" for name in SHOWN}
    head = [f"seed 0, {quick['pairs']['reenactment']} held-out pairs", "quick run", "long run"]
    beside = [name.replace("_", " ").replace("blurred truth", "truth blurred") for name in BESIDE["reenactment"]]
    return table(head + beside, [row for row in rows if row[0] in wanted])


def write_between_marks(path: Path, name: str, text: str) -> None:
    """Replace what is between the marks `name`; ValueError if they are not there."""
    marks = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    whole = path.read_text(encoding="utf-8")
    start, end = (whole.find(mark) for mark in marks)
    if not 0 <= start < end:
        raise ValueError(f"{path} lacks the lines {marks[0]} and {marks[1]}")
    path.write_text(f"{whole[: start + len(marks[0])]}\n{text}\n{whole[end:]}", encoding="utf-8")


def main() -> None:
    quick, long = (json.loads(Path(p, "metrics.json").read_text(encoding="utf-8")) for p in ("reports", "pretrained"))
    write_between_marks(README, "benchmarks/tables.py", for_readme(quick, long))
    for task in WANTED:
        for page in (RESULTS, LONG):
            write_between_marks(page, f"benchmarks/tables.py {task}", of_task(task, quick, long))
    write_between_marks(RESULTS, "benchmarks/tables.py aligned", aligned(quick))
    write_between_marks(README, "benchmarks/tables.py gate", gate(quick))
    with Path("reports/ablations.csv").open(encoding="utf-8", newline="") as file:
        write_between_marks(RESULTS, "benchmarks/tables.py ablations", ablated(list(csv.DictReader(file))))


if __name__ == "__main__":
    main()
