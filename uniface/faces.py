"""Face detection and recognition by insightface, from a local folder of ONNX files; nothing is ever downloaded here."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

# of how it calls scikit-image, once for each face: nothing that a user can mend
warnings.filterwarnings("ignore", category=FutureWarning, module=r"insightface\b")

STRIDE = 32
"""The detector's coarsest stride: frames are padded to a multiple of it."""
BATCH = 8
"""Pictures that a detector takes at a time if its file allows it; insightface's own files take one."""


@dataclass(frozen=True, eq=False)
class Detection:
    """A face in an image: `box` (4,) left, top, right, bottom and `landmarks` (5, 2) x, y in pixels of that image.

    The landmarks are the eyes, the nose and the corners of the mouth, the one at the image's left first.
    """

    box: np.ndarray
    score: float
    landmarks: np.ndarray


class Faces:
    """An SCRFD detector and an ArcFace-like recogniser, as insightface tells them apart in `folder`.

    `folder` may also be the detector's ONNX file itself, with `recognise=False`.
    `providers` are ONNX Runtime's (default: the GPU if there is one, else the CPU), `threads` the CPU threads of one
    call (0: all cores), `recognise=False` leaves the recogniser unloaded. Raises FileNotFoundError if the folder holds
    no ONNX file and ValueError if none of them is a detector (or a recogniser, where one is asked for).
    """

    def __init__(
        self, folder: str | Path, providers: Sequence[str] | None = None, threads: int = 0, recognise: bool = True
    ):
        folder = Path(folder)
        if not folder.is_file() and not any(folder.glob("*.onnx")):
            # insightface would take an unknown name for one of its packs and download that, unchecked
            raise FileNotFoundError(f"no ONNX files in {folder}: run `python -m pipeline.weights` first")
        import onnxruntime
        from insightface.app import FaceAnalysis

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        wanted = ["detection", "recognition"] if recognise else ["detection"]
        if folder.is_file():
            self._models = self._single(folder, providers, options)
            return
        try:
            self._models = FaceAnalysis(
                name=str(folder.resolve()),
                allowed_modules=wanted,
                providers=providers and list(providers),
                sess_options=options,
                static_shape_sessions=False,  # else every frame size would keep a session of its own
            ).models
        except AssertionError as error:  # how insightface says that it found no detector
            raise ValueError(f"none of the ONNX files in {folder} is a face detector") from error
        missing = [task for task in wanted if task not in self._models]
        if missing:
            raise ValueError(f"{folder} holds no model for {', '.join(missing)}")

    @staticmethod
    def _single(file: Path, providers: Sequence[str] | None, options: Any) -> dict[str, Any]:
        from insightface.model_zoo import get_model

        try:
            model = get_model(
                str(file), providers=providers and list(providers), sess_options=options, static_shape_sessions=False
            )
        except Exception as error:  # ONNX Runtime has a class of its own for every kind of bad file
            raise ValueError(f"{file} is no ONNX file of a network: {error}") from error
        if getattr(model, "taskname", None) != "detection":
            raise ValueError(f"{file} is no face detector")
        return {"detection": model}

    def detect(self, image: np.ndarray, height: int | None = None) -> list[Detection]:
        """Faces in a uint8 RGB image (H, W, 3), the surest first; found at `height` rows if the image has more.

        Boxes and landmarks are always in pixels of `image`.
        """
        import cv2

        rows, columns = image.shape[:2]
        if height is not None and rows > height:
            small = (max(1, round(columns * height / rows)), height)
            image = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
        scale = np.array([columns / image.shape[1], rows / image.shape[0]], np.float32)
        down, right = (-side % STRIDE for side in image.shape[:2])
        padded = cv2.copyMakeBorder(image[..., ::-1], 0, down, 0, right, cv2.BORDER_CONSTANT)  # BGR
        # at its own size, which is a multiple of the stride, so insightface does not scale it again
        found, landmarks = self._models["detection"].detect(padded, input_size=padded.shape[1::-1])
        if landmarks is None:
            landmarks = np.full((len(found), 5, 2), np.nan, np.float32)
        return [
            Detection(row[:4] * np.tile(scale, 2), float(row[4]), points * scale)
            for row, points in zip(found, landmarks, strict=True)
        ]

    @property
    def batch(self) -> int:
        """How many pictures of one size the detector takes at a time."""
        shape = self._models["detection"].session.get_inputs()[0].shape
        return 1 if isinstance(shape[0], int) or not self._models["detection"].batched else BATCH

    def detect_batch(self, images: Sequence[np.ndarray]) -> list[list[Detection]]:
        """`detect` of up to `batch` uint8 RGB images (H, W, 3) of one size, by one run of the network."""
        model = self._models["detection"]
        if model.static_input_size is not None:
            return [self.detect(image) for image in images]
        blob = _blob(images, model.input_mean, model.input_std)
        outputs = model.session.run(model.output_names, {model.input_name: blob})
        # a file that takes one picture gives (rows, values), one that takes several (pictures, rows, values)
        outputs = [values.reshape(len(images), -1, values.shape[-1]) for values in outputs]
        return [self._decoded([values[k] for values in outputs], blob.shape[2:]) for k in range(len(images))]

    def _decoded(self, outputs: list[np.ndarray], size: tuple[int, int]) -> list[Detection]:
        """The faces in what an SCRFD says of a picture of `size` (H, W): scores, boxes, landmarks by stride.

        What insightface does, for the rows with a face alone.
        """
        model = self._models["detection"]
        levels, anchors = model.fmc, model._num_anchors
        boxes, landmarks = [], []
        for level, stride in enumerate(model._feat_stride_fpn):
            scores = outputs[level][:, 0]
            rows = np.flatnonzero(scores >= model.det_thresh)
            if not len(rows):
                continue
            y, x = np.divmod(rows // anchors, size[1] // stride)
            centre = np.stack([x, y], 1).astype(np.float32) * stride  # (n, 2)
            sides = outputs[levels + level][rows] * stride
            boxes.append(np.hstack([centre - sides[:, :2], centre + sides[:, 2:], scores[rows, None]]))
            if model.use_kps:
                points = outputs[2 * levels + level][rows].reshape(len(rows), 5, 2) * stride
            else:
                points = np.full((len(rows), 5, 2), np.nan, np.float32)
            landmarks.append(points + centre[:, None])
        if not boxes:
            return []
        found, points = np.vstack(boxes).astype(np.float32), np.vstack(landmarks).astype(np.float32)
        order = np.argsort(-found[:, 4], kind="stable")
        found, points = found[order], points[order]
        return [Detection(found[row, :4], float(found[row, 4]), points[row]) for row in model.nms(found)]

    @staticmethod
    def align(image: np.ndarray, landmarks: np.ndarray, size: int = 112) -> np.ndarray:
        """The face with these landmarks (5, 2) as ArcFace wants it: uint8 (size, size, 3), turned and scaled."""
        from insightface.utils.face_align import norm_crop

        # scikit-image's, about a call that only insightface can change
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"insightface\b")
        return norm_crop(image, np.asarray(landmarks, np.float32), size)

    def embed(self, image: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        """The L2-normalised identity vector (D,) of the face with these landmarks (5, 2) in a uint8 RGB image."""
        from insightface.app.common import Face

        face = Face(kps=np.asarray(landmarks, np.float32))
        vector = self._models["recognition"].get(np.ascontiguousarray(image[..., ::-1]), face)
        return vector / max(float(np.linalg.norm(vector)), 1e-12)


def _blob(images: Sequence[np.ndarray], mean: float, deviation: float) -> np.ndarray:
    """Pictures of one size as a detector takes them: float (N, 3, H, W), padded to the stride, (v - mean) / deviation.

    The numbers of `cv2.dnn.blobFromImages` in half its time, a twentieth of a small detector's.
    """
    import cv2

    height, width = images[0].shape[:2]
    blob = np.empty((len(images), 3, height + -height % STRIDE, width + -width % STRIDE), np.float32)
    blob[:, :, height:] = blob[:, :, :, width:] = 0
    for image, planes in zip(images, blob, strict=True):
        for pixels, plane in zip(cv2.split(image), planes, strict=True):
            plane[:height, :width] = pixels
    blob -= np.float32(mean)
    blob *= np.float32(1 / deviation)
    return blob
