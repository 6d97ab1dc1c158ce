"""Training pairs per second of processor time, one core: our shards beside a whole-clip decoder and PNG folders.

    python -m benchmarks.loader [clips | augment | sample | index]

`clips`    two random frames of a 256 px clip: short groups of pictures, the whole clip decoded, PNG files
`augment`  one driver augmentation at 256 and 64 px, in milliseconds
`sample`   batches of the sample's size (64 px, 12 pairs, augmented), frames kept in memory or decoded each time
`index`    opening a data set of a million clips, in a process of its own: seconds and peak memory
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from pipeline import schemas

FRAMES = 250
ROUNDS = 5


def moving(count: int, size: int):
    """Frames of a slow ride over a photograph, with noise: uint8 (size, size, 3)."""
    import cv2
    from skimage.data import astronaut

    photograph, rng = (
        cv2.resize(astronaut(), (2 * size, 2 * size), interpolation=cv2.INTER_AREA),
        np.random.default_rng(0),
    )
    for k in range(count):
        x, y = (round(size * (0.4 + 0.3 * f(k / 25))) for f in (np.sin, np.cos))
        frame = photograph[y : y + size, x : x + size] + rng.normal(0, 2, (size, size, 1))
        yield np.clip(frame, 0, 255).astype(np.uint8)


def encode(path: Path, frames: list[np.ndarray], gop: int) -> bytes:
    """H.264 mp4 bytes with groups of `gop` pictures."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "16", "preset": "veryfast", "g": str(gop), "bf": "0"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path.read_bytes()


def write_clips(folder: Path, video: bytes, frames: int, count: int) -> None:
    """A clips folder of `count` rows that all hold this video."""
    row = {
        "person_id": "id00001", "video_id": "abcdefghijk", "utterance": "00001", "start": 0, "end": frames,
        "box": [0.0, 0.0, 1.0, 1.0], "width": 640, "height": 360, "fps": 25.0, "frames": frames,
    }  # fmt: skip
    rows = [row | {"chunk": n} for n in range(count)]
    schemas.write(folder / "train-00000.parquet", [r | {"video": video} for r in rows], schemas.CLIPS)
    kept = {
        "split": "train",
        "status": "kept",
        "reason": None,
        "fit": None,
        "bad_lines": 0,
        "shard": "train-00000.parquet",
    }
    schemas.write(folder / "index.parquet", [r | kept | {"row": n} for n, r in enumerate(rows)], schemas.CLIP_INDEX)


def rates(ways: dict, units: int) -> dict[str, float]:
    """Units per second of processor time of each way: medians of rounds in turns, so that a busy machine slows all."""
    seconds = {name: [] for name in ways}
    for way in ways.values():
        way()
    for _ in range(ROUNDS):
        for name, way in ways.items():
            start = time.process_time()
            way()
            seconds[name].append(time.process_time() - start)
    return {name: units / float(np.median(values)) for name, values in seconds.items()}


def clips() -> dict:
    """Pairs per second of processor time at 256 px, from a clip of 250 frames."""
    from PIL import Image

    from uniface.data import ClipDataset, read_frames

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        frames = list(moving(FRAMES, 256))
        usual = encode(folder / "usual.mp4", frames, 250)
        write_clips(folder, encode(folder / "short.mp4", frames, 8), FRAMES, 8)
        for n, frame in enumerate(frames):
            Image.fromarray(frame).save(folder / f"{n}.png")
        dataset, rng, pairs = ClipDataset(folder, "train", cache_bytes=0), np.random.default_rng(0), 6

        def shards() -> None:
            for k in range(pairs):
                dataset.pair(k, rng)

        def whole_clip() -> None:
            for _ in range(pairs):
                read_frames(usual, range(FRAMES))[rng.integers(FRAMES, size=2)]

        def png_folder() -> None:
            for _ in range(pairs):
                for n in rng.integers(FRAMES, size=2):
                    with Image.open(folder / f"{n}.png") as file:
                        np.asarray(file.convert("RGB"))

        found = rates({"shards": shards, "whole_clip": whole_clip, "png_folder": png_folder}, pairs)
        sizes = {"clip_kilobytes": len(dataset.video(0)) / 1024, "whole_clip_kilobytes": len(usual) / 1024}
        sizes["png_kilobytes"] = sum(path.stat().st_size for path in folder.glob("*.png")) / 1024
    return found | {f"times_{name}": found["shards"] / found[name] for name in ("whole_clip", "png_folder")} | sizes


def augment() -> dict:
    """Milliseconds of one driver augmentation."""
    from uniface.augment import augment_driver

    found = {}
    for size in (256, 64):
        image, rng, count = next(moving(1, size)), np.random.default_rng(0), 200
        way = {"": lambda image=image, rng=rng, count=count: [augment_driver(image, rng) for _ in range(count)]}
        found[f"milliseconds_{size}px"] = 1000 / rates(way, count)[""]
    return found


def sample() -> dict:
    """Batches of 12 pairs at 64 px per second of processor time, ready for training."""
    from uniface.data import ClipDataset
    from uniface.stream import sample_stream

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_clips(folder, encode(folder / "x.mp4", list(moving(125, 64)), 8), 125, 100)
        streams = {
            way: sample_stream(ClipDataset(folder, "train", cache_bytes=size), 0, 12)
            for way, size in (("kept", 512 << 20), ("decoded", 0))
        }
        ways = {way: lambda stream=stream: [next(stream) for _ in range(10)] for way, stream in streams.items()}
        return {f"{way}_batches_per_cpu_second": rate for way, rate in rates(ways, 10).items()}


def index(count: int = 1_000_000, per_shard: int = 64) -> dict:
    """Opening a million clips: the shards are empty files, since opening reads none."""
    import pyarrow as pa

    number = np.arange(count)

    def names(pattern: str, every: int) -> pa.Array:
        values = [pattern.format(i) for i in range(number[-1] // every + 1)]
        return pa.DictionaryArray.from_arrays(number // every, values).cast(pa.string())

    columns = {field.name: pa.nulls(count, field.type) for field in schemas.CLIP_INDEX}
    columns |= {
        name: pa.array(np.full(count, 100, np.int32)) for name in ("chunk", "start", "end", "frames", "bad_lines")
    }
    columns |= {
        "person_id": names("id{:05d}", 200),
        "video_id": names("video{:06d}", 8),
        "utterance": names("{:05d}", 10),
    }
    columns |= {"split": names("train", count), "status": names("kept", count)}
    columns |= {
        "shard": names("train-{:05d}.parquet", per_shard),
        "row": pa.array((number % per_shard).astype(np.int32)),
    }
    with tempfile.TemporaryDirectory() as name:
        table = pa.table([columns[key] for key in schemas.CLIP_INDEX.names], schema=schemas.CLIP_INDEX)
        schemas.write(Path(name) / "index.parquet", table, schemas.CLIP_INDEX)
        for i in range(number[-1] // per_shard + 1):
            (Path(name) / f"train-{i:05d}.parquet").touch()
        code = (
            "import json, resource, sys, time; from uniface.data import ClipDataset; "
            "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; start = time.process_time(); "
            "dataset = ClipDataset(sys.argv[1], 'train'); seconds = time.process_time() - start; "
            "after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; "
            "print(json.dumps({'clips': len(dataset), 'cpu_seconds': seconds, 'gigabytes_before': before / 2**20, "
            "'peak_gigabytes': after / 2**20}))"
        )
        answer = subprocess.run([sys.executable, "-c", code, name], stdout=subprocess.PIPE, check=True)
    return json.loads(answer.stdout)


def main() -> None:
    parts = {"clips": clips, "augment": augment, "sample": sample, "index": index}
    for name in sys.argv[1:] or parts:
        if name not in parts:
            raise SystemExit(f"no part {name}: {' | '.join(parts)}")
        print(name, json.dumps(parts[name]()), flush=True)


if __name__ == "__main__":
    main()
