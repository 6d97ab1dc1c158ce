"""Clips and settings with which `python -m pipeline.train reenactment` trains in seconds."""

import io
from pathlib import Path

import av
import numpy as np
import yaml

from pipeline import schemas

ROOT = Path(__file__).resolve().parents[1]
SIZE, FRAMES = 32, 6


def mp4(colour: int) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as file:
        stream = file.add_stream("libx264", rate=25, options={"crf": "10", "g": "4"})
        stream.width = stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        for n in range(FRAMES):
            image = np.full((SIZE, SIZE, 3), (colour, 100, 128), np.uint8)
            image[8 + 2 * n : 20 + 2 * n, 8:20] = 230
            file.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        file.mux(stream.encode())
    return buffer.getvalue()


def write_clips(folder: Path) -> None:
    index = []
    for split, first, count in (("train", 0, 4), ("test", 4, 3)):
        rows = [
            {
                "person_id": f"id{n:05d}", "video_id": f"video{n:06d}", "utterance": "00001", "chunk": 0, "start": 0,
                "end": FRAMES, "box": [0.0, 0.0, 32.0, 32.0], "width": 64, "height": 48, "fps": 25.0, "frames": FRAMES,
            }
            for n in range(first, first + count)
        ]  # fmt: skip
        videos = [{"video": mp4(30 * n)} for n in range(first, first + count)]
        shard = f"{split}-00000.parquet"
        schemas.write(folder / shard, [row | video for row, video in zip(rows, videos, strict=True)], schemas.CLIPS)
        kept = {"split": split, "status": "kept", "reason": None, "fit": None, "bad_lines": 0, "shard": shard}
        index += [row | kept | {"row": i} for i, row in enumerate(rows)]
    schemas.write(folder / "index.parquet", index, schemas.CLIP_INDEX)


def settings() -> dict:
    """The sample's params, cut down to seconds; no loss needs a frozen net."""
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values["image_size"] = SIZE
    values["model"] |= {"max_channels": 8, "channel_base": 256, "attribute_channels": 8, "attribute_max_channels": 8}
    weights = dict.fromkeys(values["train_reenactment"]["weights"], 0.0) | {"reconstruction": 1.0, "adversarial": 0.1}
    for stage in ("train_reenactment", "train_swapping"):
        values[stage] |= {
            "iterations": 12, "batch_size": 2, "log_every": 2, "checkpoint_every": 4, "sample_every": 6, "skip_from": 0,
            "adversarial_from": 0, "half_until": 0,
            "weights": weights, "perceptual_same": False, "contextual_maps": [],
        }  # fmt: skip
    values["compute"] |= {"workers": 1, "cpus_per_worker": 1, "gpus_per_worker": 0, "loader_workers": 0}
    return values


def make_trainable(folder: Path, **training: int) -> None:
    """Put the inputs of the stage into `folder`; `training` are changes of the section `train_reenactment`."""
    write_clips(folder / "data" / "clips")
    (folder / "data" / "weights").mkdir()
    (folder / "data" / "weights" / "weights.json").write_text('{"recogniser": {"file": "r.onnx", "sha256": "1"}}')
    values = settings()
    values["train_reenactment"] |= training
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
