"""Any picture file to the square RGB image the models eat: upright, 8 bits, aligned if asked for, one size."""

import io
import struct
from typing import TYPE_CHECKING

import numpy as np

from uniface.images import resize
from uniface.use.crops import ffhq

if TYPE_CHECKING:
    from PIL import Image

    from uniface.faces import Detection, Faces

SMALLEST = 16
"""Pixels of the shorter side below which a picture holds no face."""


class Rejected(Exception):
    """A picture that cannot be used: `status` is the kind of trouble, the message its detail."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def prepare(data: bytes, size: int, faces: "Faces | None" = None) -> tuple[bytes, list[str]]:
    """A picture file's bytes to BMP bytes of a (size, size) RGB image, and what had to be done to it.

    With `faces` the surest face is aligned as FFHQ does; otherwise the middle square is taken. Raises Rejected.
    """
    image, notes = read_rgb(data)
    if faces is not None:
        found = faces.detect(image)
        if not found:
            raise Rejected("no_face", "the detector finds no face to align")
        image = align(image, found[0])
        notes.append("aligned")
    elif image.shape[0] != image.shape[1]:
        image = _middle(image)
        notes.append("cropped")
    if image.shape[0] < size:
        notes.append("enlarged")
    return encode(resize(image, (size, size))), notes


def read_rgb(data: bytes) -> tuple[np.ndarray, list[str]]:
    """Bytes of any common picture file to uint8 (H, W, 3) RGB, upright, and the conversions that took.

    Grey, 16-bit, CMYK, palette and EXIF-rotated pictures are converted; transparent ones are laid on black. Raises
    Rejected for what cannot be read whole or is too small.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data)) as file:
            deep = _is_deep(file)
            file.load()
            picture = ImageOps.exif_transpose(file)
            rotated = file.getexif().get(0x0112, 1) != 1
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        reason = "not a picture" if isinstance(error, UnidentifiedImageError) else str(error)  # it has an address in it
        raise Rejected("unreadable", reason) from error
    if min(picture.size) < SMALLEST:
        raise Rejected("small", f"{picture.width} x {picture.height} pixels")
    notes = []
    if rotated:
        notes.append("rotated")
    if deep:
        notes.append("16-bit")
    if picture.mode == "P":
        notes.append("palette")
    elif picture.mode == "CMYK":
        notes.append("cmyk")
    if picture.mode in ("L", "LA", "1") or picture.mode.startswith(("I", "F")):
        notes.append("grey")
    if picture.has_transparency_data:
        notes.append("alpha")
    return _to_rgb(picture), notes


def _is_deep(file: "Image.Image") -> bool:
    """Whether the file has more than 8 bits a channel; Pillow hides it for colours, where it takes the upper byte."""
    return file.mode.startswith(("I;16", "I")) or any("16" in str(tile[3]) for tile in file.tile)


def _to_rgb(picture: "Image.Image") -> np.ndarray:
    from PIL import Image

    if picture.mode.startswith("I"):  # 16 bits of grey, which convert("RGB") would cut off at 255
        grey = np.clip(np.asarray(picture).astype(np.int64), 0, 65535)
        return np.repeat(np.round(grey / 257).astype(np.uint8)[..., None], 3, -1)
    if picture.mode == "F":
        return np.repeat(np.clip(np.asarray(picture), 0, 255).astype(np.uint8)[..., None], 3, -1)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, (0, 0, 0, 255)), picture)
    return np.asarray(picture.convert("RGB"))


def _middle(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return image[top : top + side, left : left + side]


def align(image: np.ndarray, face: "Detection") -> np.ndarray:
    """The square around a face in which FFHQ and CelebA-HQ have it, uint8 (S, S, 3) at the picture's own scale."""
    return ffhq(face.landmarks).cut(image)


def encode(image: np.ndarray) -> bytes:
    """uint8 (S, S, 3) RGB to BMP bytes; the same image gives the same bytes.

    Training reads images far more often than anything else does: uncompressed, nothing is lost and nothing has to be
    decoded (StyleGAN's data sets are uncompressed for the same reason). It costs 0.2 MB an image at 256 px.
    """
    import cv2

    return cv2.imencode(".bmp", np.ascontiguousarray(image[..., ::-1]))[1].tobytes()
