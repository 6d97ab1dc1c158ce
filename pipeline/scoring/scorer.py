"""Numbers for a set of pictures: every metric of the evaluation by the frozen networks at hand, named after them.

A network that stands in for the paper's never gives a number the paper's name: FID and LPIPS are only called so when
Inception v3 and VGG16 with LPIPS's weights made them. The regressor is only believed where its R2 is known to be good.
The judge sees faces aligned by the detector's landmarks, and beside that the released protocol's fixed crop.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from pipeline.common.code import code
from pipeline.common.files import digest
from pipeline.common.nets import read_manifest
from pipeline.scoring import nets
from pipeline.scoring.aligned import Aligner
from pipeline.scoring.features import Pictures, Store, joined
from uniface import backbones, deep3d, metrics
from uniface.images import to_tensor

if TYPE_CHECKING:
    from pipeline.scoring.held_out import Pairs

MIN_R2 = 0.6  # of a regressor's coefficient on held-out faces, before an error made with it is quoted
EACH = 20_000  # pictures of which is remembered what networks say of them; some 16 KB each
MAPS_BYTES = 512 << 20  # of the perceptual net's maps that are remembered
NEEDED = ("detector", "judge", "recogniser", "perceptual")
IDENTITY, FIXED = ("csim", "csim_target", "id_retrieval"), "_fixed_crop"
POSE, PLACE = ("yaw", "pitch", "roll"), ("tx", "ty", "scale")  # what is left is expression

DEFINITIONS = {
    "psnr": "dB to the exact result, 8-bit RGB, mean over pairs; at most 80",
    "ssim": "to the exact result, 11 x 11 Gaussian of sigma 1.5, mean over RGB (as torchmetrics)",
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
    "ape": "mean absolute error of yaw, pitch and roll against the target, in the regressor's unit (D3DFR: radians)",
    "aee": "mean absolute error of the expression coefficients against the target (D3DFR: 64), in its unit",
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
    coefficients: Tensor | None = None  # (N, K); of D3DFR NaN where it needs a face and none was found


class Scorer:
    """The frozen networks of `data/weights`, measuring pictures in batches on `device`.

    What they say is kept in the folder `kept`, if there is one. Pictures are uint8 arrays (N, H, W, 3) or `Pictures`.
    """

    def __init__(self, folder: Path, batch_size: int, device: torch.device, kept: Path | None = None):
        self.manifest, self.batch_size, self.device = read_manifest(folder, NEEDED, "evaluate"), batch_size, device
        self._store = Store(kept)
        self._digest = digest(
            self.manifest, batch_size, device.type, torch.__version__, code("pipeline.scoring.scorer")
        )
        files = {role: folder / entry["file"] for role, entry in self.manifest.items()}
        self.align = Aligner(files["detector"].parent)
        self.judge, self.recogniser = (
            nets.load_recogniser(files[role], self.manifest[role].get("centre"), device)
            for role in ("judge", "recogniser")
        )
        self.perceptual = nets.load_perceptual(files["perceptual"], device)
        self._maps: dict[str, list[Tensor]] = {}
        self._each: dict[str, dict[str, Tensor]] = {}  # digest of a picture -> what the networks say of it
        self.inception = self.channels = self.regressor = self.standard = None
        if "inception" in files:
            self.inception = backbones.load_inception(files["inception"]).to(device)
        if "lpips" in files and files["perceptual"].name.startswith("vgg16"):
            self.channels = [weight.to(device) for weight in backbones.load_lpips_weights(files["lpips"])]
        if "regressor" in files:
            self.standard = self.manifest["regressor"].get("standard_points")  # of D3DFR's standard face
            if self.standard:
                self.regressor = deep3d.load_deep3d(files["regressor"]).to(device)
            else:
                self.regressor = nets.load_regressor(files["regressor"], device)
            parts = [f"{part}_{k}" for part, width in deep3d.PARTS.items() for k in range(width)]
            self.names = parts if self.standard else self.regressor.names
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
        if self.standard:
            wanted = "angles", "expression"
            return tuple([k for k, name in enumerate(self.names) if name.split("_")[0] == part] for part in wanted)
        entry, names = self.manifest["regressor"], self.names
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
                found[metric]["coefficients"] = [self.names[k] for k in chosen[metric]]
        return found

    def know(self, pictures: Pictures | np.ndarray) -> Known:
        """Embeddings, features and coefficients of pictures."""
        pictures = _pictures(pictures)
        parts = []
        for rows in pictures.blocks():
            key = digest(self._digest, "know", pictures.key(rows))
            parts.append(self._store.get(key, lambda rows=rows: self._know(pictures, rows)))
        return Known(**joined(parts))

    @torch.inference_mode()
    def _know(self, pictures: Pictures, rows: slice) -> dict[str, Tensor]:
        block = np.ascontiguousarray(pictures[rows])
        names = [hashlib.sha256(picture).hexdigest() for picture in block]
        # pictures are often the same: of one person, mean frames of one clip, a source here and a target there
        new = list({name: k for k, name in enumerate(names) if name not in self._each}.values())
        for start in range(0, len(new), self.batch_size):
            batch = new[start : start + self.batch_size]
            values = self._look(block[batch])
            for row, k in enumerate(batch):
                self._each[names[k]] = {what: found[row] for what, found in values.items()}
        known = [self._each[name] for name in names]
        while len(self._each) > EACH:
            self._each.pop(next(iter(self._each)))
        found = {what: torch.stack([one[what] for one in known]) for what in known[0]}
        if not self.inception:
            batches = self._batches(pictures, rows)
            found["pooled"] = torch.cat([_pooled(self._seen(images, key)).cpu() for images, key in batches])
        return found

    def _look(self, array: np.ndarray) -> dict[str, Tensor]:
        """What the networks say of a batch of uint8 pictures, but for the perceptual net: `compare` needs its maps."""
        images = to_tensor(array).to(self.device)
        faces = self.align.find(array)
        has_face = torch.tensor([landmarks is not None for _, landmarks in faces])
        crops = to_tensor(self.align.crops(faces)).to(self.device)
        found = {
            "judge": self.judge.of_crops(crops) * has_face[:, None].to(self.device),
            "judge_fixed": self.judge(images),
            "has_face": has_face,
            "recogniser": self.recogniser(images),
        }
        if self.inception:
            found["pooled"] = self.inception(images)
        if self.standard:
            found["coefficients"] = self._of_faces(faces)
        elif self.regressor:
            found["coefficients"] = self.regressor(images)
        return {name: values.cpu() for name, values in found.items()}

    def _of_faces(self, faces: list[tuple[np.ndarray, np.ndarray | None]]) -> Tensor:
        """D3DFR's coefficients (N, 257) of what `Aligner.find` found; NaN where it found no face."""
        found = torch.full((len(faces), sum(deep3d.PARTS.values())), torch.nan)
        rows = [k for k, (_, landmarks) in enumerate(faces) if landmarks is not None]
        if rows:
            aligned = [deep3d.align(*faces[k], np.asarray(self.standard)) for k in rows]
            found[rows] = self.regressor(to_tensor(np.stack(aligned)).to(self.device)).cpu()
        return found

    def compare(
        self,
        pictures: Pictures | np.ndarray,
        truth: Pictures | np.ndarray,
        target: Pictures | np.ndarray | None = None,
    ) -> Row:
        """Pixel metrics against the truth; with `target` also the PSNR of the face alone (see `metrics.changed`)."""
        sets = [_pictures(one) for one in (pictures, truth, target) if one is not None]
        parts = []
        for rows in sets[0].blocks():
            key = digest(self._digest, "compare", [one.key(rows) for one in sets])
            parts.append(self._store.get(key, lambda rows=rows: self._compare(rows, *sets)))
        found = joined(parts)
        return {name: found[name] for name in ("psnr", "ssim", "psnr_face", self.distance) if name in found}

    @torch.inference_mode()
    def _compare(self, rows: slice, pictures: Pictures, truth: Pictures, target: Pictures | None = None) -> Row:
        parts = []
        batches = zip(self._batches(pictures, rows), self._batches(truth, rows), strict=True)
        targets = self._batches(target, rows) if target else None
        for (images, key), (true, true_key) in batches:
            row = {"psnr": metrics.psnr(images, true), "ssim": metrics.ssim(images, true)}
            if targets:
                row["psnr_face"] = metrics.psnr(images, true, metrics.changed(true, next(targets)[0]))
            maps = self._seen(images, key), self._seen(true, true_key)
            row[self.distance] = metrics.perceptual(*maps, self.channels)
            parts.append({name: values.cpu() for name, values in row.items()})
        return joined(parts)

    def _seen(self, images: Tensor, key: str) -> list[Tensor]:
        """The perceptual net's maps of a batch; the last ones are remembered: every set is compared with the truth."""
        if key not in self._maps:
            maps = self.perceptual(images)
            self._maps[key] = maps
            size = sum(one.nbytes for one in maps)
            while len(self._maps) > max(1, MAPS_BYTES // size):
                self._maps.pop(next(iter(self._maps)))
            return maps
        return self._maps[key]

    def judged(self, found: Known, source: Known, target: Known, pairs: "Pairs") -> Row:
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

    def remembered(self, name: str, sets: Sequence[Pictures], make: Callable[[], Row]) -> Row:
        """What `make` finds out of these sets of pictures, kept under a name that says how."""
        keys = [[one.key(rows) for rows in one.blocks()] for one in sets]
        return self._store.get(digest(self._digest, name, keys), make)

    def tidy(self) -> None:
        """Forget on disk what no evaluation has asked for in a long time."""
        self._store.tidy()

    def _batches(self, pictures: Pictures, rows: slice) -> Iterator[tuple[Tensor, str]]:
        """The rows as batches: images in [-1, 1], and a name."""
        block, name = pictures[rows], pictures.key(rows)
        for start in range(0, len(block), self.batch_size):
            yield to_tensor(block[start : start + self.batch_size]).to(self.device), f"{name}#{start}"


def _pictures(pictures: Pictures | np.ndarray) -> Pictures:
    return pictures if isinstance(pictures, Pictures) else Pictures(pictures)


def _retrieved(found: Tensor, sources: Tensor, pairs: "Pairs") -> Tensor:
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
