"""Stage `evaluate`: both models on held-out identities, beside trivial baselines and controls that no cheat survives.

Three tasks (Sec. 4.2): reconstruction (source and target of one clip), reenactment (of two persons), swapping (of two
portraits). Where the sample made the data, the exact answer is rendered and PSNR, SSIM and a perceptual distance to it
say how far off a result is; elsewhere these are only there for reconstruction, whose answer is the target.
The first two use the model of stage 1, swapping that of stage 2. The same command writes the same reports.
"""

import csv
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.common.bucket import disk
from pipeline.common.files import atomic_write, weights_digest, write_json
from pipeline.common.places import Places, main
from pipeline.scoring.decoys import decoys, looks_right
from pipeline.scoring.held_out import Pairs, clip_pairs, exact, others, portrait_pairs
from pipeline.scoring.paper import write_comparison
from pipeline.sections import Params
from uniface.config import TASKS, Task

if TYPE_CHECKING:
    from pipeline.scoring.scorer import Row, Scorer
    from uniface.model import UniFace

EXAMS = ("reconstruction", "reenactment", "swapping")  # names of sections of metrics.json, in their order
BLUR = 1 / 64  # sigma of the blurred baselines, of the image's side: 1 pixel at 64
TRUTH_BLUR = 2.5 / 64  # of the truth as a baseline: what a smear of the right person would get
HEADLINES = ("psnr", "above_mean_frame", "right_face", "right_expression", "right_pose", "csim", "csim_target", "ape")
CHECK_MARGIN, CHECK_SHARE = 0.5, 0.95  # what the judge must see in exact swaps, to be believed about others


def evaluate(params: Params, places: Places) -> dict:
    """Measure both models and write reports/metrics.json, the extracts headlines.json and baselines.csv, vs_paper.csv
    and samples/*.png.

    Returns what metrics.json holds. Raises FileNotFoundError or ValueError for missing or unusable inputs.
    """
    return examine({task: places.model(task) for task in TASKS}, places.reports, params, places)


def examine(models: Mapping[Task, Path], out: Path, params: Params, places: Places) -> dict:
    """`evaluate` for any two model files (task -> file), with the reports in the folder `out`."""
    import torch

    from pipeline.scoring.scorer import DEFINITIONS, FIXED, IDENTITY, Scorer
    from uniface.data import ClipDataset, PairDataset
    from uniface.model import UniFace

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    settings = params.evaluate
    nets = {task: UniFace.load(path).to(device).eval() for task, path in models.items()}
    scorer = Scorer(places.nets, settings.batch_size, device)
    clips = ClipDataset(places.clips, "test", disk=disk(params.compute))
    listed = "evaluation" if (places.pairs / "evaluation.parquet").is_file() else "test"
    sets = {
        "reconstruction": clip_pairs(clips, settings.pairs, params.seed, cross=False),
        "reenactment": clip_pairs(clips, settings.pairs, params.seed, cross=True),
        "swapping": portrait_pairs(PairDataset(places.pairs, listed, disk=disk(params.compute)), settings.pairs),
    }
    report: dict = {exam: {} for exam in EXAMS} | {"baselines": {}, "controls": {}}
    for exam, (chosen, jobs) in sets.items():
        task = "swapping" if exam == "swapping" else "reenactment"
        if exam == "reconstruction":
            chosen = replace(chosen, truth=chosen.target)
        elif (params.pairs if task == "swapping" else params.download).source == "sample":
            answers, wrong = exact(task, jobs, params, places.work), decoys(task, jobs, params, places.work)
            chosen = replace(chosen, truth=answers, decoys=wrong)
        run = runner(nets[task], task, settings.batch_size)
        numbers, baselines, controls, made = measure(exam, run, chosen, scorer)
        report[exam], report["baselines"][exam], report["controls"][exam] = numbers, baselines, controls
        write_sheet(out / "samples" / f"{exam}.png", columns(exam, chosen, made), settings.grid_rows)
        if exam != "reconstruction":
            explain(nets[task], task, chosen, out / "samples", settings.grid_rows)
    report["networks"] = scorer.networks()
    if check := report["controls"]["swapping"].get("judge_check"):
        for metric in IDENTITY:
            report["networks"][metric]["passes_check"] = check["passed"]
            report["networks"][metric + FIXED]["passes_check"] = check["fixed_crop"]["passed"]
    report["pairs"] = {exam: len(chosen) for exam, (chosen, _) in sets.items()}
    report["models"] = {exam: f"stage {1 + (exam == 'swapping')}" for exam in EXAMS}
    report["weights"] = {task: weights_digest(path) for task, path in models.items()}  # `register` compares
    report["definitions"] = DEFINITIONS
    write_json(out / "metrics.json", report)
    write_json(out / "headlines.json", headlines(report))
    write_baselines(out / "baselines.csv", report)
    write_comparison(out / "vs_paper.csv", report, params)
    for exam in EXAMS:
        print(f"evaluate: {exam}: " + ", ".join(f"{name} {value:.4g}" for name, value in report[exam].items()))
    return report


# --- measuring -----------------------------------------------------------------------------------------------------

Run = Callable[[np.ndarray, np.ndarray], np.ndarray]


def runner(model: "UniFace", task: Task, batch_size: int) -> Run:
    """The model as a function of uint8 pictures (N, H, W, 3), as a user would get them."""
    import torch

    from uniface.images import to_tensor, to_uint8

    device = next(model.parameters()).device

    @torch.inference_mode()
    def run(source: np.ndarray, target: np.ndarray) -> np.ndarray:
        starts = range(0, len(source), batch_size)
        cut = [[to_tensor(x[s : s + batch_size]).to(device) for x in (source, target)] for s in starts]
        return np.concatenate([to_uint8(model(*images, task=task)) for images in cut])

    return run


def measure(exam: str, run: Run, pairs: Pairs, scorer: "Scorer") -> tuple[dict, dict, dict, dict[str, np.ndarray]]:
    """The model's numbers, the baselines', the controls', and what the model made of right and wrong inputs."""
    import torch

    from pipeline.scoring.scorer import means
    from uniface.metrics import frechet

    print(f"evaluate: {exam}, {len(pairs)} pairs", flush=True)
    source, target = scorer.know(pairs.source), scorer.know(pairs.target)
    real = torch.cat([source.pooled, target.pooled])
    mean_frame = None
    if pairs.truth is not None and pairs.mean_frame is not None:
        mean_frame = scorer.compare(pairs.mean_frame, pairs.truth)["psnr"]

    def row(pictures: np.ndarray) -> tuple["Row", dict[str, float]]:
        found = scorer.know(pictures)
        values = scorer.judged(found, source, target, pairs)
        if pairs.truth is not None:
            compared = scorer.compare(pictures, pairs.truth, pairs.target if exam == "swapping" else None)
            if mean_frame is not None:
                compared["above_mean_frame"] = compared["psnr"] - mean_frame
            values = compared | looks_right(pictures, pairs) | values
        return values, means(values) | {scorer.frechet: round(frechet(found.pooled, real), 5)}

    made = {"right": run(pairs.source, pairs.target)}
    right, numbers = row(made["right"])
    baselines = {name: row(pictures)[1] for name, pictures in _trivial(exam, pairs).items()}
    if exam == "reconstruction":
        return numbers, baselines, {}, made
    controls: dict = {}
    if pairs.truth is not None:
        answers, baselines["exact_truth"] = row(pairs.truth)
        baselines["blurred_truth"] = row(_blurred(pairs.truth, TRUTH_BLUR))[1]
        if exam == "swapping":
            controls["judge_check"] = _judge_check(answers)
        else:  # the right pose on the right person: what the driver's own look costs is missing here
            controls["truth_as_driver"] = row(run(pairs.source, pairs.truth))[1]
    # shuffle one input; the answer stays that of the right one
    source_order = others(pairs.source_identity, pairs.target_identity)
    driver_order = others(pairs.target_identity, pairs.source_identity)
    if source_order is not None:
        made["wrong source"] = run(pairs.source[source_order], pairs.target)
        wrong, controls["shuffled_source"] = row(made["wrong source"])
        if exam == "swapping":
            controls["wrong_source"] = _right_beats_wrong(right, wrong)
    if driver_order is not None:
        made["wrong driver"] = run(pairs.source, pairs.target[driver_order])
        controls["shuffled_driver"] = row(made["wrong driver"])[1]
    for shuffled in (controls[name] for name in ("shuffled_source", "shuffled_driver") if name in controls):
        if "psnr" in numbers:
            shuffled["psnr_drop"] = round(numbers["psnr"] - shuffled["psnr"], 5)
    if exam == "swapping":
        controls["self"] = means({"psnr": scorer.compare(run(pairs.target, pairs.target), pairs.target)["psnr"]})
    return numbers, baselines, controls, made


def _blurred(pictures: np.ndarray, sigma: float) -> np.ndarray:
    """Blurred by a Gaussian whose sigma is this share of the side."""
    from uniface.images import to_tensor, to_uint8
    from uniface.metrics import blurred

    pixels = sigma * pictures.shape[1]
    return np.stack([to_uint8(blurred(to_tensor(picture)[None], pixels))[0] for picture in pictures])


def _trivial(exam: str, pairs: Pairs) -> dict[str, np.ndarray]:
    """What needs no model: the inputs themselves, blurred, and the mean frame of the source's video."""
    found = {"copy_source": pairs.source, "blurred_source": _blurred(pairs.source, BLUR)}
    if exam != "reconstruction":  # whose target is the answer
        found |= {"copy_target": pairs.target, "blurred_target": _blurred(pairs.target, BLUR)}
    if pairs.mean_frame is not None:
        found["mean_frame"] = pairs.mean_frame
    return found


def _judge_check(exact_values: "Row") -> dict:
    """May the judge judge? It must see the source, not the target, in exact swaps; so with aligned faces, and beside
    that with the released protocol's crop."""
    return _seen(exact_values, "") | {"fixed_crop": _seen(exact_values, "_fixed_crop")}


def _seen(values: "Row", crop: str) -> dict:
    source, target = values[f"csim{crop}"], values[f"csim_target{crop}"]
    # rounded first: 190 of 200 in float32 are a hair below 0.95
    margin, share = (round(float(values.mean()), 5) for values in (source - target, (source > target).double()))
    return {"margin": margin, "right_share": share, "passed": margin >= CHECK_MARGIN and share >= CHECK_SHARE}


def _right_beats_wrong(right: "Row", wrong: "Row") -> dict[str, float]:
    """How often, and by how much, the right source gives a better face than another one does."""
    found = {}
    if "psnr_face" in right:
        gain = (right["psnr_face"] - wrong["psnr_face"])[~right["psnr_face"].isnan()]
        found = {"right_beats_wrong": float((gain > 0).float().mean()), "psnr_face_gain": float(gain.mean())}
    found["right_beats_wrong_by_judge"] = float((right["csim"] > wrong["csim"]).float().mean())
    return {name: round(value, 5) for name, value in found.items()}


# --- reports -------------------------------------------------------------------------------------------------------


def headlines(report: Mapping[str, dict]) -> dict[str, dict[str, float]]:
    """The few numbers of `dvc metrics show`: exam -> metric -> number; what was not measured is left out."""
    found = {exam: {name: report[exam][name] for name in HEADLINES if name in report[exam]} for exam in EXAMS}
    if wrong := report["controls"]["swapping"].get("wrong_source"):
        found["swapping"] |= {name: wrong[name] for name in ("right_beats_wrong",) if name in wrong}
    return found


def write_baselines(path: Path, report: Mapping[str, dict]) -> None:
    """The model beside baselines and controls, a row each, for `dvc plots show`."""
    rows = []
    for exam in EXAMS:
        beside = {"the model": report[exam], **report["baselines"][exam], **report["controls"][exam]}
        for name, values in beside.items():
            if "csim" in values:  # measured as the model was
                label = f"{exam}: {name.replace('_', ' ')}"
                rows.append([label, *(values.get(metric, "") for metric in ("psnr", "csim", "csim_target"))])
    with atomic_write(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("picture", "psnr", "csim", "csim_target"))
        writer.writerows(rows)


def columns(exam: str, pairs: Pairs, made: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Label -> pictures (N, H, W, 3), in the order of the sheet."""
    found = {"source": pairs.source, "target": pairs.target, "output": made["right"]}
    if exam != "reconstruction":
        found |= {"exact truth": pairs.truth, "mean frame": pairs.mean_frame}
        found |= {f"{kind}: output": made.get(kind) for kind in ("wrong source", "wrong driver")}
    return {label: pictures for label, pictures in found.items() if pictures is not None}


def write_sheet(path: Path, pictures: dict[str, np.ndarray], rows: int) -> None:
    """The first pairs as a labelled sheet."""
    from pipeline.common.sheets import sheet
    from uniface.images import write_image

    write_image(path, sheet(list(pictures), [column[:rows] for column in pictures.values()]))


def explain(model: "UniFace", task: Task, pairs: Pairs, folder: Path, rows: int) -> None:
    """Fig. 9's displacement field (stage 1) and Fig. 8's attention (stage 2) of the first pairs."""
    from pipeline.scoring.sheets import attention_sheet, fdf_sheet
    from uniface.images import write_image

    draw, name = (attention_sheet, "attention") if task == "swapping" else (fdf_sheet, "fdf")
    picture = draw(model, pairs.source[:rows], pairs.target[:rows])
    if picture is not None:
        write_image(folder / f"{name}.png", picture)


if __name__ == "__main__":
    main(evaluate)
