"""From one source video to its clips: detect, match to the annotation, cut by FOMM's protocol, resize, encode.

A video is decoded twice, once for the boxes and once for the pixels, so nothing longer than a clip is ever in memory.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import av
import numpy as np

from pipeline.params import CropParams
from pipeline.videos import codec, fomm
from pipeline.videos.annotations import Crop, Track, parse_utterance
from uniface.images import resize

SQUARE_SLACK = 2
"""Sides of a given box that differ by so many pixels, as FOMM's own squares do by rounding, are just stretched."""


class Detector(Protocol):
    """What finds faces: `uniface.faces.Faces`."""

    def detect(self, image: np.ndarray) -> list: ...


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


@dataclass(frozen=True)
class Clip:
    """A candidate clip, kept or not: a row of the clip index, and the mp4's bytes if it was kept.

    `start`, `end` are 25 fps frames of the source video, `box` the crop in its pixels, `width`, `height` its size.
    """

    utterance: str
    chunk: int
    start: int
    end: int
    status: str
    reason: str | None = None
    box: tuple[float, float, float, float] | None = None
    width: int | None = None
    height: int | None = None
    video: bytes | None = None

    @property
    def frames(self) -> int:
        return self.end - self.start


def crop_video(job: VideoJob, image_size: int, settings: CropParams, detector: Detector | None) -> list[Clip]:
    """All candidate clips of a video in the order of utterance and chunk. Never raises for what is wrong with a file.

    `detector` may be None where boxes are given.
    """
    path = Path(job.path)
    if path.is_dir():
        files = sorted(path.glob("*.mp4"))
        return [clip for file in files for clip in _recut(file, image_size, settings)]
    try:
        info = codec.probe(path)
    except (codec.VideoError, FileNotFoundError) as error:
        return [Clip(name, 0, 0, 0, "corrupt", str(error)) for name in _names(job)]
    if job.crops:
        planned = _given(job.crops, info)
    elif job.texts:
        planned = _annotated(path, job.texts, info, settings, detector)
    else:
        planned = _whole(path, info, settings, detector)
    return list(_cut(path, planned, info, image_size, settings))


def _names(job: VideoJob) -> list[str]:
    if job.crops:
        return [f"{crop.start:06d}" for crop in job.crops]
    return sorted(job.texts) or [WHOLE]


WHOLE = "00000"
"""The utterance's name where a video has no annotations."""


def _annotated(
    path: Path, texts: Mapping[str, str], info: codec.Info, settings: CropParams, detector: Detector
) -> list[Clip]:
    """The protocol for annotated utterances: in each frame the detection that overlaps most with the annotation."""
    tracks, found = [], []
    for utterance, text in texts.items():
        try:
            tracks.append(parse_utterance(text, utterance))
        except ValueError as error:
            found.append(Clip(utterance, 0, 0, 0, "corrupt", str(error)))
    boxes: dict[str, list[fomm.Box]] = {track.utterance: [] for track in tracks}
    scale = np.array([info.width, info.height] * 2)
    broken = None
    try:
        for tick, seen in _detections(path, merged(tracks), info, settings, detector):
            for track in tracks:
                if track.first <= tick < track.end:
                    annotated = track.boxes[tick - track.first] * scale
                    known = not np.isnan(annotated[0])
                    boxes[track.utterance].append(fomm.best_match(seen, annotated) if known else fomm.MISS)
    except codec.VideoError as error:
        broken = str(error)
    for track in tracks:
        found += _chunks(track, boxes[track.utterance], info, settings, broken)
    return sorted(found, key=lambda clip: (clip.utterance, clip.chunk))


def merged(tracks: Iterable[Track]) -> list[tuple[int, int]]:
    return codec.merge([(track.first, track.end) for track in tracks])


def _whole(path: Path, info: codec.Info, settings: CropParams, detector: Detector) -> list[Clip]:
    """A video without annotations: the largest face, followed by overlap until it is lost."""
    boxes, broken = tracked(path, None, info, settings, detector)
    # the length is what was seen; the header's counts only where the video stops a second or more before it
    stopped = broken or len(boxes) + fomm.FPS < info.ticks
    track = Track(WHOLE, 0, np.zeros((max(len(boxes), info.ticks) if stopped else len(boxes), 4)))
    return _chunks(track, boxes, info, settings, broken)


def tracked(
    path: Path, spans: list[tuple[int, int]] | None, info: codec.Info, settings: CropParams, detector: Detector
) -> tuple[list[fomm.Box], str | None]:
    """A box for each frame of the largest face, followed by overlap, and what broke the video off, if anything did."""
    boxes: list[fomm.Box] = []
    try:
        for _, seen in _detections(path, spans, info, settings, detector):
            boxes.append(_follow(boxes[-1] if boxes else fomm.MISS, seen, settings.iou_with_initial))
    except codec.VideoError as error:
        return boxes, str(error)
    return boxes, None


def _follow(before: fomm.Box, seen: list[fomm.Box], threshold: float) -> fomm.Box:
    if not seen:
        return fomm.MISS
    match = fomm.best_match(seen, before)
    if before != fomm.MISS and fomm.iou(before, match) >= threshold:
        return match
    largest = max(seen, key=lambda box: (box[2] - box[0]) * (box[3] - box[1]))
    return fomm.best_match([largest], largest)


def _detections(
    path: Path, spans: list[tuple[int, int]] | None, info: codec.Info, settings: CropParams, detector: Detector
) -> Iterator[tuple[int, list[fomm.Box]]]:
    """(tick, boxes in source pixels) for each tick; a frame shown at several ticks is looked at once."""
    last, boxes = None, []
    for tick, frame in codec.ticks(path, spans):
        if frame is not last:
            image = codec.rgb(frame, settings.detect_height, info.aspect)
            scale = np.array([info.width / image.shape[1], info.height / image.shape[0]] * 2)
            boxes = [tuple((face.box * scale).tolist()) for face in detector.detect(image)]
            last = frame
        yield tick, boxes


def _chunks(
    track: Track, boxes: list[fomm.Box], info: codec.Info, settings: CropParams, broken: str | None
) -> list[Clip]:
    """The chunks of one track, and a last row for frames that the annotation has and the video has not."""
    size = info.height, info.width
    found = [
        Clip(track.utterance, c.number, c.first, c.end, c.status, c.reason, c.box, info.width, info.height)
        for c in fomm.chunks(boxes, size, settings, track.first)
    ]
    seen = track.first + len(boxes)
    if seen < track.end:
        cut_off = broken or (f"ends at frame {seen} of {info.ticks}" if seen + fomm.FPS < info.ticks else None)
        status = "corrupt" if cut_off else "short"
        reason = cut_off or f"the video ends before the annotation's frames {seen} to {track.end}"
        found.append(Clip(track.utterance, len(found), seen, track.end, status, reason, None, info.width, info.height))
    return found


def _given(crops: Iterable[Crop], info: codec.Info) -> list[Clip]:
    """Chosen clips, their boxes brought to this video's size and made square."""
    found: list[Clip] = []
    for crop in crops:
        across, down = info.width / crop.width, info.height / crop.height
        left, top, right, bottom = crop.box
        box = squared((left * across, top * down, right * across, bottom * down), (info.height, info.width))
        same_start = sum(clip.start == crop.start for clip in found)
        clip = Clip(f"{crop.start:06d}", same_start, crop.start, crop.end, "kept", None, box, info.width, info.height)
        if box is None:
            clip = replace(clip, status="at_border", reason=f"no square around {crop.box} fits the picture")
        found.append(clip)
    return found


def squared(box: fomm.Box, size: tuple[int, int]) -> tuple[int, int, int, int] | None:
    """Whole-pixel box, its shorter side grown to a square, moved into the (height, width) picture; None if too large.

    FOMM stretches such boxes instead, which squashes faces. Sides that differ by `SQUARE_SLACK` or less are left.
    """
    left, top, right, bottom = (int(side) for side in box)
    width, height = right - left, bottom - top
    if abs(width - height) > SQUARE_SLACK:
        side = max(width, height)
        left, top = left - (side - width) // 2, top - (side - height) // 2
        left, top = max(0, min(left, size[1] - side)), max(0, min(top, size[0] - side))
        right, bottom = left + side, top + side
    inside = 0 <= left < right <= size[1] and 0 <= top < bottom <= size[0]
    return (left, top, right, bottom) if inside else None


def _cut(path: Path, planned: list[Clip], info: codec.Info, image_size: int, settings: CropParams) -> Iterator[Clip]:
    """The planned clips with the pixels of those that are kept, by one pass over their frames."""
    kept = {index: clip for index, clip in enumerate(planned) if clip.status == "kept"}
    encoders: dict[int, codec.Encoder] = {}
    done: dict[int, Clip] = {}
    broken = None
    try:
        last, image = None, None
        for tick, frame in codec.ticks(path, [(clip.start, clip.end) for clip in kept.values()]):
            if frame is not last:
                last, image = frame, codec.rgb(frame, aspect=info.aspect)
            for index, clip in kept.items():
                if clip.start <= tick < clip.end:
                    if index not in encoders:
                        encoders[index] = codec.Encoder(image_size, settings.gop, settings.crf)
                    encoders[index].add(resize(cut_out(image, clip.box), (image_size, image_size)))
            for index in [index for index in encoders if kept[index].end == tick + 1]:
                done[index] = replace(kept[index], video=encoders.pop(index).finish())
    except codec.VideoError as error:
        broken = str(error)
    for index, clip in enumerate(planned):
        if index in kept and index not in done:
            yield _incomplete(clip, encoders.get(index), info, settings, broken)
        else:
            yield done.get(index, clip)


def cut_out(image: np.ndarray, box: fomm.Box) -> np.ndarray:
    """The box's part of an image (H, W, 3); what lies outside the image mirrors what is inside."""
    left, top, right, bottom = (int(side) for side in box)
    before_x, before_y, after_x, after_y = fomm.lacking(box, image.shape[:2])
    inside = image[max(0, top) : bottom, max(0, left) : right]
    if not (before_x or before_y or after_x or after_y):
        return inside
    return np.pad(inside, ((before_y, after_y), (before_x, after_x), (0, 0)), mode="reflect")


def _incomplete(
    clip: Clip, encoder: codec.Encoder | None, info: codec.Info, settings: CropParams, broken: str | None
) -> Clip:
    """A given clip that reaches beyond the end of the video: what there is, if it is long enough."""
    frames = encoder.frames if encoder else 0
    if broken is None and frames >= settings.min_frames:
        return replace(clip, end=clip.start + frames, video=encoder.finish())
    status = "corrupt" if broken or clip.end <= info.ticks else "short"
    reason = broken or f"the video has {frames} of the frames {clip.start} to {clip.end}"
    return replace(clip, status=status, reason=reason)


def _recut(file: Path, image_size: int, settings: CropParams) -> list[Clip]:
    """A clip that others cropped: every stored frame, its central square, in pieces of at most `max_frames`.

    `file` is named `<utterance>.mp4` (VoxCeleb2's own release) or `<utterance>#<chunk>.mp4` (FOMM's).
    """
    utterance, _, number = file.stem.partition("#")
    first_number = int(number) if number.isdigit() else 0
    found: list[Clip] = []
    encoder, start = None, 0
    try:
        info = codec.probe(file)
        side = min(info.width, info.height)
        left, top = (info.width - side) // 2, (info.height - side) // 2
        box = left, top, left + side, top + side
        whole = Clip(utterance, first_number, 0, 0, "kept", None, box, info.width, info.height)
        for _, frame in codec.ticks(file, as_stored=True):
            encoder = encoder or codec.Encoder(image_size, settings.gop, settings.crf)
            image = codec.rgb(frame, aspect=info.aspect)[top : top + side, left : left + side]
            encoder.add(resize(image, (image_size, image_size)))
            if encoder.frames == settings.max_frames:
                found.append(_piece(whole, found, start, encoder, settings))
                start, encoder = start + encoder.frames, None
        if encoder:
            found.append(_piece(whole, found, start, encoder, settings))
    except (codec.VideoError, av.FFmpegError) as error:
        found.append(Clip(utterance, first_number + len(found), start, start, "corrupt", str(error)))
    return found


def _piece(whole: Clip, found: list[Clip], start: int, encoder: codec.Encoder, settings: CropParams) -> Clip:
    piece = replace(whole, chunk=whole.chunk + len(found), start=start, end=start + encoder.frames)
    if encoder.frames < settings.min_frames:
        return replace(piece, status="short", reason=f"{encoder.frames} frames, {settings.min_frames} needed")
    return replace(piece, video=encoder.finish())


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
