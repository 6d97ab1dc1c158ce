"""Any picture file as upright 8-bit RGB with what must not get lost on its way: transparency and colour profile."""

import io
import os
import struct
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from uniface.use.origin import Mark, check, seal

SMALLEST = 16
"""Pixels of the shorter side below which a picture holds no face."""
TRANSPARENT = (".png", ".webp", ".tif", ".tiff", ".avif")
LOSSY = {
    ".jpg": {"quality": 95, "subsampling": 0},
    ".jpeg": {"quality": 95, "subsampling": 0},
    ".webp": {"quality": 95},
}


@dataclass(frozen=True, eq=False)
class Picture:
    """`rgb` uint8 (H, W, 3) upright, `alpha` uint8 (H, W) or None, `profile` the ICC profile's bytes or None.

    `name` is what errors call it. `notes`: the conversions that were needed, of rotated, 16-bit, palette, cmyk, grey,
    alpha.
    """

    rgb: np.ndarray
    alpha: np.ndarray | None = None
    profile: bytes | None = None
    name: str = "the picture"
    notes: list[str] = field(default_factory=list)


def read(path: str | Path) -> Picture:
    """A picture file: grey, 16-bit, CMYK, palette, transparent and EXIF-rotated ones become upright RGB of 8 bits.

    Raises FileNotFoundError, or ValueError for what cannot be read whole or is too small to hold a face.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no picture at {path}")
    return from_pil(path.read_bytes(), str(path))


def from_pil(picture, name: str = "the picture") -> Picture:
    """As `read`, of a PIL image or of a file's bytes."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        file = Image.open(io.BytesIO(picture)) if isinstance(picture, bytes) else picture
        deep = _is_deep(file)
        file.load()
        upright = ImageOps.exif_transpose(file)
        rotated = file.getexif().get(0x0112, 1) != 1
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        reason = "not a picture" if isinstance(error, UnidentifiedImageError) else error  # it has an address in it
        raise ValueError(f"{name} cannot be read: {reason}") from error
    if min(upright.size) < SMALLEST:
        raise ValueError(f"{name} is {upright.width} x {upright.height}: too small to hold a face")
    grey = upright.mode in ("L", "LA", "1") or upright.mode.startswith(("I", "F"))
    found = {"rotated": rotated, "16-bit": deep, "palette": upright.mode == "P", "cmyk": upright.mode == "CMYK"}
    found |= {"grey": grey, "alpha": upright.has_transparency_data}
    profile = upright.info.get("icc_profile") if upright.mode in ("RGB", "RGBA") else None
    alpha = np.asarray(upright.convert("RGBA"))[..., 3] if found["alpha"] else None
    return Picture(_to_rgb(upright), alpha, profile, name, [name for name, true in found.items() if true])


def _is_deep(file) -> bool:
    """Whether the file has more than 8 bits a channel; Pillow hides it for colours, where it takes the upper byte."""
    return file.mode.startswith("I") or any("16" in str(tile[3]) for tile in getattr(file, "tile", []))


def _to_rgb(picture) -> np.ndarray:
    if picture.mode.startswith("I"):  # 16 bits of grey, which convert("RGB") would cut off at 255
        grey = np.clip(np.asarray(picture).astype(np.int64), 0, 65535)
        return np.repeat(np.round(grey / 257).astype(np.uint8)[..., None], 3, -1)
    if picture.mode == "F":
        return np.repeat(np.clip(np.asarray(picture), 0, 255).astype(np.uint8)[..., None], 3, -1)
    if picture.has_transparency_data:
        return np.ascontiguousarray(np.asarray(picture.convert("RGBA"))[..., :3])
    return np.array(picture.convert("RGB"))


def write(path: str | Path, picture: Picture, mark: Mark | None = None, parent: Path | None = None) -> None:
    """Write in the format that the suffix says, atomically, with its mark of origin; its folder is made.

    Transparency is kept where the format has it, else laid on black. `parent` is the picture that was edited. Raises
    ValueError for a format that is unknown, or that has no place for the mark.
    """
    from PIL import Image

    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in Image.registered_extensions():
        raise ValueError(f"{path}: no picture format is called {suffix or 'nothing'}: use .png, .jpg or .webp")
    if mark is not None:
        check(path)
    image = Image.fromarray(picture.rgb)
    if picture.alpha is not None:
        image.putalpha(Image.fromarray(picture.alpha))
        if suffix not in TRANSPARENT:
            image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image).convert("RGB")
    options = dict(LOSSY.get(suffix, {}))
    if picture.profile:
        options["icc_profile"] = picture.profile
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        image.save(unfinished, **options)
        seal(unfinished, path, mark, parent)
    finally:
        unfinished.unlink(missing_ok=True)
