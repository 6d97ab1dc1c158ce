"""Renders a sample world into the raw layouts of VoxCeleb2 and CelebA-HQ, as if they had been downloaded."""

import json
import multiprocessing
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import av
import cv2
import numpy as np

from pipeline.common.code import code
from pipeline.common.files import atomic_write
from pipeline.common.progress import progress
from pipeline.sample.world import FPS, Portrait, Utterance, Video, World
from pipeline.videos.annotations import META_FILE, format_utterance
from pipeline.videos.codec import REPEATABLE

RECORD = "sample-world.json"  # marks a folder as ours, and says of which world
NOISE = 1.5  # standard deviation of the camera's noise, grey levels
CRF = 23
JPEG_QUALITY = 95


def write_voxceleb2(world: World, folder: Path, workers: int) -> None:
    """Writes videos/<video_id>.mp4 (H.264, 25 fps), txt/<person>/<video>/<utterance>.txt and vox2_meta.csv (who is in
    the test partition); skips what exists.

    A folder that holds another sample world is emptied first; ValueError if it holds anything else.
    """
    _claim(folder, world)
    persons = [f"{video.person_id}, {'test' if video.split == 'test' else 'dev'}" for video in world.videos]
    _write_lines(folder / META_FILE, ["VoxCeleb2 ID, Set", *persons])
    jobs = [(video, folder) for video in world.videos if not _video_path(folder, video).exists()]
    _work(_write_video, jobs, workers, "sample videos")


def write_celebahq(world: World, folder: Path, workers: int) -> None:
    """Writes CelebA-HQ-img/N.jpg, CelebA-HQ-to-CelebA-mapping.txt and identity_CelebA.txt; skips what exists.

    A folder that holds another sample world is emptied first; ValueError if it holds anything else.
    """
    _claim(folder, world)
    mapping = [f"{'idx':>7} {'orig_idx':>11} {'orig_file':>13}"]
    mapping += [f"{p.image_id:>7} {p.original - 1:>11} {f'{p.original:06d}.jpg':>13}" for p in world.portraits]
    _write_lines(folder / "CelebA-HQ-to-CelebA-mapping.txt", mapping)
    originals = sorted(world.portraits, key=lambda p: p.original)
    _write_lines(folder / "identity_CelebA.txt", [f"{p.original:06d}.jpg {p.identity}" for p in originals])
    jobs = [(portrait, folder) for portrait in world.portraits if not _portrait_path(folder, portrait).exists()]
    _work(_write_portrait, jobs, workers, "sample portraits")


def annotation(video: Video, utterance: Utterance, boxes: dict[int, np.ndarray] | None = None) -> str:
    """An utterance's text file as VoxCeleb2 publishes it: a box of the face per frame, fractions of the picture.

    Where less than half of the face is in the picture, the last box stands, as a tracker would leave it. `boxes`: those
    of the video by frame, where they are known already.
    """
    h, w = video.size
    frames = range(utterance.start, utterance.end)
    rows, last = [], None
    for frame in frames:
        box = video.box(frame) if boxes is None else boxes[frame]
        inside = box.clip(0, (w, h, w, h))
        if last is None or 2 * _area(inside) > _area(box):
            last = inside
        left, top, right, bottom = (float(x) for x in last)
        rows.append((left / w, top / h, (right - left) / w, (bottom - top) / h))
    return format_utterance(video.person_id, video.video_id, frames, rows)


def _area(box: np.ndarray) -> float:
    return float((box[2] - box[0]) * (box[3] - box[1]))


def _video_path(folder: Path, video: Video) -> Path:
    return folder / "videos" / f"{video.video_id}.mp4"


def _portrait_path(folder: Path, portrait: Portrait) -> Path:
    return folder / "CelebA-HQ-img" / f"{portrait.image_id}.jpg"


def _write_video(job: tuple[Video, Path]) -> None:
    """Writes one video and its annotations; the video comes last: its presence marks both as done."""
    video, folder = job
    h, w = video.size
    rng = np.random.default_rng([*video.seed, 1])
    noise = rng.normal(0, NOISE, (h + 64, w + 64, 3)).round().astype(np.int16)
    boxes = {}
    with atomic_write(_video_path(folder, video)) as part:
        with av.open(part, "w", format="mp4", options={"movflags": "+faststart"}) as container:
            options = {"crf": str(CRF), "preset": "ultrafast", "x264-params": REPEATABLE}
            stream = container.add_stream("libx264", rate=FPS, options=options)
            stream.width, stream.height, stream.pix_fmt = w, h, "yuv420p"
            stream.codec_context.thread_count = 1  # slices by thread would change the bytes
            for number in range(video.frames):
                y, x = (int(i) for i in rng.integers(0, 64, 2))
                noisy = (video.render(number) + noise[y : y + h, x : x + w]).clip(0, 255).astype(np.uint8)
                boxes[number] = video.box(number)
                frame = av.VideoFrame.from_ndarray(noisy, format="rgb24")
                frame.pts = number
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        for utterance in video.utterances:
            text = folder / "txt" / video.person_id / video.video_id / f"{utterance.name}.txt"
            with atomic_write(text) as text_part:
                text_part.write_text(annotation(video, utterance, boxes), encoding="utf-8")


def _write_portrait(job: tuple[Portrait, Path]) -> None:
    portrait, folder = job
    bgr = cv2.cvtColor(portrait.render(), cv2.COLOR_RGB2BGR)
    encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
    with atomic_write(_portrait_path(folder, portrait)) as part:
        part.write_bytes(encoded.tobytes())


def _write_lines(path: Path, lines: list[str]) -> None:
    with atomic_write(path) as part:
        part.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _claim(folder: Path, world: World) -> None:
    """Makes the folder this world's: new, or already so, or emptied of another sample world, or an older renderer's."""
    wanted = json.dumps({"seed": world.seed, "sample": asdict(world.params), "renderer": code(__name__)}, indent=1)
    record = folder / RECORD
    if record.is_file() and record.read_text() == wanted:
        return
    if record.is_file():
        print(f"{folder} holds another sample world: rendering it anew", flush=True)
        shutil.rmtree(folder)
    elif folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"{folder} holds files that are not the sample's: empty it, or set another folder or source")
    with atomic_write(record) as part:
        part.write_text(wanted)


def _work(job: Callable[[tuple], None], jobs: list[tuple], workers: int, what: str) -> None:
    """Runs all jobs, in `workers` processes if more than one. Processes are spawned: fork would copy threads' locks."""
    if workers <= 1 or len(jobs) <= 1:
        for _ in progress(map(job, jobs), len(jobs), what):
            pass
        return
    context = multiprocessing.get_context("spawn")
    with context.Pool(min(workers, len(jobs)), initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        chunk = max(1, min(16, len(jobs) // (8 * workers)))
        for _ in progress(pool.imap_unordered(job, jobs, chunksize=chunk), len(jobs), what):
            pass
