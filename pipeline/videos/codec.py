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
from av.video.reformatter import VideoReformatter

from pipeline.videos.fomm import FPS

SEEK_GAP = 10.0
"""Seconds to the next wanted frame from which on a jump is cheaper than decoding on."""
_STEPS_BACK = (0.0, 4.0, 16.0, 64.0)
"""Seconds before the wanted frame at which a jump aims, one after another, until it lands where it should."""
_NO_JUMPS = "mpeg"
"""MPEG program streams (MPEG-PS, VOB): few packets bear a stamp, and what is made up for the others after a jump is off
by a frame."""
_GAP = 1.0
"""Seconds by which a stamp in a program stream must be ahead of the frames counted so far to be believed."""
_WIDEST = 8
"""Pixels with a side this many times the other are a header's mistake."""
REPEATABLE = "mbtree=0"
"""For x264-params: with AVX-512 its macroblock tree made several files of the same frames, at 80 pixels and others."""
_FOREVER = 1 << 40
_LATE = 1e-3
"""Seconds by which a time stamp may miss its tick; containers round to milliseconds."""


@dataclass(frozen=True)
class Info:
    """What a container says: size as shown (turned upright, in square pixels), frames per second, number of frames.

    Frames that an edit list hides are not counted.
    """

    width: int
    height: int
    fps: float
    frames: int

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
        picture = _first_picture(container)
        return Info(picture.width, picture.height, float(_rate(stream)), _length(container, stream))


def reaches_end(path: str | Path) -> bool:
    """Whether the last second that the header promises can be decoded; costs a jump where the format allows one."""
    try:
        with _Shown(path) as shown:
            shown.skip_to(shown.seconds - 1)
            last = 0.0
            while (following := shown.next()) is not None:
                last = following[0]
            return last > shown.seconds - 0.5
    except av.FFmpegError:
        return False


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


def _first_picture(container: av.container.InputContainer) -> "Picture":
    try:
        for picture in _pictures(container):
            return picture
    except av.FFmpegError as error:
        raise VideoError(f"cannot be decoded: {error.strerror}") from error
    raise VideoError("no frame in it")


def _rate(stream: av.video.stream.VideoStream) -> Fraction:
    return stream.average_rate or stream.guessed_rate or Fraction(FPS)


def _length(container: av.container.InputContainer, stream: av.video.stream.VideoStream) -> int:
    if stream.frames:
        # an edit list hides frames that the header counts; they are out of mp4's index, or marked in it
        edited = container.format.name.startswith("mov") and len(stream.index_entries) > 0
        return sum(not entry.is_discard for entry in stream.index_entries) if edited else stream.frames
    if stream.duration:
        return round(stream.duration * stream.time_base * _rate(stream))
    return round((container.duration or 0) / av.time_base * _rate(stream))


class Picture:
    """A decoded frame; `width` and `height` are its size as shown: turned upright, in square pixels.

    `aspect` is the width of a stored pixel over its height; pixels become square by enlarging, so no detail is lost.
    `scaler` is shared by the pictures of a video: a frame's own would be set up anew for each, at the decoder's price.
    """

    def __init__(self, frame: av.VideoFrame, aspect: float, scaler: VideoReformatter):
        self.frame, self._scaler = frame, scaler
        self._stored = round(frame.width * max(1.0, aspect)), round(frame.height * max(1.0, 1 / aspect))
        self._turns = round(frame.rotation / 90) % 4  # counterclockwise
        self.width, self.height = self._stored[::-1] if self._turns % 2 else self._stored

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""
        return self.width, self.height

    def rgb(self, height: int | None = None) -> np.ndarray:
        """Its pixels as uint8 RGB (H, W, 3); any pixel format and depth; at most `height` rows if given."""
        width, tall = self._stored
        if height is not None and self.height > height:
            width, tall = (max(1, round(side * height / self.height)) for side in self._stored)
            how = "AREA"
        else:
            how = None if (width, tall) == (self.frame.width, self.frame.height) else "BICUBIC"
        # a worker has one core, and swscale would spread each picture over all
        scaled = self._scaler.reformat(self.frame, width, tall, "rgb24", interpolation=how, threads=1)
        pixels = scaled.to_ndarray()
        return np.ascontiguousarray(np.rot90(pixels, self._turns)) if self._turns else pixels


def _pictures(container: av.container.InputContainer) -> Iterator[Picture]:
    """The decoded frames in order, with the shape of their pixels: the container's word, then the codec's.

    Where the codec changes its mind on the way, its new word counts.
    """
    stream, scaler = container.streams.video[0], VideoReformatter()
    first = aspect = None
    for frame in container.decode(stream):
        said = stream.codec_context.sample_aspect_ratio
        if aspect is None or said != first:
            whole = stream.sample_aspect_ratio if aspect is None else None
            first, aspect = said, float(whole or said or 1)
            aspect = aspect if 1 / _WIDEST <= aspect <= _WIDEST else 1.0
        yield Picture(frame, aspect, scaler)


def ticks(
    path: str | Path, spans: Sequence[tuple[int, int]] | None = None, as_stored: bool = False
) -> Iterator[tuple[int, Picture]]:
    """(tick, picture) for every tick of the 25 fps timeline inside `spans`, in order.

    At a tick the picture is the one on show then: other rates lose or repeat frames, a variable rate comes out even.
    Tick 0 is the first frame of the video. `spans` are (start, end), end exclusive; None is all of it. `as_stored`
    counts frames instead of times (FOMM's own clips claim 10 fps and hold 25). Frames after the last span are never
    decoded. Ends early where the video does. Raises VideoError where the data cannot be decoded.
    """
    wanted = [(0, _FOREVER)] if spans is None else merge(spans)
    if not wanted:
        return
    try:
        with _Shown(path, as_stored) as shown:
            yield from _ticks(shown, wanted)
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


def _ticks(shown: "_Shown", spans: list[tuple[int, int]]) -> Iterator[tuple[int, Picture]]:
    until, picture = 0.0, None
    for start, end in spans:
        if shown.skip_to(start / FPS):
            picture = None
        for tick in range(start, end):
            while picture is None or until - _LATE <= tick / FPS:
                following = shown.next()
                if following is None:
                    return
                until, picture = following
            yield tick, picture


class _Shown:
    """The pictures of a video one by one, each with the second at which the next one replaces it; a context."""

    def __init__(self, path: str | Path, as_stored: bool = False):
        self._path, self._as_stored = path, as_stored
        self._start()
        stream = self._container.streams.video[0]
        self.seconds = float(_length(self._container, stream) / _rate(stream))
        self._jumps = self._origin is not None and self._container.format.name != _NO_JUMPS

    def _start(self) -> None:
        self._container = _open(self._path)
        try:
            self._stream = self._container.streams.video[0]
            self._step = 1 / FPS if self._as_stored else float(1 / _rate(self._stream))
            self._pictures = _pictures(self._container)
            first = next(self._pictures, None)
        except av.FFmpegError:
            self._container.close()
            raise
        self._held: tuple[float, Picture] | None = None if first is None else (0.0, first)
        self._origin = None if first is None or self._as_stored else first.frame.time

    def __enter__(self) -> "_Shown":
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()

    def next(self) -> tuple[float, Picture] | None:
        held = self._held
        if held is None:
            return None
        for picture in self._pictures:
            time = self._time(picture.frame, *held)
            if time > held[0]:  # else a repeated stamp
                self._held = time, picture
                return time, held[1]
        self._held = None
        return held[0] + self._step, held[1]

    def _time(self, frame: av.VideoFrame, before: float, picture: Picture) -> float:
        """When `frame` comes on, after `picture` that came on at `before`."""
        if self._origin is None:
            return before + self._step
        if self._container.format.name != _NO_JUMPS:
            return before + self._step if frame.time is None else frame.time - self._origin
        # made-up stamps miss by some frames, and right themselves later: only a larger gap is one
        counted = before + float((picture.frame.duration or 0) * picture.frame.time_base or self._step)
        told = counted if frame.time is None else frame.time - self._origin
        return told if told - counted > _GAP else counted

    def skip_to(self, seconds: float) -> bool:
        """Jump to a key frame before `seconds` if that is far ahead; True if the next picture is not the following one.

        Some formats (MPEG-TS) land behind the target: where a jump landed is looked at, and it is tried again from
        further back; where nothing helps, the video is decoded from its start.
        """
        if self._held is None or not self._jumps or seconds - self._held[0] <= SEEK_GAP:
            return False
        before = self._held[0]
        for back in _STEPS_BACK:
            if seconds - back <= before:
                break
            landed = self._land(seconds - back)
            if landed is not None and landed[0] <= seconds + _LATE:
                self._held = landed
                return True
        self._container.close()
        self._start()
        self._jumps = False
        return True

    def _land(self, seconds: float) -> tuple[float, Picture] | None:
        """(second, picture) to which a jump leads; None if it is no key frame or does not tell its time."""
        try:
            self._container.seek(
                int((seconds + self._origin) / self._stream.time_base), stream=self._stream, backward=True
            )
            self._pictures = _pictures(self._container)
            picture = next(self._pictures, None)
        except av.FFmpegError:
            return None
        if picture is None or picture.frame.time is None or not picture.frame.key_frame:
            return None
        return picture.frame.time - self._origin, picture


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
