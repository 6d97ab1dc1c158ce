"""Small drawn videos cropped one by one, or by the stage in a small project."""

import dataclasses
from pathlib import Path

from drawn_videos import GreenDetector, annotation, face_video

from pipeline import params, schemas
from pipeline.common.places import Places
from pipeline.crop import crop
from pipeline.sections import CropParams
from pipeline.videos.clips import VideoJob, crop_video

PARAMS = CropParams(
    min_frames=20,
    max_frames=1024,
    min_size=32,
    iou_with_initial=0.25,
    increase=0.1,
    max_gap=0,
    border="reject",
    shape="square",
    detect_height=120,
    detect_every=1,
    gop=8,
    crf=16,
    clips_per_shard=3,
)
ROOT = Path(__file__).resolve().parents[2]
WHOLE = params.load(ROOT / "params.yaml")
ONE = dataclasses.replace(WHOLE.compute, crop_workers=1)
SIZE = 32


def job(path, texts=None, crops=()):
    return VideoJob("id00012", "vid", "train", str(path), texts or {}, tuple(crops))


def run(path, texts=None, crops=(), **changes):
    settings = dataclasses.replace(PARAMS, **changes)
    return crop_video(job(path, texts, crops), SIZE, settings, GreenDetector())


def text(frames, **options):
    return annotation("id00012", "vid", frames, **options)


def summary(found):
    return [(c.utterance, c.chunk, c.start, c.end, c.status) for c in found]


def only_reason(found, status):
    (clip,) = found
    assert clip.status == status and clip.reason and clip.video is None
    return clip.reason


def lay_out(root: Path, videos: dict[str, str], broken: str = "") -> Path:
    """`data` as the stages before leave it: a drawn video of 60 frames and two utterances for each name."""
    import zipfile

    data = root / "data"
    rows = []
    (data / "annotations").mkdir(parents=True)
    with zipfile.ZipFile(data / "annotations" / "txt.zip", "w") as archive:
        for index, (name, split) in enumerate(videos.items()):
            person = f"id0000{index // 2}"
            path = data / "videos" / person / f"{name}.mp4"
            if name == broken:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(b"")
            else:
                left = 40 + index
                face_video(path, 60, box=(left, 30, left + 48, 78))
                for utterance, frames in (("00001", range(0, 30)), ("00007", range(32, 60))):
                    body = annotation(person, name, frames, box=(left, 30, left + 48, 78))
                    archive.writestr(f"txt/{person}/{name}/{utterance}.txt", body)
            rows.append(row(person, name, split, path.relative_to(data)))
    rows.append(row("id00009", "gone", "train", None) | {"status": "unavailable", "reason": "private", "sha256": None})
    schemas.write(data / "videos.parquet", rows, schemas.VIDEOS)
    return data


def row(person, name, split, path):
    return {
        "video_id": name,
        "person_id": person,
        "split": split,
        "status": "ok",
        "reason": None,
        "path": path and path.as_posix(),
        "width": 160,
        "height": 120,
        "fps": 25.0,
        "frames": 60,
        "sha256": f"sha of {name}",
        "tried_at": None,
    }


VIDEOS = {"-first": "train", "b": "train", "c": "test", "d": "train", "e.f": "train"}


def run_stage(data, root, **changes):
    settings = dataclasses.replace(PARAMS, **changes)
    assert data == root / "data"
    return crop(dataclasses.replace(WHOLE, image_size=SIZE, crop=settings, compute=ONE), Places(root), GreenDetector)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}
