"""The registered model: images in, images out, for both tasks. MLflow runs this file to make it (models-from-code).

A request is a table with the columns `task` (reenactment or swapping), `source` (gives the identity) and `target`
(gives the attributes). An image is a square face crop: base64 text of a PNG or JPEG file, or an array, uint8
(H, W, 3). The answer has the column `image`, in the form the source came in: base64 text of a PNG, or an array.
Every PNG carries the mark of origin (`uniface.use.origin`); an array has no place for one.
It needs uniface, mlflow, Pillow and c2pa-python, nothing else of the project.
"""

import base64
import binascii
import io
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import torch
from PIL import Image, UnidentifiedImageError

from uniface.images import resize, to_tensor, to_uint8
from uniface.model import UniFace
from uniface.use import bundle, origin

TASKS = ("reenactment", "swapping")
MAX_SIDE = 4096  # pixels; a larger picture is not a face crop, and may be a decompression bomb


def decode(value: object, column: str = "image") -> np.ndarray:
    """An image as uint8 (H, W, 3) from base64 text or an array; ValueError saying what is wrong with it."""
    if isinstance(value, str | bytes):
        image = _from_text(value, column)
    else:
        try:
            image = np.asarray(value.tolist() if isinstance(value, np.ndarray) and value.dtype == object else value)
        except ValueError as error:
            raise ValueError(f"{column}: rows of unequal length: send an array of shape (H, W, 3)") from error
        if image.ndim != 3 or image.shape[2] != 3 or not np.issubdtype(image.dtype, np.integer):
            raise ValueError(
                f"{column}: expected base64 text of a PNG or JPEG, or integers of shape (H, W, 3), "
                f"got {image.dtype} {image.shape}"
            )
        if image.size and (image.min() < 0 or image.max() > 255):
            raise ValueError(f"{column}: array values must lie between 0 and 255")
        image = image.astype(np.uint8)
    height, width = image.shape[:2]
    if height != width:
        raise ValueError(f"{column}: {width}x{height} is not square: send a square crop of the face")
    if not 8 <= height <= MAX_SIDE:
        raise ValueError(f"{column}: the side is {height} pixels; 8 to {MAX_SIDE} are accepted")
    return image


def _from_text(text: str | bytes, column: str) -> np.ndarray:
    raw = text.encode() if isinstance(text, str) else text
    if raw.startswith(b"data:"):
        raw = raw.partition(b",")[2]
    try:
        with Image.open(io.BytesIO(base64.b64decode(raw, validate=True))) as picture:
            if max(picture.size) > MAX_SIDE:
                raise ValueError(f"{column}: {picture.size[0]}x{picture.size[1]} is larger than {MAX_SIDE} pixels")
            return np.asarray(picture.convert("RGB"))
    except binascii.Error as error:
        raise ValueError(f"{column}: not base64 text: {error}") from error
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError) as error:
        raise ValueError(f"{column}: the base64 text is not a readable PNG or JPEG file") from error


def encode(image: np.ndarray, mark: origin.Mark) -> str:
    """uint8 (H, W, 3) as base64 text of a PNG file with its mark of origin."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="PNG")
    return base64.b64encode(origin.sign_bytes(file.getvalue(), "image/png", mark)).decode()


class FaceModel(mlflow.pyfunc.PythonModel):
    """Both tasks of UniFace behind one `predict`; each task runs with the weights its own stage trained (Sec. 3.2)."""

    def load_context(self, context):
        """Load the two weight files and the settings `image_size` and `batch_size` of the model's config."""
        self.size = int(context.model_config["image_size"])
        self.batch = int(context.model_config["batch_size"])
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        files = {task: Path(context.artifacts[task]) for task in TASKS}
        self.marks = {t: origin.Mark(t, False, "served model", bundle.sha256(file)) for t, file in files.items()}
        self.models = {task: UniFace.load(files[task]).to(self.device).eval() for task in TASKS}

    def predict(self, context, model_input: pd.DataFrame, params=None):
        """A DataFrame with the column `image`, a row for each row of `model_input` in its order."""
        try:
            return self._answer(pd.DataFrame(model_input))
        except ValueError as error:
            raise mlflow.MlflowException.invalid_parameter_value(str(error)) from error

    def _answer(self, table: pd.DataFrame) -> pd.DataFrame:
        missing = [name for name in ("task", "source", "target") if name not in table]
        if missing:
            raise ValueError(f"missing column {missing[0]}: a row has task, source and target")
        tasks = list(table["task"])
        for row, task in enumerate(tasks):
            if task not in TASKS:
                raise ValueError(f"row {row}: task is {task!r}; it must be one of {', '.join(TASKS)}")
        images: list = [None] * len(table)
        for task in TASKS:
            rows = [row for row, wanted in enumerate(tasks) if wanted == task]
            for start in range(0, len(rows), self.batch):
                part = rows[start : start + self.batch]
                source, target = (self._tensor(table, name, part) for name in ("source", "target"))  # (B, 3, H, W)
                for row, image in zip(part, self._run(task, source, target), strict=True):
                    as_text = isinstance(table["source"].iloc[row], str | bytes)
                    images[row] = encode(image, self.marks[task]) if as_text else image
        return pd.DataFrame({"image": pd.Series(images, index=table.index, dtype=object)})

    def _tensor(self, table: pd.DataFrame, column: str, rows: list[int]) -> torch.Tensor:
        crops = [decode(table[column].iloc[row], f"row {row}, {column}") for row in rows]
        return to_tensor(np.stack([resize(crop, (self.size, self.size)) for crop in crops])).to(self.device)

    @torch.inference_mode()
    def _run(self, task: str, source: torch.Tensor, target: torch.Tensor) -> np.ndarray:
        model = self.models[task]
        return to_uint8(model(source, target, task=task))


mlflow.models.set_model(FaceModel())
