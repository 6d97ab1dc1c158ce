"""From one source video to its clips: detect, match to the annotation, cut by FOMM's protocol, resize, encode.

A video is decoded twice, once for the boxes and once for the pixels, so nothing longer than a clip is ever in memory.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.common.walk import natural
from pipeline.sections import CropParams
from pipeline.videos import codec, fomm
from pipeline.videos.annotations import Crop, parse_utterance
from pipeline.videos.cutting import cut, recut
from pipeline.videos.detections import Detector
from pipeline.videos.tracks import Clip, chunks, matched, tracked

WHOLE = "00000"
"""The utterance's name where a video has no annotations."""


@dataclass(frozen=True)
class VideoJob:
    """One source video: a file, or a folder of clips that others have cropped already.

    With `crops` those are cut as they are; else `texts` (utterance -> VoxCeleb2 annotation) say where the face is; with
    neither, the whole video is one track of the detector's own.
    """

    person_id: str
    video_id: str
    split: str
    path: str
    texts: Mapping[str, str]
    crops: tuple[Crop, ...]


def crop_video(job: VideoJob, image_size: int, settings: CropParams, detector: Detector | None) -> list[Clip]:
    """All candidate clips of a video in the order of utterance and chunk. Never raises for what is wrong with a file.

    `detector` may be None where boxes are given.
    """
    path = Path(job.path)
    if path.is_dir():
        files = sorted(path.glob("*.mp4"), key=lambda file: natural(file.stem))
        return [clip for file in files for clip in recut(file, image_size, settings)]
    try:
        info = codec.probe(path)
    except (codec.VideoError, FileNotFoundError) as error:
        return [Clip(name, 0, 0, 0, "corrupt", str(error)) for name in _names(job)]
    if job.crops:
        return cut(path, _given(job.crops), info, image_size, settings)
    if job.texts:
        planned = _annotated(path, job.texts, info, settings, detector)
    else:
        planned = _whole(path, info, settings, detector)
    return cut(path, planned, info, image_size, settings)


def _names(job: VideoJob) -> list[str]:
    if job.crops:
        return [f"{crop.start:06d}" for crop in job.crops]
    return sorted(job.texts) or [WHOLE]


def _annotated(
    path: Path, texts: Mapping[str, str], info: codec.Info, settings: CropParams, detector: Detector
) -> list[Clip]:
    """The protocol for annotated utterances."""
    tracks, found = [], []
    for utterance, text in texts.items():
        try:
            tracks.append(parse_utterance(text, utterance))
        except ValueError as error:
            found.append(Clip(utterance, 0, 0, 0, "corrupt", str(error)))
    seen, broken = matched(path, tracks, settings, detector)
    for track in tracks:
        boxes = seen[track.utterance]
        rows = chunks(track.utterance, boxes, settings)
        if boxes.end < track.end:
            cut_off = broken or _cut_off(boxes.end, info)
            reason = cut_off or f"the video ends before the annotation's frames {boxes.end} to {track.end}"
            rows.append(_rest(track.utterance, len(rows), boxes.end, track.end, cut_off, reason, info))
        found += [replace(rows[0], bad_lines=track.bad_lines), *rows[1:]]
    return sorted(found, key=lambda clip: (clip.utterance, clip.chunk))


def _cut_off(end: int, info: codec.Info) -> str | None:
    """Why a video that gave frames up to `end` is not whole; None if it is."""
    return f"ends at frame {end} of {info.ticks}" if end + fomm.FPS < info.ticks else None


def _rest(utterance: str, chunk: int, start: int, end: int, cut_off: str | None, reason: str, info: codec.Info) -> Clip:
    """The row for frames that should be there and are not."""
    status = "corrupt" if cut_off else "short"
    return Clip(utterance, chunk, start, end, status, reason, None, info.width, info.height)


def _whole(path: Path, info: codec.Info, settings: CropParams, detector: Detector) -> list[Clip]:
    """A video without annotations: the largest face, followed by overlap until it is lost."""
    seen, broken = tracked(path, None, settings, detector)
    found = chunks(WHOLE, seen, settings)
    cut_off = broken or _cut_off(seen.end, info)  # else its length is what was seen, whatever the header says
    if cut_off:
        found.append(_rest(WHOLE, len(found), seen.end, max(seen.end, info.ticks), cut_off, cut_off, info))
    return found


def _given(crops: Iterable[Crop]) -> list[Clip]:
    """Chosen clips; their boxes are still in the pixels of whoever chose them, until `placed`."""
    return [
        Clip(f"{c.start:06d}", 0, c.start, c.end, "kept", None, c.box, c.width, c.height, fit="as_given") for c in crops
    ]


def load_detector(weights: Path) -> Detector:
    """The stage's detector, on one thread: a worker has one core (or a GPU)."""
    from uniface.faces import Faces

    return Faces(weights, threads=1, recognise=False)


class Cropper:
    """One worker: crops videos, with a detector that is loaded when a video first needs it."""

    def __init__(self, image_size: int, settings: CropParams, make_detector: Callable[[], Detector]):
        import cv2

        cv2.setNumThreads(1)  # a worker has one core, and OpenCV would spread each resize over all
        self._image_size, self._settings, self._make = image_size, settings, make_detector
        self._detector: Detector | None = None

    def __call__(self, job: VideoJob) -> list[Clip]:
        if self._detector is None and not job.crops and not Path(job.path).is_dir():
            self._detector = self._make()
        return crop_video(job, self._image_size, self._settings, self._detector)
