"""Small drawn videos and a detector that finds what is drawn, for the tests of download, crop and cluster."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from pipeline.videos.annotations import format_utterance

GREEN = np.array([20, 220, 40])


def picture(size: tuple[int, int], box=None, shade: int = 90) -> np.ndarray:
    """A grey gradient (H, W, 3), with a green square where `box` says."""
    height, width = size
    image = np.full((height, width, 3), shade, np.uint8)
    image += np.linspace(0, 40, width).astype(np.uint8)[None, :, None]
    if box is not None:
        left, top, right, bottom = box
        image[top:bottom, left:right] = GREEN
    return image


def write_video(
    path: Path,
    frames: int,
    draw: Callable[[int], np.ndarray],
    rate: int = 25,
    pix_fmt: str = "yuv420p",
    codec: str = "libx264",
    times: list[int] | None = None,
    gop: int = 25,
) -> Path:
    """An mp4 of `draw(k)`; `times` gives time stamps in frames of `rate` for a variable rate."""
    path.parent.mkdir(parents=True, exist_ok=True)
    first = draw(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = pix_fmt
        stream.codec_context.thread_count = 1
        if codec == "libx264":
            stream.options = {"crf": "12", "preset": "ultrafast", "g": str(gop)}
        for k in range(frames):
            frame = av.VideoFrame.from_ndarray(draw(k), format="rgb24")
            frame.pts = k if times is None else times[k]
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def face_video(path: Path, frames: int = 80, size=(120, 160), box=(50, 30, 98, 78), **options) -> Path:
    """A video with a green square at `box` in every frame."""
    return write_video(path, frames, lambda k: picture(size, box), **options)


def annotation(person: str, video: str, frames: range, box=(50, 30, 98, 78), size=(120, 160)) -> str:
    """A VoxCeleb2 text with the same box in all `frames`."""
    left, top, right, bottom = box
    height, width = size
    row = (left / width, top / height, (right - left) / width, (bottom - top) / height)
    return format_utterance(person, video, frames, [row] * len(frames))


@dataclass
class Seen:
    box: np.ndarray
    score: float = 0.9


class GreenDetector:
    """Finds the green square, nothing else; counts its looks."""

    batch = 1

    def __init__(self):
        self.looks = 0

    def detect_batch(self, images: list[np.ndarray]) -> list[list[Seen]]:
        self.looks += len(images)
        return [self.detect(image) for image in images]

    def detect(self, image: np.ndarray) -> list[Seen]:
        mask = (image[..., 1].astype(int) - image[..., 0]) > 80
        if mask.sum() < 16:
            return []
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        return [Seen(np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32))]
