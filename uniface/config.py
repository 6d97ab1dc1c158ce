"""Typed settings of the model, the losses and the training loop. Frozen dataclasses; the values live in params.yaml."""

from dataclasses import dataclass, fields
from typing import Literal

Task = Literal["reenactment", "swapping"]
TASKS: tuple[Task, ...] = ("reenactment", "swapping")
"""The two tasks of the framework (Sec. 3.2), and the stages that train for them, in their order (Sec. 3.3)."""


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and switches of the networks (Sec. 3.1). The defaults are the paper's joint model at 256 px.

    Where the paper is silent the default is the released code's. The same switches form the two released networks
    (`released.reenactment_config`, `released.swapping_config`) and the ablations of Table 4.
    """

    image_size: int = 256  # H = W, a power of two from 32 to 512
    feature_stride: int = 8  # F is H/stride x W/stride (Sec. 3.1)
    max_channels: int = 512  # C (Sec. 3.1)
    channel_base: int = 32768  # width at resolution r is min(max_channels, channel_base / r); released code

    # Identity embedder, Eq. 1
    identity_blocks: int = 1  # residual blocks at F's resolution; released code: 1 reenactment, 0 swapping
    coordinates: bool = False  # append x and y in [-1, 1] to its input; not in the paper

    # Attribute embedder, Eq. 2
    attribute_dim: int = 512  # length of z_t (Sec. 3.1)
    attribute_channels: int = 64  # width after the first convolution, doubling with each; released code
    attribute_max_channels: int = 512
    attribute_base: int = 1  # side of the map that z_t is made of and made into; released code: 1
    attribute_norm: Literal["instance", "group"] = "instance"  # released code; "group" where maps are only a few pixels
    fdf_identity_init: bool = False  # True: start at the identity warp; released code: PyTorch's default start
    fdf_stride: int = 4  # the FDF is H/stride x W/stride (Sec. 3.1)
    attribute_maps: int = 0  # further maps that are decoded with the FDF and painted on what it warps; not in the paper
    fdf_source: bool = False  # decode the FDF from the source's attribute vector too, z_s; not in the paper

    # Attribute transfer, Eq. 3
    use_attrt: bool = True  # False: Table 4 "w/o AttrT", and the released swapping network
    warp_padding: Literal["zeros", "border"] = "zeros"  # released code

    # Identity transfer, Eq. 4 and 5
    use_idt: bool = True  # False: Table 4 "w/o IdT", and the released reenactment network
    attention_reduction: int = 4  # Q and K have C / 4 channels (Sec. 3.1)
    attention_value: Literal["reduced", "full"] = "reduced"  # V: C / 4 and projected back; released code: C
    attention_logits: Literal["dot", "released", "cosine"] = "dot"  # Eq. 4 as printed; transfer.py has all
    attention_locality: float = 0.0  # sigma in tokens of a learnable Gaussian bias, 0: none; not in the paper
    alpha_init: float = 0.0  # Sec. 3.1

    # Generator, Eq. 6
    base_blocks: int = 1  # synthesis blocks at F's resolution; released code: 1 reenactment, 0 swapping
    octave_layers: Literal[1, 2] = 2  # stylemaps, and styled convolutions, per octave; released code: 2
    modulation_kernel: Literal[1, 3] = 3  # of the convolution that makes gamma and beta; released code
    synthesis: Literal["stylemap", "none"] = "stylemap"  # "none": the "typical decoder" of Sec. 3.1
    to_rgb: Literal["activated", "linear"] = "activated"  # released code: a leaky ReLU even on the image
    skip: Literal["none", "zero_init", "full"] = "full"  # zero_init: behind a 1x1 convolution that starts at 0
    skip_strides: tuple[int, ...] = (8, 4)  # which F^i: H/8 and H/4 are what the released encoder returns
    skip_features: Literal["layers", "output"] = "layers"  # F^i (Eq. 6); released reenactment: F itself
    skip_warped: bool = True  # reenactment warps the skip by the FDF too (see model.py); released code: not
    skip_stored: bool = True  # is the sum the stylemap, or only the next layer's input (released swapping)?

    def __post_init__(self) -> None:
        size, stride = self.image_size, self.feature_stride
        wrong = _out_of_range(
            self, max_channels=(1, None), channel_base=(size, None), attribute_dim=(1, None), identity_blocks=(0, None),
            attribute_channels=(1, None), attribute_max_channels=(1, None), attention_reduction=(1, None),
            attention_locality=(0, None), base_blocks=(0, None), attribute_maps=(0, None),
        )  # fmt: skip
        if size not in (32, 64, 128, 256, 512):
            wrong["image_size"] = f"{size}: use 32, 64, 128, 256 or 512"
        if stride not in (2, 4, 8, 16) or size // stride < 4:
            wrong["feature_stride"] = f"{stride}: use 2, 4, 8 or 16, F at least 4 x 4"
        if self.attribute_base not in (1, 2, 4):
            wrong["attribute_base"] = f"{self.attribute_base}: use 1, 2 or 4"
        if self.fdf_stride not in (1, 2, 4):
            wrong["fdf_stride"] = f"{self.fdf_stride}: use 1, 2 or 4"
        if not wrong and self.feature_channels % self.attention_reduction:
            channels = self.feature_channels
            wrong["attention_reduction"] = f"{self.attention_reduction}: must divide F's {channels} channels"
        allowed = [2**k for k in range(max(1, stride).bit_length())]
        if not set(self.skip_strides) <= set(allowed):
            wrong["skip_strides"] = f"{list(self.skip_strides)}: choose from {allowed}"
        elif self.skip_features == "output" and set(self.skip_strides) - {stride}:
            wrong["skip_features"] = f"output is F itself: skip_strides must be [{stride}]"
        _refuse("model", wrong)

    def width(self, resolution: int) -> int:
        """Channels of the identity embedder, the generator and the discriminator at `resolution` pixels."""
        return min(self.max_channels, self.channel_base // resolution)

    def attribute_width(self, resolution: int) -> int:
        """Channels of the attribute embedder at `resolution` pixels."""
        return min(self.attribute_max_channels, self.attribute_channels * (self.image_size // resolution) // 2)

    @property
    def feature_size(self) -> int:
        """Height and width of F."""
        return self.image_size // self.feature_stride

    @property
    def feature_channels(self) -> int:
        """C, the channels of F."""
        return self.width(self.feature_size)

    @property
    def octaves(self) -> int:
        """How many times F must be doubled to reach the image."""
        return self.feature_stride.bit_length() - 1


@dataclass(frozen=True)
class LossWeights:
    """Weights of uniface/losses.py; 0 turns a term off. The first five are Eq. 7, the rest not in the paper.

    `person` is the weight of the reversed gradient of a classifier of persons on z_t (uniface/persons.py). `cycle`, of
    swapping, is that of swapping back (`Trainer`).
    """

    adversarial: float
    reconstruction: float
    perceptual: float
    identity: float
    contextual: float
    absolute: float
    edges: float
    colour: float
    border: float
    person: float
    cycle: float

    def __post_init__(self) -> None:
        names = [field.name for field in fields(self)]
        _refuse("weights", _out_of_range(self, **dict.fromkeys(names, (0, None))))


@dataclass(frozen=True)
class TrainConfig:
    """One stage of training (Sec. 3.3, 4.1)."""

    iterations: int
    batch_size: int  # over all workers
    accumulate: int  # the batch of a worker is computed in so many parts
    weights: LossWeights
    lr: float
    betas: tuple[float, float]  # of Adam
    muon: bool  # the model's matrices by Muon (uniface/muon.py) instead of Adam
    attribute_lr: float  # times lr, for the attribute embedder
    scalar_lr: float  # times lr, for IdT's alpha, temperature and locality: plain numbers among equalised weights
    warm_up: int  # iterations over which lr rises linearly
    decay_from: float  # share of the iterations after which lr falls linearly to 3 %; 1: never
    ema: float  # decay of the averaged weights
    r1_weight: float
    r1_every: int
    gradient_clip: float  # largest norm; 0: no clipping
    # uniface/augment.py; "mirror" turns a whole sample, the others change what the attribute embedder sees
    augmentation: tuple[Literal["mirror", "colour", "shape", "sharpness"], ...]
    target_candidates: int  # reenactment: targets drawn for a source, of which the least like it is taken; 1: any
    foreign_drivers: float  # reenactment: share of samples whose driver shows another person, made by the model itself
    foreign_from: int  # iteration from which they do
    face_weight: float  # how much more the pixel losses count at the middle of the face than at the edge; 1: as much
    skip_from: int  # iteration at which the generator's skip connection opens
    half_until: int  # so many iterations at half of the size, but for the attribute embedder: a third of the work
    adversarial_from: int  # iteration from which the discriminator and L_adv take part
    perceptual_same: bool  # L_p only where L_rec counts too; Eq. 9: everywhere
    contextual_maps: tuple[int, ...]  # which maps of the perceptual net L_ctx compares
    # what L_id's recogniser sees: the fixed crop (released code), or the face aligned by the detector's points
    identity_crop: Literal["fixed", "aligned"]
    amp: bool  # bf16 autocast on a GPU
    compile: bool  # torch.compile
    max_bad_steps: int  # stop after so many steps in a row with a non-finite loss or gradient
    log_every: int
    sample_every: int
    checkpoint_every: int

    def __post_init__(self) -> None:
        some, share = (1, None), (0, 1)
        wrong = _out_of_range(
            self, iterations=some, batch_size=some, accumulate=some, lr=(1e-12, 1), attribute_lr=(0, None),
            scalar_lr=(0, None), warm_up=(0, None), decay_from=share, ema=share, r1_weight=(0, None), r1_every=some,
            gradient_clip=(0, None), skip_from=(0, None), adversarial_from=(0, None), max_bad_steps=some,
            log_every=some, sample_every=some, checkpoint_every=some, target_candidates=some, face_weight=some,
            foreign_drivers=share, foreign_from=(0, None), half_until=(0, None),
        )  # fmt: skip
        if any(not 0 <= beta < 1 for beta in self.betas):
            wrong["betas"] = f"{list(self.betas)}: each from 0 to below 1"
        if any(number < 0 for number in self.contextual_maps):
            wrong["contextual_maps"] = f"{list(self.contextual_maps)}: numbers of maps, from 0"
        if self.weights.contextual and not self.contextual_maps:
            wrong["contextual_maps"] = "[]: weights.contextual needs at least one map"
        if self.identity_crop == "aligned" and not self.weights.identity:
            wrong["identity_crop"] = "aligned: there is no L_id, weights.identity is 0"
        if len(set(self.augmentation)) < len(self.augmentation):
            wrong["augmentation"] = f"{list(self.augmentation)}: each at most once"
        if not wrong and self.checkpoint_every % self.log_every:
            # the means of a log window are not in the checkpoint: a resumed run would draw another curve
            wrong["checkpoint_every"] = f"{self.checkpoint_every}: no multiple of log_every, {self.log_every}"
        if self.weights.adversarial and self.adversarial_from >= self.iterations:
            wrong["adversarial_from"] = f"{self.adversarial_from}: never comes in {self.iterations} iterations"
        if self.weights.adversarial and self.adversarial_from < self.half_until:
            wrong["adversarial_from"] = (
                f"{self.adversarial_from}: the discriminator knows one size, wait for half_until"
            )
        if self.half_until >= self.iterations:
            wrong["half_until"] = f"{self.half_until}: the whole size never comes in {self.iterations} iterations"
        if self.skip_from >= self.iterations:
            wrong["skip_from"] = f"{self.skip_from}: never comes in {self.iterations} iterations: model.skip is none?"
        _refuse("train", wrong)


def _out_of_range(config: object, **ranges: tuple[float | None, float | None]) -> dict[str, str]:
    """Field -> what is wrong, for the fields outside their range (least, most), NaN included."""
    wrong = {}
    for name, (least, most) in ranges.items():
        value = getattr(config, name)
        if not ((least is None or value >= least) and (most is None or value <= most)):
            wanted = f"at least {least:g}" if most is None else f"from {least:g} to {most:g}"
            wrong[name] = f"{value}: must be {wanted}"
    return wrong


class WrongSettings(ValueError):
    """Some settings are out of range or do not go together; `fields` says for each what is wrong with it."""

    def __init__(self, section: str, fields: dict[str, str]):
        super().__init__("; ".join(f"{section}.{name} is {text}" for name, text in fields.items()))
        self.fields = fields


def _refuse(section: str, wrong: dict[str, str]) -> None:
    if wrong:
        raise WrongSettings(section, wrong)
