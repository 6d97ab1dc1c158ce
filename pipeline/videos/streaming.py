"""Videos that never lie together on a disk: one worker fetches one, crops it and drops it, then takes the next."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.sections import DownloadParams
from pipeline.videos import codec, youtube
from pipeline.videos.clips import VideoJob
from pipeline.videos.elsewhere import Sent
from pipeline.videos.facts import facts, of_file
from pipeline.videos.tracks import Clip


@dataclass(frozen=True)
class Fetched:
    """What became of a listed video: its facts for videos.parquet, and its clips if it came."""

    facts: dict
    clips: list[Clip]


class Streamer:
    """A worker that fetches what a job lists, below `folder`, and drops it once the clips are made.

    A block of the whole site is given back as a `youtube.Blocked`, not raised: an exception would come out of another
    machine wrapped in its traceback.
    """

    def __init__(self, make_worker: Callable[[], Callable], settings: DownloadParams, folder: Path):
        self._crop, self._settings, self._folder = make_worker(), settings, folder
        self._site = youtube.Site()

    def __call__(self, task: VideoJob | Sent) -> Fetched | youtube.Blocked:
        job = task.job if isinstance(task, Sent) else task
        folder = self._folder / job.person_id / job.video_id
        try:
            outcome = self._site.fetch(job.video_id, folder, self._settings)
        except youtube.Blocked as error:
            return error  # what came of the file is continued by the next run
        try:
            if outcome.path is None:
                return Fetched(facts(outcome.status, outcome.reason), [])
            known = of_file(outcome.path, outcome.reason)
            here = replace(job, path=str(outcome.path))
            return Fetched(known, self._crop(Sent(here, {}) if isinstance(task, Sent) else here))
        except codec.VideoError as error:
            return Fetched(facts("failed", str(error)), [])
        finally:
            shutil.rmtree(folder, ignore_errors=True)
