"""Cropping on machines that share nothing but a store: the video travels with its job, the clips stay in the store."""

import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from pipeline.common import bucket
from pipeline.videos.clips import VideoJob
from pipeline.videos.shards import Blob, Pack, write_shard
from pipeline.videos.tracks import Clip


@dataclass(frozen=True)
class Sent:
    """A job with the bytes of its file, or of the clips of its folder, by name; without, the worker sees the path."""

    job: VideoJob
    files: dict[str, bytes]


def send(job: VideoJob) -> Sent:
    """The job, ready to travel; one video at a time is in this process's memory."""
    path = Path(job.path)
    files = sorted(path.glob("*.mp4")) if path.is_dir() else [path]
    return Sent(job, {file.name: file.read_bytes() for file in files if file.is_file()})


class Elsewhere:
    """A worker that crops what was sent, and puts the clips of each video into the store as one file."""

    def __init__(self, make_worker: Callable[[], Callable[[VideoJob], list[Clip]]], folder_url: str):
        self._crop, self._url = make_worker(), folder_url

    def __call__(self, sent: Sent) -> list[Clip]:
        if not sent.files:
            return self._keep(self._crop(sent.job))
        with TemporaryDirectory() as folder:
            path = Path(folder, Path(sent.job.path).name)  # reasons may name it
            whole = list(sent.files) == [path.name]
            for name, content in sent.files.items():
                file = path if whole else path / name
                file.parent.mkdir(exist_ok=True)
                file.write_bytes(content)
            return self._keep(self._crop(replace(sent.job, path=str(path))))

    def _keep(self, clips: list[Clip]) -> list[Clip]:
        buffer, blobs = io.BytesIO(), {}
        for number, clip in enumerate(clips):
            if clip.video is not None:
                blobs[number] = buffer.tell(), len(clip.video)
                buffer.write(clip.video)
        if not blobs:
            return clips
        with TemporaryDirectory() as folder:
            file = Path(folder, "clips.bin")
            file.write_bytes(buffer.getbuffer())
            url = bucket.put(file, self._url)["url"]
        kept = {number: Blob(url, offset, size) for number, (offset, size) in blobs.items()}
        return [replace(clip, video=kept.get(number)) for number, clip in enumerate(clips)]


class Packer:
    """A worker that writes shards from clips in the store, into the store; a shard is the same whoever writes it."""

    def __init__(self, folder_url: str):
        self._url = folder_url

    def __call__(self, pack: Pack) -> dict:
        with TemporaryDirectory() as folder:
            path = Path(folder, pack.name)
            write_shard(path, pack)
            return bucket.put(path, self._url)
