"""The architectures of the sample's frozen nets. All are small: one CPU core trains them in minutes.

Images are float RGB (B, 3, H, W) in [-1, 1]. What the nets stand in for: `Output` of a `Regression` ArcFace, CosFace
and a 3D face model's pose and expression, `Perceptual` VGG, `Detector` SCRFD. `train.py` trains and exports them.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SQUEEZED = 24  # channels before a fully connected layer
STRIDES = (8, 16, 32)  # of the detector's three levels; insightface fixes them
ANCHORS = ((24.0, 40.0), (64.0, 104.0), (160.0, 256.0))  # face sizes (pixels) of the two anchors of each level


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Convolution to exactly H/stride, W/stride, batch normalisation (folded at export), leaky ReLU."""
    padding = (kernel - stride + 1) // 2
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.LeakyReLU(0.2))


class Heads(nn.Module):
    """From a feature map to standardised face parameters and attributes: what all the regression nets learn from."""

    def __init__(self, channels: int, side: int, faces: int, attributes: int, hidden: int = 256):
        super().__init__()
        self.hidden = nn.Sequential(
            _conv(channels, SQUEEZED, 1),  # the fully connected layer would have most of a net's weights
            nn.Flatten(),
            nn.Linear(SQUEEZED * side**2, hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Dropout(0.1),
        )
        self.face, self.attributes = nn.Linear(hidden, faces), nn.Linear(hidden, attributes)

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.hidden(maps)  # (B, hidden)
        return self.face(hidden), self.attributes(hidden)


class Regression(nn.Module):
    """Images (B, 3, S, S) -> standardised face parameters (B, F) and attributes (B, A).

    It works at half the input's resolution, so it is cheap inside a training loss, and sees all that 64 px pictures
    have. S must be a multiple of 16.
    """

    def __init__(self, size: int, faces: int, attributes: int, widths: tuple[int, int, int, int], kernel: int = 3):
        super().__init__()
        first, second, third, fourth = widths
        self.trunk = nn.Sequential(
            nn.AvgPool2d(2),
            _conv(3, first, kernel),  # (B, first, S/2, S/2)
            _conv(first, second, 4, 2),  # (B, second, S/4, S/4)
            _conv(second, third, 4, 2),  # (B, third, S/8, S/8)
            _conv(third, third, 3),
            _conv(third, fourth, 4, 2),  # (B, fourth, S/16, S/16)
            _conv(fourth, fourth, 3),
        )
        self.heads = Heads(fourth, size // 16, faces, attributes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.heads(self.trunk(images))


class Output(nn.Module):
    """One linear read-out of a trained `Regression`: the exported part."""

    def __init__(self, net: Regression, weight: Tensor, bias: Tensor):
        super().__init__()
        self.trunk, self.hidden = net.trunk, net.heads.hidden
        self.linear = nn.Linear(weight.shape[1], weight.shape[0])
        self.linear.load_state_dict({"weight": weight, "bias": bias})

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(self.hidden(self.trunk(images)))


class Cropped(nn.Module):
    """Runs a net on the face's part of a whole image (B, 3, 128, 128): rows 17-112 and columns 15-110."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images[:, :, 17:113, 15:111])  # (B, 3, 96, 96)


class Perceptual(nn.Module):
    """Four feature maps of images of any size, at strides 2, 4, 4 and 8."""

    WIDTHS = (24, 48, 64, 96)

    def __init__(self):
        super().__init__()
        first, second, third, fourth = self.WIDTHS
        self.blocks = nn.ModuleList(
            [_conv(3, first, 4, 2), _conv(first, second, 4, 2), _conv(second, third, 3), _conv(third, fourth, 4, 2)]
        )

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        maps = []
        for block in self.blocks:
            images = block(images)
            maps.append(images)
        return tuple(maps)  # (B, 24, H/2, W/2), (B, 48, H/4, W/4), (B, 64, H/4, W/4), (B, 96, H/8, W/8)


class PerceptualRegression(nn.Module):
    """`Perceptual` with the heads that train it, for images (B, 3, 64, 64)."""

    def __init__(self, faces: int, attributes: int):
        super().__init__()
        self.maps = Perceptual()
        self.pool = _conv(Perceptual.WIDTHS[-1], 96, 4, 2)
        self.heads = Heads(96, 4, faces, attributes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.heads(self.pool(self.maps(images)[-1]))


class Detector(nn.Module):
    """Faces in images (B, 3, H, W), H and W multiples of 32, as SCRFD gives them.

    Nine outputs: logits (..., 1), box distances left, top, right, bottom (..., 4) and five key points (..., 10) of each
    level, in units of the level's stride; rows are cells (row by row) x 2 anchors. With `flat` as insightface reads
    them: batch size 1, scores for logits, outputs (rows, 1), (rows, 4), (rows, 10); else (B, rows, ...).
    """

    def __init__(self, widths: tuple[int, int, int, int, int] = (8, 16, 32, 48, 64)):
        super().__init__()
        a, b, c, d, e = widths
        self.flat = False
        self.stem = nn.Sequential(
            _conv(3, a, 4, 2), _conv(a, b, 4, 2), _conv(b, c, 4, 2), _conv(c, c, 3), _conv(c, c, 3)
        )
        self.down = nn.ModuleList(
            [
                nn.Sequential(_conv(c, d, 4, 2), _conv(d, d, 3), _conv(d, d, 3)),
                nn.Sequential(_conv(d, e, 4, 2), _conv(e, e, 3), _conv(e, e, 3), _conv(e, e, 3)),
            ]
        )
        self.lateral = nn.ModuleList([nn.Conv2d(width, c, 1) for width in (c, d, e)])
        self.head = nn.ModuleList([nn.Sequential(_conv(c, c, 3), nn.Conv2d(c, 2 * 15, 1)) for _ in STRIDES])
        for head in self.head:
            nn.init.normal_(head[1].weight, std=0.01)
            nn.init.constant_(head[1].bias, 0.0)
            head[1].bias.data[:2] = -4.6  # scores start at 0.01, so that the empty cells do not swamp the first steps
        for level, (stride, sizes) in enumerate(zip(STRIDES, ANCHORS, strict=True)):
            size = torch.tensor(sizes).view(1, 1, 2, 1) / stride  # a net's 1 is one anchor size
            self.register_buffer(f"size{level}", size, persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        fine = self.stem(images)  # (B, c, H/8, W/8)
        middle = self.down[0](fine)  # (B, d, H/16, W/16)
        coarse = self.down[1](middle)  # (B, e, H/32, W/32)
        maps = [lateral(x) for lateral, x in zip(self.lateral, (fine, middle, coarse), strict=True)]
        maps[1] = maps[1] + F.interpolate(maps[2], scale_factor=2.0)
        maps[0] = maps[0] + F.interpolate(maps[1], scale_factor=2.0)
        scores, boxes, points = [], [], []
        for level, (head, x) in enumerate(zip(self.head, maps, strict=True)):
            raw = head(x).permute(0, 2, 3, 1)  # (B, h, w, 30)
            size = getattr(self, f"size{level}")
            batch = 1 if self.flat else raw.shape[0]
            score = raw[..., :2].reshape(batch, -1, 1)
            box = raw[..., 2:10].reshape(batch, -1, 2, 4) * size + 0.5 * size
            point = raw[..., 10:].reshape(batch, -1, 2, 10) * size
            scores.append(score.sigmoid().reshape(-1, 1) if self.flat else score)
            boxes.append(box.reshape(-1, 4) if self.flat else box.reshape(batch, -1, 4))
            points.append(point.reshape(-1, 10) if self.flat else point.reshape(batch, -1, 10))
        return (*scores, *boxes, *points)
