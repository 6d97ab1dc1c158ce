"""The paper's pose and expression estimator D3DFR (Deep3DFaceRecon; Deng et al., CVPRW 2019) from its own checkpoint.

Its weights belong to a face model under a signed licence, so they, and the standard landmarks of that face, are files
of the user's. Tensors are read, nothing else is unpickled.
"""

import pickle
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

SIZE = 224  # of the aligned face that the network sees
FACE_SCALE = 102.0  # pixels of that face for one unit of the standard landmarks
PARTS = {"identity": 80, "expression": 64, "texture": 80, "angles": 3, "light": 27, "shift": 2, "depth": 1}
"""Coefficients in the order of the network's output; `shift` and `depth` are the translation, the angles in radians."""

# The 68 landmarks' numbers, from 1, whose means are the five points: eyes, nose, corners of the mouth.
_FIVE = ((37, 40), (43, 46), (31,), (49,), (55,))


class Deep3D(nn.Module):
    """A ResNet-50 with one linear head for each part of the coefficients; images (B, 3, 224, 224) in [-1, 1]."""

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models import resnet50

        self.backbone = resnet50(weights=None)
        self.backbone.fc = nn.Identity()
        self.final_layers = nn.ModuleList(nn.Conv2d(2048, width, 1) for width in PARTS.values())

    def forward(self, images: Tensor) -> Tensor:
        features = self.backbone(images.add(1).div(2))[..., None, None]  # (B, 2048, 1, 1); it was trained on [0, 1]
        return torch.cat([layer(features) for layer in self.final_layers], 1).flatten(1)  # (B, 257)


def part(coefficients: Tensor, name: str) -> Tensor:
    """One of PARTS out of the network's output (B, 257)."""
    return dict(zip(PARTS, coefficients.split(list(PARTS.values()), 1), strict=True))[name]


def load_deep3d(path: str | Path) -> Deep3D:
    """The network in a checkpoint of Deep3DFaceRecon's PyTorch release (`epoch_20.pth`), in eval mode and frozen.

    The same tensors may be in a `.safetensors` file, with or without `net_recon.` before their names.
    Raises FileNotFoundError, or ValueError if the file is no such checkpoint.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} not found: the checkpoint of Deep3DFaceRecon (weights.roles.regressor)")
    try:
        if path.suffix == ".safetensors":
            state = {name.removeprefix("net_recon."): value for name, value in load_file(path).items()}
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path} is no checkpoint that holds tensors alone: {reason}") from None
    state = state.get("net_recon", state) if isinstance(state, dict) else {}
    net = Deep3D()
    try:
        net.load_state_dict(state)
    except (RuntimeError, AttributeError, TypeError):
        missing = [name for name in net.state_dict() if name not in state]
        raise ValueError(
            f"{path} is no checkpoint of Deep3DFaceRecon: {len(missing)} of its {len(net.state_dict())} tensors are "
            "not there, or have another shape"
        ) from None
    return net.eval().requires_grad_(False)


def standard_points(path: str | Path) -> np.ndarray:
    """Eyes, nose and corners of the mouth of the standard face (5, 3), from `similarity_Lm3D_all.mat`.

    Raises FileNotFoundError, or ValueError if the file does not hold 68 landmarks.
    """
    from scipy.io import loadmat

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} not found: the 68 standard landmarks that belong to Deep3DFaceRecon")
    try:
        landmarks = np.asarray(loadmat(path)["lm"], float)
    except (ValueError, TypeError, KeyError, NotImplementedError) as error:
        raise ValueError(f"{path} is no MATLAB file with a table `lm`: {error}") from None
    if landmarks.shape != (68, 3):
        raise ValueError(f"{path} holds a table of {landmarks.shape}, expected (68, 3)")
    return np.stack([landmarks[[number - 1 for number in group]].mean(0) for group in _FIVE])


def align(image: np.ndarray, points: np.ndarray, standard: np.ndarray) -> np.ndarray:
    """The face as the network wants it: uint8 RGB (224, 224, 3), upright as it was, scaled and centred.

    `points` (5, 2) are the landmarks in x, y of `image`, `standard` (5, 3) those of the standard face. Under weak
    perspective, the standard points are mapped to the image by two rows of three numbers and a shift, found by least
    squares; the rows' mean length is the scale, the shift is where the standard face's origin lies.
    """
    import cv2

    design = np.concatenate([standard, np.ones((5, 1))], 1)  # (5, 4)
    upright = points * [1, -1]  # the standard face's y points up
    rows = np.linalg.lstsq(design, upright, rcond=None)[0].T  # (2, 4)
    scale = FACE_SCALE / np.linalg.norm(rows[:, :3], axis=1).mean()
    centre = rows[:, 3] * [1, -1]
    matrix = np.array([[scale, 0, SIZE / 2 - scale * centre[0]], [0, scale, SIZE / 2 - scale * centre[1]]])
    if scale < 1:  # an antialiased reduction first, as a plain warp would pick single pixels
        small = [max(1, round(side * scale)) for side in image.shape[1::-1]]
        matrix = matrix @ np.diag([image.shape[1] / small[0], image.shape[0] / small[1], 1])
        image = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
    return cv2.warpAffine(image, matrix, (SIZE, SIZE), flags=cv2.INTER_CUBIC)
