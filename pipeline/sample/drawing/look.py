"""What is seen of a person besides the face: skin, hair, clothes; and where: light, background, camera."""

import colorsys
from dataclasses import dataclass

import numpy as np

from pipeline.sample.drawing.maps import Colour, uniform

SKIN_COLOURS = (
    (244, 210, 188),
    (236, 196, 168),
    (224, 178, 146),
    (206, 156, 122),
    (176, 126, 94),
    (142, 98, 72),
    (108, 74, 56),
    (84, 58, 46),
)
HAIR_COLOURS = (
    (26, 22, 22),
    (44, 32, 26),
    (74, 50, 34),
    (104, 70, 42),
    (150, 108, 62),
    (196, 156, 100),
    (132, 62, 34),
    (140, 136, 132),
)
HAIR_STYLES = {"short": 0.25, "crop": 0.15, "long": 0.2, "bob": 0.15, "bangs": 0.15, "receding": 0.1}  # and how often


@dataclass(frozen=True)
class Look:
    """Skin tone, hair and clothes: a swap keeps the target's, a reenactment the source's."""

    skin: Colour
    hair: Colour
    style: str  # one of HAIR_STYLES
    part: float  # where the hair is parted, -: left
    hairline: float
    volume: float
    wave: float
    cloth: Colour
    collar: int  # 0 round, 1 V, 2 wide
    stripes: bool
    shoulder: float  # half the width of the shoulders
    texture: int

    @classmethod
    def sample(cls, rng: np.random.Generator) -> "Look":
        """A random look. Dark skin comes with dark hair."""
        tone = uniform(rng, 0, len(SKIN_COLOURS) - 1.01)
        i = int(tone)
        skin = (
            np.array(SKIN_COLOURS[i]) * (1 - tone + i)
            + np.array(SKIN_COLOURS[i + 1]) * (tone - i)
            + rng.normal(0, 3, 3)
        )
        hair = HAIR_COLOURS[int(rng.integers(3 if tone > 4 else len(HAIR_COLOURS)))] + rng.normal(0, 4, 3)
        style = list(HAIR_STYLES)[int(rng.choice(len(HAIR_STYLES), p=list(HAIR_STYLES.values())))]
        cloth = hsv(uniform(rng, 0, 180), uniform(rng, 20, 170), uniform(rng, 50, 220))
        return cls(
            skin=tuple(float(c) for c in skin.clip(0, 255)),
            hair=tuple(float(c) for c in hair.clip(12, 230)),
            style=style,
            part=uniform(rng, -0.45, 0.45),
            hairline=uniform(rng, -0.06, 0.06),
            volume=uniform(rng, 0.05, 0.16),
            wave=uniform(rng, 0, 1),
            cloth=cloth,
            collar=int(rng.integers(3)),
            stripes=bool(rng.integers(4) == 0),
            shoulder=uniform(rng, 1.75, 2.1),
            texture=int(rng.integers(1 << 30)),
        )


@dataclass(frozen=True)
class Scene:
    """Light and background: constant within a video."""

    light_azimuth: float
    light_elevation: float
    key: float  # strength of the key light
    ambient: float
    warmth: float  # -1 bluish to 1 yellowish
    background: int  # 0 plain, 1 bokeh, 2 shelves, 3 clouds
    hue: float  # 0-180, as the next two in OpenCV's ranges
    saturation: float
    value: float
    texture: int

    @classmethod
    def sample(cls, rng: np.random.Generator) -> "Scene":
        """A random scene."""
        return cls(
            light_azimuth=uniform(rng, -65, 65),
            light_elevation=uniform(rng, 5, 50),
            key=uniform(rng, 0.55, 0.85),
            ambient=uniform(rng, 0.34, 0.50),
            warmth=uniform(rng, -1, 1),
            background=int(rng.integers(4)),
            hue=uniform(rng, 0, 180),
            saturation=uniform(rng, 15, 110),
            value=uniform(rng, 70, 210),
            texture=int(rng.integers(1 << 30)),
        )


def hsv(hue: float, saturation: float, value: float) -> Colour:
    """RGB 0-255 of a colour in OpenCV's ranges (hue 0-180, the others 0-255); hue wraps, the others are clipped."""
    h, s, v = hue % 180 / 180, min(max(saturation, 0), 255) / 255, min(max(value, 15), 250) / 255
    return tuple(255 * c for c in colorsys.hsv_to_rgb(h, s, v))
