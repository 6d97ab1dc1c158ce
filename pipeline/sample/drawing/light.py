"""Light of a scene: shading of any surface, the background picture, the film's response."""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from pipeline.sample.drawing.look import Scene, hsv
from pipeline.sample.drawing.maps import clip, colour, noise, spread

VIEW = np.array([0, 0, 1], np.float32)
SKIN_WRAP = np.array([0.32, 0.20, 0.15], np.float32)  # light bleeds past the terminator, red most
# Identity up to 190, then a soft shoulder that reaches 255 only asymptotically.
FILM = (
    np.array([x if x < 190 else 190 + 65 * (1 - math.exp((190 - x) / 65)) for x in range(512)]).round().astype(np.uint8)
)


@dataclass(frozen=True)
class Light:
    """A key light from `direction` (3,) and ambient light; strengths per channel (3,)."""

    direction: np.ndarray
    key: np.ndarray
    ambient: np.ndarray

    @classmethod
    def of(cls, scene: Scene) -> "Light":
        """The light of a scene, in picture axes (x right, y down, z to the camera)."""
        az, el, warm = math.radians(scene.light_azimuth), math.radians(scene.light_elevation), scene.warmth
        towards = (math.sin(az) * math.cos(el), -math.sin(el), math.cos(az) * math.cos(el))
        key = colour((1 + 0.10 * warm, 1, 1 - 0.14 * warm)) * scene.key
        ambient = colour((1 - 0.05 * warm, 1, 1 + 0.07 * warm)) * scene.ambient
        return cls(np.array(towards, np.float32), key, ambient)

    def seen_from(self, rotation: np.ndarray) -> "Light":
        """The same light in the axes of a body turned by `rotation` (3, 3)."""
        return Light((rotation.T @ self.direction).astype(np.float32), self.key, self.ambient)


def shade(
    normals: tuple[np.ndarray, ...],
    albedo: np.ndarray,
    gloss: np.ndarray | float,
    occlusion: np.ndarray,
    light: Light,
    view: np.ndarray,
) -> np.ndarray:
    """Colours (h, w, 3) of a lit surface: wrapped Lambert, ambient from above, rim light, Blinn-Phong highlights.

    normals: three planes (h, w); albedo (3, h, w) or one colour (3,); gloss and occlusion (h, w); view (3,) towards the
    camera, in the axes of the normals. Plane by plane, since interleaved channels cost numpy three times as much.
    """
    half = light.direction + view
    half /= np.sqrt(half @ half)
    facing_light, facing_half, facing_view = (
        normals[0] * d[0] + normals[1] * d[1] + normals[2] * d[2] for d in (light.direction, half, view)
    )
    rim = clip(1 - np.abs(facing_view), 0, 1)
    ambient = (0.82 - 0.18 * normals[1]) * (0.35 + 0.65 * occlusion) + rim * rim * rim * 0.10
    shine = np.square(clip(facing_half, 0, 1))
    highlight = np.square(np.square(np.square(shine))) * shine * occlusion * gloss  # cosine ** 18
    planes = []
    for channel, paint in enumerate(albedo):
        wrap, key = float(SKIN_WRAP[channel]), float(light.key[channel])
        plane = np.maximum(facing_light + wrap, 0) * occlusion
        plane *= key / (1 + wrap)
        plane += ambient * float(light.ambient[channel])
        plane *= paint
        plane += highlight * (key * 150)
        planes.append(plane)
    return cv2.merge(planes)


def draw_background(scene: Scene, size: tuple[int, int]) -> np.ndarray:
    """Lit background (h, w, 3) float32: a plain wall, out-of-focus lights, shelves or clouds."""
    h, w = size
    m = max(h, w)
    rng = np.random.default_rng(scene.texture)

    def tone(hue: float, saturation: float, value: float) -> tuple[float, float, float]:
        return hsv(scene.hue + hue, scene.saturation + saturation, scene.value + value)

    rows = (np.arange(m, dtype=np.float32) / m)[:, None, None]
    picture = np.repeat(colour(tone(0, 0, 0)) * (1.05 - 0.35 * rows), m, 1)
    if scene.background == 1:
        for _ in range(14):
            paint = tone(rng.uniform(-40, 40), 30, rng.uniform(-50, 70))
            centre = tuple(int(q) for q in rng.uniform(0, m, 2))
            cv2.circle(picture, centre, int(rng.uniform(0.04, 0.13) * m), paint, -1, cv2.LINE_AA)
        picture = cv2.GaussianBlur(picture, (0, 0), m * 0.02)
    if scene.background == 2:
        for _ in range(10):
            left, top = rng.uniform(0, 0.95, 2) * m
            right, bottom = left + rng.uniform(0.08, 0.35) * m, top + rng.uniform(0.08, 0.5) * m
            paint = tone(rng.uniform(-30, 30), rng.uniform(-20, 40), rng.uniform(-80, 60))
            cv2.rectangle(picture, (int(left), int(top)), (int(right), int(bottom)), paint, -1)
        picture = cv2.GaussianBlur(picture, (0, 0), m * 0.012)
    top, left = (m - h) // 2, (m - w) // 2
    shown = slice(top, top + h), slice(left, left + w)
    clouds = 1 + 0.06 * noise(rng, m, 3, 4)[shown] * (1.6 if scene.background == 3 else 0.7)
    light = Light.of(scene)
    return picture[shown] * spread(clouds) * (light.ambient * 0.75 + light.key * 0.40)
