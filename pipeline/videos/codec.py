"""Videos as streams by PyAV: any file read on the 25 fps timeline a frame at a time, and short clips encoded.

Decoding keeps one frame, whatever the length of the video, and jumps over what nobody asked for.
"""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from pipeline.videos.fomm import FPS

SEEK_GAP = 10.0
"""Seconds to the next wanted frame from which on a jump is cheaper than decoding on."""
REPEATABLE = "mbtree=0"
"""For x264-params: with AVX-512 its macroblock tree made several files of the same frames, at 80 pixels and others."""
_FOREVER = 1 << 40
_LATE = 1e-3
"""Seconds by which a time stamp may miss its tick; containers round to milliseconds."""


@dataclass(frozen=True)
class Info:
    """What a container says: size in square pixels as shown, after its rotation; frames per second, number of frames.

    `aspect` is the width of a stored pixel over its height.
    """

    width: int
    height: int
    fps: float
    frames: int
    aspect: float = 1.0

    @property
    def ticks(self) -> int:
        """Its length on the 25 fps timeline."""
        return round(self.frames / self.fps * FPS) if self.fps else 0


class VideoError(ValueError):
    """A file that cannot be read as a video, or not to its end; the message is the reason."""


def probe(path: str | Path) -> Info:
    """Size and length of a video, by its header and first frame.

    Raises VideoError if it is empty, has no picture stream, or no frame of it can be decoded.
    """
    with _open(path) as container:
        stream = container.streams.video[0]
        frame = _first_frame(container, path)
        turned = abs(frame.rotation) % 180 == 90
        aspect = float(stream.sample_aspect_ratio or 1)
        wide, tall = squared(frame, aspect)
        width, height = (tall, wide) if turned else (wide, tall)
        return Info(width, height, float(_rate(stream)), _length(container, stream), aspect)


def squared(frame: av.VideoFrame, aspect: float) -> tuple[int, int]:
    """Width and height of a stored frame once its pixels are square, by enlarging: no detail is lost."""
    return round(frame.width * max(1.0, aspect)), round(frame.height * max(1.0, 1 / aspect))


def reaches_end(path: str | Path) -> bool:
    """Whether the last second that the header promises can be decoded; costs a jump, not a pass."""
    with _open(path) as container:
        stream = container.streams.video[0]
        length = _length(container, stream) / _rate(stream)
        try:
            first = next(iter(container.decode(stream)))
            if length > 1 and first.pts is not None:
                container.seek(first.pts + int((length - 1) / stream.time_base), stream=stream, backward=True)
            last = max((frame.time or 0.0 for frame in container.decode(stream)), default=0.0)
        except (av.FFmpegError, StopIteration):
            return False
        return last - (first.time or 0.0) > float(length) - 1.5


def _open(path: str | Path) -> av.container.InputContainer:
    try:
        container = av.open(str(path))
    except FileNotFoundError:
        raise FileNotFoundError(f"no video at {path}") from None
    except (av.FFmpegError, OSError) as error:
        raise VideoError(f"not a video: {error.strerror or error}") from error
    if not container.streams.video:
        container.close()
        raise VideoError("no video stream in it")
    context = container.streams.video[0].codec_context
    if context is None:
        container.close()
        raise VideoError("its codec is unknown")
    context.thread_count = 1  # a worker has one core
    return container


def _first_frame(container: av.container.InputContainer, path: str | Path) -> av.VideoFrame:
    try:
        for frame in container.decode(video=0):
            return frame
    except av.FFmpegError as error:
        raise VideoError(f"cannot be decoded: {error.strerror}") from error
    raise VideoError("no frame in it")


def _rate(stream: av.video.stream.VideoStream) -> Fraction:
    return stream.average_rate or stream.guessed_rate or Fraction(FPS)


def _length(container: av.container.InputContainer, stream: av.video.stream.VideoStream) -> int:
    if stream.duration:  # what is shown: the number of frames counts those that an edit list hides
        return round(stream.duration * stream.time_base * _rate(stream))
    if stream.frames:
        return stream.frames
    return round((container.duration or 0) / av.time_base * _rate(stream))


def rgb(frame: av.VideoFrame, height: int | None = None, aspect: float = 1.0) -> np.ndarray:
    """A decoded frame as uint8 RGB (H, W, 3), upright; any pixel format and depth; at most `height` rows if given.

    `aspect` is that of its stored pixels (see `Info`); in the picture they are square.
    """
    turns = round(frame.rotation / 90) % 4  # counterclockwise
    width, tall = squared(frame, aspect)
    rows = width if turns % 2 else tall
    if height is not None and rows > height:
        width, tall = (max(1, round(side * height / rows)) for side in (width, tall))
        frame = frame.reformat(width, tall, "rgb24", interpolation="AREA")
    elif (width, tall) != (frame.width, frame.height):
        frame = frame.reformat(width, tall, "rgb24", interpolation="BICUBIC")
    picture = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(picture, turns)) if turns else picture


def ticks(
    path: str | Path, spans: Sequence[tuple[int, int]] | None = None, as_stored: bool = False
) -> Iterator[tuple[int, av.VideoFrame]]:
    """(tick, frame) for every tick of the 25 fps timeline inside `spans`, in order; `rgb` makes pixels of a frame.

    At a tick the frame is the one on show then: other rates lose or repeat frames, a variable rate comes out even.
    Tick 0 is the first frame of the video. `spans` are (start, end), end exclusive; None is all of it. `as_stored`
    counts frames instead of times (FOMM's own clips claim 10 fps and hold 25). Frames after the last span are never
    decoded. Ends early where the video does. Raises VideoError where the data cannot be decoded.
    """
    wanted = [(0, _FOREVER)] if spans is None else merge(spans)
    if not wanted:
        return
    with _open(path) as container:
        try:
            yield from _ticks(container, wanted, as_stored)
        except av.FFmpegError as error:
            raise VideoError(f"cannot be decoded: {error.strerror}") from error


def merge(spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same ticks as disjoint spans in order; empty ones vanish."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(span for span in spans if span[1] > span[0]):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _ticks(
    container: av.container.InputContainer, spans: list[tuple[int, int]], as_stored: bool
) -> Iterator[tuple[int, av.VideoFrame]]:
    shown = _Shown(container, as_stored)
    until, frame = 0.0, None
    for start, end in spans:
        if shown.skip_to(start / FPS):
            frame = None
        for tick in range(start, end):
            while frame is None or until - _LATE <= tick / FPS:
                following = shown.next()
                if following is None:
                    return
                until, frame = following
            yield tick, frame


class _Shown:
    """The frames of a video one by one, each with the second at which the next one replaces it."""

    def __init__(self, container: av.container.InputContainer, as_stored: bool):
        self._container = container
        self._stream = container.streams.video[0]
        self._step = 1 / FPS if as_stored else float(1 / _rate(self._stream))
        self._frames = container.decode(self._stream)
        self._held: tuple[float, av.VideoFrame] | None = None
        first = next(self._frames, None)
        self._origin = None if first is None or as_stored else first.time
        if first is not None:
            self._held = 0.0, first

    def next(self) -> tuple[float, av.VideoFrame] | None:
        held = self._held
        if held is None:
            return None
        for frame in self._frames:
            time = self._time(frame, held[0])
            if time > held[0]:  # else a repeated stamp
                self._held = time, frame
                return time, held[1]
        self._held = None
        return held[0] + self._step, held[1]

    def skip_to(self, seconds: float) -> bool:
        """Jump to the last key frame before `seconds` if that is far ahead; True if it jumped."""
        if self._held is None or self._origin is None or seconds - self._held[0] <= SEEK_GAP:
            return False
        target = (seconds + self._origin) / self._stream.time_base
        self._container.seek(int(target), stream=self._stream, backward=True)
        self._frames = self._container.decode(self._stream)
        frame = next(self._frames, None)
        self._held = None if frame is None else (self._time(frame, seconds), frame)
        return True

    def _time(self, frame: av.VideoFrame, before: float) -> float:
        if self._origin is None or frame.time is None:
            return before + self._step
        return frame.time - self._origin


class Encoder:
    """A clip in the making: `add` square uint8 RGB frames, then `finish` gives the mp4's bytes.

    H.264, yuv420p, 25 fps, a closed group of pictures every `gop` frames, constant quality `crf`; the same frames give
    the same bytes.
    """

    def __init__(self, size: int, gop: int, crf: int):
        self._buffer = io.BytesIO()
        self._container = av.open(self._buffer, "w", format="mp4")
        self._stream = self._container.add_stream("libx264", rate=FPS)
        self._stream.width = self._stream.height = size
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.thread_count = 1  # slices by thread would change the bytes
        self._stream.options = {
            "preset": "veryfast",
            "crf": str(crf),
            "x264-params": f"keyint={gop}:min-keyint={gop}:scenecut=0:open-gop=0:{REPEATABLE}",
        }
        self.frames = 0

    def add(self, image: np.ndarray) -> None:
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame.pts = self.frames
        self.frames += 1
        for packet in self._stream.encode(frame):
            self._container.mux(packet)

    def finish(self) -> bytes:
        for packet in self._stream.encode():
            self._container.mux(packet)
        self._container.close()
        return self._buffer.getvalue()
