"""What is behind and below the head: back hair, neck and torso, as layers in head units, lit once per video."""

import math
from copy import copy
from dataclasses import dataclass

import cv2
import numpy as np

from pipeline.sample.drawing.identity import Attributes, Face
from pipeline.sample.drawing.light import VIEW, Light, shade
from pipeline.sample.drawing.look import Look
from pipeline.sample.drawing.maps import clip, colour, ridge, smoothstep, spread

BACK_HAIR = {"long": 1.95, "bangs": 1.6, "bob": 1.05}  # how far down it hangs, head units below the centre
FOLLOW = 2.6  # the torso shifts by this times tx, ty; the head by 3


class Body:
    """Draws (face, look, light) around a head of `unit` pixels per head unit; `below`: pixels of picture under it."""

    def __init__(self, face: Face, look: Look, light: Light, unit: float, below: float) -> None:
        self.face, self.look, self.light, self.unit = face, look, light, unit
        bottom = max(2.6, below / unit + 0.3)
        self.back_hair = self._back_hair() if look.style in BACK_HAIR else None
        self.torso = self._torso(bottom)

    def with_face(self, face: Face) -> "Body":
        """The same below another face: the torso is shared."""
        other = copy(self)
        other.face = face
        other.back_hair = None if self.back_hair is None else other._back_hair()
        return other

    def _axes(self, half_width: float, top: float, bottom: float) -> tuple[np.ndarray, np.ndarray]:
        """Head units of a layer's pixels, a row and a column."""
        across = np.arange(-int(half_width * self.unit), int(half_width * self.unit), dtype=np.float32)
        down = np.arange(int(top * self.unit), int(bottom * self.unit), dtype=np.float32)
        return across[None, :] / np.float32(self.unit), down[:, None] / np.float32(self.unit)

    def draw(
        self,
        image: np.ndarray,
        attributes: Attributes,
        centre: tuple[float, float],
        shift: tuple[float, float],
        unit: float,
    ) -> None:
        """Draws onto image (h, w, 3). `centre`: pixels of the head's resting place; `shift`: of the head from there,
        in head units; `unit`: pixels per head unit of this frame."""
        head_x, head_y = centre[0] + unit * shift[0], centre[1] + unit * shift[1]
        body_x, body_y = centre[0] + unit * attributes.tx * FOLLOW, centre[1] + unit * attributes.ty * FOLLOW
        if self.back_hair is not None:
            self._put(image, self.back_hair, head_x, head_y, unit, head_y - 0.3 * unit)
        self._draw_neck(image, attributes, (body_x, body_y), (head_x - body_x) / unit, (head_y - body_y) / unit, unit)
        self._put(image, self.torso, body_x, body_y, unit, body_y + 1.3 * unit)

    def _put(self, image: np.ndarray, layer: "Layer", x: float, y: float, unit: float, from_row: float) -> None:
        """Lays a layer with its origin at pixel (x, y) over the rows from `from_row` on."""
        zoom = unit / self.unit
        top = int(min(max(from_row, 0), image.shape[0] - 1))
        rows = image[top:]
        move = np.array([[zoom, 0, x + zoom * layer.left], [0, zoom, y + zoom * layer.top - top]], np.float32)
        left, right = (int(x + zoom * edge) for edge in (layer.left - 2, layer.left + layer.cover.shape[1] + 2))
        columns = slice(max(left, 0), max(right, 0))  # beyond, the layer is empty
        part = rows[:, columns]
        if part.size == 0:
            return
        size = rows.shape[1], rows.shape[0]
        colours, cover = (cv2.warpAffine(one, move, size)[:, columns] for one in (layer.colours, layer.cover))
        part *= spread(1 - cover)
        part += colours

    def _back_hair(self) -> "Layer":
        look, light = self.look, self.light
        end, px = BACK_HAIR[look.style], 1.3 / self.unit
        x, y = self._axes(1.4, -0.3, end + 0.3)
        ax = np.abs(x)
        width = self.face.width - 0.02 + 0.20 * smoothstep(-0.2, 0.7, y) + 0.05 * clip(y, 0, 2)
        width = width + 0.02 * np.sin(y * 5 + np.sign(x) * 2) * look.wave
        cover = smoothstep(px, -px, ax - width) * smoothstep(-0.25, 0.1, y)
        cover = cover * smoothstep(end + 0.15, end - 0.15, y + 0.1 * np.cos(x * 9))
        strands = 0.5 * np.sin(x * 46 + 3 * np.sin(y * 2.2)) + 0.5 * np.sin(x * 101 + 2 * np.sin(y * 3))
        rounding = 0.75 + 0.35 * clip(1 - np.abs(ax / width - 0.8) * 3, 0, 1)
        tint = light.key * (0.45 + 0.3 * light.direction[2]) + light.ambient * 0.8
        return Layer.of(
            colour(look.hair) * tint * ((0.62 + 0.16 * strands) * rounding)[..., None], cover, x, y, self.unit
        )

    def _torso(self, bottom: float) -> "Layer":
        look, px = self.look, 1.3 / self.unit
        x, y = self._axes(2.6, 1.25, bottom)
        ax, xs = np.abs(x), np.abs(x) / look.shoulder
        top = 1.36 + 0.50 * xs**1.3 + 2.6 * clip(xs - 0.80, 0, 1) ** 1.6
        cut = (1.50 - 0.42 * ax, 2.02 - 1.25 * ax, 1.60 - 0.9 * x * x)[look.collar]
        at_neck = ax < (0.55 if look.collar == 1 else 0.60)
        edge = np.where(at_neck, np.maximum(top, cut), top)
        q = clip(x / look.shoulder, -1, 1)
        length = np.sqrt(0.81 * q * q + 0.45**2 + 1.2 - q * q)
        stripe = np.where(np.sin(y * 22 + 0.8 * xs) > 0.3, np.float32(1), np.float32(0.62 if look.stripes else 1))
        folds = 1 - 0.10 * np.sin(x * 6 + 3 * np.sin(y * 2.5)) ** 2
        occlusion = (0.72 + 0.28 * smoothstep(0.0, 0.22, y - edge)) * folds
        if look.collar == 0:
            occlusion = occlusion * (1 - 0.3 * ridge(y - edge, 0.13, 0.018) * at_neck)
        normals = q * 0.9 / length, -0.45 / length, np.sqrt(1.2 - q * q) / length
        lit = shade(normals, colour(look.cloth), 0.03, occlusion, self.light, VIEW)
        return Layer.of(lit * stripe[..., None], smoothstep(-px, px, y - edge) * (xs < 1.4), x, y, self.unit)

    def _draw_neck(
        self,
        image: np.ndarray,
        attributes: Attributes,
        centre: tuple[float, float],
        head_x: float,
        head_y: float,
        unit: float,
    ) -> None:
        """The neck, bent from the shoulders to the head; in head units from the body's `centre`."""
        y0, y1 = (min(max(int(centre[1] + c * unit), 0), len(image)) for c in (0.35, 2.0))
        if y1 == y0:
            return
        y = ((np.arange(y0, y1, dtype=np.float32) + 0.5 - centre[1]) / unit)[:, None]
        down = clip((y - 0.55) / 0.95, 0, 1)
        middle = (head_x + 0.10 * math.sin(math.radians(attributes.yaw))) * (1 - down)
        width = 0.46 + 0.10 * (self.face.boxiness - 2.15) + 0.07 * (1 - np.cos(down * 1.6))
        width, px = width + 0.55 * clip(down - 0.78, 0, 1), 1.3 / unit
        x0 = max(int(centre[0] + unit * (float((middle - width).min()) - px)) - 1, 0)
        x1 = max(int(centre[0] + unit * (float((middle + width).max()) + px)) + 2, 0)
        part = image[y0:y1, x0:x1]
        if part.size == 0:
            return
        x = ((np.arange(x0, x0 + part.shape[1], dtype=np.float32) + 0.5 - centre[0]) / unit)[None, :]
        q = clip((x - middle) / width, -1, 1)
        normals = q, np.full_like(q, -0.05), np.sqrt(1 - q * q)
        chin = self.face.chin_length * 0.93 + head_y + 0.16 * attributes.mouth + 0.008 * attributes.pitch
        occlusion = (1 - 0.62 * smoothstep(chin + 0.42, chin - 0.08, y)) * (1 - 0.25 * q**4)
        occlusion *= 1 - 0.22 * ridge(np.abs(x) - 0.25 * down, 0.12, 0.04) * ridge(y, 1.45, 0.25)
        skin = colour(self.look.skin) * colour((0.97, 0.92, 0.90))
        lit = shade(normals, skin, 0.08, occlusion, self.light, VIEW)
        cover = smoothstep(px, -px, np.abs(x - middle) - width) * smoothstep(0.4, 0.6, y)
        part += (lit - part) * spread(cover)


@dataclass(frozen=True)
class Layer:
    """A picture whose first pixel is at (left, top) from the layer's origin: colours (h, w, 3), premultiplied by the
    cover (h, w). Apart, since numpy adds three of four interleaved channels many times slower."""

    colours: np.ndarray
    cover: np.ndarray
    left: float
    top: float

    @classmethod
    def of(cls, colours: np.ndarray, cover: np.ndarray, x: np.ndarray, y: np.ndarray, unit: float) -> "Layer":
        """Colours (h, w, 3) where `cover` (h, w) is 1; x (1, w) and y (h, 1) in head units."""
        cover = cover.astype(np.float32)
        return cls((colours * cover[..., None]).astype(np.float32), cover, float(x[0, 0]) * unit, float(y[0, 0]) * unit)
