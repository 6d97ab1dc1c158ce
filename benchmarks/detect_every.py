"""Faces in every frame and in every n-th: processor time of the crop stage, and what becomes of its clips.

    python -m benchmarks.detect_every [FOLDER_OF_ANOTHER_BUILD [PROJECT_WITH_DATA]]

Sample videos of 640 x 360 with their annotations go through this build with `crop.detect_every` 1 and 5, and through
another checkout of the project if one is named, in turn. The detector is a stand-in: the sample's own network (0.40
GMAC for 640 x 480 pixels) finds the faces, and a network with SCRFD-500M's layout and random weights (0.62) runs beside
it for the cost. Rates are frames of the source per second of processor time, on one core, decoding to encoding.

Kept chunks and boxes are compared on those videos, and on all of data/videos where `download` and `weights` have run
(here, or in the project that is named), at its own settings.
"""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # another build may have none
    from pipeline.sections import CropParams

ROOT = Path(__file__).resolve().parents[1]
VIDEOS = 20
SECONDS = 6.0
EVERY = 5


class Costly:
    """The sample's detector at the cost of SCRFD-500M and more."""

    batch = 1

    def __init__(self, nets: Path):
        import onnxruntime

        from uniface.faces import Faces

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._beside = onnxruntime.InferenceSession(nets / "beside" / "cost.onnx", options)
        self._blob = np.zeros((1, 3, 384, 640), np.float32)
        self._faces = Faces(nets, threads=1, recognise=False)
        self.looks = 0

    def detect(self, image: np.ndarray) -> list:
        self._pay()
        return self._faces.detect(image)

    def detect_batch(self, images: list[np.ndarray]) -> list[list]:
        for _ in images:
            self._pay()
        return self._faces.detect_batch(images)

    def _pay(self) -> None:
        self.looks += 1
        self._beside.run(None, {"image": self._blob})


def write_cost(path: Path) -> None:
    """A network with the layout of SCRFD-500M and random weights."""
    import torch
    from torch import nn

    def conv(width: int, out: int, size: int, stride: int = 1, groups: int = 1) -> nn.Module:
        return nn.Sequential(nn.Conv2d(width, out, size, stride, size // 2, groups=groups), nn.ReLU())

    def separable(width: int, out: int, stride: int = 1) -> nn.Module:
        return nn.Sequential(conv(width, width, 3, stride, width), conv(width, out, 1))

    class Cost(nn.Module):
        def __init__(self):
            super().__init__()
            widths = 16, 40, 72, 152, 288
            self.stem = nn.Sequential(conv(3, 16, 3, 2), separable(16, 16))
            self.stages = nn.ModuleList(
                nn.Sequential(separable(width, out, 2), *(separable(out, out) for _ in range(blocks - 1)))
                for width, out, blocks in zip(widths, widths[1:], (2, 3, 2, 6), strict=False)
            )
            self.lateral = nn.ModuleList(nn.Conv2d(width, 16, 1) for width in widths[2:])
            self.smooth = nn.ModuleList(conv(16, 16, 3) for _ in range(3))
            self.head = nn.Sequential(separable(16, 64), separable(64, 64))
            self.answers = nn.ModuleList(nn.Conv2d(64, 2 * values, 3, padding=1) for values in (1, 4, 10))

        def forward(self, x):
            maps, x = [], self.stem(x)
            for stage in self.stages:
                x = stage(x)
                maps.append(x)
            maps = [smooth(side(x)) for smooth, side, x in zip(self.smooth, self.lateral, maps[1:], strict=True)]
            return tuple(answer(self.head(x)) for x in maps for answer in self.answers)

    path.parent.mkdir(parents=True)
    example = torch.zeros(1, 3, 384, 640)
    torch.onnx.export(Cost().eval(), (example,), str(path), input_names=["image"], dynamo=False, opset_version=13)


def settings() -> "CropParams":
    """The paper's, but for faces that are as small as those of 360 rows."""
    from pipeline import params

    return dataclasses.replace(params.load("params.paper.yaml").crop, min_size=96)


def annotated(raw: Path) -> list[tuple[Path, dict[str, str]]]:
    """The sample videos in `raw`, each with its annotations by utterance."""
    folders = sorted(path for path in (raw / "txt").glob("*/*") if path.is_dir())
    return [
        (raw / "videos" / f"{folder.name}.mp4", {text.stem: text.read_text() for text in sorted(folder.glob("*.txt"))})
        for folder in folders
    ]


def measure(raw: Path, nets: Path, every: int) -> dict:
    """What one build, that of the current folder, makes of the videos; runs in a process of its own."""
    chosen = settings()
    if hasattr(chosen, "detect_every"):
        from pipeline.videos.clips import Cropper, VideoJob

        chosen = dataclasses.replace(chosen, detect_every=every)
    else:  # the build before pipeline/videos
        from pipeline.clips import Job as VideoJob

        from pipeline.crop import Cropper
    detector = Costly(nets)
    worker = Cropper(256, chosen, lambda: detector)
    jobs = [VideoJob("id", path.stem, "train", str(path), texts, ()) for path, texts in annotated(raw)]
    worker(jobs[0])  # what is loaded once
    detector.looks, began = 0, time.process_time()
    for job in jobs:
        worker(job)
    return {"seconds": time.process_time() - began, "looks": detector.looks}


def in_build(build: Path, raw: Path, nets: Path, every: int) -> dict:
    """`measure` in another checkout, with its code and a worker's environment."""
    from pipeline.common.cluster import KEEP_MEMORY

    code = (
        "import json, runpy, sys; from pathlib import Path; "
        f"own = runpy.run_path({str(Path(__file__))!r}); "
        f"print(json.dumps(own['measure'](Path({str(raw)!r}), Path({str(nets)!r}), {every})))"
    )
    environment = {**os.environ, **KEEP_MEMORY, "PYTHONPATH": str(build), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=build, env=environment, capture_output=True, text=True, check=True
    )
    return json.loads(result.stdout.splitlines()[-1])


def compared(videos: list[tuple[Path, dict[str, str]]], chosen: "CropParams", nets: Path) -> dict:
    """What becomes of kept chunks and boxes with `EVERY`; `videos` are files with their annotations by utterance.

    A chunk is identical if one of the same frames of the same utterance is kept; distances are means over the sides of
    boxes, in pixels of the source, over all frames with a face.
    """
    from pipeline.videos.annotations import parse_utterance
    from pipeline.videos.fomm import MISS
    from pipeline.videos.tracks import chunks, matched
    from uniface.faces import Faces

    faces, distances, kept = Faces(nets, threads=1, recognise=False), [], (set(), set())
    for path, texts in videos:
        tracks, boxes = [parse_utterance(text, name) for name, text in texts.items()], ([], [])
        for every, found, looked in zip((1, EVERY), kept, boxes, strict=True):
            chosen = dataclasses.replace(chosen, detect_every=every)
            for name, seen in matched(path, tracks, chosen, faces)[0].items():
                rows = chunks(name, seen, chosen)
                found |= {(path.stem, name, row.start, row.end) for row in rows if row.status == "kept"}
                looked += [box for _, _, part in seen.parts for box in part]
        both = [(a, b) for a, b in zip(*boxes, strict=True) if MISS not in (a, b)]
        distances += [float(np.abs(np.subtract(a, b)).mean()) for a, b in both]
    same = len(kept[0] & kept[1])
    return {
        "videos": len(videos),
        "kept": [len(found) for found in kept],
        "identical": [same, round(same / len(kept[0]), 4)],
        "box_error_px_mean": round(float(np.mean(distances)), 3),
    }


def of_project(root: Path) -> dict | None:
    """`compared` for the videos that `download` found; None where there are none, or no detector."""
    import pyarrow.parquet

    from pipeline import params
    from pipeline.common.places import Places
    from pipeline.videos.annotations import Annotations

    places = Places(root)
    table, nets = places.data / "videos.parquet", places.nets / "faces"
    if not table.exists() or not nets.exists():
        return None
    rows, annotations = pyarrow.parquet.read_table(table).to_pylist(), Annotations(places.annotations)
    videos = [
        (places.data / row["path"], annotations.texts(row["person_id"], row["video_id"]))
        for row in rows
        if row["status"] == "ok"
    ]
    return compared(videos, params.load(root / "params.yaml").crop, nets)


def main() -> None:
    from pipeline import params
    from pipeline.sample.raw import write_voxceleb2
    from pipeline.sample.world import World

    chosen = params.load(ROOT / "params.yaml")
    small = dataclasses.replace(chosen.sample, persons=VIDEOS, test_persons=4, video_height=360, seconds=SECONDS)
    with tempfile.TemporaryDirectory() as folder:
        raw, nets = Path(folder, "raw"), Path(folder, "nets")
        world = World(small, 7)
        write_voxceleb2(world, raw, os.cpu_count() or 1)
        nets.mkdir()
        (nets / "detector.onnx").write_bytes((ROOT / "pipeline/sample/nets/detector.onnx").read_bytes())
        write_cost(nets / "beside" / "cost.onnx")
        frames = sum(utterance.end - utterance.start for video in world.videos for utterance in video.utterances)
        builds = [("this_every_1", ROOT, 1), (f"this_every_{EVERY}", ROOT, EVERY)]
        builds += [("other", Path(sys.argv[1]).resolve(), 1)] if sys.argv[1:] else []
        best: dict[str, dict] = {}
        for _ in range(2):
            for name, build, every in builds:
                found = in_build(build, raw, nets, every)
                best[name] = min(found, best.get(name, found), key=lambda one: one["seconds"])
        chunks = compared(annotated(raw), settings(), nets)
    print(json.dumps({name: round(frames / one["seconds"], 1) for name, one in best.items()}))
    print(json.dumps({"frames": frames, "looks": {name: one["looks"] for name, one in best.items()}}))
    print(json.dumps({"these_videos": chunks}))
    print(json.dumps({"samples_videos": of_project(Path(sys.argv[2]) if sys.argv[2:] else ROOT)}))


if __name__ == "__main__":
    main()
