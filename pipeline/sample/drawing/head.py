"""The head as one star-shaped surface: radius, colour, gloss and hair as functions of the direction from its centre.

The four maps are square images on a Lambert azimuthal projection of the sphere centred on the face: no pole and no seam
where anybody looks. Axes: x to the right of the picture, y down, z towards the camera; lengths in head units.
"""

from functools import cached_property, lru_cache

import cv2
import numpy as np

from pipeline.sample.drawing.identity import Face
from pipeline.sample.drawing.look import Look
from pipeline.sample.drawing.maps import (
    HALF_RANGE,
    bump,
    clip,
    direction,
    mix,
    noise,
    planes,
    ridge,
    smoothstep,
)

SHOW_EARS = ("short", "crop", "receding")
HAIRLINE = {"bangs": 0.33, "receding": -0.14, "crop": -0.02}  # lower (+) or higher than usual
HAIR_SIDE = {"short": 0.95, "crop": 1.0, "receding": 1.0, "long": 0.80, "bob": 0.78, "bangs": 0.82}  # |u| it starts at
HAIR_BOTTOM = {"short": 0.10, "crop": -0.02, "receding": -0.02, "long": 3.0, "bob": 0.85, "bangs": 3.0}
HAIR_SOFTNESS = {"crop": 0.10, "receding": 0.09}
REACH = 6.5  # of a bump, in its widths: e ** -21 at its edge
HAIR_THICKNESS = {"crop": 0.35, "receding": 0.4, "short": 0.9}


class Head:
    """Everything about (face, look) that no attribute changes.

    u (1, n) and v (n, 1) are the map's coordinates, `directions` three planes (n, n). `radius` (n, n), `albedo` planes
    (3, n, n) RGB 0-255, `gloss`, `hair` and `strand` (n, n): mirror share, coverage 0-1, brightness of the strands.
    """

    def __init__(self, face: Face, look: Look, n: int) -> None:
        self.face, self.look, self.n = face, look, n
        self.u, self.v, self.directions = _grid(n)
        self.texels = n / (2 * HALF_RANGE)  # per unit of u or v
        self.nose_y = face.eye_y + face.nose_length
        self.mouth_y = self.nose_y + face.mouth_y
        ear = _ear(self.u, self.v, look)

        skull = self._radius(ear)
        skin, skin_gloss = self._skin(ear)
        self.strand, depth, hair = _hair(look, n)
        thickness = look.volume * HAIR_THICKNESS.get(look.style, 1.0) + 0.02
        lift = thickness * smoothstep(-0.05, 0.30, depth) + 0.010 * self.strand
        strands = planes(look.hair) * clip(1 + 0.30 * self.strand, 0.45, 1.9)
        strands *= 0.80 + 0.2 * smoothstep(0, 0.25, depth)
        self.hair = hair.astype(np.float32)
        self.radius = (skull + hair * lift).astype(np.float32)
        self.albedo = clip(mix(skin, strands, hair), 4, 250).astype(np.float32)
        hair_gloss = 0.10 + 0.16 * smoothstep(0, 1.2, self.strand)
        self.gloss = (skin_gloss * (1 - hair) + hair * hair_gloss).astype(np.float32)

    @cached_property
    def under(self) -> np.ndarray:
        """(n, n) shade under the jaw."""
        return (1 - 0.45 * smoothstep(0.80, 1.0, self.directions[1])).astype(np.float32)

    def window(self, u0: float, u1: float, v0: float, v1: float) -> tuple[slice, slice]:
        """Slices (rows, columns) of the maps that cover a rectangle of map coordinates."""
        n = self.n
        lo_u, hi_u, lo_v, hi_v = (int(min(max((x / HALF_RANGE + 1) / 2 * n, 0), n)) for x in (u0, u1, v0, v1))
        return slice(lo_v, hi_v), slice(lo_u, hi_u)

    def coordinates(self, window: tuple[slice, slice]) -> tuple[np.ndarray, np.ndarray]:
        """(u, v) of a window, a row and a column."""
        return self.u[:, window[1]], self.v[window[0]]

    def to_texels(self, x: np.ndarray) -> np.ndarray:
        """Map coordinates to texel positions as cv2.remap counts them."""
        return (x + HALF_RANGE) * self.texels - 0.5

    def surface(self, radius: np.ndarray, uv: np.ndarray) -> np.ndarray:
        """(k, 3) points of the surface `radius` (n, n) at map coordinates (k, 2)."""
        at = self.to_texels(uv.astype(np.float32))
        r = cv2.remap(radius, at[None, :, 0], at[None, :, 1], cv2.INTER_LINEAR)[0]
        return np.stack(direction(uv[:, 0], uv[:, 1]), 1) * r[:, None]

    def around(self, u0: float, u1: float, v0: float, v1: float) -> tuple[slice, slice]:
        """The window with a texel more on each side: whatever lies in the rectangle is in it."""
        more = 1 / self.texels
        return self.window(u0 - more, u1 + more, v0 - more, v1 + more)

    def spot(self, cx: float, cy: float, sx: float, sy: float) -> tuple[tuple[slice, slice], np.ndarray]:
        """A bump and the window that holds it: outside it is too small for a float32 near 1 to notice."""
        window = self.around(cx - REACH * sx, cx + REACH * sx, cy - REACH * sy, cy + REACH * sy)
        return window, bump(*self.coordinates(window), cx, cy, sx, sy)

    def _radius(self, ear: np.ndarray) -> np.ndarray:
        """Skull, sockets, cheeks, nose, muzzle, chin and ears, without hair."""
        face = self.face
        eye_x, eye_y, nose_y, mouth_y = face.eye_x, face.eye_y, self.nose_y, self.mouth_y
        x, y, z = self.directions
        low = smoothstep(0.05, 0.95, y)
        half_width = face.width * (1 - face.taper * low**1.5) + face.jaw * bump(y, z, 0.62, 0.2, 0.18, 0.35)
        half_height = np.where(y > 0, np.float32(face.chin_length), np.float32(1.12))
        half_depth = face.depth * np.where(z > 0, 1 + 0.05 * low, np.float32(1.02))
        p = face.boxiness
        r = (np.abs(x) / half_width) ** p + (np.abs(y) / half_height) ** p + (np.abs(z) / half_depth) ** p
        r **= -1 / p
        r -= 0.20 * smoothstep(0.50, 0.95, y) * smoothstep(0.50, -0.1, z)  # under the jaw

        def raised(height: float, *at: float) -> None:
            window, spot = self.spot(*at)
            r[window] += height * spot

        raised(-0.04, 0, -0.75, 0.5, 0.25)  # the forehead slopes back
        for side in (-1, 1):
            raised(-face.socket, side * eye_x * 0.93, eye_y - 0.01, 0.15, 0.10)
            raised(0.055, side * eye_x, eye_y, 0.10, 0.075)  # eyeball
            raised(face.brow_ridge, side * 0.26, eye_y - face.brow_height + 0.04, 0.2, 0.055)
            raised(face.cheek, side * 0.50, eye_y + 0.30, 0.17, 0.14)
            raised(face.nose_wings * 0.9, side * face.nose_wings, nose_y + 0.005, 0.036, 0.045)
            raised(-0.05, side * 0.055, nose_y + 0.055, 0.022, 0.018)  # nostrils
            window = self.around(-0.75, 0.75, nose_y - 0.03, mouth_y + 0.10)
            u, v = self.coordinates(window)
            fold = ridge(side * u - (0.17 + 0.55 * (v - nose_y)), 0, 0.035)
            fold *= smoothstep(nose_y - 0.03, nose_y + 0.06, v) * smoothstep(mouth_y + 0.10, mouth_y - 0.03, v)
            r[window] -= (0.010 + 0.018 * face.age) * fold
            raised(-(0.004 + 0.012 * face.age), side * (eye_x - 0.03), eye_y + 0.135, 0.10, 0.02)  # bags
            raised(-0.05 * (1 - face.cheek * 6), side * 0.62, mouth_y - 0.02, 0.13, 0.2)  # hollow cheek
        window = self.around(
            -1.35 * REACH * face.nose_width, 1.35 * REACH * face.nose_width, eye_y - 0.2, nose_y + 0.15
        )
        u, v = self.coordinates(window)
        rise = clip((v - eye_y + 0.04) / (face.nose_length + 0.04), 0, 1) ** 1.3
        profile = face.nose_bridge + (face.nose_height - face.nose_bridge) * rise
        profile *= smoothstep(eye_y - 0.16, eye_y + 0.02, v)
        profile *= smoothstep(nose_y + 0.10 - face.nose_tip_up, nose_y - face.nose_tip_up, v)
        r[window] += profile * ridge(u / (face.nose_width * (0.85 + 0.45 * smoothstep(nose_y - 0.14, nose_y, v))), 0, 1)
        raised(0.035, 0, nose_y - 0.01, 0.055, 0.05)  # tip
        window, muzzle = self.spot(0, mouth_y, 0.25, 0.14)
        philtrum = bump(*self.coordinates(window), 0, nose_y + 0.12, 0.022, 0.05)
        r[window] += 0.05 * muzzle - 0.018 * philtrum
        raised(-0.035, 0, mouth_y + 0.155, 0.13, 0.04)
        raised(face.chin, 0, mouth_y + 0.31, face.chin_width, 0.10)
        return r + 0.13 * ear - 0.045 * ear * bump(np.abs(self.u), self.v, 1.24, 0.09, 0.05, 0.09)

    def _skin(self, ear: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Colour (3, n, n) and gloss (n, n) of the bare skin with freckles, beard, birthmark, nostrils."""
        face, look, u, v, n = self.face, self.look, self.u, self.v, self.n
        eye_x, eye_y, nose_y, mouth_y, au = face.eye_x, face.eye_y, self.nose_y, self.mouth_y, np.abs(self.u)
        rng = np.random.default_rng(face.texture)
        grain, mottle, specks = noise(rng, n, 39, 3), noise(rng, n, 7, 3), noise(rng, n, 103, 1)
        skin = planes(look.skin) * (1 + 0.010 * mottle + 0.008 * grain)
        blush = 0.8 * bump(u, v, 0, nose_y, 0.11, 0.07) + bump(au, v, 0.50, eye_y + 0.32, 0.2, 0.13)
        blush = blush + 0.8 * ear + 0.35 * bump(u, v, 0, mouth_y + 0.3, 0.2, 0.1)
        skin *= 1 + (planes((1.03, 0.84, 0.82)) - 1) * np.minimum(face.blush * blush, 1)
        window = self.around(-1.4, 1.4, eye_y - 0.65, eye_y + 0.65)
        near_u, near_v = np.abs(self.u[:, window[1]]), self.v[window[0]]
        around_eyes = (0.30 + 0.3 * face.age) * bump(near_u, near_v, eye_x * 0.97, eye_y, 0.16, 0.10)
        around_eyes += 0.35 * bump(near_u, near_v, eye_x - 0.1, eye_y + 0.02, 0.06, 0.09)
        skin[:, *window] *= 1 + (planes((0.80, 0.72, 0.66)) - 1) * around_eyes
        if face.freckles:
            freckles = 0.6 * smoothstep(1.6, 2.4, specks) * face.freckles * bump(au, v, 0.25, eye_y + 0.27, 0.35, 0.16)
            skin *= 1 - planes((0.22, 0.34, 0.40)) * freckles
        if face.mole:
            window, mole = self.spot(face.mole_x, face.mole_y + eye_y, 0.014, 0.014)
            skin[:, *window] *= 1 - 0.55 * mole
        window = self.around(-0.2, 0.2, nose_y - 0.06, nose_y + 0.18)
        near_u, near_v = np.abs(self.u[:, window[1]]), self.v[window[0]]
        skin[:, *window] *= 1 - 0.70 * bump(near_u, near_v, 0.052, nose_y + 0.062, 0.021, 0.015)  # nostrils
        window, under_nose = self.spot(0, nose_y + 0.08, 0.12, 0.05)
        under_nose = smoothstep(nose_y + 0.03, nose_y + 0.09, self.v[window[0]]) * under_nose
        skin[:, *window] *= 1 - 0.22 * under_nose
        if face.beard:
            skin = mix(skin, planes(face.beard_colour), self._beard(grain))
        if face.mark:
            reach = np.hypot(u - face.mark_x, v - eye_y - face.mark_y) / face.mark_radius
            spot = 0.75 * smoothstep(1.15, 0.85, reach + 0.12 * clip(mottle, -1, 1))
            skin = mix(skin, planes(face.mark_colour) * self.paint(0.35), spot)
        gloss = 0.16 + 0.22 * bump(u, v, 0, nose_y - 0.05, 0.07, 0.2) + 0.12 * bump(u, v, 0, -0.45, 0.4, 0.15)
        return skin, gloss + 0.08 * bump(au, v, 0.5, eye_y + 0.27, 0.12, 0.08)

    def paint(self, floor: float) -> float:
        """How bright a colour on this skin looks: 1 on light skin, towards `floor` on dark."""
        return floor + (1 - floor) * sum(self.look.skin) / 3 / 190

    def _beard(self, grain: np.ndarray) -> np.ndarray:
        """(n, n) coverage 0-0.9 of the beard."""
        face, u, v, au = self.face, self.u, self.v, np.abs(self.u)
        cover = smoothstep(self.nose_y + 0.06, self.nose_y + 0.14, v + 0.25 * smoothstep(0.45, 0.9, au))
        cover = cover * smoothstep(1.22, 1.12, au) * (1 - bump(u, v, 0, self.mouth_y, 0.23, 0.07))
        if not face.beard_full:
            cover = cover * smoothstep(0.42, 0.30, au)
        return clip(cover * face.beard * (1 + 0.08 * clip(grain, -1.5, 1.5)), 0, 0.9)


@lru_cache(maxsize=2)
def _grid(n: int) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, ...]]:
    """u (1, n), v (n, 1) and the directions x, y, z, each (n, n), of a map's texels."""
    axis = (((np.arange(n) + 0.5) / n * 2 - 1) * HALF_RANGE).astype(np.float32)
    return axis[None, :], axis[:, None], direction(*np.meshgrid(axis, axis))


def _ear(u: np.ndarray, v: np.ndarray, look: Look) -> np.ndarray:
    """Where the ears are, 0-1, if this hair shows them."""
    return bump(np.abs(u), v, 1.29, 0.10, 0.11, 0.17) if look.style in SHOW_EARS else np.float32([[0]])


@lru_cache(maxsize=2)
def _hair(look: Look, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Strand brightness, depth inside the hair (head units, negative outside) and coverage 0-1, each (n, n).

    Remembered, since several faces are drawn with one look.
    """
    u, v, _ = _grid(n)
    au, style, ear = np.abs(u), look.style, _ear(u, v, look)
    rng = np.random.default_rng(look.texture)
    wobble = 0.03 * noise(rng, n, 8.8, 2)
    # strands: a noise picture in polar coordinates about the crown
    fibres = rng.normal(0, 1, (8, 900)).astype(np.float32)
    fibres = cv2.GaussianBlur(fibres, (5, 3), 0)
    fibres += 1.2 * cv2.GaussianBlur(fibres, (31, 3), 0)
    angle, reach = np.arctan2(u - look.part * 0.6, v + 1.25), np.hypot(u - look.part * 0.6, v + 1.25)
    wave = look.wave * 0.05 * np.sin(reach * 9 + 3 * np.sin(angle * 2))
    along, across = ((angle + wave) / (2 * np.pi) + 0.5) * 899, clip(reach / 3.5 * 7, 0, 7)
    strand = cv2.remap(fibres, along, across, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    # the signed field: positive inside the hair
    front = -0.66 + look.hairline + HAIRLINE.get(style, 0)
    if style in ("short", "long", "bob"):
        front = front - 0.08 * ridge(u, look.part, 0.16)
    if style == "receding":
        front = front - 0.18 * ridge(au, 0.42, 0.16)
    front = front + 0.95 * clip(au - 0.25, 0, 2) ** 2  # drops towards the temples
    side = au - HAIR_SIDE[style] - 0.12 * smoothstep(0.2, 0.9, v) * (style == "bob")
    inside = np.maximum(front - v, np.minimum(side, np.minimum(v + 0.75, HAIR_BOTTOM[style] - v))) + 0.8 * wobble
    back = smoothstep(1.48, 1.56, np.sqrt(u * u + v * v)) * smoothstep(1.0, 0.8, v)
    softness = HAIR_SOFTNESS.get(style, 0.05)
    cover = np.maximum(smoothstep(-softness * 0.4, softness, inside + 0.02 * strand), back)
    if style in SHOW_EARS:
        cover = cover * (1 - smoothstep(0.04, 0.25, ear))
    return strand, np.maximum(inside, 0.35 * back * smoothstep(0.9, 0.0, v)), cover
