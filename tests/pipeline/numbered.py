"""Videos whose frames bear their number, in black and white bits, in every container and with every habit of files."""

from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

X264 = {"preset": "veryfast", "crf": "20", "g": "250"}
BITS = 3, 4


def numbered(number: int, size: tuple[int, int] = (48, 64)) -> np.ndarray:
    """A picture (H, W, 3) of 3 x 4 fields, white where the number has a bit."""
    bits = np.array([number >> k & 1 for k in range(12)], np.uint8).reshape(BITS) * 200 + 25
    return np.kron(bits, np.ones((size[0] // 3, size[1] // 4), np.uint8))[..., None].repeat(3, 2)


def number(image: np.ndarray) -> int:
    """The number in a picture of any size."""
    height, width = image.shape[:2]
    rows, columns = ((2 * np.arange(n) + 1) * side // (2 * n) for n, side in zip(BITS, (height, width), strict=True))
    return int(((image[rows][:, columns, 0] > 125).ravel() * (1 << np.arange(12))).sum())


def encoded(
    frames: range, size: tuple[int, int], codec: str, options: dict, draw: Callable[[int, tuple[int, int]], np.ndarray]
) -> Iterator[av.Packet]:
    """Packets of `draw(k, size)` at 25 fps, from an encoder of their own."""
    context = av.CodecContext.create(codec, "w")
    context.height, context.width = size
    context.pix_fmt, context.time_base, context.framerate = "yuv420p", Fraction(1, 25), Fraction(25)
    context.thread_count, context.options = 1, options
    for k in frames:
        frame = av.VideoFrame.from_ndarray(draw(k, size), format="rgb24")
        frame.pts, frame.time_base = k, Fraction(1, 25)
        yield from context.encode(frame)
    yield from context.encode(None)


def write(
    path: Path,
    frames: int,
    format: str,
    codec: str = "libx264",
    options: dict | None = None,
    size: tuple[int, int] = (48, 64),
    aspect: Fraction | None = None,
    draw: Callable[[int], np.ndarray] | None = None,
) -> Path:
    """A video of numbered frames, or of what `draw(k)` says."""
    with av.open(str(path), "w", format=format) as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width = size
        stream.pix_fmt, stream.codec_context.thread_count = "yuv420p", 1
        stream.options = options or {}
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        if codec not in ("libx264", "libvpx"):
            stream.bit_rate, stream.gop_size = 2_000_000, 25
        for k in range(frames):
            frame = av.VideoFrame.from_ndarray((draw or (lambda k: numbered(k, size)))(k), format="rgb24")
            frame.pts = k
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_changing(
    path: Path,
    format: str,
    codec: str,
    options: dict,
    parts: list[tuple[range, tuple[int, int]]],
    draw: Callable[[int, tuple[int, int]], np.ndarray] = numbered,
) -> Path:
    """A video whose frames change their size on the way."""
    with av.open(str(path), "w", format=format) as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width = parts[0][1]
        stream.pix_fmt, stream.options = "yuv420p", options
        for frames, size in parts:
            for packet in encoded(frames, size, codec, options, draw):
                packet.stream = stream
                container.mux(packet)
    return path


def hide_beginning(source: Path, path: Path, hidden: int) -> Path:
    """A lossless cut: the same packets in an mp4 whose edit list hides the first frames."""
    with av.open(str(source)) as whole, av.open(str(path), "w") as cut:
        old = whole.streams.video[0]
        new = cut.add_stream_from_template(old)
        offset = round(hidden / 25 / old.time_base)
        for packet in whole.demux(old):
            if packet.dts is not None:
                packet.pts, packet.dts, packet.stream = packet.pts - offset, packet.dts - offset, new
                cut.mux(packet)
    return path


def hide_end(source: Path, path: Path, frames: int) -> Path:
    """A lossless cut: the edit list of an mp4 shows only the first frames."""
    data = bytearray(source.read_bytes())
    at = data.index(b"mvhd")
    scale = int.from_bytes(data[at + 16 : at + 20], "big")
    at = data.index(b"elst")
    data[at + 12 : at + 16] = (scale * frames // 25).to_bytes(4, "big")
    path.write_bytes(bytes(data))
    return path
