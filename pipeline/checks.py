"""What values of params.yaml must go together, and the files that they name."""

import difflib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.sections import Params
    from uniface.config import TrainConfig

SEEN_BY_DVC = (
    "download.folder", "download.annotations", "pairs.path", "evaluate.pair_lists", "faceforensics.folder",
    "faceforensics.pairs", "faceforensics.identities",
)  # fmt: skip
"""Paths that dvc.yaml makes dependencies of: DVC must find them as they are written."""


def paths(params: "Params", root: Path) -> Iterator[str]:
    """What is wrong with paths: files that are not there, and what DVC would not find."""
    for name in SEEN_BY_DVC:
        if (path := _value(params, name)).startswith("~"):
            yield f"{name}: {path!r}: DVC, which looks for changes there, knows no ~: write {Path(path).expanduser()}"
    cookies = params.download.cookies
    if cookies and not (root / Path(cookies).expanduser()).is_file():
        yield f"download.cookies: {cookies!r} is not there"


def combinations(params: "Params") -> Iterator[str]:
    """What is wrong with values that must go together."""
    sample, pairs, compute = params.sample, params.pairs, params.compute
    for less, more in (
        ("sample.test_persons", "sample.persons"),
        ("sample.test_identities", "sample.portrait_identities"),
        ("sample.portrait_identities", "sample.portraits"),
        ("crop.min_frames", "crop.max_frames"),
    ):
        few, many = _value(params, less), _value(params, more)
        if few > many or (few == many and "test" in less):
            yield f"{less}: {few} is not {'below' if 'test' in less else 'at most'} {more}, {many}"
    if pairs.source == "sample" and pairs.split != "partition":
        portraits = sample.portraits * sample.scale
        if pairs.test_images >= portraits:
            yield f"pairs.test_images: {pairs.test_images} leaves none of the sample's {portraits} for training"
    for role, choice in params.weights.roles.items():
        if bool(choice.source) == bool(choice.file):
            yield f"weights.roles.{role}: give either a source or a file"
        elif choice.file and not choice.sha256:
            yield f"weights.roles.{role}.sha256: missing (sha256sum {choice.file})"
        elif choice.source and choice != type(choice)(source=choice.source):
            yield f"weights.roles.{role}: a source says all about its networks; the other keys belong to a file"
        own = role == "regressor" and choice.file and not choice.file.lower().endswith(".onnx")
        if own and not choice.landmarks:
            yield f"weights.roles.{role}.landmarks: missing: similarity_Lm3D_all.mat belongs to Deep3DFaceRecon"
    if params.download.keep == "none" and params.download.source != "youtube":
        yield f"download.keep: none is for source youtube; with {params.download.source} the videos are here already"
    if "{id}" not in params.download.url:
        yield f"download.url: {params.download.url!r} does not say where the video's {{id}} goes"
    yield from _exams(params)
    for name in ("train_reenactment", "train_swapping"):
        config: TrainConfig = getattr(params, name)
        parts = compute.workers * config.accumulate
        if config.batch_size % parts:
            yield f"{name}.batch_size: {config.batch_size} is no multiple of compute.workers x accumulate, {parts}"
        if config.weights.person and not params.model.use_attrt:
            yield f"{name}.weights.person: {config.weights.person}: there is no z_t without model.use_attrt, must be 0"
    if params.train_swapping.augmentation:
        yield "train_swapping.augmentation: pairs of portraits are not augmented (Sec. 4.1), must be []"


def _exams(params: "Params") -> Iterator[str]:
    """What is wrong with the exams, and with what the gates ask of them."""
    from pipeline.scoring.exams import KINDS, TAKEN

    exams = {name: exam for name, exam in params.evaluate.exams.items() if exam}
    if not exams:
        yield "evaluate.exams: there is none"
    for name, exam in exams.items():
        if name in TAKEN:
            yield f"evaluate.exams.{name}: metrics.json has a section of this name, choose another"
        if exam.pairs not in KINDS:
            yield f"evaluate.exams.{name}.pairs: {exam.pairs!r} is none of {', '.join(KINDS)}"
    for name in params.promote.min_pairs:
        if name not in exams:
            yield f"promote.min_pairs.{name}: unknown key{closest(name, exams)}"
    for metric in params.promote.gates:
        name = metric.split(".")[0]
        if name not in exams:
            yield f"promote.gates.{metric}: evaluate.exams has no {name}{closest(name, exams)}"


def closest(name: str, known: Iterable[str]) -> str:
    """The known name that a wrong one looks like, as a question; nothing if it is like none."""
    found = difflib.get_close_matches(name, list(known), 1)
    return f", did you mean {found[0]}?" if found else ""


def _value(params: "Params", name: str) -> Any:
    section, key = name.split(".")
    return getattr(getattr(params, section), key)
