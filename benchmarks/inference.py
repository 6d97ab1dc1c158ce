"""Frames a second at the paper's size, what a video costs besides the model, and how near tracked boxes are.

    python -m benchmarks.inference frames [--repeats N]
    python -m benchmarks.inference chain [--frames N] [--half]
    python -m benchmarks.inference boxes

`frames`: one frame of reenactment as the released code computes it (embedders and generator for every frame, gamma and
beta by a convolution each, weights repeated into a grouped convolution, default layout), beside ours with the source's
features kept and channels_last, in float32 and in bfloat16. `chain`: a drawn 640 x 360 video through `video.edit`
(decode, detect, crop, model, paste, encode) beside the time inside the model. `boxes`: on the sample's videos, tracked
boxes beside a detection in every frame. Random weights; seconds of processor time. Prints JSON.
"""

import argparse
import json
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.train_step import as_released
from pipeline.params import load
from pipeline.sample.world import World
from uniface.config import TASKS, ModelConfig
from uniface.faces import Faces
from uniface.model import UniFace
from uniface.use import find, track, video
from uniface.use.api import FaceEditor
from uniface.use.bundle import Bundle
from uniface.use.network import Network

DETECTOR = Path("pipeline/sample/nets/detector.onnx")


def frames(args: argparse.Namespace) -> dict:
    torch.manual_seed(0)
    config = ModelConfig()
    source, target = (torch.rand(1, 3, config.image_size, config.image_size) * 2 - 1 for _ in range(2))
    model = UniFace(config).eval()
    with torch.inference_mode():
        expected = model(source, target, task="reenactment")
        released = as_released(_same(model, config).eval())
        found = {"released": _seconds(lambda: released(source, target, task="reenactment"), args.repeats)}
    for name, half in (("ours float32", False), ("ours bfloat16", True)):
        network = Network(_same(model, config), "reenactment", half=half)
        features = network.source(source)
        found[name] = _seconds(lambda n=network, f=features: n.frame(f, target), args.repeats)
        found[f"{name}, mean difference"] = float((network.frame(features, target) - expected).abs().mean())
        found[f"{name}, times the released"] = found["released"] / found[name]
    return found


def _same(model: UniFace, config: ModelConfig) -> UniFace:
    copy = UniFace(config)
    copy.load_state_dict(model.state_dict())
    return copy


def _seconds(run, repeats: int) -> float:
    run()
    times = []
    for _ in range(repeats):
        began = time.process_time()
        run()
        times.append(time.process_time() - began)
    return float(np.median(times))


def chain(args: argparse.Namespace) -> dict:
    """Processor time of a whole video and of the model in it."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        path = _drawn(Path(folder) / "in.mp4", args.frames)
        for task in TASKS:
            torch.manual_seed(0)
            UniFace(ModelConfig()).save(Path(folder) / f"{task}.safetensors", {"task": task})
            files = Bundle({task: Path(folder) / f"{task}.safetensors"}, DETECTOR, "random", {task: {}})
            editor = FaceEditor(files, half=args.half)
            session = editor.session(task, World(load().sample, 0).portraits[0].render())
            inside, run = [], editor.run

            def timed(*given, run=run, inside=inside):
                began = time.process_time()
                answer = run(*given)
                inside.append(time.process_time() - began)
                return answer

            editor.run = timed
            began = time.process_time()
            done = video.edit(session, path, Path(folder) / f"{task}.mp4")
            total = time.process_time() - began
            found[task] = {
                "frames": done.frames,
                "detected": done.detected,
                "model": sum(inside) / done.frames,
                "all": total / done.frames,
                "above": total / sum(inside) - 1,
            }
    return {"half": args.half, "threads": torch.get_num_threads(), **found}


def _drawn(path: Path, count: int) -> Path:
    import av
    import cv2

    one = next(v for v in World(load().sample, 0).videos if v.event == "plain")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 640, 360, "yuv420p"
        for number in range(count):
            image = cv2.resize(one.render(number % one.frames), (640, 360), interpolation=cv2.INTER_CUBIC)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def boxes(args: argparse.Namespace) -> dict:
    """Largest difference of a box's sides, tracked to detected, over frames of videos of every kind."""
    faces = Faces(DETECTOR, recognise=False, threads=1)
    differences, looks, total = [], 0, 0
    for one in World(load().sample, 0).videos[: args.videos]:
        images = [one.render(number) for number in range(min(one.frames, args.frames))]
        every = {id(image): find.glance(faces, 240, image) for image in images}
        tracker = track.Tracker(partial(find.glance, faces, 240), smoothing=False)
        for window in tracker.windows(images):
            for image, tracks in window:
                for one_track in tracks:
                    box = one_track.box
                    near = max(every[id(image)], key=lambda f, box=box: find.overlap(f.box, box), default=None)
                    if near is not None:
                        differences.append(np.abs(near.box - box).max())
        looks, total = looks + tracker.detections, total + len(images)
    values = np.array(differences)
    return {
        "videos": args.videos,
        "frames": total,
        "searched as a whole": looks / total,
        "mean": float(values.mean()),
        "within 1 px": float((values <= 1).mean()),
        "95 %": float(np.percentile(values, 95)),
        "largest": float(values.max()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("frames", "chain", "boxes"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--videos", type=int, default=20)
    parser.add_argument("--half", action="store_true", help="bfloat16")
    args = parser.parse_args()
    print(json.dumps({"frames": frames, "chain": chain, "boxes": boxes}[args.what](args), indent=1))


if __name__ == "__main__":
    main()
