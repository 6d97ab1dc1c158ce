"""What can differ between two pictures of the sample world: face, look, scene, attributes.

`Face` is the identity: what a swap carries from the source. `Look` (skin tone, hair, clothes) and `Scene` (light,
background) stay with the target in a swap and with the source in a reenactment. `Attributes` is what a reenactment
takes from the driving frame. Lengths are head units (1 is about 96 mm, less than half a head's height), colours RGB
0-255, angles degrees. The cues of identity are bold on purpose: at 64 px a small network must be able to see them.
"""

from dataclasses import astuple, dataclass, fields, replace
from typing import ClassVar

import numpy as np

from pipeline.sample.drawing.maps import Colour, pick, uniform

IRIS_COLOURS = ((78, 46, 24), (120, 78, 36), (44, 30, 22), (62, 104, 150), (78, 128, 84), (128, 146, 156))
BROW_COLOURS = ((20, 16, 16), (62, 40, 28), (120, 66, 36), (176, 130, 70), (150, 64, 24), (150, 148, 146))
LIP_COLOURS = ((170, 24, 44), (220, 90, 96), (120, 30, 80), (190, 104, 70), (96, 40, 36), (214, 140, 130))
FRAME_COLOURS = ((16, 16, 18), (120, 30, 30), (40, 60, 120), (190, 160, 80), (220, 220, 220), (90, 56, 30))
MARK_COLOURS = ((150, 50, 60), (70, 44, 36), (230, 205, 190))
SHADOW_COLOURS = ((120, 60, 160), (40, 110, 160), (170, 80, 60), (50, 130, 80), (40, 34, 40))
# fmt: off
# fmt: on


@dataclass(frozen=True)
class Face:
    """Identity: shape, features and marks of a face."""

    # the skull and the flesh on it
    width: float
    chin_length: float
    depth: float
    taper: float  # how much narrower the jaw is than the temples
    boxiness: float  # exponent of the superellipsoid
    jaw: float
    chin: float
    chin_width: float
    cheek: float
    brow_ridge: float
    socket: float  # depth of the eye sockets
    age: float  # 0-1: folds and bags
    # eyes; positions on the head map, sizes relative to eye_width
    eye_x: float
    eye_y: float
    eye_width: float
    eye_opening: float
    eye_tilt: float  # radians
    iris: Colour
    iris_radius: float
    lashes: float
    eye_shadow: float
    eye_shadow_colour: Colour
    # brows
    brow_height: float  # above the eye
    brow_width: float
    brow_thickness: float
    brow_arch: float
    brow_tilt: float
    brow_opacity: float
    brow_colour: Colour
    # nose
    nose_length: float
    nose_height: float
    nose_width: float
    nose_wings: float
    nose_bridge: float
    nose_tip_up: float
    # mouth
    mouth_y: float  # below the nose
    mouth_width: float
    upper_lip: float
    lower_lip: float
    cupid_bow: float
    lip_redness: float
    lip_lightness: float
    lip_tint: float  # 0-1: how much of lip_colour
    lip_colour: Colour
    # what grows and sits on it
    freckles: float
    blush: float
    beard: float  # opacity, 0 for none
    beard_full: bool  # else a goatee
    beard_colour: Colour
    glasses: bool
    glasses_radius: float
    glasses_thickness: float
    glasses_squareness: float
    glasses_colour: Colour
    mark: bool  # birthmark
    mark_x: float
    mark_y: float
    mark_radius: float
    mark_colour: Colour
    mole: bool
    mole_x: float
    mole_y: float
    texture: int  # seed of the skin's grain and freckles

    VECTOR_NAMES: ClassVar[tuple[str, ...]]

    @classmethod
    def sample(cls, rng: np.random.Generator) -> "Face":
        """A random identity. A hidden soft-to-rugged axis correlates the features, so that faces look coherent."""
        rugged = float(rng.uniform())

        def between(soft: float, hard: float, freedom: float = 0.5) -> float:
            return soft + (hard - soft) * ((1 - freedom) * rugged + freedom * float(rng.uniform()))

        return cls(
            width=uniform(rng, 0.66, 0.88),
            chin_length=uniform(rng, 1.12, 1.34),
            depth=uniform(rng, 0.92, 1.0),
            taper=between(0.34, 0.16, 0.6),
            boxiness=between(2.15, 2.6, 0.6),
            jaw=between(0.0, 0.09),
            chin=between(0.06, 0.13, 0.6),
            chin_width=between(0.12, 0.2, 0.6),
            cheek=uniform(rng, 0.01, 0.10),
            brow_ridge=between(0.0, 0.035, 0.4),
            socket=uniform(rng, 0.05, 0.10),
            age=uniform(rng, 0, 1),
            eye_x=uniform(rng, 0.290, 0.380),
            eye_y=uniform(rng, -0.03, 0.04),
            eye_width=uniform(rng, 0.11, 0.20),
            eye_opening=uniform(rng, 0.34, 0.74),
            eye_tilt=uniform(rng, -0.12, 0.20),
            iris=pick(rng, IRIS_COLOURS),
            iris_radius=uniform(rng, 0.40, 0.47),
            lashes=between(1.0, 0.35),
            eye_shadow=max(0.0, 0.8 - rugged) * uniform(rng, 0, 1.6),
            eye_shadow_colour=pick(rng, SHADOW_COLOURS),
            brow_height=uniform(rng, 0.19, 0.27),
            brow_width=uniform(rng, 0.17, 0.25),
            brow_thickness=between(0.02, 0.095, 0.75),
            brow_arch=between(0.05, 0.0, 0.6),
            brow_tilt=uniform(rng, -0.5, 0.5),
            brow_opacity=uniform(rng, 0.7, 0.97),
            brow_colour=pick(rng, BROW_COLOURS),
            nose_length=uniform(rng, 0.32, 0.40),
            nose_height=uniform(rng, 0.085, 0.225),
            nose_width=uniform(rng, 0.045, 0.115),
            nose_wings=uniform(rng, 0.06, 0.15),
            nose_bridge=uniform(rng, 0.015, 0.05),
            nose_tip_up=uniform(rng, -0.02, 0.02),
            mouth_y=uniform(rng, 0.245, 0.295),
            mouth_width=uniform(rng, 0.155, 0.31),
            upper_lip=between(0.085, 0.022, 0.75),
            lower_lip=between(0.12, 0.035, 0.75),
            cupid_bow=uniform(rng, 0.2, 0.9),
            lip_redness=between(1.0, 0.05, 0.7),
            lip_lightness=uniform(rng, 0.60, 0.98),
            lip_tint=uniform(rng, 0.1, 0.95),
            lip_colour=pick(rng, LIP_COLOURS),
            freckles=min(1.0, max(0.0, float(rng.normal(0, 0.9)))),
            blush=uniform(rng, 0, 1.6),
            beard=uniform(rng, 0.35, 0.85) * bool(rng.uniform() < 0.15 + 0.55 * (rugged > 0.5)),
            beard_full=bool(rng.uniform() < 0.6),
            beard_colour=pick(rng, BROW_COLOURS),
            glasses=bool(rng.uniform() < 0.35),
            glasses_radius=uniform(rng, 0.17, 0.24),
            glasses_thickness=uniform(rng, 0.012, 0.032),
            glasses_squareness=uniform(rng, 1.8, 5),
            glasses_colour=pick(rng, FRAME_COLOURS),
            mark=bool(rng.uniform() < 0.4),
            mark_x=uniform(rng, -0.55, 0.55),
            mark_y=uniform(rng, -0.55, 0.55),
            mark_radius=uniform(rng, 0.06, 0.13),
            mark_colour=pick(rng, MARK_COLOURS),
            mole=bool(rng.uniform() < 0.35),
            mole_x=uniform(rng, -0.5, 0.5),
            mole_y=uniform(rng, 0.15, 0.75),
            texture=int(rng.integers(1 << 30)),
        )

    def vector(self) -> np.ndarray:
        """(len(VECTOR_NAMES),) float32: what a recogniser should know. Colours / 255; what is not worn is all zeros.

        A part that does not show (no glasses, no beard, no birthmark, faint tint or shadow) has no parameters to
        know, so its values are multiplied by its visibility. The texture seed is left out: it cannot be regressed.
        """
        visible = {
            "beard_": self.beard > 0,
            "glasses_": self.glasses,
            "mark_": self.mark,
            "mole_": self.mole,
            "lip_colour": self.lip_tint,
            "eye_shadow_colour": min(self.eye_shadow, 1),
        }
        values = []
        for field in fields(self):
            if field.name == "texture":
                continue
            weight = float(next((w for prefix, w in visible.items() if field.name.startswith(prefix)), 1))
            value = getattr(self, field.name)
            values += [c / 255 * weight for c in value] if field.type is Colour else [value * weight]
        return np.array(values, np.float32)


Face.VECTOR_NAMES = tuple(
    f"{field.name}{suffix}"
    for field in fields(Face)
    if field.name != "texture"
    for suffix in (("_r", "_g", "_b") if field.type is Colour else ("",))
)


@dataclass(frozen=True)
class Attributes:
    """Pose, expression and place in the picture: what a reenactment takes from the driving frame."""

    yaw: float = 0.0  # degrees; + turns to the right of the picture
    pitch: float = 0.0  # degrees; + looks down
    roll: float = 0.0  # degrees; + clockwise
    tx: float = 0.0  # shift / (3 head units)
    ty: float = 0.0
    scale: float = 1.0
    mouth: float = 0.0  # 0 closed to 1 wide open
    smile: float = 0.0  # -0.3 to 1
    blink: float = 0.0  # 0 open to 1 shut
    gaze_x: float = 0.0  # -1 to 1; + to the right of the picture
    gaze_y: float = 0.0
    brow: float = 0.0  # -0.6 frown to 1 raised
    pucker: float = 0.0  # 0 to 1

    RANGES: ClassVar[dict[str, tuple[float, float]]] = {
        "yaw": (-35, 35),
        "pitch": (-18, 18),
        "roll": (-12, 12),
        "tx": (-0.035, 0.035),
        "ty": (-0.03, 0.03),
        "scale": (0.94, 1.06),
        "mouth": (0, 1),
        "smile": (-0.3, 1),
        "blink": (0, 1),
        "gaze_x": (-1, 1),
        "gaze_y": (-0.7, 0.7),
        "brow": (-0.6, 1),
        "pucker": (0, 1),
    }

    @classmethod
    def sample(cls, rng: np.random.Generator) -> "Attributes":
        """A random still: the pose normal about the front, the mouth mostly closed, the eyes mostly open."""
        middle = {}
        for name in ("yaw", "pitch", "roll", "tx", "ty", "scale", "gaze_x", "gaze_y"):
            low, high = cls.RANGES[name]
            middle[name] = (low + high) / 2 + (high - low) / 2 * float(np.clip(rng.normal(0, 0.5), -1, 1))
        smile = float(np.clip(rng.normal(0.25, 0.35), -0.3, 1))
        return cls(
            **middle,
            mouth=float(rng.beta(0.6, 1.2)),
            smile=smile,
            blink=float(rng.choice([0, 0.15, 0.5, 1.0], p=[0.55, 0.25, 0.1, 0.1])),
            brow=float(np.clip(rng.normal(0.1, 0.4), -0.6, 1)),
            pucker=min(1.0, max(0.0, float(rng.normal(0, 0.4)))) * (smile < 0.3),
        )

    @classmethod
    def portrait(cls, rng: np.random.Generator) -> "Attributes":
        """A still as CelebA-HQ has them: aligned, and mostly looking at the camera."""
        a = cls.aligned(rng)
        return replace(a, yaw=a.yaw * 0.6, pitch=a.pitch * 0.7)

    @classmethod
    def aligned(cls, rng: np.random.Generator) -> "Attributes":
        """A still with eyes about level and in place, pose and expression free."""
        a = cls.sample(rng)
        return replace(a, roll=a.roll * 0.4, tx=a.tx * 0.3, ty=a.ty * 0.3, scale=1 + (a.scale - 1) * 0.5)

    def vector(self) -> np.ndarray:
        """(13,) float32 in the order of the fields."""
        return np.array(astuple(self), np.float32)
