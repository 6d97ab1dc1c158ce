"""The joint model of Sec. 3.2: what the tasks share, what the switches remove, input checks, files, compilation."""

import dataclasses
import json

import pytest
import tiny
import torch

from uniface.config import TASKS, ModelConfig
from uniface.model import UniFace, read_metadata

SAMPLE = {
    "feature_stride": 4,
    "coordinates": True,
    "attribute_norm": "group",
    "fdf_identity_init": True,
    "attention_logits": "cosine",
    "attention_locality": 1.5,
    "attention_value": "full",
    "alpha_init": 1.0,
    "to_rgb": "linear",
    "skip": "zero_init",
    "skip_strides": (2, 1),
    "warp_padding": "border",
    "modulation_kernel": 1,
    "octave_layers": 1,
    "base_blocks": 0,
}


@pytest.mark.parametrize("task", TASKS)
def test_with_the_source_in_the_fdf_another_source_moves_otherwise(task, pair):
    torch.manual_seed(0)
    model = UniFace(tiny.config(fdf_source=True, fdf_stride=2)).eval()
    source, target = pair
    fdf = model.explain(source, target, task=task).fdf
    assert fdf.shape == (2, 2, 16, 16)
    assert torch.equal(fdf, model.attribute_embedder(target, source)[1])
    assert not torch.allclose(fdf, model.explain(source.flip(0), target, task=task).fdf)


@pytest.mark.parametrize("task", TASKS)
def test_half_size_is_the_same_but_for_the_attribute_embedder_on_half_the_picture(task, pair):
    torch.manual_seed(0)
    model = UniFace(tiny.config(**SAMPLE | {"synthesis": "none"})).eval()
    source, target = pair
    whole = model.parts(source, target, task=task)
    model.half_size = True
    half = model.parts(source, target, task=task)
    assert half.image.shape == (2, 3, 16, 16)
    assert torch.equal(half.fdf, whole.fdf) and torch.equal(half.z_t, whole.z_t)
    f_s, _ = model.identity_embedder(torch.nn.functional.avg_pool2d(source, 2))
    assert torch.allclose(half.f_bar_s, model.attribute_transfer(f_s, whole.fdf), atol=1e-5)


@pytest.mark.parametrize("task", TASKS)
def test_attribute_maps_start_at_nothing_and_are_painted_on_what_is_warped(task, pair):
    torch.manual_seed(0)
    model = UniFace(tiny.config(**SAMPLE | {"attribute_maps": 3, "fdf_stride": 2, "synthesis": "none"})).eval()
    assert set(model.attribute_maps) == {"4", "2"}  # F and the skips at the FDF's size and below
    source, target = pair
    before = model.parts(source, target, task=task)
    assert before.fdf.shape == (2, 2, 16, 16)
    f_s, _ = model.identity_embedder(source)
    assert torch.allclose(before.f_bar_s, model.attribute_transfer(f_s, before.fdf), atol=1e-5)
    torch.nn.init.normal_(model.attribute_maps["4"].conv.weight)
    after = model.parts(source, target, task=task)
    assert torch.equal(after.fdf, before.fdf) and not torch.allclose(after.f_bar_s, before.f_bar_s)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return UniFace(tiny.config(alpha_init=0.5)).eval()


@pytest.fixture
def pair():
    return tiny.images(2, seed=1), tiny.images(2, seed=2)


def test_swap_and_reenact_of_one_picture_share_f(model):
    x = tiny.images()
    reenacted, swapped = model.explain(x, x, task="reenactment"), model.explain(x, x, task="swapping")
    assert torch.allclose(reenacted.f_bar_s, swapped.f_bar_s, atol=1e-5)
    assert torch.equal(reenacted.fdf, swapped.fdf) and torch.equal(reenacted.z_t, swapped.z_t)


def test_identity_comes_from_the_source_and_attributes_from_the_target(model, pair):
    source, target = pair
    parts = model.explain(source, target, task="reenactment")
    assert torch.equal(parts.fdf, model.attribute_embedder(target)[1])
    f_s, _ = model.identity_embedder(source)
    f_t, _ = model.identity_embedder(target)
    assert torch.allclose(parts.f_bar_s, model.attribute_transfer(f_s, parts.fdf), atol=1e-5)
    assert torch.allclose(parts.f_hat, model.identity_transfer(f_s, parts.f_bar_s), atol=1e-5)
    parts = model.explain(source, target, task="swapping")
    assert torch.allclose(parts.f_hat, model.identity_transfer(parts.f_bar_s, f_t), atol=1e-5)
    assert torch.allclose(parts.attention, model.identity_transfer.attention(parts.f_bar_s, f_t), atol=1e-5)


def test_zero_fdf_leaves_reenactment_in_place(pair):
    model = UniFace(tiny.config()).eval()
    with torch.no_grad():
        model.attribute_embedder.head.weight.zero_()
        model.attribute_embedder.head.bias.zero_()
        source, target = pair
        parts = model.explain(source, target, task="reenactment")
        assert torch.allclose(parts.f_bar_s, model.identity_embedder(source)[0], atol=1e-5)
        assert torch.allclose(parts.image, model(source, source, task="reenactment"), atol=1e-4)


def test_reenactment_warps_the_skip_with_the_face(pair):
    torch.manual_seed(0)
    warped = UniFace(tiny.config()).eval()
    still = UniFace(tiny.config(skip_warped=False)).eval()
    still.load_state_dict(warped.state_dict())
    assert not torch.allclose(warped(*pair, task="reenactment"), still(*pair, task="reenactment"), atol=1e-3)
    assert torch.equal(
        warped(*pair, task="swapping"), still(*pair, task="swapping")
    )  # the target's skip lies where it should


def test_driver_replaces_only_the_attribute_embedders_input(model, pair):
    source, target = pair
    driver = tiny.images(2, seed=3)
    for task in TASKS:
        plain = model(source, target, task=task)
        assert torch.equal(model(source, target, driver=target, task=task), plain)
        assert not torch.allclose(model(source, target, driver=driver, task=task), plain)
    assert torch.equal(
        model(source, target, driver=driver, task="reenactment"), model(source, driver, task="reenactment")
    )


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("changes", [{}, SAMPLE], ids=["paper", "sample"])
def test_results_do_not_depend_on_batch_neighbours(task, changes):
    torch.manual_seed(0)
    model = UniFace(tiny.config(**changes)).eval()
    source, target = tiny.images(3, seed=1), tiny.images(3, seed=2)
    with torch.no_grad():
        together = model(source, target, task=task)
        alone = torch.cat([model(source[i : i + 1], target[i : i + 1], task=task) for i in range(3)])
    assert torch.allclose(together, alone, atol=1e-4)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("changes", [{"alpha_init": 0.5}, SAMPLE | {"alpha_init": 0.5}], ids=["paper", "sample"])
def test_gradients_reach_what_should_learn_and_nothing_frozen(task, changes, pair):
    torch.manual_seed(0)
    model = UniFace(tiny.config(**changes)).train()
    # 2 x 2 and 1 x 1 maps after instance norm have sum zero: biases before it cannot matter, by construction
    norm = torch.nn.InstanceNorm2d
    dead = {
        f"attribute_embedder.{side}.{n}.0.bias"
        for side in ("up",)
        for n, layer in enumerate(getattr(model.attribute_embedder, side))
        if isinstance(layer[-1], norm)
    }
    model(*pair, task=task).square().mean().backward()
    without = {n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    assert without <= dead

    model.zero_grad(set_to_none=True)
    model.attribute_embedder.requires_grad_(False)
    model(*pair, task=task).square().mean().backward()
    reached = {n for n, p in model.named_parameters() if p.grad is not None}
    assert reached == {n for n, _ in model.named_parameters() if not n.startswith("attribute_embedder.")}


def test_ablations_of_table_4(pair):
    source, target = pair
    other = tiny.images(2, seed=9)
    reenact, swap = {"task": "reenactment"}, {"task": "swapping"}
    net = UniFace(tiny.config(use_idt=False)).eval()
    assert torch.equal(net(source, target, **swap), net(other, target, **swap))  # IDRet falls to 0.05
    assert not torch.allclose(net(source, target, **reenact), net(source, other, **reenact))
    net = UniFace(tiny.config(use_attrt=False, alpha_init=0.5)).eval()
    assert torch.equal(net(source, target, **reenact), net(source, other, **reenact))  # APE 0.424
    assert net.attribute_embedder is None
    assert not torch.allclose(net(source, target, **swap), net(other, target, **swap))


def test_skip_switched_off_is_no_skip(pair):
    model = UniFace(tiny.config(skip="full")).eval()
    bare = UniFace(tiny.config(skip="none")).eval()
    bare.load_state_dict(model.state_dict())
    assert not torch.allclose(model(*pair, task="swapping"), bare(*pair, task="swapping"))
    model.skip_enabled = False
    assert torch.equal(model(*pair, task="swapping"), bare(*pair, task="swapping"))


def test_checkpointing_gives_the_same_gradients(pair):
    torch.manual_seed(0)
    model = UniFace(tiny.config(alpha_init=0.5)).train()
    gradients = []
    for enabled in (False, True):
        model.set_checkpointing(enabled).zero_grad()
        model(*pair, task="swapping").square().mean().backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("changes", [{"alpha_init": 0.5}, SAMPLE], ids=["paper", "sample"])
def test_forward_compiles_without_graph_breaks(task, changes, pair):
    model = UniFace(tiny.config(**changes)).eval()
    compiled = torch.compile(model, backend="eager", fullgraph=True)  # fullgraph: any break raises
    with torch.no_grad():
        assert torch.allclose(compiled(*pair, task=task), model(*pair, task=task), atol=1e-4)
    torch.compiler.reset()


def bad_inputs():
    x = tiny.images()
    yield "size", x[..., :16, :16], x, "32 x 32"
    yield "not square", x, x[..., :16], "32 x 32"
    yield "channels", x, x[:, :1], "RGB"
    yield "no batch", x[0], x, "RGB"
    yield "batches", x, x[:1], "same size"
    yield "empty", x[:0], x[:0], "at least 1"
    yield "dtype", (x * 127).to(torch.uint8), x, "uint8"
    yield "not a tensor", x.numpy(), x, "ndarray"
    yield "range", x, x * 127.5 + 127.5, "[-1, 1]"
    yield "nan", x, torch.full_like(x, float("nan")), "[-1, 1]"


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(("source", "target", "says"), [pytest.param(*b[1:], id=b[0]) for b in bad_inputs()])
def test_bad_input_raises_and_says_what_was_expected(model, task, source, target, says):
    with pytest.raises(ValueError, match=says.replace("[", r"\[").replace("]", r"\]")):
        model(source, target, task=task)


def test_rounding_beyond_the_range_is_accepted(model):
    x = tiny.images().clamp(-0.9, 0.9)
    x[0, 0, 0, 0] = 1.0005
    assert model(x, x, task="reenactment").shape == x.shape


def test_save_and_load_give_the_same_model(model, pair, tmp_path):
    model.save(tmp_path / "m.safetensors", extra={"step": 7})
    again = UniFace.load(tmp_path / "m.safetensors")
    assert again.config == model.config and not again.training
    assert torch.equal(again(*pair, task="swapping"), model(*pair, task="swapping"))
    assert read_metadata(tmp_path / "m.safetensors") == (model.config, {"step": 7})
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]  # no temporary file left


def test_a_model_without_skip_takes_a_zero_initialised_one(pair, tmp_path):
    bare = UniFace(tiny.config(skip="none")).eval()
    bare.save(tmp_path / "m.safetensors")
    model = UniFace.load(tmp_path / "m.safetensors", skip="zero_init")
    assert len(model.generator.resizer.skips) == 2
    assert torch.equal(model(*pair, task="swapping"), bare(*pair, task="swapping"))


def test_files_that_do_not_fit_are_refused(model, tmp_path):
    from safetensors.torch import save_file

    with pytest.raises(FileNotFoundError, match=r"none\.safetensors"):
        UniFace.load(tmp_path / "none.safetensors")
    (tmp_path / "text.safetensors").write_text("no tensors here")
    with pytest.raises(ValueError, match="no safetensors file"):
        UniFace.load(tmp_path / "text.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="no UniFace model"):
        UniFace.load(tmp_path / "other.safetensors")
    model.save(tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match="does not fit"):
        UniFace.load(tmp_path / "m.safetensors", identity_blocks=2)
    with pytest.raises(ValueError, match="does not fit"):
        UniFace.load(tmp_path / "m.safetensors", max_channels=16)
    config = json.dumps(dataclasses.asdict(model.config) | {"magic": 1})
    save_file({"a": torch.zeros(1)}, tmp_path / "new.safetensors", metadata={"format": "uniface", "config": config})
    with pytest.raises(ValueError, match="magic"):
        UniFace.load(tmp_path / "new.safetensors")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"image_size": 100}, "image_size"),
        ({"feature_stride": 3}, "feature_stride"),
        ({"image_size": 32, "feature_stride": 16}, "feature_stride"),
        ({"attention_reduction": 3}, "attention_reduction"),
        ({"skip_strides": (3,)}, "skip_strides"),
        ({"skip_features": "output"}, "skip_strides"),
        ({"channel_base": 0}, "channel_base"),
        ({"attention_locality": -1.0}, "attention_locality"),
    ],
)
def test_wrong_settings_are_refused_by_name(changes, says):
    with pytest.raises(ValueError, match=f"model.*{says}"):
        ModelConfig(**changes)


def test_the_defaults_are_the_papers_model():
    config = ModelConfig()
    assert (config.feature_channels, config.feature_size) == (512, 32)  # F in R^{C x H/8 x W/8}
    assert config.attribute_dim == 512 and config.attention_reduction == 4 and config.alpha_init == 0
    assert config.use_attrt and config.use_idt and config.skip == "full" and config.synthesis == "stylemap"
    assert config.attention_value == "reduced" and config.attention_logits == "dot" and not config.attention_locality
