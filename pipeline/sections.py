"""The sections of params.yaml as frozen types: what there is to set, and the range of each value."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from uniface.config import ModelConfig, TrainConfig

Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Number = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


@dataclass(frozen=True)
class SampleParams:
    """Size of the embedded sample world."""

    scale: Count
    persons: Count
    test_persons: Count
    seconds: Annotated[float, Field(gt=0, le=3600)]
    video_height: Annotated[int, Field(ge=64, le=4320, multiple_of=2)]
    portraits: Count
    portrait_identities: Count
    test_identities: Count
    portrait_size: Annotated[int, Field(ge=32, le=4096)]


Role = Literal["detector", "recogniser", "judge", "perceptual", "contextual", "lpips", "inception", "regressor"]


@dataclass(frozen=True)
class RoleParams:
    """The network of one role, otherwise than weights.source says: of another source, or a file of yours.

    `file` is a path or an address, with its `sha256`. What it takes is (pixel - mean) / scale of pixels in 0..255, in
    this order of `channels`; without mean and scale [-1, 1]. `centre` is a JSON file with the mean vector of many
    faces, which a recogniser may need. `landmarks` is `similarity_Lm3D_all.mat`, which belongs to a regressor that is a
    PyTorch checkpoint of Deep3DFaceRecon. `self_test` tries it on a photograph.
    """

    source: Literal["", "sample", "packages", "internet"] = ""
    file: str = ""
    sha256: Annotated[str, Field(pattern="^([0-9a-f]{64})?$")] = ""
    channels: Literal["rgb", "bgr"] = "rgb"
    mean: Finite | None = None
    scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    centre: str = ""
    landmarks: str = ""
    self_test: bool = True


@dataclass(frozen=True)
class WeightsParams:
    """Where the frozen networks come from, and single ones from elsewhere."""

    source: Literal["sample", "packages", "internet"]
    roles: dict[Role, RoleParams]


@dataclass(frozen=True)
class DownloadParams:
    """Stage `download`: which videos, and how to get them."""

    source: Literal["sample", "youtube", "folder", "videos"]
    folder: str
    annotations: str
    url: str
    max_height: Annotated[int, Field(ge=144)]
    parallel: Count
    attempts: Count
    pause: Amount
    kilobytes_per_second: Number
    cookies: str
    retry_unavailable: bool
    max_videos: Number
    keep: Literal["all", "none"]
    max_megabytes: Number


@dataclass(frozen=True)
class CropParams:
    """Stage `crop`: FOMM's protocol, and how clips are stored."""

    min_frames: Count
    max_frames: Count
    min_size: Count
    iou_with_initial: Share
    increase: Annotated[float, Field(ge=0, le=10)]
    max_gap: Number
    border: Literal["reject", "pad"]
    shape: Literal["square", "stretch"]
    detect_height: Annotated[int, Field(ge=32, le=4320)]
    detect_every: Annotated[int, Field(ge=1, le=25)]
    gop: Count
    crf: Annotated[int, Field(ge=0, le=51)]
    clips_per_shard: Count


@dataclass(frozen=True)
class PairsParams:
    """Stage `pairs`: which images, how they are divided, and how many pairs."""

    source: Literal["sample", "folder", "zip", "parquet"]
    path: Annotated[str, Field(min_length=1)]
    split: Literal["images", "identity", "partition"]
    test_images: Count
    pairs_per_image: Annotated[int, Field(ge=5, multiple_of=5)]
    images_per_shard: Count
    align: bool
    evaluation_pairs: str
    level: Number = 0
    pattern: Annotated[str, Field(min_length=1)] = "*.parquet"
    identity_column: str = ""


@dataclass(frozen=True)
class FaceForensicsParams:
    """Stage `faceforensics`: which videos, how many frames of each, which pairs, and who is who."""

    folder: str
    quality: Literal["raw", "c23", "c40"]
    frames: Count
    pairs: str
    identities: str
    threshold: Annotated[float, Field(ge=-1, le=1)]


@dataclass(frozen=True)
class ExamParams:
    """One exam of the stage `evaluate`: a task, done by the model of a stage, on pairs of one kind.

    `pairs` is a name in pipeline/scoring/exams.py. `count` pairs instead of `evaluate.pairs`, if not 0.
    """

    task: Literal["reenactment", "swapping"]
    model: Literal["reenactment", "swapping"]
    pairs: str
    count: Number = 0


ExamName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


@dataclass(frozen=True)
class EvaluateParams:
    """Stage `evaluate`: the exams by name (null: not examined), how many pairs of each, how many at a time.

    `pair_lists` is a folder in which EXAM.csv says which pairs those are; `grid_rows` are shown on each picture.
    """

    pairs: Annotated[int, Field(ge=2)]
    batch_size: Count
    grid_rows: Count
    exams: dict[ExamName, ExamParams | None]
    pair_lists: str


@dataclass(frozen=True)
class RegisterParams:
    """Stage `register`: the name of the model in the registry."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 _.-]*$")]


@dataclass(frozen=True)
class GateParams:
    """What one metric of reports/metrics.json must reach; null turns a bound off."""

    better: Literal["higher", "lower"]
    floor: Finite | None  # absolute bound: the least where higher is better, the most where lower is
    tolerance: Amount | None  # how much worse than the champion is still accepted


Metric = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*\.\w+$")]


@dataclass(frozen=True)
class PromoteParams:
    """The gates of pipeline/promote.py: metric by its dotted name -> gate, exam -> least number of evaluated pairs."""

    gates: dict[Metric, GateParams]
    min_pairs: dict[ExamName, Number]


@dataclass(frozen=True)
class ComputeParams:
    """What this machine has. `UNIFACE_WORKERS=4` in the environment overrides `workers`, and so on."""

    workers: Count
    gpus_per_worker: Annotated[int, Field(ge=-1)]
    cpus_per_worker: Count
    storage: str
    data: str
    cache: str
    cache_gb: Count
    loader_workers: Number
    crop_workers: Number


@dataclass(frozen=True)
class Params:
    """The whole of params.yaml, a field per section. `model.image_size` is the top one, not a key of its section."""

    seed: Seed
    image_size: int
    sample: SampleParams
    weights: WeightsParams
    download: DownloadParams
    crop: CropParams
    pairs: PairsParams
    faceforensics: FaceForensicsParams
    model: ModelConfig
    train_reenactment: TrainConfig
    train_swapping: TrainConfig
    evaluate: EvaluateParams
    register: RegisterParams
    promote: PromoteParams
    compute: ComputeParams
