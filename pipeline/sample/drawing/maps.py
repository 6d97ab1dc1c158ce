"""Small array helpers of the renderer. Everything is float32; coordinates may be a row (1, n) and a column (n, 1)."""

import cv2
import numpy as np

HALF_RANGE = 1.93  # the head map covers u, v in [-1.93, 1.93]; 2 would be straight backwards
Colour = tuple[float, float, float]  # RGB, 0-255


def smoothstep(start: float, stop: float, x: np.ndarray) -> np.ndarray:
    """0 before `start`, 1 after `stop`, smooth between; falls instead of rising if start > stop."""
    t = np.minimum(np.maximum((x - start) / (stop - start), 0), 1)  # np.clip costs several times as much on small ones
    return t * t * (3 - 2 * t)


def ridge(x: np.ndarray, centre: float, width: float) -> np.ndarray:
    """A Gaussian of one coordinate, 1 at its centre."""
    return np.exp(-0.5 * np.square((x - centre) / width))


def bump(x: np.ndarray, y: np.ndarray, cx: float, cy: float, sx: float, sy: float) -> np.ndarray:
    """A Gaussian of two coordinates, 1 at (cx, cy). As a product, it costs little on a row and a column."""
    return ridge(x, cx, sx) * ridge(y, cy, sy)


def clip(x: np.ndarray, low: float, high: float) -> np.ndarray:
    """np.clip, which costs several times as much on small arrays."""
    return np.minimum(np.maximum(x, low), high)


def mix(a: np.ndarray, b: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Planes of colour (3, ...) `a` replaced by `b` where `weight` (...) is 1."""
    return a + (b - a) * weight


def colour(rgb: Colour) -> np.ndarray:
    """(3,) float32."""
    return np.array(rgb, np.float32)


def planes(rgb: Colour) -> np.ndarray:
    """(3, 1, 1) float32: a colour for pictures as planes (3, h, w), which cost a third of interleaved ones."""
    return colour(rgb)[:, None, None]


def spread(plane: np.ndarray) -> np.ndarray:
    """A plane (h, w) three times, (h, w, 3): numpy's own broadcasting over channels costs several times as much."""
    return cv2.merge((plane, plane, plane))


def noise(rng: np.random.Generator, size: int, cells: float, octaves: int) -> np.ndarray:
    """Smooth noise (size, size) of about unit variance; `cells` across the picture, whatever its size in pixels."""
    out = np.zeros((size, size), np.float32)
    for octave in range(octaves):
        k = max(2, int(cells * 2**octave))
        values = rng.normal(0, 1, (k, k)).astype(np.float32)
        out += cv2.resize(values, (size, size), interpolation=cv2.INTER_CUBIC) / 2**octave
    return out


def direction(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x, y, z of the unit vectors at map coordinates (Lambert azimuthal): (0, 0) looks along z, u is right, v down."""
    q = np.minimum(u * u + v * v, 3.96)
    k = np.sqrt(1 - q / 4)
    return u * k, v * k, 1 - q / 2


def pick(rng: np.random.Generator, colours: tuple) -> Colour:
    """One of the colours."""
    return colours[int(rng.integers(len(colours)))]


def uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """A number between two."""
    return float(rng.uniform(low, high))
