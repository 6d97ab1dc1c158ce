"""Stage `evaluate`: both models on held-out identities, beside trivial baselines and controls that no cheat survives.

Its exams are listed in params.yaml (`evaluate.exams`), such as the three of Sec. 4.2: reconstruction (source and
target of one clip), reenactment (of two persons), swapping (of two portraits). Where the sample made the data, the
exact answer is rendered and PSNR, SSIM and a perceptual distance to it say how far off a result is; elsewhere these are
only there for reconstruction, whose answer is the target. The same command writes the same reports. What was measured
of a picture is kept in work/evaluate: an interrupted evaluation goes on, and a second one of the same model computes
next to nothing.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pipeline.common.code import code
from pipeline.common.files import digest, weights_digest, write_json
from pipeline.common.places import Places, main
from pipeline.scoring import tables
from pipeline.scoring.decoys import looks_right
from pipeline.scoring.exams import SAME, pairs_of, write_list
from pipeline.scoring.held_out import Pairs, others
from pipeline.scoring.paper import write_comparison
from pipeline.scoring.reports import (
    beside,
    columns,
    explain,
    headlines,
    write_baselines,
    write_extremes,
    write_rows,
    write_sheet,
)
from pipeline.sections import Params
from uniface.config import TASKS, Task

if TYPE_CHECKING:
    import torch

    from pipeline.scoring.features import Pictures
    from pipeline.scoring.scorer import Row, Scorer
    from uniface.model import UniFace

BLUR = 1 / 64  # sigma of the blurred baselines, of the image's side: 1 pixel at 64
TRUTH_BLUR = 2.5 / 64  # of the truth as a baseline: what a smear of the right person would get
CHECK_MARGIN, CHECK_SHARE = 0.5, 0.95  # what the judge must see in exact swaps, to be believed about others


def evaluate(params: Params, places: Places) -> dict:
    """Measure both models and write reports/metrics.json, the extracts headlines.json and baselines.csv, intervals.csv,
    vs_paper.csv, rows/*.csv (every pair), pairs/*.csv (which those are), samples/*.png, and the page of all that,
    index.html.

    Returns what metrics.json holds. Raises FileNotFoundError or ValueError for missing or unusable inputs.
    """
    from pipeline.scoring.page import write_page

    report = examine({task: places.model(task) for task in TASKS}, places.reports, params, places)
    write_page(params, places)
    return report


def examine(models: Mapping[Task, Path], out: Path, params: Params, places: Places) -> dict:
    """`evaluate` for any two model files (task -> file), with the reports in the folder `out`."""
    import torch

    from pipeline.scoring.scorer import DEFINITIONS, FIXED, IDENTITY, Scorer

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    settings = params.evaluate
    exams = {name: exam for name, exam in settings.exams.items() if exam}
    nets = {task: _load(models[task], params, device) for task in TASKS if task in {e.model for e in exams.values()}}
    scorer = Scorer(places.nets, settings.batch_size, device, places.work / "evaluate" / "features")
    weights = {task: weights_digest(path) for task, path in models.items()}
    sections = ("baselines", "controls", "pairs", "intervals", "frechet")
    report: dict = {name: {} for name in exams} | {section: {} for section in sections}
    report["exams"] = {name: asdict(exam) for name, exam in exams.items()}
    explained, lines = set(), []
    for name, exam in exams.items():
        chosen, same = pairs_of(name, exam, params, places), exam.pairs in SAME
        run = Runner(nets[exam.model], exam.task, settings.batch_size, weights[exam.model])
        print(f"evaluate: {name}, {len(chosen)} pairs", flush=True)
        found = measure(exam.task, run, chosen, scorer, same)
        report[name], report["baselines"][name], report["controls"][name] = found[:3]
        report["pairs"][name] = len(chosen)
        write_list(out / "pairs" / f"{name}.csv", chosen)
        write_rows(out / "rows" / f"{name}.csv", found.rows)
        report["frechet"][name] = found.frechet
        pairwise = tables.beside(tables.table(chosen, found.rows), tables.champion(places, name))
        lines += tables.intervals(
            name, pairwise, {p: {scorer.frechet: n[scorer.frechet]} for p, n in beside(name, report).items()}
        )
        shown = columns(chosen, found.made, same)
        write_sheet(out / "samples" / f"{name}.png", shown, settings.grid_rows)
        write_extremes(out / "samples" / f"{name}_extremes.png", name, pairwise, shown)
        if not same and exam.task not in explained:
            explained.add(exam.task)
            explain(nets[exam.model], exam.task, chosen, out / "samples", settings.grid_rows)
    report["networks"] = scorer.networks()
    checks = [controls["judge_check"] for controls in report["controls"].values() if "judge_check" in controls]
    if checks:
        for metric in IDENTITY:
            report["networks"][metric]["passes_check"] = checks[0]["passed"]
            report["networks"][metric + FIXED]["passes_check"] = checks[0]["fixed_crop"]["passed"]
    report["models"] = {name: f"stage {1 + (exam.model == 'swapping')}" for name, exam in exams.items()}
    report["weights"] = weights  # `register` compares
    report["definitions"] = DEFINITIONS
    for line in lines:
        if line["picture"] == tables.MODEL and line["low"] is not None:
            report["intervals"].setdefault(line["exam"], {})[line["metric"]] = [line["low"], line["high"]]
    write_json(out / "metrics.json", report)
    tables.write_intervals(out / "intervals.csv", lines)
    write_json(out / "headlines.json", headlines(report))
    write_baselines(out / "baselines.csv", report)
    write_comparison(out / "vs_paper.csv", report, params)
    scorer.tidy()
    for name in exams:
        print(f"evaluate: {name}: " + ", ".join(f"{metric} {value:.4g}" for metric, value in report[name].items()))
    return report


def _load(path: Path, params: Params, device: "torch.device") -> "UniFace":
    """A model. Raises ValueError if it makes pictures of another size than the data are."""
    from uniface.model import UniFace, read_metadata

    size = read_metadata(path)[0].image_size
    if size != params.image_size:
        raise ValueError(f"{path} makes pictures of {size} pixels, image_size is {params.image_size}: train it again")
    return UniFace.load(path).to(device).eval()


# --- measuring -----------------------------------------------------------------------------------------------------

Run = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Runner:
    """The model as a function of uint8 pictures (N, H, W, 3), as a user would get them.

    `name` is a digest of what it does; with it, what it makes is made when it is looked at. Empty without the digest of
    its `weights`.
    """

    def __init__(self, model: "UniFace", task: Task, batch_size: int, weights: str = ""):
        self._model, self._task, self._batch_size = model, task, batch_size
        self._device = next(model.parameters()).device
        self.name = weights and digest(weights, task, batch_size, self._device.type, code("uniface.model"))

    def __call__(self, source: np.ndarray, target: np.ndarray) -> np.ndarray:
        import torch

        from uniface.images import to_tensor, to_uint8

        made = []
        with torch.inference_mode():
            for start in range(0, len(source), self._batch_size):
                rows = slice(start, start + self._batch_size)
                images = [to_tensor(x[rows]).to(self._device) for x in (source, target)]
                made.append(to_uint8(self._model(*images, task=self._task)))
        return np.concatenate(made)


class Measured(NamedTuple):
    """The model's numbers, the baselines', the controls', what the model made of right and wrong inputs, and all rows.

    `rows`: "model", or the name of a baseline or control -> metric -> its value for each pair.
    """

    numbers: dict
    baselines: dict
    controls: dict
    made: "dict[str, Pictures]"
    rows: "dict[str, Row]"
    frechet: dict  # of `tables.frechet_bias`


def measure(task: Task, run: Run, pairs: Pairs, scorer: "Scorer", same: bool = False) -> Measured:
    """A task done by `run` on the pairs, beside baselines and controls. `same`: the answer is the target itself."""
    import torch

    from pipeline.scoring.features import Pictures
    from pipeline.scoring.scorer import means
    from uniface.metrics import frechet

    sources, targets = Pictures(pairs.source), Pictures(pairs.target)
    truth = None if pairs.truth is None else Pictures(pairs.truth)
    source, target = scorer.know(sources), scorer.know(targets)
    real = torch.cat([source.pooled, target.pooled])
    rows: dict[str, Row] = {}
    mean_frame = None
    if truth is not None and pairs.mean_frame is not None:
        mean_frame = scorer.compare(pairs.mean_frame, truth)["psnr"]

    def act(a: Pictures, b: Pictures) -> Pictures:
        return Pictures.made(run, a, b, name=getattr(run, "name", ""))

    answers = [Pictures(wrong.reshape(-1, *wrong.shape[2:])) for wrong in pairs.decoys.values()]

    def right(pictures: Pictures) -> "Row":
        if not answers:
            return {}
        name = f"right {code('pipeline.scoring.decoys')}"
        found = scorer.remembered(name, [pictures, truth, *answers], lambda: looks_right(pictures, pairs))
        return {metric: found[metric] for metric in pairs.decoys}  # in an order that no file decides

    def row(name: str, pictures: Pictures) -> dict[str, float]:
        found = scorer.know(pictures)
        values = scorer.judged(found, source, target, pairs)
        if truth is not None:
            compared = scorer.compare(pictures, truth, targets if task == "swapping" else None)
            if mean_frame is not None:
                compared["above_mean_frame"] = compared["psnr"] - mean_frame
            values = compared | right(pictures) | values
        rows[name] = values
        return means(values) | {scorer.frechet: round(frechet(found.pooled, real), 5)}

    made = {"right": act(sources, targets)}
    numbers = row("model", made["right"])
    baselines = {name: row(name, Pictures(pictures)) for name, pictures in _trivial(pairs, same).items()}
    controls: dict = {}
    bias = tables.frechet_bias(scorer.know(made["right"]).pooled, source.pooled, target.pooled)
    measured = Measured(numbers, baselines, controls, made, rows, bias)
    if same:
        return measured
    if truth is not None:
        baselines["exact_truth"] = row("exact_truth", truth)
        baselines["blurred_truth"] = row("blurred_truth", Pictures(_blurred(pairs.truth, TRUTH_BLUR)))
        if task == "swapping":
            controls["judge_check"] = _judge_check(rows["exact_truth"])
        else:  # the right pose on the right person: what the driver's own look costs is missing here
            controls["truth_as_driver"] = row("truth_as_driver", act(sources, truth))
    # shuffle one input; the answer stays that of the right one
    source_order = others(pairs.source_identity, pairs.target_identity)
    driver_order = others(pairs.target_identity, pairs.source_identity)
    if source_order is not None:
        made["wrong source"] = act(Pictures(pairs.source[source_order]), targets)
        controls["shuffled_source"] = row("shuffled_source", made["wrong source"])
        if task == "swapping":
            controls["wrong_source"] = _right_beats_wrong(rows["model"], rows["shuffled_source"])
    if driver_order is not None:
        made["wrong driver"] = act(sources, Pictures(pairs.target[driver_order]))
        controls["shuffled_driver"] = row("shuffled_driver", made["wrong driver"])
    for shuffled in (controls[name] for name in ("shuffled_source", "shuffled_driver") if name in controls):
        if "psnr" in numbers:
            shuffled["psnr_drop"] = round(numbers["psnr"] - shuffled["psnr"], 5)
    if task == "swapping":
        controls["self"] = means({"psnr": scorer.compare(act(targets, targets), targets)["psnr"]})
    return measured


def _blurred(pictures: np.ndarray, sigma: float) -> np.ndarray:
    """Blurred by a Gaussian whose sigma is this share of the side."""
    from uniface.images import to_tensor, to_uint8
    from uniface.metrics import blurred

    pixels = sigma * pictures.shape[1]
    return np.stack([to_uint8(blurred(to_tensor(picture)[None], pixels))[0] for picture in pictures])


def _trivial(pairs: Pairs, same: bool) -> dict[str, np.ndarray]:
    """What needs no model: the inputs themselves, blurred, and the mean frame of the source's video."""
    found = {"copy_source": pairs.source, "blurred_source": _blurred(pairs.source, BLUR)}
    if not same:  # where the target is the answer
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


if __name__ == "__main__":
    main(evaluate)
