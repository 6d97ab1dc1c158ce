"""What a network has to do on photographs before it is used: scikit-image's astronaut and insightface's group of six.

A detector is surer of the astronaut and of her mirror image when red is red: by .01 (CenterFace) to .04 (the sample's).
The difference is small, but the picture is always the same one.

A recogniser has to find the astronaut's mirror image more like her than a piece of the picture without a face. With
red and blue exchanged it is not less sure of single faces (dlib's finds mirror images *more* alike in 28 % of 36), but
people are less apart: the cosine of faces and their mirror images less that of different persons, over seven faces, is
.62 in the right order and .02 in the other (the sample's recogniser), .47 and .05 (its judge), .861 and .856 (dlib's,
to which the order hardly matters: its vectors of a face in both have a cosine of .90). So a net in the wrong order is
refused if it depends on it, and what hardly depends on it is said to. No other recogniser was at hand to measure.

Perceptual nets are not told apart: by one level of EfficientNet's features the right order is the better one, by
another the wrong one.
"""

import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.nets.catalogue import Weight

if TYPE_CHECKING:
    from uniface.backbones import Recogniser

BOX = np.array([182.0, 58.0, 270.0, 178.0])  # of her face, by CenterFace
LANDMARKS = np.array([[203.2, 101.7], [247.0, 104.5], [223.3, 125.1], [203.4, 142.3], [241.3, 144.4]])
_MIRRORED = [1, 0, 2, 4, 3]  # landmarks by their place in the picture, left first
MIN_IOU = 0.5
MARGIN = 0.004  # differences below this say nothing
ELSEWHERE = np.array([20.0, 190.0])  # from her face to her suit
GROUP = "data/images/t1.jpg"  # in the package insightface
_SIX = np.array([
    [[87, 323], [128, 306], [120, 339], [113, 363], [150, 349]],
    [[288, 205], [323, 194], [306, 227], [311, 246], [339, 237]],
    [[492, 321], [543, 334], [507, 357], [484, 371], [527, 381]],
    [[762, 399], [804, 398], [774, 426], [768, 448], [803, 447]],
    [[919, 121], [950, 117], [922, 149], [935, 173], [959, 168]],
    [[1150, 324], [1195, 320], [1169, 348], [1156, 369], [1194, 366]],
])  # fmt: skip
"""Its landmarks, by CenterFace."""
WRONG, UNSURE = 0.8, 1.1  # how much more people must be apart in the order that was said, for no refusal and no doubt


def try_out(weight: Weight, path: Path) -> None:
    """Load the network in `path` for its role and try it. Raises ValueError, saying what it did wrong."""
    from uniface import backbones
    from uniface.deep3d import load_deep3d

    tests = {
        "detector": lambda: _detector(path),
        "recogniser": lambda: _recogniser(weight, path),
        "judge": lambda: _recogniser(weight, path),
        "perceptual": lambda: _maps(path),
        "contextual": lambda: _maps(path),
        "lpips": lambda: backbones.load_lpips_weights(path),
        "inception": lambda: backbones.load_inception(path),
        "regressor": lambda: (backbones.load_regressor if path.suffix == ".onnx" else load_deep3d)(path),
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
    ours, other = (float(np.mean([one.score if one else 0.0 for one in found])) for found in (right, wrong))
    if other > ours + MARGIN:
        raise ValueError(
            f"it is surer of the astronaut with red and blue exchanged ({other:.3f}) than so ({ours:.3f}): choose the"
            " other `channels`, or `self_test: false` if you are sure"
        )


def _recogniser(weight: Weight, path: Path) -> None:
    import torch

    from uniface.backbones import load_recogniser
    from uniface.faces import Faces
    from uniface.images import to_tensor

    net = load_recogniser(path, weight.centre and weight.read_centre())
    picture, mirror = astronaut()
    mirrored = np.stack([picture.shape[1] - 1 - LANDMARKS[:, 0], LANDMARKS[:, 1]], 1)[_MIRRORED]
    elsewhere = LANDMARKS + ELSEWHERE
    crops = [Faces.align(image, at) for image, at in ((picture, LANDMARKS), (mirror, mirrored), (picture, elsewhere))]
    with torch.no_grad():
        vectors = net.of_crops(to_tensor(np.stack(crops)))
    if vectors.ndim != 2 or not torch.isfinite(vectors).all():
        raise ValueError("its embedding of the astronaut is no vector of numbers")
    alike, unlike = (float(vectors[0] @ other) for other in vectors[1:])
    if alike < unlike + MARGIN:
        raise ValueError(
            f"it finds the astronaut's mirror image ({alike:.3f}) hardly more like her than her suit ({unlike:.3f}):"
            " are channels, mean and scale right?"
        )
    _try_order(weight, net, np.stack([crops[0], *group()]))


def group() -> list[np.ndarray]:
    """Six persons' faces as a recogniser gets them, uint8 RGB (112, 112, 3) each."""
    from uniface.faces import Faces
    from uniface.images import read_image

    picture = read_image(Path(find_spec("insightface").submodule_search_locations[0]) / GROUP)
    return [Faces.align(picture, landmarks) for landmarks in _SIX]


def _try_order(weight: Weight, net: "Recogniser", crops: np.ndarray) -> None:
    """Raise ValueError if people are further apart with red and blue exchanged, and say so where it hardly matters."""
    said, other = apart(net, crops), apart(net, crops[..., ::-1])
    numbers = (
        f"the seven persons of two photographs are apart by {said:.3f}, with red and blue exchanged by {other:.3f}"
    )
    if said < WRONG * other:
        raise ValueError(f"{numbers}: choose the other `channels`, or `self_test: false` if you are sure")
    if said < UNSURE * other and weight.source == "yours":
        print(f"weights: {weight.role}: {numbers}, which tells little: see that `channels` is as its author says")


def apart(net: "Recogniser", crops: np.ndarray) -> float:
    """How much more alike faces, uint8 (N, 112, 112, 3) of N persons, are to their mirror images than to others."""
    import torch

    from uniface.images import to_tensor

    with torch.no_grad():
        own, mirrored = net.of_crops(to_tensor(np.concatenate([crops, crops[:, :, ::-1]]))).chunk(2)  # (N, D)
    others = ((own @ own.T).sum() - len(own)) / (len(own) * (len(own) - 1))  # of unit vectors
    return float((own * mirrored).sum(1).mean() - others)


def _maps(path: Path) -> None:
    import torch

    from uniface.backbones import load_perceptual

    with torch.no_grad():
        maps = load_perceptual(path)(torch.zeros(1, 3, 64, 64))
    if not all(one.ndim == 4 and torch.isfinite(one).all() for one in maps):
        raise ValueError(f"it gives {[tuple(one.shape) for one in maps]}, not maps of features")


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    inside = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None).prod()
    return float(inside / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - inside))
