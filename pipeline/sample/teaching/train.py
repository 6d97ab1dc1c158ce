"""Trains the sample's frozen nets on rendered pictures, measures them on held-out ones and writes them as ONNX files.

    python -m pipeline.sample.teaching.train -o pipeline/sample/nets

Some 75 minutes on one core, half of that with two processes (`--nets`) that share `--pictures`. Everything follows from
`--seed`. `report.json` says how good each net is; all its numbers come from identities and looks that no net has seen.
"""

import argparse
import json
import time
import warnings
from collections.abc import Iterable
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.common.files import atomic_write, read_json, sha256, write_json
from pipeline.sample.drawing.identity import Attributes, Face
from pipeline.sample.teaching import data as net_data
from pipeline.sample.teaching.detector import train_detector
from pipeline.sample.teaching.measure import detector_quality, enlarged, judge_check, predicted, r2
from pipeline.sample.teaching.models import STRIDES, Cropped, Output, PerceptualRegression, Regression
from uniface.backbones import recogniser_input
from uniface.images import to_tensor

POSE = ("yaw", "pitch", "roll")
EXPRESSION = ("mouth", "smile", "blink", "gaze_x", "gaze_y", "brow", "pucker")
STEPS = {"recogniser": 2400, "judge": 2400, "regressor": 1200, "perceptual": 800, "detector": 2500}
SIZES = len(Face.VECTOR_NAMES), len(Attributes.RANGES)
QUOTED_R2 = 0.6  # an expression that is regressed worse than this has no place among the regressor's outputs
KEPT_R2 = 0.08  # an identity parameter that is regressed worse than this is left out of the embedding
SHRINKAGE = 0.3  # of the covariance within persons, measured on few of them
BATCH = 64


class Standardised:
    """Targets with the training set's mean and deviation taken out."""

    def __init__(self, values: np.ndarray):
        self.mean = torch.from_numpy(values.mean(0))
        self.deviation = torch.from_numpy(values.std(0) + 1e-6)

    def __call__(self, values: Tensor) -> Tensor:
        return (values - self.mean) / self.deviation


def augmented(images: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures (B, 3, 128, 128) moved, zoomed, recoloured; most brought down to 64 px, blurred, noised, and up again.

    Without blur and noise a net would read identity from traces that only a rendering has. As a loss it would then ask
    a generator for noise, not for a face.
    """
    count = len(images)
    uniform = lambda *shape: torch.rand(*shape, generator=generator)  # noqa: E731
    coarse = uniform(count) < 0.8
    images[coarse] = enlarged(worn(F.avg_pool2d(images[coarse], 2), generator))
    zoom = 1 + 0.05 * torch.randn(count, generator=generator)
    matrix = torch.zeros(count, 2, 3)
    matrix[:, 0, 0] = matrix[:, 1, 1] = zoom
    matrix[:, :, 2] = (uniform(count, 2) - 0.5) * 0.1
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, align_corners=False, padding_mode="border")
    gain, lift = 1 + 0.3 * (uniform(count, 3, 1, 1) - 0.5), 0.2 * (uniform(count, 1, 1, 1) - 0.5)
    return ((moved + 1) * gain - 1 + lift).clamp(-1, 1)


def worn(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each picture blurred by up to about 1.2 pixels and noised by up to 0.15, at random."""
    shape = (len(images), 1, 1, 1)
    share = (torch.rand(shape, generator=generator) * 2 - 1).clamp_min(0)  # half of them stay sharp
    soft = F.avg_pool2d(F.avg_pool2d(images, 3, 1, 1, count_include_pad=False), 3, 1, 1, count_include_pad=False)
    level = (torch.rand(shape, generator=generator) * 0.2 - 0.05).clamp_min(0)
    return torch.lerp(images, soft, share) + level * torch.randn(images.shape, generator=generator)


def mirror_signs(names: Iterable[str]) -> Tensor:
    """-1 for the values that a flip left-right negates, 1 for the others."""
    return torch.tensor([-1.0 if name in net_data.MIRRORED else 1.0 for name in names])


def train_regression(
    net: nn.Module, view, data: net_data.Portraits, steps: int, seed: int, weights: tuple[float, float], rate=2e-3
) -> tuple[Standardised, Standardised]:
    """Teach `net(view(images))` the face parameters and attributes of `data`; AdamW, one cycle.

    `weights`: of the two parts of the loss. Gives back how the two targets are standardised.
    """
    generator = torch.Generator().manual_seed(seed)
    targets = [Standardised(data.faces), Standardised(data.attributes)]
    values = [torch.from_numpy(data.faces), torch.from_numpy(data.attributes)]
    signs = [mirror_signs(Face.VECTOR_NAMES), mirror_signs(Attributes.RANGES)]
    net = net.to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(net.parameters(), rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps, pct_start=0.1)
    net.train()
    for step in range(steps):
        chosen = torch.randint(len(data), (BATCH,), generator=generator)
        flipped = torch.rand(BATCH, generator=generator) < 0.5
        images = to_tensor(data.images[chosen.numpy()])
        images[flipped] = images[flipped].flip(3)
        images = view(augmented(images, generator)).contiguous(memory_format=torch.channels_last)
        loss = torch.zeros(())
        for found, target, value, sign, weight in zip(net(images), targets, values, signs, weights, strict=True):
            truth = torch.where(flipped[:, None], value[chosen] * sign, value[chosen])
            loss = loss + weight * F.mse_loss(found, target(truth))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 100 == 0:
            print(f"    step {step}/{steps}: loss {loss.item():.3f}", flush=True)
    net.eval()
    return tuple(targets)


def recogniser(net: Regression, validation: net_data.Portraits, target: Standardised) -> Output:
    """The embedding: predicted face parameters, turned and weighted so that cosines tell persons apart.

    Parameters with a weak R2 on `validation` are dropped. The others are scaled by how much they differ between persons
    and how little between two pictures of one person (PLDA's two covariances, that within persons shrunk to its
    diagonal).
    """
    face, _ = predicted(net, recogniser_input, validation.images)
    kept = r2(face, target(torch.from_numpy(validation.faces))) > KEPT_R2
    found = face[:, kept].double()
    mean, linear = found.mean(0), net.heads.face
    twins = found.unflatten(0, (-1, 2))  # two pictures of one person, one after the other
    within = torch.cov((twins[:, 0] - twins[:, 1]).T / 2**0.5)
    between = torch.cov(found.T) - within
    scale, turn = torch.linalg.eigh(within + SHRINKAGE * within.diagonal().diag())
    whiten = turn @ (scale**-0.5).diag() @ turn.T
    ratio, axes = torch.linalg.eigh(whiten @ between @ whiten)
    ratio, axes = ratio[ratio > 0], axes[:, ratio > 0]
    project = ((whiten @ axes) * (ratio / (1 + ratio)).sqrt()).T.float()
    bias = project @ (linear.bias.data[kept] - mean.float())
    return Output(net, project @ linear.weight.data[kept], bias).eval()


def face_part(images: Tensor) -> Tensor:
    return Cropped(nn.Identity())(images)


def regressor_of(net: Regression, target: Standardised, swaps: net_data.Swaps) -> tuple[nn.Module, dict]:
    """The regressor in degrees and units of `Attributes`, and its quality on held-out portraits."""
    names = list(Attributes.RANGES)
    pictures = np.concatenate([swaps.source, swaps.target])
    truth = torch.from_numpy(np.concatenate([swaps.source_attributes, swaps.target_attributes]))
    found = predicted(net, face_part, pictures)[1] * target.deviation + target.mean
    quality = dict(zip(names, r2(found, truth).tolist(), strict=True))
    error = dict(zip(names, (found - truth).abs().mean(0).tolist(), strict=True))
    quoted = [*POSE, *(name for name in EXPRESSION if quality[name] >= QUOTED_R2)]
    order = [names.index(name) for name in quoted]
    deviation, linear = target.deviation[order], net.heads.attributes
    weight = linear.weight.data[order] * deviation[:, None]
    bias = linear.bias.data[order] * deviation + target.mean[order]
    return Cropped(Output(net, weight, bias)).eval(), {
        "r2": {name: quality[name] for name in quoted},
        "mean_error_degrees": {name: error[name] for name in POSE},
    }


def export(net: nn.Module, example: Tensor, path: Path, outputs: list[str], metadata: dict[str, str]) -> None:
    """Write `net` as ONNX: the batch is free, and height and width where the example is neither 112 nor 128 pixels."""
    import onnx

    axes = {0: "batch"} if example.shape[-1] in (112, 128) else {0: "batch", 2: "height", 3: "width"}
    if len(outputs) == 9:  # insightface's detector: one image at a time
        axes = {2: "height", 3: "width"}
    dynamic = {"images": axes} | ({name: {0: "batch"} for name in outputs} if len(outputs) < 9 else {})
    with atomic_write(path) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # shapes that depend on the net alone become constants, as they should
        torch.onnx.export(
            net.eval(), (example,), str(temporary), input_names=["images"], output_names=outputs,
            dynamic_axes=dynamic, opset_version=13, dynamo=False,
        )  # fmt: skip
        model = onnx.load(temporary)
        for key, value in metadata.items():
            model.metadata_props.add(key=key, value=value)
        onnx.save(model, temporary)


class Pictures:
    """What the nets learn from and are measured on, rendered when first asked for and kept in `folder` if given."""

    def __init__(self, seed: int, faces: int, scenes: int, held_out: int, workers: int, folder: Path | None):
        self.seed, self.faces, self.scenes, self.held_out = seed, faces, scenes, held_out
        self.workers, self.folder = workers, folder

    def _kept(self, name: str, kind: type, draw):
        path = self.folder and self.folder / f"{name}-{self.seed}-{self.faces}-{self.scenes}.npz"
        if path and path.is_file():
            with np.load(path) as arrays:
                return kind(**arrays)
        drawn = draw()
        if path:
            with atomic_write(path) as temporary:
                np.savez(temporary, **vars(drawn))
        return drawn

    @cached_property
    def portraits(self) -> net_data.Portraits:
        draw = partial(net_data.portraits, self.seed, net_data.TRAIN, self.faces, self.workers)
        return self._kept("portraits", net_data.Portraits, draw)

    @cached_property
    def frames(self) -> net_data.Frames:
        draw = partial(net_data.frames, self.seed, net_data.FRAMES, self.scenes, self.workers)
        return self._kept("frames", net_data.Frames, draw)

    @cached_property
    def swaps(self) -> net_data.Swaps:
        return net_data.swaps(self.seed, net_data.HELD_OUT, self.held_out, self.workers)

    @cached_property
    def persons(self) -> np.ndarray:
        return net_data.persons(self.seed, net_data.HELD_OUT_PERSONS, self.held_out, self.workers)

    def split(self) -> tuple[net_data.Portraits, net_data.Portraits]:
        """Portraits to learn from, and others to weigh the embedding by."""
        held_back = max(len(self.portraits) // 40, 50) * 2  # both pictures of a person
        return self.portraits[:-held_back], self.portraits[-held_back:]


def teach_recogniser(name: str, pictures: Pictures, steps: int, out: Path) -> dict:
    """ArcFace's role and CosFace's: the two differ in seed (hence order and augmentation), widths and kernel."""
    offset, widths, kernel = {"recogniser": (1, (24, 48, 96, 128), 3), "judge": (2, (20, 40, 80, 144), 5)}[name]
    torch.manual_seed(pictures.seed + offset)
    training, validation = pictures.split()
    net = Regression(112, *SIZES, widths, kernel)
    target, _ = train_regression(net, recogniser_input, training, steps, pictures.seed + offset, (1.0, 0.3))
    embed = recogniser(net, validation, target)
    export(embed, torch.zeros(1, 3, 112, 112), out / f"{name}.onnx", ["embedding"], {})
    return judge_check(embed, pictures.swaps, pictures.persons) | {"dimensions": embed.linear.out_features}


def teach_regressor(pictures: Pictures, steps: int, out: Path) -> dict:
    """D3DFR's role: it sees the whole picture and crops for itself."""
    torch.manual_seed(pictures.seed + 3)
    net = Regression(96, *SIZES, (20, 40, 80, 128))
    _, target = train_regression(net, face_part, pictures.split()[0], steps, pictures.seed + 3, (0.2, 1.0))
    regressor, quality = regressor_of(net, target, pictures.swaps)
    names = json.dumps(list(quality["r2"]))
    export(regressor, torch.zeros(1, 3, 128, 128), out / "regressor.onnx", ["coefficients"], {"names": names})
    return quality


def teach_perceptual(pictures: Pictures, steps: int, out: Path) -> dict:
    """VGG's role: the trunk of a net that learnt the same regression from 64 px."""
    torch.manual_seed(pictures.seed + 4)
    net = PerceptualRegression(*SIZES)
    at_64 = partial(F.avg_pool2d, kernel_size=2)
    train_regression(net, at_64, pictures.split()[0], steps, pictures.seed + 4, (1.0, 1.0))
    maps = ["relu1", "relu2", "relu3", "relu4"]
    export(net.maps, torch.zeros(1, 3, 64, 64), out / "perceptual.onnx", maps, {})
    return {"maps": maps}


def teach_detector(pictures: Pictures, steps: int, out: Path) -> dict:
    """SCRFD's role."""
    torch.manual_seed(pictures.seed + 5)
    detector = train_detector(pictures.seed + 5, pictures.frames, steps)
    names = [f"{kind}{stride}" for kind in ("score", "box", "points") for stride in STRIDES]
    detector.flat = True
    export(detector, torch.zeros(1, 3, 256, 448), out / "detector.onnx", names, {})
    return detector_quality(out / "detector.onnx", pictures.seed, pictures.held_out)


TEACHERS = {
    "recogniser": partial(teach_recogniser, "recogniser"),
    "judge": partial(teach_recogniser, "judge"),
    "regressor": teach_regressor,
    "perceptual": teach_perceptual,
    "detector": teach_detector,
}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m pipeline.sample.teaching.train", description=__doc__)
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder for the ONNX files and report.json")
    parser.add_argument("--nets", nargs="+", choices=TEACHERS, default=list(TEACHERS), help="train only these")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--faces", type=int, default=12000, help="identities to train on, two pictures each")
    parser.add_argument("--scenes", type=int, default=2000, help="scenes to teach the detector on, two frames each")
    parser.add_argument("--held-out", type=int, default=200, help="pictures, pairs and scenes to measure each net on")
    parser.add_argument("--steps", type=float, default=1.0, help="times the default number of steps of each net")
    parser.add_argument("--workers", type=int, default=2, help="processes that render")
    parser.add_argument("--pictures", type=Path, help="keep the rendered pictures in this folder")
    chosen = parser.parse_args(arguments)
    chosen.out.mkdir(parents=True, exist_ok=True)
    pictures = Pictures(chosen.seed, chosen.faces, chosen.scenes, chosen.held_out, chosen.workers, chosen.pictures)
    for name in chosen.nets:
        steps = max(2, round(chosen.steps * STEPS[name]))
        print(f"{name}: {steps} steps", flush=True)
        started = time.monotonic()
        quality = TEACHERS[name](pictures, steps, chosen.out)
        path = chosen.out / f"{name}.onnx"
        entry = {"seed": chosen.seed, "steps": steps, "seconds": round(time.monotonic() - started)} | quality
        entry |= {"bytes": path.stat().st_size, "sha256": sha256(path)}
        print(json.dumps(entry, indent=1), flush=True)
        report = chosen.out / "report.json"
        known = read_json(report)["nets"] if report.is_file() else {}
        write_json(report, {"nets": known | {name: entry}})


if __name__ == "__main__":
    main()
