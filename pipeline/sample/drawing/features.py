"""What moves in a face: jaw, cheeks, brows, lids, gaze, lips and teeth, drawn on a copy of the head's maps."""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from pipeline.sample.drawing.head import Head
from pipeline.sample.drawing.identity import Attributes
from pipeline.sample.drawing.maps import bump, clip, mix, planes, ridge, smoothstep

EXPRESSION = ("mouth", "smile", "blink", "gaze_x", "gaze_y", "brow", "pucker")
"""The attributes that move something in a face; pose, place and scale move it as a whole."""
JAW_DROP = 0.16  # head units of the map at mouth = 1
LASH_COLOUR, PUPIL_COLOUR, GLINT_COLOUR = (22, 16, 16), (9, 8, 9), (255, 255, 255)
MOUTH_COLOUR, TONGUE_COLOUR, TOOTH_COLOUR, EYE_WHITE = (62, 22, 24), (168, 84, 84), (226, 220, 206), (236, 226, 219)


@dataclass
class Animated:
    """A head's maps for one frame. radius, gloss (n, n), albedo (3, n, n); landmarks (5, 2): left eye, right eye, nose
    tip, left and right corner of the mouth (left of the picture first), as map coordinates."""

    radius: np.ndarray
    albedo: np.ndarray
    gloss: np.ndarray
    landmarks: np.ndarray


def animate(head: Head, attributes: Attributes) -> Animated:
    """The maps of `head` with the `EXPRESSION` of `attributes`."""
    maps = _drop_jaw(head, attributes)
    if attributes.smile > 0:
        _lift_cheeks(head, attributes, maps)
    reach = head.face.eye_x + 0.40
    window = head.window(-reach, reach, *_eye_rows(head))
    u, v = head.coordinates(window)
    outwards, side = np.abs(u), np.sign(u)  # both sides at once: so small, each step costs as much as its arithmetic
    _draw_brow(head, attributes, maps, window, outwards, v)
    _draw_eye(head, attributes, maps, window, outwards, v, side)
    if head.face.glasses:
        _draw_glasses(head, maps, window, outwards, v)
    _draw_mouth(head, attributes, maps)
    return maps


def _eye_rows(head: Head) -> tuple[float, float]:
    return head.face.eye_y - 0.52, head.face.eye_y + 0.28


def _corner_y(head: Head, attributes: Attributes) -> float:
    return head.mouth_y - 0.0528 * attributes.smile + 0.035 * attributes.mouth


def _mouth_width(head: Head, attributes: Attributes) -> float:
    widened = 1 + 0.22 * max(attributes.smile, 0) - 0.40 * attributes.pucker
    return head.face.mouth_width * widened * (1 - 0.10 * attributes.mouth)


def _drop_jaw(head: Head, attributes: Attributes) -> Animated:
    """Copies the maps with everything below the mouth pulled down."""
    face, mouth_y = head.face, head.mouth_y
    radius, albedo, gloss = head.radius.copy(), head.albedo.copy(), head.gloss.copy()
    window = head.window(-1.15, 1.15, head.nose_y - 0.15, 1.75)
    u, v = head.coordinates(window)
    drop = JAW_DROP * attributes.mouth * smoothstep(mouth_y - 0.06, mouth_y + 0.10, v) * smoothstep(1.75, 1.25, v)
    drop = drop * smoothstep(1.1, 0.45, np.abs(u))
    rows = head.to_texels(v - drop)
    columns = np.repeat(head.to_texels(u), len(rows), 0)
    for still, moved in ((head.radius, radius), *zip(head.albedo, albedo, strict=True), (head.gloss, gloss)):
        moved[window] = cv2.remap(still, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    width, corner = _mouth_width(head, attributes), _corner_y(head, attributes)
    landmarks = [(-face.eye_x, face.eye_y), (face.eye_x, face.eye_y), (0, head.nose_y - 0.01)]
    return Animated(radius, albedo, gloss, np.array([*landmarks, (-width, corner), (width, corner)], np.float32))


def _lift_cheeks(head: Head, attributes: Attributes, maps: Animated) -> None:
    eye_y, nose_y, mouth_y = head.face.eye_y, head.nose_y, head.mouth_y
    window = head.window(-0.9, 0.9, eye_y, mouth_y + 0.2)
    u, v = head.coordinates(window)
    au = np.abs(u)
    fold = ridge(au - (0.19 + 0.6 * (v - nose_y)), 0, 0.03)
    fold = fold * smoothstep(nose_y - 0.03, nose_y + 0.06, v) * smoothstep(mouth_y + 0.1, mouth_y - 0.03, v)
    maps.radius[window] += attributes.smile * (0.05 * bump(au, v, 0.42, eye_y + 0.27, 0.13, 0.10) - 0.03 * fold)


def _draw_brow(head: Head, attributes: Attributes, maps: Animated, window: tuple, u: np.ndarray, v: np.ndarray) -> None:
    """The brows; u counts outwards from the middle of the face."""
    face = head.face
    x = (u - face.eye_x) / face.brow_width
    centre = face.eye_y - face.brow_height - 0.07 * attributes.brow - face.brow_arch * (1 - (x - 0.3) ** 2)
    centre = centre + face.brow_tilt * x * 0.15 - 0.04 * min(attributes.brow, 0) * x + 0.05 * clip(x - 0.3, 0, 1) ** 2
    thickness = face.brow_thickness * clip(1.05 - 0.55 * clip(x, -1, 1.2), 0.1, 2) * 0.8
    cover = clip(1 - ((v - centre) / thickness) ** 2, 0, 1) ** 0.7
    cover *= smoothstep(-1.15, -0.55, x) * smoothstep(1.1, 0.6, x) * clip(0.85 + 0.22 * head.strand[window], 0.3, 1.15)
    opacity = clip(cover * face.brow_opacity, 0, 0.96)
    maps.albedo[:, *window] = mix(maps.albedo[:, *window], planes(face.brow_colour), opacity)
    maps.radius[window] += 0.012 * cover


def _draw_eye(
    head: Head, attributes: Attributes, maps: Animated, window: tuple, u: np.ndarray, v: np.ndarray, side: np.ndarray
) -> None:
    """The eyes: lids, shadow, white, iris, glint, lashes. x and t are an eye's own axes in half eye widths, x outwards;
    side is -1 on the left of the picture and 1 on the right."""
    face = head.face
    smile, brow, open_ = max(attributes.smile, 0), max(attributes.brow, 0), 1 - attributes.blink
    cos, sin = math.cos(face.eye_tilt), math.sin(face.eye_tilt)
    x = ((u - face.eye_x) * cos - (v - face.eye_y) * sin) / face.eye_width
    t = ((u - face.eye_x) * sin + (v - face.eye_y) * cos) / face.eye_width
    ax, px = np.abs(x), 1 / (head.texels * face.eye_width)
    low = face.eye_opening * 0.46 * np.maximum(1 - ax**2.2, 0) * (1 - 0.25 * smile)
    high = -face.eye_opening * np.maximum(1 - np.abs(x + 0.08) ** 2.4, 0) * (1 + 0.15 * brow)  # lid when open
    lid = high * open_ + (1 - open_) * (low * 0.85)
    inside = smoothstep(-px, px, t - lid) * smoothstep(-px, px, low - t) * (ax < 1)
    skin_of_lid = smoothstep(-0.30, 0, t - high) * smoothstep(0.12, 0, t - lid) * (ax < 1.05)

    albedo = maps.albedo[:, *window] * (1 - 0.14 * skin_of_lid)
    shadow = np.maximum(skin_of_lid, 0.8 * bump(x, t, 0.1, -0.85, 0.8, 0.3))
    shade = planes(face.eye_shadow_colour) * (sum(head.look.skin) / 3 / 170)
    albedo = mix(albedo, shade, clip(face.eye_shadow * shadow, 0, 0.6))

    gaze_x, gaze_y = attributes.gaze_x * 0.33 * side, attributes.gaze_y * 0.16
    from_iris = np.hypot(x - gaze_x, t - gaze_y + 0.10) / face.iris_radius
    ball = planes(EYE_WHITE) * clip(1 - 0.30 * ax**2 - 0.30 * smoothstep(0.35, 0, t - lid), 0.3, 1)
    spokes = 0.12 * np.sin(17 * np.arctan2(t - gaze_y + 0.10, x - gaze_x)) * (from_iris < 0.95)
    iris_light = (1.25 - 0.55 * from_iris + spokes) * (1 - 0.25 * smoothstep(0.4, -0.4, t - gaze_y))
    iris = planes(face.iris) * clip(iris_light, 0.25, 1.6)
    ball = mix(ball, iris, smoothstep(1 + px * 2, 1 - px * 2, from_iris))
    ball *= 1 - 0.55 * ridge(from_iris, 0.97, 0.09)
    ball = mix(ball, planes(PUPIL_COLOUR), smoothstep(0.44 + px * 2, 0.44 - px * 2, from_iris))
    glint = bump(x, t, gaze_x * 0.8 - 0.14 * side, gaze_y - 0.24, 0.095, 0.095)
    ball = mix(ball, planes(GLINT_COLOUR), clip(1.4 * glint, 0, 1))
    albedo = mix(albedo, ball, inside)

    lashes = ridge(t - lid, -0.02, 0.06 + 0.055 * face.lashes) * smoothstep(1.18, 0.9, ax) * (0.55 + 0.45 * face.lashes)
    lashes = np.maximum(lashes, 0.35 * ridge(t - low, 0, 0.05) * smoothstep(1.1, 0.8, ax))
    crease = ridge(t - high, -0.26 + 0.15 * (1 - open_), 0.06) * smoothstep(1.25, 0.7, ax) * (0.35 + 0.25 * open_)
    albedo *= 1 - 0.45 * crease
    maps.albedo[:, *window] = mix(albedo, planes(LASH_COLOUR), clip(lashes, 0, 0.95))
    maps.gloss[window] += inside * (0.25 - maps.gloss[window])
    maps.radius[window] += 0.012 * skin_of_lid - 0.010 * inside


def _draw_glasses(head: Head, maps: Animated, window: tuple, u: np.ndarray, v: np.ndarray) -> None:
    """The rims, the bridge and the temples; u counts outwards."""
    face = head.face
    radius, power, thickness, blur = (
        face.glasses_radius,
        face.glasses_squareness,
        face.glasses_thickness,
        1.2 / head.texels,
    )

    def line(distance: np.ndarray) -> np.ndarray:
        return smoothstep(thickness + blur, thickness - blur, np.abs(distance))

    across, down = (
        np.abs((u - face.eye_x) / radius) ** power,
        np.abs((v - face.eye_y - 0.01) / (radius * 0.86)) ** power,
    )
    cover = line(((across + down) ** (1 / power) - 1) * radius)
    cover = np.maximum(cover, line(v - face.eye_y + 0.03) * ((u < face.eye_x - radius) & (u > -0.02)))
    cover = np.maximum(cover, line(v - face.eye_y + 0.05) * (u > face.eye_x + radius))
    maps.albedo[:, *window] = mix(maps.albedo[:, *window], planes(face.glasses_colour), clip(cover, 0, 0.97))


def _draw_mouth(head: Head, attributes: Attributes, maps: Animated) -> None:
    """Lips, and between them teeth, tongue and dark. x is in half mouth widths."""
    face, mouth_y = head.face, head.mouth_y
    open_, pucker, smile, grin = attributes.mouth, attributes.pucker, attributes.smile, max(attributes.smile, 0)
    window = head.window(-0.48, 0.48, mouth_y - 0.25, mouth_y + 0.50)
    u, v = head.coordinates(window)
    x = u / _mouth_width(head, attributes)
    ax, px = np.abs(x), 0.8 / head.texels
    arch = np.maximum(1 - ax**2.3, 0)
    line = mouth_y + 0.044 * smile * (1 - 2.2 * x**2) + 0.035 * open_ - 0.006 * np.cos(x * 5)
    gap = (0.18 * open_ + 0.10) * open_ * (1 - 0.2 * grin)
    inner_high = line - 0.25 * gap * arch - (0.02 * grin * arch if open_ > 0.02 else 0)
    inner_low = line + 0.75 * gap * arch
    bow = 1 - 0.30 * face.cupid_bow * ridge(x, 0, 0.13)
    upper = face.upper_lip * (1 - 0.30 * grin + 0.30 * pucker) * np.maximum(1 - ax**1.7, 0) * bow + 0.004
    lower = face.lower_lip * (1 - 0.22 * grin + 0.25 * pucker) * np.maximum(1 - ax**2.6, 0) ** 0.8 + 0.004
    outer_high, outer_low = inner_high - upper, inner_low + lower
    between_corners = smoothstep(1.04, 0.97, ax)
    upper_lip = smoothstep(-px, px * 2, v - outer_high) * smoothstep(-px, px, inner_high - v) * between_corners
    lower_lip = smoothstep(-px, px, v - inner_low) * smoothstep(-px, 2 * px, outer_low - v) * between_corners
    inside = smoothstep(-px, px, v - inner_high) * smoothstep(-px, px, inner_low - v) * between_corners

    albedo = maps.albedo[:, *window]
    red = planes(head.look.skin) * planes((0.98, 0.62, 0.60)) * face.lip_lightness
    lips = albedo + (red - albedo) * (0.45 + 0.5 * face.lip_redness)
    lips += (planes(face.lip_colour) * head.paint(0.45) - lips) * face.lip_tint
    lips *= 1 + 0.05 * np.sin(x * 60)
    albedo = mix(mix(albedo, lips * 0.90, upper_lip), lips, lower_lip)
    cavity = planes(MOUTH_COLOUR) * clip(1 - 0.5 * ax, 0.3, 1)
    if open_ > 0.1:
        tongue = bump(x, v, 0, mouth_y + 0.75 * gap + 0.02, 0.55, 0.04)
        cavity = mix(cavity, planes(TONGUE_COLOUR), clip(tongue, 0, 0.8))
    show = float(smoothstep(0.04, 0.16, open_ + 0.10 * grin))
    teeth = smoothstep(0.055 + 0.01 * grin, 0.045, v - inner_high) * smoothstep(0.92, 0.7, ax) * show
    gaps = 1 - 0.25 * ax**2 - 0.10 * (np.abs(np.sin(x * 9)) < 0.12)
    cavity = mix(cavity, planes(TOOTH_COLOUR) * gaps.astype(np.float32), teeth)
    cavity *= smoothstep(-0.01, 0.03, v - inner_high) * 0.6 + 0.4  # the upper lip's shadow
    albedo = mix(albedo, cavity, inside)
    seam = ridge(v - line, 0, 0.011) * smoothstep(1.12, 0.9, ax) * (1 - 0.9 * float(smoothstep(0, 0.1, open_)))
    albedo *= 1 - 0.62 * seam
    albedo *= 1 - 0.40 * bump(ax, v, 1.02, _corner_y(head, attributes), 0.05, 0.016)
    albedo *= 1 - 0.16 * ridge(x, 0, 0.6) * ridge(v - outer_low, 0.03, 0.02)
    maps.albedo[:, *window] = albedo

    relief = (0.035 + 0.02 * pucker) * upper_lip * smoothstep(0, 0.03, v - outer_high)
    relief += (0.045 + 0.02 * pucker) * lower_lip * smoothstep(0, 0.04, outer_low - v) - 0.05 * inside - 0.02 * seam
    maps.radius[window] += cv2.GaussianBlur(relief, (0, 0), 1.6 * head.n / 352)
    maps.gloss[window] = maps.gloss[window] * (1 - inside) + 0.22 * lower_lip + 0.05 * upper_lip
