"""A first look at a folder of one's own videos: how many clips it would give, and why not more, within a minute.

The beginning of each video, in an order that mixes the folder, goes through the crop stage's own rules; nothing is
stored. What it says of the rest is a projection.
"""

import random
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.sections import CropParams
from pipeline.videos import codec, fomm
from pipeline.videos.detections import Detector
from pipeline.videos.folders import plain
from pipeline.videos.tracks import chunks, tracked

BEGINNING = 30 * fomm.FPS
"""Frames of each video that are looked at."""


@dataclass
class Look:
    """What was found: `seen` ticks of `total`, the `statuses` of candidates, an example of each reason."""

    videos: int = 0
    looked_at: int = 0
    seen: int = 0
    total: int = 0
    frames: int = 0
    persons: set[str] = field(default_factory=set)
    statuses: Counter = field(default_factory=Counter)
    reasons: dict[str, str] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """For a person to read."""
        minutes = self.seen / fomm.FPS / 60, self.total / fomm.FPS / 60
        found = [
            f"looked at {self.looked_at} of {self.videos} videos, {minutes[0]:.1f} of {minutes[1]:.1f} minutes",
            f"kept: {self.statuses['kept']} clips of {len(self.persons)} persons, {self.frames / fomm.FPS:.0f} s",
        ]
        for status, count in self.statuses.most_common():
            if status != "kept":
                found.append(f"{status}: {count}, such as {self.reasons[status]}")
        if self.statuses["kept"] and self.seen < self.total:
            in_all = self.frames / self.seen * minutes[1]
            found.append(f"if the rest is alike: some {in_all:.0f} minutes of clips in all")
        return found


def look(folder: Path, settings: CropParams, detector: Detector, seconds: float = 50.0) -> Look:
    """Look at the videos of a folder until the time is over, at least at one. FileNotFoundError if there is none."""
    listed, sources = plain(folder)
    if not listed:
        raise FileNotFoundError(f"{folder} holds no videos (mp4, mkv, mov, webm, avi)")
    found, until = Look(len(listed)), time.monotonic() + seconds
    order = list(listed)
    random.Random(0).shuffle(order)
    for video in order:
        path = sources.sources[video.person_id, video.video_id]
        try:
            info = codec.probe(path)
        except (codec.VideoError, FileNotFoundError) as error:
            found.statuses["corrupt"] += 1
            found.reasons.setdefault("corrupt", f"{path.name}: {error}")
            continue
        found.total += info.ticks
        if found.looked_at and time.monotonic() > until:
            continue
        found.looked_at += 1
        seen, broken = tracked(path, [(0, BEGINNING)], settings, detector)
        found.seen += seen.end
        for clip in chunks(path.stem, seen, settings):
            cut_short = clip.status == "short" and clip.end == BEGINNING < info.ticks
            if cut_short:
                continue  # by this look, not by the video
            found.statuses[clip.status] += 1
            if clip.status == "kept":
                found.frames += clip.frames
                found.persons.add(video.person_id)
            else:
                found.reasons.setdefault(clip.status, f"{path.name} at {clip.start / fomm.FPS:.0f} s: {clip.reason}")
        if broken:
            found.statuses["corrupt"] += 1
            found.reasons.setdefault("corrupt", f"{path.name}: {broken}")
    return found
