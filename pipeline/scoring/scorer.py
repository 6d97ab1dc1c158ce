"""Numbers for a set of pictures: every metric of the evaluation by the frozen networks at hand, named after them.

A network that stands in for the paper's never gives a number the paper's name: FID and LPIPS are only called so when
Inception v3 and VGG16 with LPIPS's weights made them. The regressor is only believed where its R2 is known to be good.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.common.nets import read_manifest
from pipeline.scoring.held_out import Pairs
from uniface import backbones, losses, metrics
from uniface.images import to_tensor

MIN_R2 = 0.6  # of a regressor's coefficient on held-out faces, before an error made with it is quoted
POSE, PLACE = ("yaw", "pitch", "roll"), ("tx", "ty", "scale")  # what is left is expression

DEFINITIONS = {
    "psnr": "dB to the exact result, 8-bit RGB, mean over pairs; at most 80",
    "ssim": "to the exact result, 11 x 11 Gaussian of sigma 1.5, mean over RGB (torchmetrics)",
    "psnr_face": "dB to the exact swap where it differs from the target by more than 2 %",
    "csim": "cosine of the judge's embeddings of output and source",
    "csim_target": "the same with the target: low is good in swapping",
    "csim_loss_recogniser": "csim by the network that trained the model: it flatters",
    "id_retrieval": "share of outputs whose closest source, of all in the test pairs, shows the right person",
    "ape": "mean absolute error of yaw, pitch and roll against the target, in the regressor's unit",
    "aee": "mean absolute error of the expression coefficients against the target, in the regressor's unit",
}

Row = dict[str, Tensor]  # metric -> its value for each picture (N,)


@dataclass(frozen=True)
class Known:
    """What the networks say of N pictures."""

    judge: Tensor  # (N, D)
    recogniser: Tensor  # (N, D)
    pooled: Tensor  # (N, C), for the Frechet distance
    coefficients: Tensor | None  # (N, K)


class Scorer:
    """The frozen networks of `data/weights`, measuring pictures in batches on `device`."""

    def __init__(self, nets: Path, batch_size: int, device: torch.device):
        self.manifest, self.batch_size, self.device = read_manifest(nets), batch_size, device
        files = {role: nets / entry["file"] for role, entry in self.manifest.items()}
        self.judge = backbones.load_recogniser(files["judge"]).to(device)
        self.recogniser = backbones.load_recogniser(files["recogniser"]).to(device)
        self.perceptual = backbones.load_perceptual(files["perceptual"]).to(device)
        self.inception = self.channels = self.regressor = None
        if "inception" in files:
            self.inception = backbones.load_inception(files["inception"]).to(device)
        if "lpips" in files:
            self.channels = [weight.to(device) for weight in backbones.load_lpips_weights(files["lpips"])]
        if "regressor" in files:
            self.regressor = backbones.load_regressor(files["regressor"]).to(device)
        self.pose, self.expression = self._trusted()
        self.distance = "lpips" if self.channels else "perceptual_stand_in"
        self.frechet = "fid" if self.inception else "frechet_perceptual_stand_in"

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
        roles = dict.fromkeys(("csim", "csim_target", "id_retrieval"), "judge")
        roles |= {"csim_loss_recogniser": "recogniser", self.distance: "perceptual"}
        roles[self.frechet] = "inception" if self.inception else "perceptual"
        chosen = {"ape": self.pose, "aee": self.expression}
        roles |= {metric: "regressor" for metric, columns in chosen.items() if columns}
        found = {}
        for metric, role in roles.items():
            entry = self.manifest[role]
            found[metric] = {"network": entry["name"], "stand_in": entry["stand_in"]}
            if metric in chosen:
                found[metric]["coefficients"] = [self.regressor.names[k] for k in chosen[metric]]
        return found

    @torch.inference_mode()
    def know(self, pictures: np.ndarray) -> Known:
        """Embeddings, features and coefficients of uint8 pictures (N, H, W, 3)."""
        parts = []
        for images in self._batches(pictures):
            pooled = self.inception(images) if self.inception else _pooled(self.perceptual(images))
            coefficients = self.regressor(images) if self.regressor else None
            parts.append((self.judge(images), self.recogniser(images), pooled, coefficients))
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
        row = {
            "csim": (found.judge * source.judge).sum(1),
            "csim_target": (found.judge * target.judge).sum(1),
            "csim_loss_recogniser": (found.recogniser * source.recogniser).sum(1),
        }
        first = list({key: i for i, key in reversed(list(enumerate(pairs.source_key)))}.values())  # each source once
        best = metrics.retrieved(found.judge, source.judge[first])
        right = [pairs.source_identity[first[b]] == whom for b, whom in zip(best, pairs.source_identity, strict=True)]
        row["id_retrieval"] = torch.tensor(right, dtype=torch.float32)
        for name, columns in (("ape", self.pose), ("aee", self.expression)):
            if columns:
                row[name] = (found.coefficients - target.coefficients)[:, columns].abs().mean(1)
        return row

    def _batches(self, pictures: np.ndarray):
        for start in range(0, len(pictures), self.batch_size):
            yield to_tensor(pictures[start : start + self.batch_size]).to(self.device)


def _pooled(maps: list[Tensor]) -> Tensor:
    """One vector for each picture: the mean of the coarsest map."""
    return maps[-1].mean(dim=(2, 3))


def means(row: Row) -> dict[str, float]:
    """Each metric's mean over the pictures for which it exists, to five digits after the point."""
    return {name: round(float(values.nanmean()), 5) for name, values in row.items() if not values.isnan().all()}
