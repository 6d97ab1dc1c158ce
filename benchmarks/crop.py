"""Speed and memory of the crop stage beside the plain chain (imageio, scikit-image, imageio), on drawn videos.

    python -m benchmarks.crop [chain | memory | workers | index]

Each part prints what it measured as JSON; rates are frames of the source per second of processor time, one core.
"""

import dataclasses
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from pipeline import params, schemas
from pipeline.common.cluster import fan_out
from pipeline.videos.annotations import Crop
from pipeline.videos.clips import Cropper, VideoJob

PARAMS = dataclasses.replace(params.load("params.paper.yaml").crop, min_size=64)
SIZE = (360, 640)
IMAGE_SIZE = 256
BOX = (170, 30, 470, 330)
ROUNDS = 5


def draw(path: Path, frames: int) -> Path:
    """A video that is neither trivial nor hard to compress: a drifting picture of waves with some noise."""
    import av

    rng = np.random.default_rng(0)
    y, x = np.mgrid[: SIZE[0], : SIZE[1] + 256]
    waves = 120 + 60 * np.sin(x / 9 + np.cos(y / 13)) + 40 * np.cos(y / 7 + x / 31)
    base = np.stack([waves, np.roll(waves, 40, 0), 250 - waves], -1)
    noise = rng.normal(0, 6, (8, *SIZE, 3))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width = SIZE
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "23", "preset": "veryfast", "g": "250"}
        for k in range(frames):
            shift = round(60 + 60 * np.sin(k / 20))
            image = np.clip(base[:, shift : shift + SIZE[1]] + noise[k % 8], 0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def repeat(path: Path, target: Path, times: int) -> Path:
    """The same video several times over, without encoding it again."""
    import av

    with av.open(str(target), "w") as container:
        stream = None
        for turn in range(times):
            with av.open(str(path)) as source:
                template = source.streams.video[0]
                stream = stream or container.add_stream_from_template(template)
                for packet in source.demux(template):
                    if packet.dts is not None:
                        packet.pts += turn * template.duration
                        packet.dts += turn * template.duration
                        packet.stream = stream
                        container.mux(packet)
    return target


def ours(path: Path, frames: int) -> None:
    crop = Crop(0, frames, BOX, SIZE[1], SIZE[0])
    (clip,) = make_worker()(VideoJob("p", "v", "train", str(path), {}, (crop,)))
    assert clip.frames == frames and clip.video


def straightforward(path: Path, folder: Path) -> None:
    """Decode, resize and encode as FOMM's preprocessing does, with its libraries."""
    import imageio.v3 as imageio
    from skimage import img_as_ubyte
    from skimage.transform import resize

    left, top, right, bottom = BOX
    frames = [
        img_as_ubyte(resize(frame[top:bottom, left:right], (IMAGE_SIZE, IMAGE_SIZE), anti_aliasing=True))
        for frame in imageio.imiter(path, plugin="pyav")
    ]
    imageio.imwrite(folder / "out.mp4", np.stack(frames), plugin="pyav", codec="libx264", fps=25)


def _processor_seconds(call) -> float:
    def now() -> float:
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(u.ru_utime + u.ru_stime for u in used)

    before = now()
    call()
    return now() - before


def chain(folder: Path) -> dict:
    """Given boxes: decode, crop, resize to 256, encode. The best of three runs counts."""
    frames = 300
    path = draw(folder / "source.mp4", frames)
    ours(path, frames)
    mine = min(_processor_seconds(lambda: ours(path, frames)) for _ in range(3))
    theirs = min(_processor_seconds(lambda: straightforward(path, folder)) for _ in range(3))
    return {"ours_frames_per_s": frames / mine, "straightforward_frames_per_s": frames / theirs, "times": theirs / mine}


def memory(folder: Path) -> dict:
    """Peak memory, MiB, of a process that crops a whole video of one minute and of ten, a clip per 40 seconds."""
    peaks = {}
    minute = draw(folder / "minute.mp4", 60 * 25)
    for minutes in (1, 10):
        frames = minutes * 60 * 25
        path = repeat(minute, folder / f"{minutes}.mp4", minutes)
        code = (
            "import resource, sys; from pathlib import Path; from benchmarks import crop;"
            f"from pipeline.videos.annotations import Crop; from pipeline.videos.clips import VideoJob, crop_video;"
            f"starts = range(0, {frames}, 1000); size = crop.SIZE[::-1];"
            f"crops = tuple(Crop(s, min(s + 1000, {frames}), crop.BOX, *size) for s in starts);"
            f"crop_video(VideoJob('p', 'v', 'train', {str(path)!r}, {{}}, crops), crop.IMAGE_SIZE, crop.PARAMS, None);"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
        )
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        peaks[f"{minutes}_min_MiB"] = float(result.stdout)
    return peaks


def make_worker() -> Cropper:
    return Cropper(IMAGE_SIZE, PARAMS, None)


def workers(folder: Path) -> dict:
    """Wall-clock rate of two Ray workers against one process, start-up left out. Needs two free cores."""
    compute = dataclasses.replace(params.load("params.yaml").compute, crop_workers=2)
    frames = 500
    crop = Crop(0, frames, BOX, SIZE[1], SIZE[0])
    job = VideoJob("p", "v", "train", str(draw(folder / "source.mp4", frames)), {}, (crop,))
    list(fan_out(make_worker, [job] * 2, 2, compute))
    rates = {1: [], 2: []}
    for _ in range(ROUNDS):  # in turns, so that a busy machine slows both alike
        for count in rates:
            results = fan_out(make_worker, [job] * 12, count, compute)
            for _ in range(2):  # workers are up
                next(results)
            began = time.perf_counter()
            rates[count].append(frames * sum(1 for _ in results) / (time.perf_counter() - began))
    one, two = (float(np.median(values)) for values in rates.values())
    times = [b / a for a, b in zip(*rates.values(), strict=True)]
    return {"one_frames_per_s": one, "two_frames_per_s": two, "times": float(np.median(times)), "all_times": times}


def index(folder: Path) -> dict:
    """An index of a million clips: seconds to write, to open, and to draw ten thousand clips; memory of the reader."""
    rows = 1_000_000
    began = time.perf_counter()
    with schemas.writer(folder / "index.parquet", schemas.CLIP_INDEX) as file:
        for start in range(0, rows, 10_000):
            schemas.append(file, [_index_row(k) for k in range(start, start + 10_000)])
    written = time.perf_counter() - began
    code = (
        "import resource, time; import numpy as np; began = time.perf_counter();"
        "from uniface.tables import read_table;"
        f"table = read_table({str(folder / 'index.parquet')!r}, 'clip_index',"
        " ['person_id', 'split', 'status', 'shard', 'row', 'frames']);"
        "kept = table.filter(__import__('pyarrow.compute').compute.equal(table['status'], 'kept'));"
        "picked = kept.take(np.random.default_rng(0).integers(0, len(kept), 10_000)).to_pylist();"
        "print(time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, len(picked))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, peak, picked = map(float, result.stdout.split())
    size = (folder / "index.parquet").stat().st_size / 2**20
    return {
        "rows": rows,
        "write_s": written,
        "MiB": size,
        "open_and_draw_s": seconds,
        "peak_MiB": peak,
        "drawn": picked,
    }


def _index_row(k: int) -> dict:
    kept = k % 10 < 7
    return {
        "person_id": f"id{k // 180:05d}",
        "video_id": f"{k // 7:011d}",
        "utterance": f"{k % 300:05d}",
        "chunk": 0,
        "start": k % 20_000,
        "end": k % 20_000 + 160,
        "box": [float(k % 300), float(k % 200), float(k % 300 + 320), float(k % 200 + 320)],
        "width": 1280,
        "height": 720,
        "fps": 25.0,
        "frames": 160,
        "split": "train",
        "status": "kept" if kept else "small",
        "reason": None if kept else "120 pixels, 256 needed",
        "fit": None,
        "bad_lines": 0,
        "shard": f"train-{k // 512:05d}.parquet" if kept else None,
        "row": k % 512 if kept else None,
    }


def main() -> None:
    parts = {"chain": chain, "memory": memory, "workers": workers, "index": index}
    for name in sys.argv[1:] or parts:
        with tempfile.TemporaryDirectory() as folder:
            measured = parts[name](Path(folder))
        print(
            json.dumps({name: {k: round(v, 2) if isinstance(v, float) else v for k, v in measured.items()}}), flush=True
        )


if __name__ == "__main__":
    main()
