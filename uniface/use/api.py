"""The trained model as people use it: whole pictures and videos in, whole pictures and videos out.

`uniface.load` makes a `FaceEditor`; the command line uses nothing else.
"""

from collections.abc import Iterable, Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from uniface import explain
from uniface.faces import Detection, Faces
from uniface.images import grid, resize, to_tensor, to_uint8
from uniface.model import UniFace
from uniface.use import bundle, crops, find, pictures
from uniface.use.network import Network
from uniface.use.paste import paste
from uniface.use.pictures import Picture
from uniface.use.track import Track, Tracker

VERBS = {"reenactment": "reenact", "swapping": "swap"}
BATCH = 8  # frames that a GPU takes at once
SHOWN = 128  # pixels of the side of a picture of what is inside, at least


class Edited(NamedTuple):
    """A frame of a video, uint8 (H, W, 3), and in how many faces of it the model was at work: 0 where it lost them."""

    image: np.ndarray
    faces: int


def load(
    where: str | Path, device: str = "cpu", detector: str | Path | None = None, half: bool = False
) -> "FaceEditor":
    """The model at `where`: a .safetensors file, a folder with one for each task, or models:/NAME@ALIAS of MLflow.

    `detector` is the ONNX file that finds faces, if not the one that lies with the model. `half` computes in bfloat16.
    Raises FileNotFoundError or ValueError saying what is missing.
    """
    try:
        torch.zeros(1, device=device).cpu()  # `meta` is a device too, but nothing comes back from it
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:  # torch raises each of them
        raise ValueError(f"no device {device!r} here: use cpu") from error
    return FaceEditor(bundle.find(where, detector), device, half)


class FaceEditor:
    """Swaps and reenacts faces in pictures and videos of any size; `load` makes one.

    Pictures may be paths, PIL images, arrays uint8 (H, W, 3) or tensors float (3, H, W) or (B, 3, H, W) in [-1, 1].
    Tensors are square crops already and go to the network as they are. The answer is of the target's kind; for a path
    it is an array. `face` says which of the target's faces are meant, see `find.choose`; of the source it is always the
    largest. With `crop` both pictures are square face crops already, and so is the answer.
    """

    def __init__(self, files: bundle.Bundle, device: str = "cpu", half: bool = False):
        self.files, self.device, self.half = files, device, half
        self._networks: dict[str, Network] = {}

    def swap(self, source: Any, target: Any, face: find.Choice = "largest", crop: bool = False) -> Any:
        """The target with the source's identity; the swapped faces are pasted back, all else stays as it is.

        Raises ValueError naming the picture in which no face is found.
        """
        return self._picture("swapping", source, target, face, crop)

    def reenact(self, source: Any, target: Any, face: find.Choice = "largest", crop: bool = False) -> Any:
        """A square picture of the source with the target's pose and expression. Errors as in `swap`."""
        return self._picture("reenactment", source, target, face, crop)

    def swap_frames(self, source: Any, frames: Iterable[np.ndarray], **options: Any) -> Iterator[Edited]:
        """`swap` for each frame of a video, uint8 (H, W, 3), the source looked at once; `options`: see `Session`."""
        return self._frames("swapping", source, frames, options)

    def reenact_frames(self, source: Any, frames: Iterable[np.ndarray], **options: Any) -> Iterator[Edited]:
        """`reenact` for each frame of a video: a still portrait moves as the video does. `options`: see `Session`."""
        return self._frames("reenactment", source, frames, options)

    def session(self, task: str, source: Any, **options: Any) -> "Session":
        """One source, ready for the frames of a video; `options` are those of `Session`."""
        return Session(self, task, source, **options)

    def network(self, task: str) -> Network:
        """The network of a task. Raises ValueError if this model was trained for the other one."""
        if task not in self._networks:
            self._networks[task] = Network(UniFace.load(self._file(task)), task, self.device, self.half)
        return self._networks[task]

    def digest(self, task: str) -> str:
        """sha256 of the task's model file."""
        return bundle.sha256(self._file(task))

    def _file(self, task: str) -> Path:
        if task not in self.files.models:
            has = " and ".join(self.files.models)
            raise ValueError(f"{self.files.version} is a model for {has}: it cannot {VERBS[task]}")
        return self.files.models[task]

    @cached_property
    def faces(self) -> Faces:
        """The detector that belongs to the model."""
        if self.files.detector is None:
            raise FileNotFoundError(
                f"the face detector of {self.files.version} is missing: put its {bundle.DETECTOR} beside the model, "
                "name it (--detector), or give square face crops (--crop)"
            )
        return Faces(self.files.detector, recognise=False)

    def height(self, task: str) -> int:
        """Rows at which the detector saw the task's training frames."""
        return self.files.extra[task].get("detector", {}).get("height", bundle.HEIGHT)

    def detect(self, task: str, image: np.ndarray, face: find.Choice, name: str) -> list[Detection]:
        """The chosen faces of a picture; ValueError naming it if there is none."""
        return find.choose(find.search(self.faces, self.height(task), image), face, name)

    def square(self, task: str, face: Detection | Track, moving: bool = False) -> crops.Square:
        """The part of the picture that the task's model wants to see."""
        if self.files.extra[task].get("crop", bundle.CROPS[task]) == "fomm":
            return crops.fomm(face.box, whole=not moving)
        if not np.isfinite(face.landmarks).all():
            raise ValueError(f"the detector {self.files.detector} finds no landmarks, and {task} needs them")
        return crops.ffhq(face.landmarks)

    def prepare(self, task: str, source: Any, crop: bool) -> np.ndarray:
        """The source's face as the network takes it, uint8 (S, S, 3)."""
        size = self.network(task).size
        picture, name = _opened(source, "the source")
        if crop:
            return _square(picture.rgb, size, name)
        return self.square(task, self.detect(task, picture.rgb, "largest", name)[0]).cut(picture.rgb, size)

    def _picture(self, task: str, source: Any, target: Any, face: find.Choice, crop: bool) -> Any:
        network = self.network(task)
        if isinstance(source, torch.Tensor) and isinstance(target, torch.Tensor):
            batched = target.ndim == 4
            source, target = (image if image.ndim == 4 else image[None] for image in (source, target))
            image = network.frame(network.source(source), target)
            return image if batched else image[0]
        features = network.source(to_tensor(self.prepare(task, source, crop))[None])
        picture, name = _opened(target, "the target")
        image = picture.rgb
        if crop:
            image = self.run(task, features, [_square(image, network.size, name)])[0]
        else:
            squares = [self.square(task, found) for found in self.detect(task, image, face, name)]
            image = self.apply(task, features, image, squares)
        edited = Picture(image, picture.alpha if image.shape == picture.rgb.shape else None, picture.profile)
        return edited if isinstance(target, Picture) else _like(target, edited)

    def explain(self, task: str, source: Any, target: Any) -> dict[str, np.ndarray]:
        """What the model does inside with the largest face of each, as pictures uint8 (H, W, 3).

        `fdf` (as the paper's Fig. 9): the target's displacement field in colours. `attention` (as Fig. 8): the target
        with four points, and for each of them where IdT looks. What a model does not have is left out. Errors as in
        `swap`.
        """
        crops = [self.prepare(task, image, False) for image in (source, target)]
        parts = self.network(task).explain(*(to_tensor(crop)[None] for crop in crops))
        shown, big = {}, resize(crops[1], (max(SHOWN, len(crops[1])),) * 2)
        if parts.fdf is not None:
            field = parts.fdf.float().cpu().numpy()  # (1, 2, h, w)
            shown["fdf"] = explain.cells(explain.colour_field(field[0], explain.longest(field)), len(big))
        if parts.attention is not None:
            attention = parts.attention[0].float().cpu().numpy()
            maps = [explain.looked_at(big, attention, point) for point in explain.POINTS]
            shown["attention"] = grid([[explain.marked(big), *maps]])
        return shown

    def apply(self, task: str, features: tuple, image: np.ndarray, squares: list[crops.Square]) -> np.ndarray:
        """A picture with the faces in `squares` swapped, or the reenacted square of the first."""
        if task == "reenactment":
            return self.run(task, features, [squares[0].cut(image, self.network(task).size)])[0]
        before = [square.cut(image, self.network(task).size) for square in squares]
        for square, crop, output in zip(squares, before, self.run(task, features, before), strict=True):
            image = paste(image, square, crop, output)
        return image

    def run(self, task: str, features: tuple, targets: list[np.ndarray]) -> list[np.ndarray]:
        """The network on target crops, uint8 (S, S, 3) in and out."""
        batch = BATCH if self.device != "cpu" else 1
        parts = [targets[start : start + batch] for start in range(0, len(targets), batch)]
        network = self.network(task)
        return [image for part in parts for image in to_uint8(network.frame(features, to_tensor(np.stack(part))))]

    def _frames(self, task: str, source: Any, frames: Iterable[np.ndarray], options: dict) -> Iterator[Edited]:
        for window in self.session(task, source, **options).windows(frames):
            yield from window


class Session:
    """One source and the frames of one video, window by window; between windows `state` tells all that goes on.

    `face` as in `FaceEditor.swap`, `smooth` steadies boxes and landmarks over time, `fps` is the video's rate, which
    the smoothing follows; with `crop` the frames are square face crops already.
    """

    def __init__(
        self,
        editor: FaceEditor,
        task: str,
        source: Any,
        face: find.Choice = "largest",
        smooth: bool = True,
        fps: float = 25.0,
        crop: bool = False,
    ):
        self.editor, self.task, self.crop = editor, task, crop
        network = editor.network(task)
        prepared = editor.prepare(task, source, crop)
        self._features = network.source(to_tensor(prepared)[None])
        self._still = prepared  # what a reenactment shows until there is a face to follow
        look = (lambda image, regions: []) if crop else partial(find.glance, editor.faces, editor.height(task))
        self.tracker = Tracker(look, face, smooth, fps)

    def windows(self, frames: Iterable[np.ndarray]) -> Iterator[list[Edited]]:
        """The edited frames. A frame without the face passes unchanged; a reenactment then keeps its last picture."""
        if self.crop:
            size = self.editor.network(self.task).size
            for frame in frames:
                yield [Edited(self._run([_square(frame, size, "a frame")])[0], 1)]
            return
        for window in self.tracker.windows(frames):
            yield self._reenact(window) if self.task == "reenactment" else self._swap(window)

    def _run(self, targets: list[np.ndarray]) -> list[np.ndarray]:
        return self.editor.run(self.task, self._features, targets)

    def _swap(self, window: list[tuple[np.ndarray, list[Track]]]) -> list[Edited]:
        size = self.editor.network(self.task).size
        squares = [[self.editor.square(self.task, track, moving=True) for track in tracks] for _, tracks in window]
        cut = [square.cut(image, size) for (image, _), own in zip(window, squares, strict=True) for square in own]
        pairs = zip(cut, self._run(cut), strict=True)
        edited = []
        for (image, _), own in zip(window, squares, strict=True):
            for square in own:
                image = paste(image, square, *next(pairs))
            edited.append(Edited(image, len(own)))
        return edited

    def _reenact(self, window: list[tuple[np.ndarray, list[Track]]]) -> list[Edited]:
        size = self.editor.network(self.task).size
        cut = [
            self.editor.square(self.task, tracks[0], moving=True).cut(image, size) for image, tracks in window if tracks
        ]
        outputs = iter(self._run(cut))
        edited = []
        for _, tracks in window:
            if tracks:
                self._still = next(outputs)
            edited.append(Edited(self._still, min(len(tracks), 1)))
        return edited

    def state(self) -> dict[str, Any]:
        """What the next window depends on, as JSON values and one uint8 array, `still`."""
        return {"tracker": self.tracker.state(), "still": self._still}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.tracker.restore(state["tracker"])
        self._still = state["still"]


def _opened(picture: Any, name: str) -> tuple[Picture, str]:
    """Any kind of picture that people hold in hand, and what to call it in an error."""
    if isinstance(picture, str | Path):
        picture = pictures.read(picture)
    if isinstance(picture, Picture):
        return picture, picture.name
    if isinstance(picture, torch.Tensor):
        if picture.ndim == 4 and len(picture) == 1:
            picture = picture[0]
        if picture.ndim != 3 or picture.shape[0] != 3:
            raise ValueError(f"{name} must be (3, H, W) in [-1, 1], got {tuple(picture.shape)}")
        return Picture(to_uint8(picture)), name
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise ValueError(f"{name} must be uint8 (H, W, 3), got {picture.dtype} {picture.shape}")
        return Picture(picture), name
    return pictures.from_pil(picture, name), name


def _like(target: Any, picture: Picture) -> Any:
    """The answer in the kind that the target came in."""
    if isinstance(target, str | Path | np.ndarray):
        return picture.rgb
    if isinstance(target, torch.Tensor):
        image = to_tensor(picture.rgb)
        return image[None] if target.ndim == 4 else image
    from PIL import Image

    image = Image.fromarray(picture.rgb)
    if picture.alpha is not None:
        image.putalpha(Image.fromarray(picture.alpha))
    return image


def _square(image: np.ndarray, size: int, name: str) -> np.ndarray:
    height, width = image.shape[:2]
    if height != width:  # squashing a face would change its identity
        raise ValueError(
            f"{name} is {width} x {height}: with --crop give square face crops, as the stage crop cuts them"
        )
    return resize(image, (size, size))
