"""The frozen networks of losses and metrics: face recognisers, perceptual features, the pose and expression regressor.

All take float RGB (B, 3, H, W) in [-1, 1], stay in eval mode with frozen parameters and are differentiable with respect
to the image. They compute in float32 whatever autocast the caller is under (a cosine near 1 has no digits left in
bfloat16) unless told otherwise by `net.float32 = False`, which triples the speed of VGG on a GPU.
Which file plays which role is written in `weights.json` by the stage `weights`.
"""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from uniface.alignment import CROP_COLUMNS, CROP_ROWS, RECOGNISER_SIZE, aligned

# Where torchvision's `vgg.features` has finished the ReLU of that name.
VGG_LAYERS = {
    "vgg16": {"relu1_2": 3, "relu2_2": 8, "relu3_3": 15, "relu4_3": 22, "relu5_3": 29},
    "vgg19": {"relu1_2": 3, "relu2_2": 8, "relu3_2": 13, "relu4_2": 22, "relu5_2": 31},
}
# LPIPS compares these of VGG16 (Sec. 3.3, L_p); the contextual loss these of VGG19 (released code).
DEFAULT_LAYERS = {"vgg16": tuple(VGG_LAYERS["vgg16"]), "vgg19": ("relu3_2", "relu4_2")}
_NO_PERCEPTUAL = "{} is neither an ONNX file nor torchvision's vgg16*.pth or vgg19*.pth"


class Frozen(nn.Module):
    """A network that never learns: no parameter asks for a gradient, and `train()` leaves it in eval mode."""

    float32 = True  # False lets the caller's autocast in

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net.eval().requires_grad_(False)
        super().train(False)

    def train(self, mode: bool = True) -> "Frozen":
        return self

    def forward(self, images: Tensor, *more: Tensor) -> Tensor | list[Tensor]:
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"a frozen network needs images (B, 3, H, W) in [-1, 1], got {tuple(images.shape)}")
        if not self.float32:
            return self.compute(images, *more)
        with torch.autocast(images.device.type, enabled=False):
            return self.compute(images.float(), *more)

    def compute(self, images: Tensor, *more: Tensor) -> Tensor | list[Tensor]:
        """What the network says of the images."""
        raise NotImplementedError


class Recogniser(Frozen):
    """Identity embeddings (B, D) of length 1 of the fixed crop of images (the role of ArcFace; Sec. 3.3, L_id).

    With `points` (B, 5, 2), as shares of height and width, of the face aligned by them (`uniface.alignment.aligned`).

    `centre` (D,), the mean of many people's vectors, is subtracted before: without it every two faces are alike to a
    network that was not trained by angles (dlib's gives cosines of .8 to .97).
    """

    def __init__(self, net: nn.Module, centre: Sequence[float] | None = None):
        super().__init__(net)
        self.register_buffer("centre", None if centre is None else torch.tensor(centre, dtype=torch.float32))

    def compute(self, images: Tensor, points: Tensor | None = None) -> Tensor:
        return self._embed(recogniser_input(images) if points is None else aligned(images, points))

    def of_crops(self, crops: Tensor) -> Tensor:
        """The same of faces that were aligned already, (B, 3, 112, 112) in [-1, 1] (`uniface.faces.Faces.align`)."""
        return self._embed(crops.float())

    def _embed(self, crops: Tensor) -> Tensor:
        vectors = self.net(crops).flatten(1)  # (B, D)
        return F.normalize(vectors if self.centre is None else vectors - self.centre, dim=1)


class Perceptual(Frozen):
    """Feature maps [(B, C, h, w), ...], fine to coarse (the role of VGG; Sec. 3.3, L_p and L_ctx)."""

    def compute(self, images: Tensor) -> list[Tensor]:
        maps = self.net(images)
        return [maps] if isinstance(maps, Tensor) else list(maps)


class Regressor(Frozen):
    """Pose and expression coefficients (B, K) called `names` (the role of D3DFR; Sec. 4.1, APE and AEE)."""

    def __init__(self, net: nn.Module, names: tuple[str, ...], size: int | None):
        super().__init__(net)
        self.names, self.size = names, size

    def compute(self, images: Tensor) -> Tensor:
        if self.size:
            images = _resized(images, self.size)
        return self.net(images).flatten(1)  # (B, K)


class Inception(Frozen):
    """Inception v3's 2,048 pooled features (B, 2048) of images of any size: what the FID compares (Sec. 4.1)."""

    def compute(self, images: Tensor) -> Tensor:
        levels = images.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
        return self.net(levels)[0].flatten(1)


class _VGG(nn.Module):
    """The convolutions of VGG16 or VGG19 up to the last layer asked for; gives the maps of all that are."""

    def __init__(self, features: nn.Sequential, indices: tuple[int, ...], normalise: bool):
        super().__init__()
        self.features, self.indices, self.normalise = features[: max(indices) + 1], indices, normalise
        # ImageNet's mean and deviation, for pixels in [-1, 1] (LPIPS calls them shift and scale)
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1) * 2 - 1, persistent=False)
        self.register_buffer("deviation", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1) * 2, persistent=False)
        for module in self.features:
            if isinstance(module, nn.ReLU):
                module.inplace = False  # or the next layer would overwrite a map that was asked for

    def forward(self, images: Tensor) -> list[Tensor]:
        x = (images - self.mean) / self.deviation if self.normalise else images
        maps = []
        for index, module in enumerate(self.features):
            x = module(x)
            if index in self.indices:
                maps.append(x)
        return maps


def recogniser_input(images: Tensor) -> Tensor:
    """The fixed crop of images (B, 3, H, W), brought to (B, 3, 112, 112): rows 35:223 and columns 32:220 of 256.

    Larger crops are averaged down as the released code does; smaller ones, which it does not have, are interpolated.
    """
    height, width = images.shape[-2:]
    top, bottom = (round(edge * height / 256) for edge in CROP_ROWS)
    left, right = (round(edge * width / 256) for edge in CROP_COLUMNS)
    return _resized(images[..., top:bottom, left:right], RECOGNISER_SIZE)


def _resized(images: Tensor, size: int) -> Tensor:
    if images.shape[-2:] == (size, size):
        return images
    if min(images.shape[-2:]) > size:
        return F.adaptive_avg_pool2d(images, size)
    return F.interpolate(images, (size, size), mode="bilinear", align_corners=False)


def load_recogniser(path: str | Path, centre: Sequence[float] | None = None) -> Recogniser:
    """A recogniser from an ONNX file that takes 112 x 112 crops in [-1, 1] (as insightface's packs hold them).

    `centre` (D,) is what `weights.json` says of the file. Raises FileNotFoundError if it is missing and ValueError if
    it is not such a network.
    """
    size, _ = _describe(path)
    if size != RECOGNISER_SIZE:
        raise ValueError(f"{path} is not a face recogniser: it takes {size or 'any size'}, not 112 x 112 crops")
    return Recogniser(_from_onnx(path), centre)


def load_perceptual(
    path: str | Path, layers: tuple[str, ...] | None = None, normalise: bool | None = None
) -> Perceptual:
    """Feature maps from an ONNX file, or from torchvision's VGG16 or VGG19 weights named `vgg16*.pth`, `vgg19*.pth`.

    `layers` (VGG only): names as in `VGG_LAYERS`; default: those of LPIPS for VGG16, of the contextual loss for VGG19.
    `normalise` (VGG only): ImageNet's normalisation; default yes for VGG16 (LPIPS) and no for VGG19 (released code).
    Raises FileNotFoundError or ValueError saying what is wrong with the file.
    """
    path = _existing(path)
    if path.suffix == ".onnx":
        if layers is not None or normalise is not None:
            raise ValueError(f"{path} is an ONNX file: its layers and normalisation are fixed")
        return Perceptual(_from_onnx(path))
    kind = path.name[:5]
    if kind not in VGG_LAYERS:
        raise ValueError(_NO_PERCEPTUAL.format(path))
    layers = DEFAULT_LAYERS[kind] if layers is None else layers
    unknown = set(layers) - set(VGG_LAYERS[kind])
    if unknown or not layers:
        raise ValueError(f"{kind} has the layers {', '.join(VGG_LAYERS[kind])}, not {', '.join(unknown) or 'none'}")
    indices = tuple(VGG_LAYERS[kind][name] for name in layers)
    return Perceptual(_VGG(_vgg_features(path, kind), indices, kind == "vgg16" if normalise is None else normalise))


def count_maps(path: str | Path) -> int:
    """How many maps `load_perceptual` gives of a file, read without making the network, which takes seconds."""
    path = _existing(path)
    if path.suffix == ".onnx":
        return len(_read_onnx(path).graph.output)
    if path.name[:5] not in DEFAULT_LAYERS:
        raise ValueError(_NO_PERCEPTUAL.format(path))
    return len(DEFAULT_LAYERS[path.name[:5]])


def load_lpips_weights(path: str | Path) -> list[Tensor]:
    """LPIPS v0.1's weights for VGG16's five maps, [(1, C, 1, 1), ...], from the file `vgg.pth` of the package lpips."""
    state = torch.load(_existing(path), map_location="cpu", weights_only=True)
    try:
        return [state[f"lin{i}.model.1.weight"].float() for i in range(5)]
    except KeyError as error:
        raise ValueError(f"{path} is not LPIPS's weights for VGG: it has no {error}") from None


def load_regressor(path: str | Path) -> Regressor:
    """The pose and expression regressor from an ONNX file whose metadata `names` lists its outputs (a JSON list).

    Raises FileNotFoundError if it is missing and ValueError if it does not say what its outputs are.
    """
    size, metadata = _describe(path)
    try:
        names = tuple(str(name) for name in json.loads(metadata["names"]))
    except (KeyError, ValueError, TypeError):
        raise ValueError(f"{path}: its ONNX metadata has no `names`, a JSON list of its outputs") from None
    return Regressor(_from_onnx(path), names, size)


def load_inception(path: str | Path) -> Inception:
    """The FID's Inception v3 with torch-fidelity's weights from a local file."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    # torch-fidelity unpickles whatever the file holds, so let torch look first whether it is nothing but tensors
    torch.load(_existing(path), map_location="cpu", weights_only=True)
    return Inception(FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=str(path)))


def _existing(path: str | Path) -> Path:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no network at {path}: run the stage `weights` first (python -m pipeline.weights)")
    return path


def _vgg_features(path: Path, kind: str) -> nn.Sequential:
    """The convolutions of a torchvision VGG with the weights of a file; no other unpickling than tensors."""
    import torchvision

    with torch.device("meta"):  # the 120 M parameters of the classifier are not needed, so never made
        features = getattr(torchvision.models, kind)(weights=None).features
    state = torch.load(path, map_location="cpu", weights_only=True)
    state = {name.removeprefix("features."): value for name, value in state.items() if name.startswith("features.")}
    try:
        features.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise ValueError(f"{path} is not torchvision's {kind}: {error}") from None
    return features


def _describe(path: str | Path) -> tuple[int | None, dict[str, str]]:
    """The side of the square input of an ONNX network, None if it takes any, and its metadata."""
    model = _read_onnx(path)
    if not model.graph.input:
        raise ValueError(f"{path} is not a network: it has no input")
    side = model.graph.input[0].type.tensor_type.shape.dim[-1]
    return (side.dim_value or None), {entry.key: entry.value for entry in model.metadata_props}


def _read_onnx(path: str | Path) -> Any:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        return onnx.load(_existing(path))
    except DecodeError as error:
        raise ValueError(f"{path} is not an ONNX file: {error}") from None


def _from_onnx(path: str | Path) -> nn.Module:
    import onnx2torch

    # when it converts and whenever the network runs, of how it indexes tensors: nothing that a user can mend
    warnings.filterwarnings("ignore", module=r"onnx2torch\b")
    return onnx2torch.convert(str(_existing(path)))
