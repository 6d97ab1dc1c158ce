"""The kinds of pairs that an exam may have (`evaluate.exams` in params.yaml): a new kind is a function here.

An exam = task x pairs x model. Both tasks can be asked of either stage's model: the framework is joint (Sec. 3.2).
"""

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.scoring.decoys import answers
from pipeline.scoring.held_out import (
    Pairs,
    clip_pairs,
    listed_clips,
    listed_portraits,
    portrait_pairs,
    video_pairs,
)

if TYPE_CHECKING:
    from pipeline.common.places import Places
    from pipeline.sections import ExamParams, Params

TAKEN = (
    "baselines",
    "controls",
    "intervals",
    "frechet",
    "networks",
    "pairs",
    "models",
    "weights",
    "definitions",
    "exams",
)
"""Sections of metrics.json that are no exam's."""

LIST = ("source", "target", "source_identity", "target_identity")  # columns of a list of pairs

Found = tuple[Pairs, list[tuple]]
"""Pairs, and each as (source, target) references for the sample's exact truth."""


def _clips(params: "Params", places: "Places"):
    from pipeline.common.bucket import disk
    from uniface.data import ClipDataset

    return ClipDataset(places.clips, "test", disk=disk(params.compute))


def _portraits(params: "Params", places: "Places"):
    from pipeline.common.bucket import disk
    from uniface.data import PairDataset

    listed = "evaluation" if (places.pairs / "evaluation.parquet").is_file() else "test"
    return PairDataset(places.pairs, listed, disk=disk(params.compute))


def _faceforensics(params: "Params", places: "Places"):
    from uniface.data import PairDataset

    if not (places.faceforensics / "test.parquet").is_file():
        raise FileNotFoundError(
            f"{places.faceforensics} has no pairs: name the folder of FaceForensics++ in params.yaml "
            "(faceforensics.folder) and run python -m pipeline.faceforensics"
        )
    return PairDataset(places.faceforensics, "test")


def _one_clip(params: "Params", places: "Places", count: int) -> Found:
    return clip_pairs(_clips(params, places), count, params.seed, cross=False)


def _two_persons(params: "Params", places: "Places", count: int) -> Found:
    return clip_pairs(_clips(params, places), count, params.seed, cross=True)


def _videos_same(params: "Params", places: "Places", count: int) -> Found:
    return video_pairs(_clips(params, places), count, params.seed, cross=False)


def _videos_cross(params: "Params", places: "Places", count: int) -> Found:
    return video_pairs(_clips(params, places), count, params.seed, cross=True)


def _of_portraits(params: "Params", places: "Places", count: int) -> Found:
    return portrait_pairs(_portraits(params, places), count)


def _of_faceforensics(params: "Params", places: "Places", count: int) -> Found:
    return portrait_pairs(_faceforensics(params, places), count)


KINDS: dict[str, Callable[["Params", "Places", int], Found]] = {
    "one_clip": _one_clip,  # two frames of a clip
    "two_persons": _two_persons,  # frames of two persons' clips
    "videos_same": _videos_same,  # Sec. 4.2 and Table 1: 1,000 test videos, six times
    "videos_cross": _videos_cross,  # the same for Table 2
    "portraits": _of_portraits,  # CelebA-HQ's test pairs, or pairs.evaluation_pairs
    "faceforensics": _of_faceforensics,  # Table 3
}
SAME = ("one_clip", "videos_same")
"""Kinds whose answer is the target itself."""
_OF_CLIPS = ("one_clip", "two_persons", "videos_same", "videos_cross")


def pairs_of(name: str, exam: "ExamParams", params: "Params", places: "Places") -> Pairs:
    """The pairs of an exam, with their exact answers where they are known.

    Those of EXAM.csv in `evaluate.pair_lists`, if it is there. Raises ValueError or FileNotFoundError, naming the exam,
    if the data are not there or do not suffice.
    """
    settings, listed = params.evaluate, places.root / params.evaluate.pair_lists / f"{name}.csv"
    try:
        if listed.is_file():
            wanted = read_list(listed)
            if exam.pairs in _OF_CLIPS:
                pairs, jobs = listed_clips(_clips(params, places), wanted)
            else:
                pairs, jobs = listed_portraits(
                    _portraits(params, places) if exam.pairs == "portraits" else _faceforensics(params, places), wanted
                )
        else:
            pairs, jobs = KINDS[exam.pairs](params, places, exam.count or settings.pairs)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"exam {name}: {error}") from None
    except ValueError as error:
        raise ValueError(f"exam {name}: {error}") from None
    if pairs.source.shape[1] != params.image_size:
        raise ValueError(
            f"exam {name}: its pictures have {pairs.source.shape[1]} pixels, image_size is {params.image_size}: "
            "make the data again (dvc repro)"
        )
    if exam.pairs in SAME:
        return replace(pairs, truth=pairs.target)
    drawn = {"two_persons": params.download, "videos_cross": params.download, "portraits": params.pairs}
    task = "swapping" if exam.pairs == "portraits" else "reenactment"  # what the sample can draw of these pairs
    if exam.pairs in drawn and drawn[exam.pairs].source == "sample" and exam.task == task:
        right, wrong = answers(exam.task, jobs, params, places.work)
        return replace(pairs, truth=right, decoys=wrong)
    return pairs


def read_list(path: Path) -> list[tuple[str, str]]:
    """(source, target) of every row of a csv file with these columns, as `write_list` wrote it."""
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        if not {"source", "target"} <= set(reader.fieldnames or ()):
            raise ValueError(f"{path} has columns {reader.fieldnames}; expected source,target")
        rows = [(row["source"], row["target"]) for row in reader]
    if len(rows) < 2:
        raise ValueError(f"{path} lists {len(rows)} pairs, an exam needs two")
    return rows


def write_list(path: Path, pairs: Pairs) -> None:
    """The pairs of an exam by the names of their pictures, to be given to another evaluation."""
    from pipeline.common.files import atomic_write

    with atomic_write(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(LIST)
        writer.writerows(
            zip(pairs.source_key, pairs.target_key, pairs.source_identity, pairs.target_identity, strict=True)
        )
