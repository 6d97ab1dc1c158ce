"""What a network has to do on a photograph before it is used: scikit-image's astronaut, which is in the public domain.

Whether colours come in the right order is told by the astronaut and her mirror image: a detector is surer of both, and
a recogniser finds them more alike, when red is red. The differences are small, but the picture is always the same one.
"""

import tempfile
from pathlib import Path

import numpy as np

from pipeline.nets.catalogue import Weight

BOX = np.array([182.0, 58.0, 270.0, 178.0])  # of her face, by CenterFace
LANDMARKS = np.array([[203.2, 101.7], [247.0, 104.5], [223.3, 125.1], [203.4, 142.3], [241.3, 144.4]])
_MIRRORED = [1, 0, 2, 4, 3]  # landmarks by their place in the picture, left first
MIN_IOU = 0.5
MARGIN = 0.004  # by which the other order must be better before ours is called wrong


def try_out(weight: Weight, path: Path) -> None:
    """Load the network in `path` for its role and try it. Raises ValueError, saying what it did wrong."""
    from uniface import backbones

    tests = {
        "detector": lambda: _detector(path),
        "recogniser": lambda: _recogniser(weight, path),
        "judge": lambda: _recogniser(weight, path),
        "perceptual": lambda: _maps(path),
        "contextual": lambda: _maps(path),
        "lpips": lambda: backbones.load_lpips_weights(path),
        "inception": lambda: backbones.load_inception(path),
        "regressor": lambda: backbones.load_regressor(path),
    }
    try:
        tests[weight.role]()
    except (ValueError, KeyError, TypeError, RuntimeError, NotImplementedError) as error:
        reason = str(error).replace(str(path), "it").splitlines()[0]
        raise ValueError(f"{weight.url} does not do as {weight.role} (weights.roles.{weight.role}): {reason}") from None


def astronaut() -> tuple[np.ndarray, np.ndarray]:
    """The photograph and its mirror image, uint8 RGB (512, 512, 3)."""
    from skimage.data import astronaut

    picture = astronaut()
    return picture, np.ascontiguousarray(picture[:, ::-1])


def _detector(path: Path) -> None:
    from uniface.faces import Detection, Faces

    with tempfile.TemporaryDirectory() as folder:  # insightface takes all networks of a folder
        (Path(folder) / "detector.onnx").write_bytes(path.read_bytes())
        faces = Faces(folder, recognise=False)

    def surest(picture: np.ndarray) -> Detection | None:
        found = faces.detect(np.ascontiguousarray(picture))
        return found[0] if found else None

    pictures = astronaut()
    right = [surest(picture) for picture in pictures]
    if right[0] is None or _iou(right[0].box, BOX) < MIN_IOU:
        where = "nowhere" if right[0] is None else f"at {right[0].box.round().tolist()}"
        raise ValueError(f"it sees the astronaut's face {where}, not at {BOX.tolist()}: are mean and scale right?")
    wrong = [surest(picture[..., ::-1]) for picture in pictures]
    _compare_orders(*(np.mean([one.score if one else 0.0 for one in found]) for found in (right, wrong)))


def _recogniser(weight: Weight, path: Path) -> None:
    import torch

    from uniface.backbones import load_recogniser
    from uniface.faces import Faces
    from uniface.images import to_tensor

    net = load_recogniser(path, weight.centre and weight.read_centre())
    picture, mirror = astronaut()
    mirrored = np.stack([picture.shape[1] - 1 - LANDMARKS[:, 0], LANDMARKS[:, 1]], 1)[_MIRRORED]
    crops = to_tensor(np.stack([Faces.align(picture, LANDMARKS), Faces.align(mirror, mirrored)]))
    with torch.no_grad():
        right, wrong = (net.of_crops(images) for images in (crops, crops.flip(1)))
    if right.ndim != 2 or not torch.isfinite(right).all():
        raise ValueError("its embedding of the astronaut is no vector of numbers")
    _compare_orders(*(float((one[0] * one[1]).sum()) for one in (right, wrong)))


def _maps(path: Path) -> None:
    import torch

    from uniface.backbones import load_perceptual

    with torch.no_grad():
        maps = load_perceptual(path)(torch.zeros(1, 3, 64, 64))
    if not all(one.ndim == 4 and torch.isfinite(one).all() for one in maps):
        raise ValueError(f"it gives {[tuple(one.shape) for one in maps]}, not maps of features")


def _compare_orders(right: float, wrong: float) -> None:
    if wrong > right + MARGIN:
        raise ValueError(
            f"it knows the astronaut and her mirror image better with red and blue exchanged ({wrong:.3f}) than so"
            f" ({right:.3f}): choose the other `channels`, or `self_test: false` if you are sure"
        )


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    inside = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None).prod()
    return float(inside / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - inside))
