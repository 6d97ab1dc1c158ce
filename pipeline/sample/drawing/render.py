"""Draws frames of one (face, look, scene): animate the maps, shade them, cast rays, lay the head over the body."""

import math
from copy import copy
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from pipeline.sample.drawing.body import Body
from pipeline.sample.drawing.features import EXPRESSION, JAW_DROP, Animated, animate
from pipeline.sample.drawing.head import Head
from pipeline.sample.drawing.identity import Attributes, Face
from pipeline.sample.drawing.light import FILM, VIEW, Light, draw_background, shade
from pipeline.sample.drawing.look import Look, Scene
from pipeline.sample.drawing.maps import HALF_RANGE, clip, spread

CAMERA = 10.0  # distance of the camera from the head's resting place, head units
NECK = np.array([0, 0.85, -0.25])  # the head turns about this point
f32 = np.float32


@dataclass(frozen=True)
class Pose:
    """Where the head is: x_picture = rotation @ x_head + shift, in head units of `unit` pixels."""

    rotation: np.ndarray  # (3, 3)
    shift: np.ndarray  # (3,)
    unit: float

    @classmethod
    def of(cls, attributes: Attributes, unit: float) -> "Pose":
        """The pose of a frame; `unit` is pixels per head unit at scale 1."""
        y, p, r = (math.radians(a) for a in (attributes.yaw, attributes.pitch, attributes.roll))
        turn = np.array([[math.cos(y), 0, math.sin(y)], [0, 1, 0], [-math.sin(y), 0, math.cos(y)]])
        nod = np.array([[1, 0, 0], [0, math.cos(p), math.sin(p)], [0, -math.sin(p), math.cos(p)]])
        tilt = np.array([[math.cos(r), -math.sin(r), 0], [math.sin(r), math.cos(r), 0], [0, 0, 1]])
        rotation = tilt @ nod @ turn
        shift = NECK - rotation @ NECK + np.array([attributes.tx * 3, attributes.ty * 3, 0])
        return cls(rotation, shift, unit * attributes.scale)


class Hits(NamedTuple):
    """The pixels (rows, columns) of a picture around the head; for each (h, w) the texel x, y that is seen there, as
    cv2.remap counts them, and the head's share of the pixel; the window (rows, columns) of the maps they all lie in."""

    rows: slice
    columns: slice
    x: np.ndarray
    y: np.ndarray
    cover: np.ndarray
    window: tuple[slice, slice]


class Renderer:
    """Frames of one (face, look, scene); what is constant in a video is made once.

    size: (height, width) in pixels. unit: pixels per head unit at scale 1 (a head is about 2.4 high), by default 0.36
    of the height. centre: (x, y) of the head's resting place in pixels, by default the middle. background: (h, w, 3)
    float picture as lit, by default drawn from the scene.
    """

    def __init__(
        self,
        face: Face,
        look: Look,
        scene: Scene,
        size: tuple[int, int] = (256, 256),
        unit: float | None = None,
        centre: tuple[float, float] | None = None,
        background: np.ndarray | None = None,
    ) -> None:
        self.size = h, w = size
        self.unit = unit or h * 0.36
        self.centre = centre or (w / 2, h * 0.49)
        self.light = Light.of(scene)
        self.background = draw_background(scene, size) if background is None else background.astype(np.float32)
        if self.background.shape != (h, w, 3):
            raise ValueError(f"the background is {self.background.shape}, the picture ({h}, {w}, 3)")
        self.head = Head(face, look, n=int(np.clip(self.unit * 3.4, 128, 400)))
        self.body = Body(face, look, self.light, self.unit, below=h - self.centre[1])
        self._last: tuple[list[float], Animated] | None = None

    def with_face(self, face: Face) -> "Renderer":
        """The same with another face: background, torso and hair are shared."""
        if face == self.head.face:
            return self
        other = copy(self)
        other.head = Head(face, self.head.look, self.head.n)
        other.body = self.body.with_face(face)
        other._last = None
        return other

    def frame(self, attributes: Attributes, centre: tuple[float, float] | None = None) -> np.ndarray:
        """The picture (h, w, 3) uint8 RGB. `centre` moves the resting place."""
        return FILM.take(clip(self.expose(attributes, centre), 0, 511).astype(np.uint16))

    def expose(self, attributes: Attributes, centre: tuple[float, float] | None = None) -> np.ndarray:
        """As `frame`, but the light (h, w, 3) float32 before the film clips it: fit for a `background`."""
        centre = centre or self.centre
        pose = Pose.of(attributes, self.unit)
        maps = self._animate(attributes)
        image = self.background.copy()
        self.body.draw(image, attributes, centre, (float(pose.shift[0]), float(pose.shift[1])), pose.unit)
        hits = self._cast(maps.radius, pose, centre)
        if hits is not None:
            colours, part = self._shade(maps, pose, hits.window), image[hits.rows, hits.columns]
            head = cv2.remap(colours, hits.x, hits.y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            part += (head - part) * spread(hits.cover)
        return image

    def measure(
        self, attributes: Attributes, centre: tuple[float, float] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Of a frame, without drawing it: landmarks (5, 2) float32, eyes, nose tip, corners of the mouth, left of the
        picture first, in pixels (x, y), where (0, 0) is the middle of the first pixel; and the face's box (left, top,
        right, bottom) in pixels.

        The box is that of the visible face from the middle of the forehead to the chin and from ear to ear, as face
        detectors are taught; it may reach over the picture's edge.
        """
        head, centre = self.head, centre or self.centre
        pose, maps = Pose.of(attributes, self.unit), self._animate(attributes)
        chin = head.mouth_y + 0.36 + JAW_DROP * attributes.mouth
        u, v = np.meshgrid(np.linspace(-1.05, 1.05, 15), np.linspace(head.face.eye_y - 0.42, chin, 15))
        wanted = np.concatenate([maps.landmarks, np.stack([u.ravel(), v.ravel()], 1)])
        landmarks, points = np.split(self._project(maps.radius, wanted, pose, centre), [len(maps.landmarks)])
        return landmarks, np.concatenate([points.min(0), points.max(0) + 1])

    def _animate(self, attributes: Attributes) -> Animated:
        """The animated maps; remembered, since a frame is often drawn and measured, or drawn in several poses."""
        expression = [getattr(attributes, name) for name in EXPRESSION]
        if self._last is None or self._last[0] != expression:
            self._last = expression, animate(self.head, attributes)
        return self._last[1]

    def _project(self, radius: np.ndarray, uv: np.ndarray, pose: Pose, centre: tuple[float, float]) -> np.ndarray:
        """Pixels (k, 2) of the surface at map coordinates (k, 2)."""
        points = self.head.surface(radius, uv) @ pose.rotation.T + pose.shift
        zoom = pose.unit * CAMERA / (CAMERA - points[:, 2:])
        return (points[:, :2] * zoom + np.array(centre) - 0.5).astype(np.float32)

    def _shade(self, maps: Animated, pose: Pose, window: tuple[slice, slice]) -> np.ndarray:
        """The lit colour (n, n, 3) of the head's texels in a window; black elsewhere."""
        head, radius, n = self.head, maps.radius, self.head.n
        view = (pose.rotation.T @ VIEW).astype(f32)
        # a texel more on each side for the slopes, where there is one
        wider = tuple(slice(max(one.start - 1, 0), min(one.stop + 1, n)) for one in window)
        inner = tuple(slice(one.start - w.start, one.stop - w.start) for one, w in zip(window, wider, strict=True))
        surface = [radius[wider] * axis[wider] for axis in head.directions]
        along_u, along_v = ([cv2.Sobel(p, -1, *order, ksize=3)[inner] for p in surface] for order in ((1, 0), (0, 1)))
        (ux, uy, uz), (vx, vy, vz) = along_u, along_v
        normals = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        length = np.sqrt(normals[0] * normals[0] + normals[1] * normals[1] + normals[2] * normals[2] + f32(1e-8))
        for plane in normals:
            plane /= length
        facing = normals[0] * view[0] + normals[1] * view[1] + normals[2] * view[2]
        lift = np.maximum(f32(0.30) - facing, 0)  # no black texels where the surface turns away
        for plane, towards in zip(normals, view, strict=True):
            plane += lift * towards
        # what lies lower than its surroundings gets less light
        small = cv2.resize(radius, (n // 2, n // 2), interpolation=cv2.INTER_AREA)
        near = cv2.GaussianBlur(small, (0, 0), 7 * n / 704) - small
        far = cv2.resize(cv2.GaussianBlur(small[::2, ::2], (0, 0), 10 * n / 704), small.shape[::-1]) - small
        occlusion = clip(1 - 3.2 * np.maximum(near, 0) - 1.6 * np.maximum(far, 0), 0.35, 1)
        occlusion = cv2.resize(occlusion, (n, n))[window] * head.under[window]
        light, albedo = self.light.seen_from(pose.rotation), maps.albedo[:, *window]
        colours = np.zeros((n, n, 3), f32)
        colours[window] = shade(normals, albedo, maps.gloss[window], occlusion, light, view)
        return colours

    def _cast(self, radius: np.ndarray, pose: Pose, centre: tuple[float, float]) -> "Hits | None":
        """Where the head is seen: rays through the pixels of its bounding box, coarse then fine."""
        unit, h, w = pose.unit, *self.size
        middle, reach = np.array(centre) + unit * pose.shift[:2], 1.5 * unit
        x0, y0 = (int(max(0, c - reach)) for c in middle)
        x1, y1 = int(min(w, middle[0] + reach)), int(min(h, middle[1] + reach))
        if x1 - x0 < 4 or y1 - y0 < 4:
            return None  # out of the picture
        eye = (pose.rotation.T @ (np.array([0, 0, CAMERA]) - pose.shift)).astype(f32)
        turn, texels = pose.rotation.astype(f32), f32(self.head.texels)
        middle_texel = f32(HALF_RANGE) * texels - f32(0.5)

        def rays(x: slice, y: slice) -> list[np.ndarray]:
            """Directions from the camera in the head's axes: x, y, z, each (rows, columns); length 1 to z = 0."""
            columns = (np.arange(x.start, x.stop, x.step, dtype=f32) + f32(x.step / 2 - centre[0])) / f32(unit * CAMERA)
            rows = (np.arange(y.start, y.stop, y.step, dtype=f32) + f32(y.step / 2 - centre[1])) / f32(unit * CAMERA)
            return [columns[None, :] * turn[0, i] + rows[:, None] * turn[1, i] - turn[2, i] for i in range(3)]

        def march(ray: list[np.ndarray], t: np.ndarray, steps: int, slope: float, longest: float) -> tuple:
            """Bounded secant steps along the rays to |point| = radius(direction): t, least gap, texel columns, rows."""
            gap, before, step, t = np.full(t.shape, 9, f32), None, None, t.copy()
            for _ in range(steps):
                px, py, pz = (t * axis for axis in ray)
                for point, start in zip((px, py, pz), eye, strict=True):
                    point += start
                # in place wherever it can be: new arrays cost as much as the arithmetic
                g = px * px
                g += py * py
                g += np.square(pz)
                np.sqrt(g, out=g)
                stretch = pz
                stretch += g
                np.maximum(stretch, f32(0.02), out=stretch)
                stretch *= g
                np.divide(f32(2), stretch, out=stretch)
                np.sqrt(stretch, out=stretch)
                stretch *= texels
                for point in (px, py):
                    point *= stretch
                    point += middle_texel
                g -= cv2.remap(radius, px, py, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
                np.minimum(gap, g, out=gap)
                if before is None:
                    step = f32(0.8) * g
                else:
                    size, change = np.abs(step), np.subtract(before, g, out=before)
                    np.multiply(g, size, out=step)
                    size *= f32(slope)
                    size += f32(1e-6)
                    step /= np.maximum(np.abs(change, out=change), size, out=change)
                np.maximum(step, f32(-0.03), out=step)
                np.minimum(step, f32(longest), out=step)
                t += step
                before = g
            return t, gap, px, py

        coarse = rays(slice(x0, x1, 2), slice(y0, y1, 2))
        squared, along = sum(r * r for r in coarse), sum(r * e for r, e in zip(coarse, eye, strict=True))
        # enter the sphere of radius sqrt(2) around the head
        start = (-along - np.sqrt(np.maximum(along * along - squared * (eye @ eye - f32(2)), 0))) / squared
        near, gap, _, _ = march(coarse, start, 4, 0.8, 1.0)
        near = cv2.resize(cv2.erode(near, np.ones((3, 3), np.uint8)), (x1 - x0, y1 - y0)) - f32(0.02)
        hit = cv2.dilate((gap * unit < 6).astype(np.uint8), np.ones((5, 5), np.uint8))
        left, top, width, height = cv2.boundingRect(hit)  # the head, to a few pixels
        inner = slice(2 * top, 2 * (top + height)), slice(2 * left, 2 * (left + width))
        near = near[inner]
        if near.size == 0:
            return None
        (h, w), x0, y0 = near.shape, x0 + 2 * left, y0 + 2 * top
        fine = rays(slice(x0, x0 + w, 1), slice(y0, y0 + h, 1))
        _, gap, x, y = march(fine, near, 5, 0.3, 0.2)
        cover = clip(f32(1.15) - gap * f32(unit), 0, 1)
        cover = cv2.morphologyEx(cover, cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
        seen, last = cover > 0, self.head.n - 1
        if not seen.any():
            return None
        # the texels between which the seen pixels lie
        window = tuple(
            slice(int(min(max(axis.min() - 1, 0), last)), int(min(max(axis.max() + 3, 1), last + 1)))
            for axis in (y[seen], x[seen])
        )
        return Hits(slice(y0, y0 + h), slice(x0, x0 + w), x, y, cover, window)
