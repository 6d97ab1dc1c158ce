"""Trains the sample's frozen nets on rendered pictures, measures them on held-out ones and writes them as ONNX files.

    python -m pipeline.sample.train_nets -o pipeline/sample/nets

About a quarter of an hour on two cores. Everything follows from `--seed`. `report.json` says how good each net is; all
its numbers come from identities and looks that no net has seen.
"""

import argparse
import json
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.files import atomic_write, sha256, write_json
from pipeline.sample import net_data
from pipeline.sample.identity import Attributes, Face
from pipeline.sample.net_detector import train_detector
from pipeline.sample.net_models import Cropped, Output, PerceptualRegression, Regression
from uniface.backbones import recogniser_input

POSE = ("yaw", "pitch", "roll")
EXPRESSION = ("mouth", "smile", "blink", "gaze_x", "gaze_y", "brow", "pucker")
STEPS = {"recogniser": 1200, "judge": 500, "regressor": 400, "perceptual": 350, "detector": 700}
KEPT_R2 = 0.08  # an identity parameter that is regressed worse than this is left out of the embedding
BATCH = 64


class Standardised:
    """Targets with the training set's mean and deviation taken out."""

    def __init__(self, values: np.ndarray):
        self.mean = torch.from_numpy(values.mean(0))
        self.deviation = torch.from_numpy(values.std(0) + 1e-6)

    def __call__(self, values: np.ndarray) -> Tensor:
        return (torch.from_numpy(values) - self.mean) / self.deviation


def to_images(pictures: np.ndarray) -> Tensor:
    """uint8 (N, H, W, 3) to float (N, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float().div(127.5).sub(1)


def augmented(images: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures (B, 3, 128, 128) moved, zoomed, recoloured, and half of them brought down to 64 px and up again."""
    count = len(images)
    uniform = lambda *shape: torch.rand(*shape, generator=generator)  # noqa: E731
    zoom = 1 + 0.05 * torch.randn(count, generator=generator)
    matrix = torch.zeros(count, 2, 3)
    matrix[:, 0, 0] = matrix[:, 1, 1] = zoom
    matrix[:, :, 2] = (uniform(count, 2) - 0.5) * 0.1
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, align_corners=False, padding_mode="border")
    half = F.interpolate(F.avg_pool2d(moved, 2), scale_factor=2.0, mode="bilinear", align_corners=False)
    moved = torch.where(uniform(count, 1, 1, 1) < 0.5, half, moved)
    gain, lift = 1 + 0.3 * (uniform(count, 3, 1, 1) - 0.5), 0.2 * (uniform(count, 1, 1, 1) - 0.5)
    return ((moved + 1) * gain - 1 + lift).clamp(-1, 1)


def train_regression(
    net: nn.Module, view, data: net_data.Portraits, steps: int, seed: int, faces_weight: float, rate: float = 2e-3
) -> tuple[Standardised, Standardised]:
    """Teach `net(view(images))` the face parameters and attributes of `data`; AdamW, one cycle."""
    generator = torch.Generator().manual_seed(seed)
    face_target, attribute_target = Standardised(data.faces), Standardised(data.attributes)
    faces, attributes = face_target(data.faces), attribute_target(data.attributes)
    optimiser = torch.optim.AdamW(net.parameters(), rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps, pct_start=0.1)
    net.train()
    for _ in range(steps):
        chosen = torch.randint(len(data), (BATCH,), generator=generator)
        images = view(augmented(to_images(data.images[chosen.numpy()]), generator))
        face, attribute = net(images)
        loss = faces_weight * F.mse_loss(face, faces[chosen]) + F.mse_loss(attribute, attributes[chosen])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    net.eval()
    return face_target, attribute_target


@torch.no_grad()
def predicted(net: nn.Module, view, pictures: np.ndarray) -> tuple[Tensor, Tensor]:
    """Standardised face parameters and attributes of pictures, as seen through 64 px."""
    parts = [net(view(seen_at_64(to_images(pictures[i : i + 100])))) for i in range(0, len(pictures), 100)]
    return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])


def seen_at_64(images: Tensor) -> Tensor:
    return F.interpolate(F.avg_pool2d(images, 2), scale_factor=2.0, mode="bilinear", align_corners=False)


def r2(prediction: Tensor, truth: Tensor) -> Tensor:
    return 1 - ((prediction - truth) ** 2).mean(0) / truth.var(0, correction=0).clamp_min(1e-6)


def recogniser(net: Regression, validation: net_data.Portraits, target: Standardised) -> Output:
    """The embedding: each predicted parameter weighted by the root of its R2 on `validation`, weak ones dropped."""
    face, _ = predicted(net, recogniser_input, validation.images)
    quality = r2(face, target(validation.faces)).clamp(0, 1)
    kept = quality > KEPT_R2
    weight = quality[kept].sqrt()
    linear = net.heads.face
    return Output(net, linear.weight.data[kept] * weight[:, None], linear.bias.data[kept] * weight).eval()


@torch.no_grad()
def gate(embed: nn.Module, swaps: net_data.Swaps, persons: np.ndarray) -> dict[str, float]:
    """May this recogniser judge swaps? On the exact swap it must see the source, and look past the target."""

    def embedding(pictures: np.ndarray) -> Tensor:
        return F.normalize(embed(recogniser_input(seen_at_64(to_images(pictures)))), dim=1)

    source, target, swapped = (embedding(p) for p in (swaps.source, swaps.target, swaps.swapped))
    to_source, to_target = (swapped * source).sum(1), (swapped * target).sum(1)
    everyone = swapped @ source.T
    right, wrong = everyone.diagonal(), everyone[~torch.eye(len(source), dtype=torch.bool)]
    first, second = embedding(persons[:, 0]), embedding(persons[:, 1])
    same, other = (first * second).sum(1), (first * second.roll(1, 0)).sum(1)
    scores = torch.cat([same, other])
    accuracy = max(float(((same >= t).float().mean() + (other < t).float().mean()) / 2) for t in scores)
    return {
        "similarity_to_source": float(to_source.mean()),
        "similarity_to_target": float(to_target.mean()),
        "difference": float((to_source - to_target).mean()),
        "right_share": float((to_source > to_target).float().mean()),
        "auc": float((right[:, None] > wrong[None]).float().mean()),
        "verification_accuracy": accuracy,
        "pairs": len(source),
    }


def face_part(images: Tensor) -> Tensor:
    return Cropped(nn.Identity())(images)


def regressor_of(net: Regression, target: Standardised, swaps: net_data.Swaps) -> tuple[nn.Module, dict]:
    """The regressor in degrees and units of `Attributes`, and its quality on held-out portraits."""
    order = [list(Attributes.RANGES).index(name) for name in (*POSE, *EXPRESSION)]
    deviation, mean = target.deviation[order], target.mean[order]
    linear = net.heads.attributes
    weight, bias = linear.weight.data[order] * deviation[:, None], linear.bias.data[order] * deviation + mean
    pictures = np.concatenate([swaps.source, swaps.target])
    truth = np.concatenate([swaps.source_attributes, swaps.target_attributes])[:, order]
    _, found = predicted(net, face_part, pictures)
    found = found[:, order] * deviation + mean
    error = (found - torch.from_numpy(truth)).abs().mean(0)
    quality = r2(found, torch.from_numpy(truth))
    names = (*POSE, *EXPRESSION)
    return Cropped(Output(net, weight, bias)).eval(), {
        "r2": {name: float(value) for name, value in zip(names, quality, strict=True)},
        "mean_error_degrees": {name: float(error[i]) for i, name in enumerate(POSE)},
    }


def detector_quality(path: Path, seed: int) -> dict[str, float]:
    """Recall at IoU >= 0.7, mean IoU, landmark error in eye distances, on held-out frames, through insightface."""
    from uniface.faces import Faces

    frames = net_data.frames(seed, net_data.HELD_OUT_FRAMES, 60, 1)
    faces = Faces(path.parent, threads=1, recognise=False)
    overlaps, errors, surplus = [], [], 0
    for image, boxes, landmarks in zip(frames.images, frames.boxes, frames.landmarks, strict=True):
        found = faces.detect(image)
        matched = 0
        for box, points in zip(boxes, landmarks, strict=True):
            if np.isnan(box).any():
                continue
            best = max(((iou(box, one.box), one) for one in found), key=lambda pair: pair[0], default=(0.0, None))
            overlaps.append(best[0])
            if best[0] >= 0.5:
                matched += 1
                eyes = np.linalg.norm(points[0] - points[1])
                errors.append(np.linalg.norm(best[1].landmarks - points, axis=1).mean() / eyes)
        surplus += len(found) - matched
    return {
        "recall_at_iou_0.7": float(np.mean(np.array(overlaps) >= 0.7)),
        "mean_iou": float(np.mean(overlaps)),
        "landmark_error": float(np.median(errors)),
        "surplus_per_frame": surplus / len(frames.images),
        "faces": len(overlaps),
    }


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes (left, top, right, bottom)."""
    cross = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None).prod()
    return float(cross / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - cross))


def export(net: nn.Module, example: Tensor, path: Path, outputs: list[str], metadata: dict[str, str]) -> None:
    """Write `net` as ONNX: the batch is free, and height and width where the example is neither 112 nor 128 pixels."""
    import onnx

    axes = {0: "batch"} if example.shape[-1] in (112, 128) else {0: "batch", 2: "height", 3: "width"}
    if len(outputs) == 9:  # insightface's detector: one image at a time
        axes = {2: "height", 3: "width"}
    dynamic = {"images": axes} | ({name: {0: "batch"} for name in outputs} if len(outputs) < 9 else {})
    with atomic_write(path) as temporary:
        torch.onnx.export(
            net.eval(), (example,), str(temporary), input_names=["images"], output_names=outputs,
            dynamic_axes=dynamic, opset_version=13, dynamo=False,
        )  # fmt: skip
        model = onnx.load(temporary)
        for key, value in metadata.items():
            model.metadata_props.add(key=key, value=value)
        onnx.save(model, temporary)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m pipeline.sample.train_nets", description=__doc__)
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder for the ONNX files and report.json")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--faces", type=int, default=4000, help="identities to train on, two pictures each")
    parser.add_argument("--frames", type=int, default=1000, help="scenes to teach the detector on, two frames each")
    parser.add_argument("--steps", type=float, default=1.0, help="times the default number of steps of each net")
    parser.add_argument("--workers", type=int, default=2, help="processes that render")
    chosen = parser.parse_args(arguments)
    chosen.out.mkdir(parents=True, exist_ok=True)
    seed, workers = chosen.seed, chosen.workers
    steps = {name: max(2, round(chosen.steps * count)) for name, count in STEPS.items()}
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - started:6.0f} s  {text}", flush=True)

    data = net_data.portraits(seed, net_data.TRAIN, chosen.faces, workers)
    swaps = net_data.swaps(seed, net_data.HELD_OUT, 200, workers)
    persons = net_data.persons(seed, net_data.HELD_OUT_PERSONS, 200, workers)
    say(f"rendered {len(data)} pictures to learn from")
    held_back = max(len(data) // 20, 100)
    training, validation = data[:-held_back], data[-held_back:]
    sizes = len(Face.VECTOR_NAMES), len(Attributes.RANGES)
    report: dict = {"seed": seed, "trained_on": len(training), "nets": {}}

    # ArcFace's and CosFace's roles: other seed, widths, kernel, and other pictures
    half = len(training) // 2
    for name, widths, stem, part, offset in (
        ("recogniser", (24, 48, 96, 128), 6, slice(0, half), 1),
        ("judge", (28, 40, 80, 144), 8, slice(half, None), 2),
    ):
        torch.manual_seed(seed + offset)
        net = Regression(112, *sizes, widths, stem)
        target, _ = train_regression(net, recogniser_input, training[part], steps[name], seed + offset, 1.0)
        embed = recogniser(net, validation, target)
        export(embed, torch.zeros(1, 3, 112, 112), chosen.out / f"{name}.onnx", ["embedding"], {})
        report["nets"][name] = gate(embed, swaps, persons) | {"dimensions": embed.linear.out_features}
        say(f"{name}: {report['nets'][name]}")

    # D3DFR's role: it sees the whole picture and crops for itself
    torch.manual_seed(seed + 3)
    net = Regression(96, *sizes, (24, 48, 96, 128))
    _, target = train_regression(net, face_part, training, steps["regressor"], seed + 3, 0.2)
    regressor, quality = regressor_of(net, target, swaps)
    names = json.dumps([*POSE, *EXPRESSION])
    export(regressor, torch.zeros(1, 3, 128, 128), chosen.out / "regressor.onnx", ["coefficients"], {"names": names})
    report["nets"]["regressor"] = quality
    say(f"regressor: {quality}")

    # VGG's role: the trunk of a net that learnt the same regression from 64 px
    torch.manual_seed(seed + 4)
    net = PerceptualRegression(*sizes)
    at_64 = partial(F.avg_pool2d, kernel_size=2)
    train_regression(net, at_64, training, steps["perceptual"], seed + 4, 1.0)
    maps = ["relu1", "relu2", "relu3", "relu4"]
    export(net.maps, torch.zeros(1, 3, 64, 64), chosen.out / "perceptual.onnx", maps, {})
    report["nets"]["perceptual"] = {"maps": maps}
    say("perceptual")

    # SCRFD's role
    torch.manual_seed(seed + 5)
    frames = net_data.frames(seed, net_data.FRAMES, chosen.frames, workers)
    detector = train_detector(seed + 5, frames, steps["detector"])
    scores = [f"{kind}{stride}" for kind in ("score", "box", "points") for stride in (8, 16, 32)]
    detector.flat = True
    export(detector, torch.zeros(1, 3, 256, 448), chosen.out / "detector.onnx", scores, {})
    report["nets"]["detector"] = detector_quality(chosen.out / "detector.onnx", seed)
    say("detector")

    report["seconds"] = round(time.monotonic() - started)
    for name, entry in report["nets"].items():
        path = chosen.out / f"{name}.onnx"
        entry |= {"bytes": path.stat().st_size, "sha256": sha256(path)}
    write_json(chosen.out / "report.json", report)


if __name__ == "__main__":
    main()
