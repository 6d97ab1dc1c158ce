"""What of a driver's looks costs stage 1 quality: one trait of the driver at a time on the right person.

    python -m benchmarks.leak

Needs the sample's data and a trained stage 1 (`make repro`). Each test pair gets drivers rendered in the target's exact
pose, expression and place: the source's person as it is, with single traits of the target's person, and with all of
them. What comes out is compared with the exact answer, which is the same for all. Prints a Markdown table.
"""

import dataclasses
from types import SimpleNamespace

import numpy as np
import torch

from pipeline.params import load
from pipeline.sample import truth
from pipeline.sample.drawing.look import Look
from pipeline.sample.world import Video, World
from pipeline.scoring.held_out import clip_pairs
from uniface.data import ClipDataset
from uniface.images import to_tensor
from uniface.metrics import psnr
from uniface.model import UniFace

HAIR_STYLE = ("style", "part", "hairline", "volume", "wave")
REST = tuple(field.name for field in dataclasses.fields(Look) if field.name not in HAIR_STYLE)
TRAITS = ("none", "face", "hair style", "skin, hair colour, clothes", "light and background", "all")


def with_trait(trait: str, video: Video, other: Video) -> Video:
    """`video` with a trait of `other`."""
    fields = {"hair style": HAIR_STYLE, "skin, hair colour, clothes": REST, "all": HAIR_STYLE + REST}.get(trait, ())
    look = dataclasses.replace(video.look, **{name: getattr(other.look, name) for name in fields})
    face = other.face if trait in ("face", "all") else video.face
    scene = other.scene if trait in ("light and background", "all") else video.scene
    return dataclasses.replace(video, face=face, look=look, scene=scene)


def main() -> None:
    params = load()
    clips = ClipDataset("data/clips", "test")
    pairs, jobs = clip_pairs(clips, params.evaluate.pairs, params.seed, cross=True)
    world = World(params.sample, params.seed)
    model = UniFace.load("models/reenactment.safetensors").eval()
    found: dict[str, list[float]] = {trait: [] for trait in TRAITS}
    for image, (source, target) in zip(pairs.source, jobs, strict=True):
        driver = world.video(target[0])
        wanted = to_tensor(truth.reenacted(world, source, target, params.image_size)[None])
        for trait in TRAITS:
            mixed = {target[0]: driver, source[0]: with_trait(trait, world.video(source[0]), driver)}
            drawn = truth.reenacted(SimpleNamespace(video=mixed.get), source, target, params.image_size)
            with torch.no_grad():
                made = model(to_tensor(image[None]), to_tensor(drawn[None]), task="reenactment")
            found[trait].append(psnr(made, wanted).item())
    print(f"| of the driver's person, {len(jobs)} pairs | PSNR |\n|---|---:|")
    for trait, values in found.items():
        print(f"| {trait} | {np.mean(values):.2f} |")


if __name__ == "__main__":
    main()
