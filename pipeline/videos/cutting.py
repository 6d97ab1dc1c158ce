"""From candidate clips to their pixels: cut out, resize, encode."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.sections import CropParams
from pipeline.videos import codec
from pipeline.videos.boxes import central_square, cut_out, fitted
from pipeline.videos.tracks import Clip
from uniface.images import resize


def cut(path: Path, planned: list[Clip], info: codec.Info, image_size: int, settings: CropParams) -> list[Clip]:
    """The planned clips with the pixels of those that are kept, by one pass over their frames."""
    kept = {index: clip for index, clip in enumerate(planned) if clip.status == "kept"}
    pieces: dict[int, Piece] = {}
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
                    pieces[index] = Piece(placed(clip, picture.size, settings.shape), tick, image_size, settings)
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


class Piece:
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


def _incomplete(clip: Clip, piece: Piece | None, info: codec.Info, settings: CropParams, broken: str | None) -> Clip:
    """A given clip that reaches beyond the end of the video: what there is, if it is long enough."""
    frames = piece.frames if piece else 0
    if broken is None and frames >= settings.min_frames:
        return piece.finish()
    status = "corrupt" if broken or clip.end <= info.ticks else "short"
    reason = broken or f"the video has {frames} of the frames {clip.start} to {clip.end}"
    found = piece.clip if piece else placed(clip, (info.width, info.height), settings.shape)
    return replace(found, end=clip.end, status=status, reason=reason)


def recut(file: Path, image_size: int, settings: CropParams) -> list[Clip]:
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
                piece = Piece(clip, start, image_size, settings)
            piece.add(picture.rgb())
        if piece is None:
            raise codec.VideoError("no frame in it")
        found.append(piece.finish())
    except codec.VideoError as error:
        found.append(Clip(utterance, first_number + len(found), start, start, "corrupt", str(error)))
    return found


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
