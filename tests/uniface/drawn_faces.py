"""Pictures and videos with faces of the sample world, the sample's detector, and tiny models."""

from dataclasses import replace
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import av
import numpy as np
import tiny
import torch

from pipeline.params import load
from pipeline.sample.world import World
from uniface.config import TASKS
from uniface.images import write_image
from uniface.model import UniFace

ROOT = Path(__file__).resolve().parents[2]
DETECTOR = ROOT / "pipeline" / "sample" / "nets" / "detector.onnx"
CLOCK = 15360  # ticks a second of the videos written here


@lru_cache
def world() -> World:
    return World(replace(load(ROOT / "params.yaml").sample, video_height=240), 0)


@lru_cache
def frame(event: str = "plain", number: int = 10) -> np.ndarray:
    """A frame (240, 426, 3) of the first sample video in which `event` happens."""
    return next(video for video in world().videos if video.event == event).render(number)


@lru_cache
def portrait(number: int = 0) -> np.ndarray:
    return world().portraits[number].render()


def write_model(path: Path, task: str, size: int = tiny.SIZE, **extra) -> Path:
    """A tiny model file for a task, its weights random."""
    torch.manual_seed(0)
    UniFace(tiny.config(image_size=size)).save(path, {"task": task, **extra})
    return path


def write_models(folder: Path) -> Path:
    """A folder with a tiny model for each task and the detector."""
    for task in TASKS:
        write_model(folder / f"{task}.safetensors", task)
    (folder / "detector.onnx").write_bytes(DETECTOR.read_bytes())
    return folder


def write_video(
    path: Path,
    frames: list[np.ndarray],
    rate: int = 30,
    times: list[int] | None = None,
    sound: bool = False,
    space: int = 2,
) -> Path:
    """An H.264 video. `times` are time stamps in ticks of 1/CLOCK s, by default those of `rate`; sound is AAC.

    `space` is the number that H.264 gives the colour space.
    """
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=rate, options={"preset": "ultrafast", "crf": "12"})
        video.height, video.width = frames[0].shape[:2]
        video.pix_fmt = "yuv420p"
        video.codec_context.time_base = Fraction(1, CLOCK)
        video.codec_context.colorspace = space
        audio = container.add_stream("aac", rate=44100) if sound else None
        for number, pixels in enumerate(frames):
            image = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p", dst_colorspace=space)
            image.pts, image.time_base = times[number] if times else number * CLOCK // rate, Fraction(1, CLOCK)
            container.mux(video.encode(image))
        container.mux(video.encode())
        if audio:
            for start in range(0, 44100 * len(frames) // rate, 1024):
                wave = 0.3 * np.sin(np.arange(start, start + 1024) / 16)
                samples = av.AudioFrame.from_ndarray(np.float32([wave, wave]), format="fltp", layout="stereo")
                samples.sample_rate, samples.pts = 44100, start
                container.mux(audio.encode(samples))
            container.mux(audio.encode())
    return path


def described(path: Path) -> dict:
    """Times, sizes and rotation of a video's frames, and its audio packets."""
    with av.open(str(path)) as container:
        frames = [(f.pts * f.time_base, f.rotation, f.width, f.height) for f in container.decode(video=0)]
        rate = container.streams.video[0].average_rate
    with av.open(str(path)) as container:
        packets = container.demux(audio=0) if container.streams.audio else []
        audio = [(p.pts, p.dts, p.duration, bytes(p)) for p in packets if p.dts is not None]
    return {"frames": frames, "rate": rate, "audio": audio}


def save(path: Path, image: np.ndarray) -> Path:
    write_image(path, image)
    return path
