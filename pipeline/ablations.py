"""Table 4 of the paper and what Sec. 4.3 says of the losses: each part left out, trained and evaluated on its own.

    python -m pipeline.ablations          run what is missing as DVC experiments, write the table
    python -m pipeline.ablations table    only the table, of what is done

Each variant is an experiment (`dvc exp show`) of the commit that is checked out, with the params.yaml of now, in a
folder of its own. What is done is not done again, and a training that was stopped goes on from its checkpoint: the same
command goes on after a kill. `reports/ablations.csv` is the table; reports/index.html is written again with it.

Not by the worker of DVC's queue: on a busy machine it ended over a message that was half written (kombu's transport by
files), and `dvc exp run --run-all` waits without end for what a dead worker was to do.
"""

import csv
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from pipeline.common.files import atomic_write, digest
from pipeline.common.places import SHARED_WORK, Places
from pipeline.common.repro import Busy, StageFailed, dvc, only_one
from pipeline.params import load_or_exit
from pipeline.scoring.paper import findings
from pipeline.sections import Params

VARIANTS = {
    "full": (),
    "without_idt": ("model.use_idt=false",),  # Table 4
    "without_attrt": ("model.use_attrt=false", "train_reenactment.weights.person=0"),  # Table 4; no z_t, nobody in it
    "without_contextual": ("train_swapping.weights.contextual=0",),  # Sec. 4.3 and Fig. 6
    "without_identity": ("train_swapping.weights.identity=0",),  # Sec. 4.3: IDRet from 99.45 to 0.08
    "without_adversarial": ("train_reenactment.weights.adversarial=0", "train_swapping.weights.adversarial=0"),
}
"""Name -> what is set otherwise than in params.yaml."""
METRICS = (
    "id_retrieval", "csim", "csim_target", "aee", "ape", "psnr", "psnr_face", "right_face", "right_expression",
    "right_pose"
)  # fmt: skip
COLUMNS = (
    "variant", "exam", "metric", "value", "low", "high", "pairs", "difference", "difference_low", "difference_high"
)  # fmt: skip
MODEL = "model"  # of the rows of reports/rows, those of the model itself


def ablations(params: Params, root: Path = Path()) -> Path:
    """Run what is missing, one after the other, then write the table; its path.

    Raises StageFailed naming the variants that failed, with DVC's reason; the table has the others.
    """
    prefix, failed = prefix_of(root), []
    shared = {SHARED_WORK: str((root / "work" / "ablations").resolve())}  # what one has made, the next need not
    (root / "work").mkdir(exist_ok=True)
    with only_one(root):  # a command that was killed has perhaps left its experiment at work
        there = done(root)
        for name in (name for name in VARIANTS if f"{prefix}-{name}" not in there):
            options = [word for one in VARIANTS[name] for word in ("-S", one)]
            print(f"ablations: {name}", flush=True)
            try:
                dvc(
                    *("exp", "run", "--temp", "--name", f"{prefix}-{name}", *options, "evaluate"),
                    name=name, root=root, more=shared,
                )  # fmt: skip
            except StageFailed as error:
                print(f"ablations: {error}", file=sys.stderr, flush=True)
                failed.append(name)
    path = table(params, root)
    if failed:
        raise StageFailed(f"ablations: {', '.join(failed)} failed, as said above")
    return path


def prefix_of(root: Path) -> str:
    """What the experiments of today's params.yaml are called by: other params are other experiments."""
    return f"ablation-{digest(root / 'params.yaml')[:6]}"


def done(root: Path) -> set[str]:
    """Names of the finished experiments of the commit that is checked out."""
    return set(_said(root, "exp", "list", "--name-only"))


def _said(root: Path, *arguments: str) -> list[str]:
    found = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments], cwd=root, capture_output=True, text=True, check=False
    )
    if found.returncode:
        raise StageFailed(f"dvc {' '.join(arguments)}: {(found.stderr.strip() or 'no output').splitlines()[-1]}")
    return [line.strip() for line in found.stdout.splitlines() if line.strip()]


# --- the table -----------------------------------------------------------------------------------------------------


def table(params: Params, root: Path = Path()) -> Path:
    """Write reports/ablations.csv of the experiments that are done: every metric of every exam with its 95 % interval,
    and the difference to `full` on the same pairs with its own. A Frechet distance, which no pair has, has no interval.
    """
    prefix, there = prefix_of(root), done(root)
    found = {name: _results(root, f"{prefix}-{name}") for name in VARIANTS if f"{prefix}-{name}" in there}
    path = root / "reports" / "ablations.csv"
    with atomic_write(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for exam, settings in params.evaluate.exams.items():
            for name, (report, rows) in found.items():
                if settings and exam in rows:
                    writer.writerows(_lines(name, exam, report, rows[exam], found.get("full", (None, {}))[1].get(exam)))
    print(f"ablations: {len(found)} of {len(VARIANTS)} variants in {path}")
    with path.open(newline="", encoding="utf-8") as file:
        print(*findings(list(csv.DictReader(file))), sep="\n")
    return path


def _results(root: Path, name: str) -> tuple[dict, dict[str, dict[str, list]]]:
    """metrics.json of an experiment, and of each exam its columns: the model's metrics, and who is in the pairs."""
    from dvc.api import DVCFileSystem

    files = DVCFileSystem(str(root.resolve()), rev=name)
    report = json.loads(files.read_text("reports/metrics.json"))
    columns: dict[str, dict[str, list]] = {}
    for exam in report["exams"]:
        rows = list(csv.DictReader(files.read_text(f"reports/rows/{exam}.csv").splitlines()))
        ours = [row for row in rows if row["picture"] == MODEL]
        listed = list(csv.DictReader(files.read_text(f"reports/pairs/{exam}.csv").splitlines()))
        columns[exam] = {
            metric: [float(row[metric] or "nan") for row in ours] for metric in METRICS if metric in ours[0]
        } | {"who": [[row[f"{role}_identity"] for row in listed] for role in ("source", "target")]}
    return report, columns


def _lines(name: str, exam: str, report: dict, ours: dict[str, list], full: dict[str, list] | None) -> Iterator[dict]:
    from pipeline.scoring.intervals import difference, interval

    who, base = ours["who"], {"variant": name, "exam": exam, "pairs": len(ours["who"][0])}
    for metric, value in report[exam].items():
        if metric in ours:
            low, high = interval(ours[metric], *who) or ("", "")
            line = base | {"metric": metric, "value": value, "low": _short(low), "high": _short(high)}
            same = full is not None and name != "full" and full.get("who") == who and metric in full
            if same and (apart := difference(ours[metric], full[metric], *who)):
                line["difference"] = _short(apart["mean"])
                line["difference_low"], line["difference_high"] = map(_short, apart["interval"])
            yield line
        elif metric.startswith("frechet") or metric == "fid":
            yield base | {"metric": metric, "value": value}


def _short(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.5g}"


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["table"]):
        print("usage: python -m pipeline.ablations [table]", file=sys.stderr)
        return 2
    from pipeline.scoring.page import write_page

    params, places = load_or_exit(), Places()
    try:
        (table if arguments else ablations)(params, places.root)
        if (places.reports / "metrics.json").is_file():
            write_page(params, places)
    except (StageFailed, Busy, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
