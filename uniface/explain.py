"""What the model does inside, as pictures: the displacement field in colours, IdT's attention as heat."""

import numpy as np

POINTS = {"forehead": (0.5, 0.3), "eye": (0.42, 0.46), "face": (0.6, 0.62), "background": (0.07, 0.12)}
"""Points of the target whose attention is shown (those of Fig. 8 b), in shares of width and height."""


def colour_field(fdf: np.ndarray, largest: float) -> np.ndarray:
    """A displacement field (2, h, w) as uint8 (h, w, 3): the hue is its direction, the saturation its length.

    `largest` is the length shown in full colour; white is no displacement.
    """
    from PIL import Image

    x, y = fdf
    hue = (np.arctan2(y, x) / (2 * np.pi)) % 1
    saturation = np.clip(np.hypot(x, y) / max(largest, 1e-6), 0, 1)
    hsv = np.stack([hue, saturation, np.ones_like(hue)], axis=-1)
    return np.asarray(Image.fromarray((hsv * 255).round().astype(np.uint8), "HSV").convert("RGB"))


def longest(fields: np.ndarray) -> float:
    """The length that `colour_field` shows in full colour for fields (N, 2, h, w): nearly all are shorter."""
    edge = fields.shape[-1] // 6  # what happens at the border says nothing about the face, yet may be the largest
    inner = fields[..., edge : fields.shape[-2] - edge, edge : fields.shape[-1] - edge]
    return float(np.quantile(np.hypot(inner[:, 0], inner[:, 1]), 0.99))


def heat(image: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3) with attention (h, w) laid over it: grey where there is none, red to yellow where it is."""
    from PIL import Image

    height, width = image.shape[:2]
    small = Image.fromarray((weights / weights.max()).astype(np.float32))
    share = np.clip(np.asarray(small.resize((width, height), Image.Resampling.BILINEAR)), 0, 1)[..., None]
    warm = np.concatenate([np.full_like(share, 255), 230 * share, np.zeros_like(share)], axis=-1)
    grey = image.mean(axis=-1, keepdims=True) * 0.6
    return ((1 - share) * grey + share * warm).round().astype(np.uint8)


def looked_at(image: np.ndarray, attention: np.ndarray, point: str) -> np.ndarray:
    """`heat` of where IdT looks for one of `POINTS` in the target `image`; attention (N, N), see `UniFace.explain`.

    IdT sees the source's features warped to the target's pose, so the map is laid over the target.
    """
    side = round(attention.shape[-1] ** 0.5)
    x, y = POINTS[point]
    return heat(image, attention[int(y * side) * side + int(x * side)].reshape(side, side))


def cells(image: np.ndarray, side: int) -> np.ndarray:
    """Brought to `side` x `side` with its cells visible."""
    rows = np.arange(side) * image.shape[0] // side
    return image[rows][:, rows]


def marked(image: np.ndarray) -> np.ndarray:
    """The picture with `POINTS` as dots in dark rings."""
    image = image.copy()
    height, width = image.shape[:2]
    radius = height // 64
    for x, y in POINTS.values():
        row, column = int(y * height), int(x * width)
        image[row - radius - 1 : row + radius + 2, column - radius - 1 : column + radius + 2] = 0
        image[row - radius : row + radius + 1, column - radius : column + radius + 1] = (255, 230, 0)
    return image
