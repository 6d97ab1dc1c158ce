"""Numbers for a set of pictures: every metric of the evaluation by the frozen networks at hand, named after them.

A network that stands in for the paper's never gives a number the paper's name: FID and LPIPS are only called so when
Inception v3 and VGG16 with LPIPS's weights made them. The regressor is only believed where its R2 is known to be good.
The judge sees faces aligned by the detector's landmarks, and beside that the released protocol's fixed crop.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.common.nets import read_manifest
from pipeline.scoring.aligned import Aligner
from pipeline.scoring.held_out import Pairs
from uniface import backbones, losses, metrics
from uniface.images import to_tensor

MIN_R2 = 0.6  # of a regressor's coefficient on held-out faces, before an error made with it is quoted
NEEDED = ("detector", "judge", "recogniser", "perceptual")
IDENTITY, FIXED = ("csim", "csim_target", "id_retrieval"), "_fixed_crop"
POSE, PLACE = ("yaw", "pitch", "roll"), ("tx", "ty", "scale")  # what is left is expression

DEFINITIONS = {
    "psnr": "dB to the exact result, 8-bit RGB, mean over pairs; at most 80",
    "ssim": "to the exact result, 11 x 11 Gaussian of sigma 1.5, mean over RGB (torchmetrics)",
    "psnr_face": "dB to the exact swap where it differs from the target by more than 2 %",
    "above_mean_frame": "psnr above that of the mean frame of the source's video",
    "right_face": "share of outputs whose squared error to the exact result is less than to each of four with another "
    "test person's face and all else equal (of 120 pairs); chance is .20",
    "right_expression": "the same beside four with another frame's mouth, smile, blink, gaze, brows and pucker",
    "right_pose": "the same beside four with another frame's yaw, pitch and roll",
    "csim": "cosine of the judge's embeddings of output and source, both aligned by five landmarks; 0 without a face. "
    "A network can be pleased without a face: what raises it and not right_face is no better, and is refused",
    "csim_target": "the same with the target: low is good in swapping",
    "csim_loss_recogniser": "csim by the network that trained the model: it flatters",
    "id_retrieval": "share of outputs whose closest source, of all in the test pairs, shows the right person",
    "csim_fixed_crop": "csim of rows 35:223 and columns 32:220 of 256, as the released code has it",
    "csim_target_fixed_crop": "the same with the target",
    "id_retrieval_fixed_crop": "id_retrieval with that crop",
    "no_face": "share of outputs in which the detector finds no face: they count as unlike everybody",
    "ape": "mean absolute error of yaw, pitch and roll against the target, in the regressor's unit",
    "aee": "mean absolute error of the expression coefficients against the target, in the regressor's unit",
}

Row = dict[str, Tensor]  # metric -> its value for each picture (N,)


@dataclass(frozen=True)
class Known:
    """What the networks say of N pictures."""

    judge: Tensor  # (N, D), of aligned faces; zero where none was found
    judge_fixed: Tensor  # (N, D), of the fixed crop
    has_face: Tensor  # (N,) bool
    recogniser: Tensor  # (N, D), of the fixed crop, as in the loss
    pooled: Tensor  # (N, C), for the Frechet distance
    coefficients: Tensor | None  # (N, K)


class Scorer:
    """The frozen networks of `data/weights`, measuring pictures in batches on `device`."""

    def __init__(self, nets: Path, batch_size: int, device: torch.device):
        self.manifest, self.batch_size, self.device = read_manifest(nets, NEEDED, "evaluate"), batch_size, device
        files = {role: nets / entry["file"] for role, entry in self.manifest.items()}
        self.align = Aligner(files["detector"].parent)
        self.judge, self.recogniser = (
            backbones.load_recogniser(files[role], self.manifest[role].get("centre")).to(device)
            for role in ("judge", "recogniser")
        )
        self.perceptual = backbones.load_perceptual(files["perceptual"]).to(device)
        self.inception = self.channels = self.regressor = None
        if "inception" in files:
            self.inception = backbones.load_inception(files["inception"]).to(device)
        if "lpips" in files and files["perceptual"].name.startswith("vgg16"):
            self.channels = [weight.to(device) for weight in backbones.load_lpips_weights(files["lpips"])]
        if "regressor" in files:
            self.regressor = backbones.load_regressor(files["regressor"]).to(device)
        self.pose, self.expression = self._trusted()
        self.distance = "lpips" if self.channels else f"perceptual_{self._metric('perceptual')}"
        if self.inception is None:
            self.frechet = f"frechet_perceptual_{self._metric('perceptual')}"
        else:
            self.frechet = "frechet_yours" if self.manifest["inception"].get("metric") else "fid"

    def _metric(self, role: str) -> str:
        """What the distances of a net's features are called by."""
        entry = self.manifest[role]
        return entry.get("metric") or ("stand_in" if entry["stand_in"] else "vgg16")

    def _trusted(self) -> tuple[list[int], list[int]]:
        """Columns of the pose and of the expression coefficients that may be quoted."""
        if self.regressor is None:
            return [], []
        entry, names = self.manifest["regressor"], self.regressor.names
        r2 = entry.get("report", {}).get("r2", {})
        trusted = [k for k, n in enumerate(names) if not entry["stand_in"] or r2.get(n, 0.0) >= MIN_R2]
        expression = [k for k in trusted if names[k] not in POSE + PLACE]
        return [k for k in trusted if names[k] in POSE], expression

    def networks(self) -> dict[str, dict]:
        """Metric -> which network gave it, and whether it stands in for the paper's."""
        roles = {name + crop: "judge" for name in IDENTITY for crop in ("", FIXED)} | {"no_face": "detector"}
        roles |= {"csim_loss_recogniser": "recogniser", self.distance: "perceptual"}
        roles[self.frechet] = "inception" if self.inception else "perceptual"
        chosen = {"ape": self.pose, "aee": self.expression}
        roles |= {metric: "regressor" for metric, columns in chosen.items() if columns}
        found = {}
        for metric, role in roles.items():
            entry = self.manifest[role]
            found[metric] = {"network": entry["name"], "stand_in": entry["stand_in"], "source": entry["source"]}
            if metric in chosen:
                found[metric]["coefficients"] = [self.regressor.names[k] for k in chosen[metric]]
        return found

    @torch.inference_mode()
    def know(self, pictures: np.ndarray) -> Known:
        """Embeddings, features and coefficients of uint8 pictures (N, H, W, 3)."""
        parts = []
        for number, images in enumerate(self._batches(pictures)):
            start = number * self.batch_size
            crops, found = self.align(pictures[start : start + len(images)])
            has_face = torch.from_numpy(found)
            aligned = self.judge.of_crops(to_tensor(crops).to(self.device)) * has_face[:, None].to(self.device)
            pooled = self.inception(images) if self.inception else _pooled(self.perceptual(images))
            coefficients = self.regressor(images) if self.regressor else None
            parts.append((aligned, self.judge(images), has_face, self.recogniser(images), pooled, coefficients))
        return Known(*(None if values[0] is None else torch.cat(values).cpu() for values in zip(*parts, strict=True)))

    @torch.inference_mode()
    def compare(self, pictures: np.ndarray, truth: np.ndarray, target: np.ndarray | None = None) -> Row:
        """Pixel metrics against the truth; with `target` also the PSNR of the face alone (see `metrics.changed`)."""
        rows = []
        for k, (images, true) in enumerate(zip(self._batches(pictures), self._batches(truth), strict=True)):
            row = {"psnr": metrics.psnr(images, true), "ssim": metrics.ssim(images, true)}
            if target is not None:
                start = k * self.batch_size
                mask = metrics.changed(true, to_tensor(target[start : start + len(images)]).to(self.device))
                row["psnr_face"] = metrics.psnr(images, true, mask)
            distance = losses.perceptual(self.perceptual(images), self.perceptual(true), self.channels)
            row[self.distance] = distance.expand(len(images))  # a mean over the batch
            rows.append(row)
        return {name: torch.cat([row[name].cpu() for row in rows]) for name in rows[0]}

    def judged(self, found: Known, source: Known, target: Known, pairs: Pairs) -> Row:
        """Identity against the source and the target, retrieval among all sources, pose and expression errors."""
        row = {}
        for crop, (ours, sources, targets) in {
            "": (found.judge, source.judge, target.judge),
            FIXED: (found.judge_fixed, source.judge_fixed, target.judge_fixed),
        }.items():
            row |= {
                f"csim{crop}": (ours * sources).sum(1),
                f"csim_target{crop}": (ours * targets).sum(1),
                f"id_retrieval{crop}": _retrieved(ours, sources, pairs),
            }
        row["id_retrieval"] *= found.has_face  # the nearest to nothing is nobody
        row["no_face"] = (~found.has_face).float()
        row["csim_loss_recogniser"] = (found.recogniser * source.recogniser).sum(1)
        for name, columns in (("ape", self.pose), ("aee", self.expression)):
            if columns:
                row[name] = (found.coefficients - target.coefficients)[:, columns].abs().mean(1)
        return row

    def _batches(self, pictures: np.ndarray):
        for start in range(0, len(pictures), self.batch_size):
            yield to_tensor(pictures[start : start + self.batch_size]).to(self.device)


def _retrieved(found: Tensor, sources: Tensor, pairs: Pairs) -> Tensor:
    """1 for each output (N, D) whose nearest source, each counting once, shows the right person, else 0: (N,)."""
    first = list({key: i for i, key in reversed(list(enumerate(pairs.source_key)))}.values())
    best = metrics.retrieved(found, sources[first])
    right = [pairs.source_identity[first[b]] == whom for b, whom in zip(best, pairs.source_identity, strict=True)]
    return torch.tensor(right, dtype=torch.float32)


def _pooled(maps: list[Tensor]) -> Tensor:
    """One vector for each picture: the mean of the coarsest map."""
    return maps[-1].mean(dim=(2, 3))


def means(row: Row) -> dict[str, float]:
    """Each metric's mean over the pictures for which it exists, to five digits after the point."""
    return {name: round(float(values.nanmean()), 5) for name, values in row.items() if not values.isnan().all()}
