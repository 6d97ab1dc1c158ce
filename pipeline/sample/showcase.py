"""The examples of the page `python -m uniface demo`, and the README's picture of what a model makes of them.

All are of persons of the test split, whom no network has seen.
"""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import av
import cv2
import numpy as np

from pipeline.sample.gallery import caption
from pipeline.sample.world import FPS, Video, World
from pipeline.videos.codec import REPEATABLE
from uniface.images import read_image, write_image

if TYPE_CHECKING:
    from uniface.use.api import FaceEditor

SOURCES, TARGETS, SECONDS = 4, 2, 3
LINES = 240  # of the videos, whatever params.yaml has: these are to be looked at
PORTRAIT = 256  # pixels of a side
MOMENTS = (8, 36, 64)  # frames of the example video that the README's picture shows
HIGH, LOW = 272, 178  # pixels of its rows


def write_examples(world: World, folder: Path) -> None:
    """source-N.jpg, target-N.jpg and target-video.mp4 (H.264, 25 fps)."""
    world = World(dataclasses.replace(world.params, video_height=LINES), world.seed)
    portraits = [portrait for portrait in world.portraits if portrait.split == "test"][:SOURCES]
    for number, portrait in enumerate(portraits, 1):
        write_image(folder / f"source-{number}.jpg", dataclasses.replace(portrait, size=PORTRAIT).render())
    moving, *still = (video for video in world.videos if _is_plain(video))
    for number, video in enumerate(still[:TARGETS], 1):
        write_image(folder / f"target-{number}.jpg", video.render(10))
    with av.open(str(folder / "target-video.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "24", "x264-params": REPEATABLE})
        (stream.height, stream.width), stream.pix_fmt = moving.size, "yuv420p"
        for number in range(min(SECONDS * FPS, moving.frames)):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(moving.render(number), format="rgb24")))
        container.mux(stream.encode())


def draw_use(editor: "FaceEditor", examples: Path, path: Path) -> None:
    """Write a picture: a row for each swapped picture, below them a portrait that moves as the video does."""
    sources = [read_image(examples / f"source-{number}.jpg") for number in range(1, 1 + SOURCES)]
    rows = []
    for number in range(1, 1 + TARGETS):
        target = read_image(examples / f"target-{number}.jpg")
        swapped = editor.swap(sources[number], target)
        rows.append([("source", sources[number]), ("target", target), ("swap", swapped)])
    with av.open(str(examples / "target-video.mp4")) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    portrait = read_image(examples / "target-1.jpg")  # with shoulders, which the FOMM box takes in
    moved = [edited.image for edited in editor.reenact_frames(portrait, frames)]
    middle = editor.detect("reenactment", portrait, "largest", "the example")[0].box
    rows.append([("portrait", _around(portrait, (middle[0] + middle[2]) / 2))])
    for moment in MOMENTS:
        box = editor.detect("reenactment", frames[moment], "largest", "the example")[0].box
        rows[-1] += [("video", _around(frames[moment], (box[0] + box[2]) / 2)), ("reenact", moved[moment])]
    heights = [HIGH] * TARGETS + [LOW]
    lines = [
        np.hstack([caption(text, _high(image, height)) for text, image in row])
        for row, height in zip(rows, heights, strict=True)
    ]
    width = max(line.shape[1] for line in lines)
    write_image(
        path,
        np.vstack([np.pad(line, ((0, 0), (0, width - line.shape[1]), (0, 0)), constant_values=255) for line in lines]),
    )


def _is_plain(video: Video) -> bool:
    return video.split == "test" and video.event == "plain" and video.bystander is None


def _around(frame: np.ndarray, x: float) -> np.ndarray:
    """The square of the frame's height whose middle is nearest to `x`."""
    height, width = frame.shape[:2]
    left = int(np.clip(x - height / 2, 0, width - height))
    return frame[:, left : left + height]


def _high(image: np.ndarray, height: int) -> np.ndarray:
    width = round(image.shape[1] * height / image.shape[0])
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if len(image) > height else cv2.INTER_CUBIC)
