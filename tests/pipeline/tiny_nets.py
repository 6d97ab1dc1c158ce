"""Tiny random networks under the names and shapes of the real ones, as the stage `weights` lays them out."""

import json
from pathlib import Path

import torch
from torch import nn

from pipeline.common.files import sha256, write_json
from pipeline.nets import onnx_files

NAMES = ("yaw", "pitch", "roll", "tx", "mouth", "blink")
R2 = {"yaw": 0.95, "pitch": 0.9, "roll": 0.9, "tx": 0.9, "mouth": 0.7, "blink": 0.3}  # blink is not to be believed


class Embedding(nn.Module):
    """The colours of an image as a direction: small, and different images differ."""

    def __init__(self, outputs: int, seed: int):
        super().__init__()
        torch.manual_seed(seed)
        self.body = nn.Sequential(nn.AvgPool2d(14), nn.Conv2d(3, 8, 3, 2), nn.LeakyReLU(0.2))
        self.head = nn.LazyLinear(outputs)

    def forward(self, x):
        return self.head(self.body(x).flatten(1))


class Maps(nn.Module):
    """Two feature maps."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(5)
        self.first, self.second = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 6, 3, 2, 1)

    def forward(self, x):
        fine = torch.relu(self.first(x))
        return fine, self.second(fine)


class Middle(nn.Module):
    """SCRFD's nine outputs, with one face of 3/4 of the picture in its middle, whatever it shows."""

    def forward(self, x):
        shape = torch.tensor([[38.3, 51.7, 73.5, 51.5, 56.0, 71.7, 41.5, 92.4, 70.7, 92.2]]) / 56 - 1  # ArcFace's crop
        scores, boxes, points = [], [], []
        for stride in (8, 16, 32):
            cells = torch.zeros_like(x[0, 0, ::stride, ::stride])  # (h, w)
            rows, columns = torch.ones_like(cells).cumsum(0) - 1, torch.ones_like(cells).cumsum(1) - 1
            height, width = rows.max() + 1, columns.max() + 1
            middle = (rows == (height / 2).floor()) & (columns == (width / 2).floor())
            scores.append(torch.stack([middle.float() * (0.9 if stride == 8 else 0.0), cells], 2).reshape(-1, 1))
            reach = (height * 3 / 8).reshape(1, 1)
            boxes.append((torch.zeros_like(scores[-1]) + reach).repeat(1, 4))
            points.append(torch.zeros_like(scores[-1]) + shape * reach)
        return *scores, *boxes, *points


def write_nets(folder: Path) -> Path:
    """A weights folder with a net for each role: detector, judge, recogniser, perceptual and regressor."""
    import onnx

    (folder / "faces").mkdir(parents=True)
    nine = [f"{kind}{stride}" for kind in ("score", "box", "points") for stride in (8, 16, 32)]
    made = {
        "detector": ("faces/detector.onnx", Middle(), 64, nine),
        "recogniser": ("faces/recogniser.onnx", Embedding(16, 1), 112, ["embedding"]),
        "judge": ("judge.onnx", Embedding(16, 2), 112, ["embedding"]),
        "perceptual": ("perceptual.onnx", Maps(), 32, ["fine", "coarse"]),
        "regressor": ("regressor.onnx", Embedding(len(NAMES), 3), 64, ["coefficients"]),
    }
    manifest = {}
    for role, (file, net, size, outputs) in made.items():
        image = torch.zeros(1, 3, size, size)
        net.eval()(image)  # sizes the lazy layer
        axes = {0: "b"} if role != "perceptual" else {0: "b", 2: "h", 3: "w"}
        free = {2: "h", 3: "w"} if role == "detector" else axes
        onnx_files.write(net, image, folder / file, outputs, free)
        if role == "regressor":
            model = onnx.load(folder / file)
            entry = model.metadata_props.add()
            entry.key, entry.value = "names", json.dumps(NAMES)
            onnx.save(model, folder / file)
        manifest[role] = {
            "file": file,
            "name": f"tiny {role}",
            "sha256": sha256(folder / file),
            "licence": "MIT",
            "url": "none",
            "source": "sample",
            "stand_in": True,
            "report": {"r2": R2} if role == "regressor" else {},
        }
    write_json(folder / "weights.json", manifest)
    return folder
