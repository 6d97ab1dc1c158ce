"""From one source video to its clips: detect, match to the annotation, cut by FOMM's protocol, resize, encode.

A video is decoded twice, once for the boxes and once for the pixels, so nothing longer than a clip is ever in memory.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from pipeline.common.files import natural
from pipeline.params import CropParams
from pipeline.videos import codec, fomm
from pipeline.videos.annotations import Crop, Track, parse_utterance
from pipeline.videos.boxes import central_square, cut_out, fitted
from uniface.images import resize


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

    `start`, `end` are 25 fps frames of the source video, `box` the crop in its pixels, `width`, `height` its size then.
    `fit` says what became of a given box, see `placed`; `bad_lines`, on an utterance's first row, how many lines of its
    annotation were left out.
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
    fit: str | None = None
    bad_lines: int = 0
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
        files = sorted(path.glob("*.mp4"), key=lambda file: natural(file.stem))
        return [clip for file in files for clip in _recut(file, image_size, settings)]
    try:
        info = codec.probe(path)
    except (codec.VideoError, FileNotFoundError) as error:
        return [Clip(name, 0, 0, 0, "corrupt", str(error)) for name in _names(job)]
    if job.crops:
        return _cut(path, _given(job.crops), info, image_size, settings)
    if job.texts:
        planned = _annotated(path, job.texts, info, settings, detector)
    else:
        planned = _whole(path, info, settings, detector)
    return _cut(path, planned, info, image_size, settings)


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
    seen = {track.utterance: Seen(track.first) for track in tracks}
    broken = None
    try:
        for tick, size, faces in _detections(path, merged(tracks), settings, detector):
            scale = np.array(size * 2)
            for track in tracks:
                if track.first <= tick < track.end:
                    annotated = track.boxes[tick - track.first] * scale
                    known = not np.isnan(annotated[0])
                    seen[track.utterance].add(size, fomm.best_match(faces, annotated) if known else fomm.MISS)
    except codec.VideoError as error:
        broken = str(error)
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


def merged(tracks: Iterable[Track]) -> list[tuple[int, int]]:
    return codec.merge([(track.first, track.end) for track in tracks])


def _whole(path: Path, info: codec.Info, settings: CropParams, detector: Detector) -> list[Clip]:
    """A video without annotations: the largest face, followed by overlap until it is lost."""
    seen, broken = tracked(path, None, settings, detector)
    found = chunks(WHOLE, seen, settings)
    cut_off = broken or _cut_off(seen.end, info)  # else its length is what was seen, whatever the header says
    if cut_off:
        found.append(_rest(WHOLE, len(found), seen.end, max(seen.end, info.ticks), cut_off, cut_off, info))
    return found


def tracked(
    path: Path, spans: list[tuple[int, int]] | None, settings: CropParams, detector: Detector
) -> tuple["Seen", str | None]:
    """The boxes of the largest face, followed by overlap until it is lost, and what broke the video off, if it did."""
    seen = Seen(0)
    try:
        for _, size, faces in _detections(path, spans, settings, detector):
            seen.add(size, _follow(seen.last(size), faces, settings.iou_with_initial))
    except codec.VideoError as error:
        return seen, str(error)
    return seen, None


def _follow(before: fomm.Box, seen: list[fomm.Box], threshold: float) -> fomm.Box:
    if not seen:
        return fomm.MISS
    match = fomm.best_match(seen, before)
    if before != fomm.MISS and fomm.iou(before, match) >= threshold:
        return match
    largest = max(seen, key=lambda box: (box[2] - box[0]) * (box[3] - box[1]))
    return fomm.best_match([largest], largest)


def _detections(
    path: Path, spans: list[tuple[int, int]] | None, settings: CropParams, detector: Detector
) -> Iterator[tuple[int, tuple[int, int], list[fomm.Box]]]:
    """(tick, (width, height) of the picture, boxes in its pixels); what is shown at several ticks is looked at once."""
    last, boxes = None, []
    for tick, picture in codec.ticks(path, spans):
        if picture is not last:
            image = picture.rgb(settings.detect_height)
            scale = np.array([picture.width / image.shape[1], picture.height / image.shape[0]] * 2)
            boxes = [tuple((face.box * scale).tolist()) for face in detector.detect(image)]
            last = picture
        yield tick, picture.size, boxes


@dataclass
class Seen:
    """The boxes of a track from frame `first` on, in parts of one picture size: (first frame, (width, height), boxes).

    WebM and H.264 may change the size on the way, and boxes of two sizes have nothing to do with each other.
    """

    first: int
    parts: list[tuple[int, tuple[int, int], list[fomm.Box]]] = field(default_factory=list)

    @property
    def end(self) -> int:
        return self.parts[-1][0] + len(self.parts[-1][2]) if self.parts else self.first

    def add(self, size: tuple[int, int], box: fomm.Box) -> None:
        if not self.parts or self.parts[-1][1] != size:
            self.parts.append((self.end, size, []))
        self.parts[-1][2].append(box)

    def last(self, size: tuple[int, int]) -> fomm.Box:
        """The box before, if the picture still has this size."""
        return self.parts[-1][2][-1] if self.parts and self.parts[-1][1] == size else fomm.MISS


def chunks(utterance: str, seen: Seen, settings: CropParams) -> list[Clip]:
    """The chunks of one track; a change of the picture's size ends one."""
    found: list[Clip] = []
    for first, (width, height), boxes in seen.parts:
        for c in fomm.chunks(boxes, (height, width), settings, first):
            found.append(Clip(utterance, len(found), c.first, c.end, c.status, c.reason, c.box, width, height))
    return found


def _given(crops: Iterable[Crop]) -> list[Clip]:
    """Chosen clips; their boxes are still in the pixels of whoever chose them, until `placed`."""
    return [
        Clip(f"{c.start:06d}", 0, c.start, c.end, "kept", None, c.box, c.width, c.height, fit="as_given") for c in crops
    ]


def placed(clip: Clip, size: tuple[int, int], shape: str) -> Clip:
    """A clip with its box in whole pixels of a picture of `size` = (width, height); the detector's boxes are already.

    `fit` of a given box: as_given, grown (its shorter side, to a square), moved (into the picture), padded (larger than
    the picture, which is mirrored) or stretched (FOMM's way: not square, squashed to a square). The status is at_border
    for a box outside the picture.
    """
    if clip.fit is None:
        return clip
    ratio = size[0] / clip.width, size[1] / clip.height
    box, fit = fitted(tuple(side * ratio[k % 2] for k, side in enumerate(clip.box)), size, shape)
    moved = replace(clip, box=box, width=size[0], height=size[1], fit=fit)
    if box is None:
        reason = f"the box {clip.box} of a {clip.width}x{clip.height} picture lies outside of it"
        return replace(moved, status="at_border", reason=reason)
    return moved


class _Piece:
    """A clip, or the part of one that has one picture size, while its frames come in."""

    def __init__(self, clip: Clip, start: int, image_size: int, settings: CropParams):
        self.clip, self._side, self._settings = replace(clip, start=start), image_size, settings
        self._encoder = codec.Encoder(image_size, settings.gop, settings.crf) if clip.status == "kept" else None
        self.frames = 0

    @property
    def size(self) -> tuple[int, int]:
        return self.clip.width, self.clip.height

    def add(self, image: np.ndarray) -> None:
        if self._encoder:
            self._encoder.add(resize(cut_out(image, self.clip.box), (self._side, self._side)))
        self.frames += 1

    def finish(self, whole: bool = False) -> Clip:
        """The clip up to here; a part is kept if it is long enough."""
        clip = replace(self.clip, end=self.clip.start + self.frames)
        if self._encoder is None:
            return clip
        if whole or self.frames >= self._settings.min_frames:
            return replace(clip, video=self._encoder.finish())
        return replace(clip, status="short", reason=f"{self.frames} frames, {self._settings.min_frames} needed")


def _cut(path: Path, planned: list[Clip], info: codec.Info, image_size: int, settings: CropParams) -> list[Clip]:
    """The planned clips with the pixels of those that are kept, by one pass over their frames."""
    kept = {index: clip for index, clip in enumerate(planned) if clip.status == "kept"}
    pieces: dict[int, _Piece] = {}
    done: dict[int, list[Clip]] = {index: [] for index in kept}
    broken = None
    try:
        last, image = None, None
        for tick, picture in codec.ticks(path, [(clip.start, clip.end) for clip in kept.values()]):
            if picture is not last:
                last, image = picture, picture.rgb()
            for index, clip in kept.items():
                if not clip.start <= tick < clip.end:
                    continue
                if index in pieces and pieces[index].size != picture.size:
                    done[index].append(pieces.pop(index).finish())
                if index not in pieces:
                    pieces[index] = _Piece(placed(clip, picture.size, settings.shape), tick, image_size, settings)
                pieces[index].add(image)
                if clip.end == tick + 1:
                    done[index].append(pieces.pop(index).finish(whole=not done[index]))
    except codec.VideoError as error:
        broken = str(error)
    found: list[Clip] = []
    for index, clip in enumerate(planned):
        found += done.get(index, [])
        if index in pieces:
            found.append(_incomplete(clip, pieces[index], info, settings, broken))
        elif index in kept and not done[index]:
            found.append(_incomplete(clip, None, info, settings, broken))
        elif index not in kept:
            found.append(clip)
    numbers: Counter[str] = Counter()
    for index, clip in enumerate(found):
        found[index] = replace(clip, chunk=numbers[clip.utterance])
        numbers[clip.utterance] += 1
    return found


def _incomplete(clip: Clip, piece: _Piece | None, info: codec.Info, settings: CropParams, broken: str | None) -> Clip:
    """A given clip that reaches beyond the end of the video: what there is, if it is long enough."""
    frames = piece.frames if piece else 0
    if broken is None and frames >= settings.min_frames:
        return piece.finish()
    status = "corrupt" if broken or clip.end <= info.ticks else "short"
    reason = broken or f"the video has {frames} of the frames {clip.start} to {clip.end}"
    found = piece.clip if piece else placed(clip, (info.width, info.height), settings.shape)
    return replace(found, end=clip.end, status=status, reason=reason)


def _recut(file: Path, image_size: int, settings: CropParams) -> list[Clip]:
    """A clip that others cropped: every stored frame, its central square, in pieces of at most `max_frames`.

    `file` is named `<utterance>.mp4` (VoxCeleb2's own release) or `<utterance>#<chunk>.mp4` (FOMM's).
    """
    utterance, _, number = file.stem.partition("#")
    first_number = int(number) if number.isdigit() else 0
    found: list[Clip] = []
    piece, start = None, 0
    try:
        for _, picture in codec.ticks(file, as_stored=True):
            if piece and (piece.frames == settings.max_frames or piece.size != picture.size):
                found.append(piece.finish())
                start, piece = found[-1].end, None
            if piece is None:
                box = central_square(*picture.size)
                clip = Clip(utterance, first_number + len(found), 0, 0, "kept", None, box, *picture.size)
                piece = _Piece(clip, start, image_size, settings)
            piece.add(picture.rgb())
        if piece is None:
            raise codec.VideoError("no frame in it")
        found.append(piece.finish())
    except codec.VideoError as error:
        found.append(Clip(utterance, first_number + len(found), start, start, "corrupt", str(error)))
    return found


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
