"""Videos through a model: read, edited window by window, written with the same times, audio and rotation.

Nothing longer than a window of frames is in memory. Finished pieces are kept in a hidden folder beside the output, so a
killed run goes on with the same command; at the end they are joined, and the audio is copied packet by packet.
"""

import hashlib
import heapq
import json
import os
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from uniface.use import origin
from uniface.use.api import Session
from uniface.use.mp4 import set_rotation

SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv")
ROTATING = (".mp4", ".m4v", ".mov")
"""Formats whose rotation is a number in the header; in others the pixels themselves are turned."""
SEGMENT = 64
"""Frames after which a piece is finished, at the next end of a window."""
SCALER = 0x4 | 0x40000 | 0x2000
"""libswscale: bicubic, accurate rounding, full colour sampling. Its default darkens every frame by a grey level."""
ENCODER = {"preset": "veryfast", "crf": "18", "bf": "0", "x264-params": "mbtree=0"}
"""libx264: without B-frames pieces can be joined packet by packet; with its macroblock tree the same frames would not
always give the same pictures."""


@dataclass(frozen=True)
class Outcome:
    """`frames` in all, `lost` of them without a face to work at, `detected` looked at by the detector."""

    frames: int
    lost: int
    detected: int


def is_video(path: Path) -> bool:
    """Whether a file is a video by its contents: more than one frame, or sound."""
    try:
        with av.open(str(path)) as container:
            name = container.format.name
            return bool(container.streams.video) and not name.endswith("_pipe") and name != "image2"
    except av.FFmpegError:
        return False


def rate(path: Path) -> float:
    """Frames per second, on the average. Raises ValueError for what is no video."""
    with _opened(path) as container:
        return float(container.streams.video[0].average_rate or 25)


def first_frame(path: Path) -> np.ndarray:
    """uint8 (H, W, 3), upright. Raises ValueError for what is no video or shows nothing."""
    with _opened(path) as container:
        try:
            return _upright(next(container.decode(video=0)))
        except (av.FFmpegError, StopIteration) as error:
            raise ValueError(f"no frame in {path}") from error


def edit(
    session: Session,
    target: Path,
    out: Path,
    mark: origin.Mark | None = None,
    key: str = "",
    as_parent: bool = True,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Outcome:
    """Run the frames of `target` through `session` into the video `out`.

    `key` tells apart runs that must not be mixed (source, model, options): pieces of another key are thrown away. With
    `as_parent` the mark names `target` as the video that was edited. `on_progress` is told the frames that are done and
    about how many there are. Raises ValueError for a file that is no video or is broken in the middle, and for a format
    that cannot hold the result.
    """
    if out.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{out}: videos are written as {', '.join(SUFFIXES)}")
    if mark is not None:
        origin.check(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    work = _work(target, out, key)
    pieces = _Pieces(work, session)
    with _opened(target) as container:
        stream = container.streams.video[0]
        total = stream.frames or round(float((container.duration or 0) / av.time_base * (stream.average_rate or 25)))
        _encode(session, container, pieces, out, total, on_progress)
    part = out.with_name(f".{out.stem}.{os.getpid()}{out.suffix}")
    try:
        _join(pieces, target, part, mark if out.suffix.lower() in origin.TAGS_ONLY else None)
        if pieces.rotation and out.suffix.lower() in ROTATING:
            set_rotation(part, pieces.rotation)
        origin.seal(part, out, mark, target if as_parent else None)
    finally:
        part.unlink(missing_ok=True)
    shutil.rmtree(work)
    return Outcome(pieces.frames, pieces.lost, pieces.detected)


def _work(target: Path, out: Path, key: str) -> Path:
    """The folder of pieces of this very run; others for the same output are removed."""
    stat = target.stat()
    digest = hashlib.sha256(f"{key} {target.resolve()} {stat.st_size} {stat.st_mtime_ns}".encode()).hexdigest()[:16]
    work = out.with_name(f".{out.name}.{digest}.part")
    for old in out.parent.glob(f".{out.name}.*.part"):
        if old != work:
            shutil.rmtree(old)
    work.mkdir(exist_ok=True)
    return work


class _Pieces:
    """Finished pieces of the output, each a NUT file and the state after it, and the session restored to the last."""

    def __init__(self, folder: Path, session: Session):
        self.folder, self._session = folder, session
        self.frames = self.lost = self.detected = self.rotation = self.last_seconds = 0
        self.files: list[Path] = []
        while (state := folder / f"{len(self.files):06d}.npz").is_file():
            with np.load(state) as saved:
                values = json.loads(str(saved["values"]))
                still = saved["still"]
            for name in ("frames", "lost", "detected", "rotation", "last_seconds"):
                setattr(self, name, values[name])
            self.files.append(state.with_suffix(".nut"))
        if self.files:
            session.restore({"tracker": values["tracker"], "still": still})
            session.tracker.detections = self.detected

    def path(self) -> Path:
        """Where the next piece is written."""
        return self.folder / f"{len(self.files):06d}.nut.part"

    def finish(self) -> None:
        """The next piece is written: keep it. Its state comes last, so a piece is complete or absent."""
        path = self.folder / f"{len(self.files):06d}.nut"
        os.replace(self.path(), path)
        state = self._session.state()
        self.detected = self._session.tracker.detections
        values = {name: getattr(self, name) for name in ("frames", "lost", "detected", "rotation", "last_seconds")}
        values["tracker"] = state["tracker"]
        part = self.folder / "state.part.npz"
        np.savez(part, values=json.dumps(values), still=state["still"])
        os.replace(part, path.with_suffix(".npz"))
        self.files.append(path)


def _encode(
    session: Session,
    container: av.container.InputContainer,
    pieces: _Pieces,
    out: Path,
    total: int,
    on_progress: Callable[[int, int], None],
) -> None:
    """Decode, edit and encode what no piece holds yet."""
    stream = container.streams.video[0]
    waiting: deque[av.VideoFrame] = deque()  # frames in the session, for their times
    turn_back = out.suffix.lower() in ROTATING

    def images() -> Iterator[np.ndarray]:
        frames = container.decode(stream)
        for index, frame in enumerate(frames):
            if index < pieces.frames:
                continue
            waiting.append(frame)
            pieces.rotation = round(frame.rotation / 90) % 4 * 90  # counterclockwise
            yield _upright(frame)

    writer: _Writer | None = None
    with _Progress(total, pieces.frames) as progress:
        try:
            for window in session.windows(images()):
                for edited in window:
                    frame = waiting.popleft()
                    image = edited.image
                    if session.task == "reenactment":
                        pieces.rotation = 0  # its square is upright
                    elif turn_back and pieces.rotation:
                        image = np.ascontiguousarray(np.rot90(image, -pieces.rotation // 90))
                    writer = writer or _Writer(pieces.path(), image, frame, stream)
                    writer.add(image, frame)
                    pieces.last_seconds = float(frame.duration * frame.time_base)
                    pieces.lost += not edited.faces
                    pieces.frames += 1
                progress.advance(len(window))
                on_progress(pieces.frames, total)
                if writer and writer.frames >= SEGMENT:
                    writer.close()
                    pieces.finish()
                    writer = None
            if writer:
                writer.close()
                pieces.finish()
        except av.FFmpegError as error:
            raise ValueError(f"{container.name} cannot be decoded to its end: {error.strerror}") from error
    if not pieces.frames:
        raise ValueError(f"no frame in {container.name}")


def _upright(frame: av.VideoFrame) -> np.ndarray:
    """uint8 (H, W, 3) as people see it."""
    turns = round(frame.rotation / 90) % 4
    picture = frame.to_ndarray(format="rgb24", interpolation=SCALER)
    return np.ascontiguousarray(np.rot90(picture, turns)) if turns else picture


class _Writer:
    """One piece: H.264 in NUT, which keeps every time stamp as it is."""

    def __init__(self, path: Path, image: np.ndarray, like: av.VideoFrame, source: av.VideoStream):
        self._container = av.open(str(path), "w", format="nut")
        self._stream = self._container.add_stream("libx264", rate=source.average_rate or 25, options=ENCODER)
        context = self._stream.codec_context
        context.height, context.width = image.shape[:2]
        odd = context.height % 2 or context.width % 2
        context.pix_fmt = "yuv444p" if odd else "yuv420p"  # halved colours need even sides
        context.time_base = like.time_base
        self._stream.time_base = like.time_base
        for name in ("colorspace", "color_primaries", "color_trc"):
            setattr(context, name, getattr(like, name))
        context.color_range = av.video.reformatter.ColorRange.MPEG
        self.frames = 0

    def add(self, image: np.ndarray, like: av.VideoFrame) -> None:
        context = self._stream.codec_context
        frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(
            format=context.pix_fmt,
            dst_colorspace=context.colorspace,
            dst_color_range=context.color_range,
            interpolation=SCALER,
        )
        frame.pts, frame.time_base, frame.duration = like.pts, like.time_base, like.duration
        for packet in self._stream.encode(frame):
            self._container.mux(packet)
        self.frames += 1

    def close(self) -> None:
        for packet in self._stream.encode():
            self._container.mux(packet)
        self._container.close()


def _join(pieces: _Pieces, target: Path, out: Path, mark: origin.Mark | None) -> None:
    """All pieces as one video with the audio of `target`."""
    with (
        _opened(target) as container,
        av.open(str(pieces.files[0])) as first,
        av.open(str(out), "w", options=_muxer(out, container.streams.video[0].time_base)) as joined,
    ):
        joined.metadata.update({**container.metadata, **(origin.tags(mark) if mark else {})})
        video = joined.add_stream_from_template(first.streams.video[0])
        video.time_base = container.streams.video[0].time_base
        copies = {}
        for audio in container.streams.audio:
            try:
                copies[audio.index] = joined.add_stream_from_template(audio)
            except (ValueError, av.FFmpegError) as error:
                raise ValueError(f"{out.suffix} cannot hold {audio.codec_context.name} audio: use .mkv") from error
        sources = [_video_packets(pieces, video), _audio_packets(container, copies)]
        try:
            for _, packet in heapq.merge(*sources, key=lambda timed: timed[0]):
                joined.mux_one(packet)
        except av.FFmpegError as error:
            raise ValueError(f"{out.suffix} cannot hold this video's streams ({error.strerror}): use .mkv") from error


def _muxer(out: Path, time_base: Fraction) -> dict[str, str]:
    if out.suffix.lower() not in ROTATING:
        return {}
    # MP4 tells a late start in the clock of the whole file, milliseconds by default: too coarse to keep time stamps
    return {"movflags": "+faststart", "movie_timescale": str(time_base.denominator)}


def _video_packets(pieces: _Pieces, stream: av.VideoStream) -> Iterator[tuple[float, av.Packet]]:
    held: av.Packet | None = None
    for file in pieces.files:
        with av.open(str(file)) as container:
            for packet in container.demux(video=0):
                if packet.dts is None:  # the end of the piece
                    continue
                if held is not None:
                    held.duration = packet.pts - held.pts  # NUT has no durations
                    yield _timed(held, stream)
                held = packet
    if held is not None:
        held.duration = round(pieces.last_seconds / held.time_base)
        yield _timed(held, stream)


def _audio_packets(
    container: av.container.InputContainer, copies: dict[int, av.AudioStream]
) -> Iterator[tuple[float, av.Packet]]:
    if not copies:
        return
    for packet in container.demux(*(container.streams[index] for index in copies)):
        if packet.dts is not None:
            yield _timed(packet, copies[packet.stream_index])


def _timed(packet: av.Packet, stream: av.stream.Stream) -> tuple[float, av.Packet]:
    """(second, packet), the packet now of the output's stream."""
    seconds = float(packet.dts * packet.time_base)
    packet.stream = stream
    return seconds, packet


def _opened(path: Path) -> av.container.InputContainer:
    if not path.is_file():
        raise FileNotFoundError(f"no video at {path}")
    try:
        container = av.open(str(path))
    except (av.FFmpegError, OSError) as error:
        raise ValueError(f"{path} is not a video: {error.strerror or error}") from error
    if not container.streams.video or container.streams.video[0].codec_context is None:
        container.close()
        raise ValueError(f"{path} has no video stream that can be decoded")
    return container


class _Progress:
    """A bar with rate and ETA for who watches, else a line every half minute."""

    EVERY = 30.0

    def __init__(self, total: int, done: int):
        self._total, self._done, self._first = total, done, done
        self._began = self._said = time.monotonic()

    def __enter__(self) -> "_Progress":
        from tqdm import tqdm

        self._bar = tqdm(total=self._total or None, initial=self._done, unit="frame", disable=None)
        return self

    def advance(self, frames: int) -> None:
        self._done += frames
        self._bar.update(frames)
        now = time.monotonic()
        if self._bar.disable and now - self._said >= self.EVERY:
            self._said = now
            speed = (self._done - self._first) / (now - self._began)
            left = max(self._total - self._done, 0) / speed
            print(f"{self._done} of {self._total} frames, {speed:.1f} a second, {left:.0f} s left", file=sys.stderr)

    def __exit__(self, *_: object) -> None:
        self._bar.close()
