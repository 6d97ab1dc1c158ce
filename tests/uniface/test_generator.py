"""Generator and discriminator: sizes, skips, what each stylemap is for, gradients."""

import math

import pytest
import tiny
import torch

from uniface.discriminator import Discriminator, minibatch_stddev
from uniface.embedders import IdentityEmbedder
from uniface.generator import Generator, StyledBlock
from uniface.layers import ModulatedConv


def inputs(config):
    torch.manual_seed(0)
    return IdentityEmbedder(config)(tiny.images(size=config.image_size))


@pytest.mark.parametrize("base_blocks", [0, 1, 2])
@pytest.mark.parametrize("octave_layers", [1, 2])
def test_every_stylemap_is_used_once_at_its_own_size(base_blocks, octave_layers):
    config = tiny.config(base_blocks=base_blocks, octave_layers=octave_layers)
    generator = Generator(config)
    image = generator(*inputs(config))
    assert image.shape == (2, 3, 32, 32)
    image.square().mean().backward()
    assert [n for n, p in generator.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("octave_layers", [1, 2])
def test_styled_block_is_the_sum_of_its_branches_over_sqrt_2(octave_layers):
    config = tiny.config(octave_layers=octave_layers)
    block = StyledBlock(config, 8, 16)
    x = torch.randn(2, config.width(8), 8, 8)
    maps = [torch.randn(2, config.width(8), 8, 8), torch.randn(2, config.width(16), 16, 16)][:octave_layers]
    out = x
    for layer, stylemap in zip((block.conv1, block.conv2), maps, strict=False):
        channels, kernel = (layer.weight.shape[k] for k in (1, 3))
        full = ModulatedConv(channels, len(layer.weight), channels, kernel, layer.sampling, config.modulation_kernel)
        full.load_state_dict(layer.state_dict())  # with the gain of sqrt(2), which only the last one lacks
        out = full(out, stylemap)
    shortcut = block.skip(x) * math.sqrt(2)
    assert torch.allclose(block(x, *maps), (out + shortcut) / math.sqrt(2), atol=1e-4)


def test_released_numbers_of_stylemaps():
    sizes = {1: 10, 0: 8}  # reenactment, swapping
    for base_blocks, count in sizes.items():
        assert len(Generator(tiny.config(base_blocks=base_blocks)).resizer.layers) == count


@pytest.mark.parametrize("synthesis", ["stylemap", "none"])
def test_zero_initialised_skip_changes_nothing_until_it_learns(synthesis):
    config = tiny.config(skip="zero_init", skip_strides=(2, 1), synthesis=synthesis, to_rgb="linear")
    generator = Generator(config)
    f, features = inputs(config)
    with torch.no_grad():
        with_skip = generator(f, features)
        assert torch.equal(generator(f, {}), with_skip)
    generator(f, features).square().mean().backward()
    assert all(skip.weight.grad.abs().max() > 0 for skip in generator.resizer.skips.values())


def test_full_skip_carries_texture():
    config = tiny.config(skip="full", skip_strides=(8, 4))
    generator = Generator(config)
    f, features = inputs(config)
    changed = features | {4: features[4] + 1}
    assert not torch.allclose(generator(f, features), generator(f, changed))
    assert torch.allclose(generator(f, features), generator(f, features | {2: features[2] + 1}))  # not asked for


def test_stored_or_not_decides_whether_the_own_stylemap_sees_the_skip():
    for stored in (True, False):
        config = tiny.config(skip_strides=(8,), skip_stored=stored, base_blocks=0)
        resizer = Generator(config).resizer
        f, features = inputs(config)
        first = resizer(f, features)[0]
        moved = resizer(f, {8: features[8] + 1})[0]
        assert torch.allclose(first, moved) != stored


def test_channels_last_and_bfloat16_paint_the_same_picture():
    config = tiny.config()
    generator = Generator(config)
    f, features = (x.detach() if isinstance(x, torch.Tensor) else x for x in inputs(config))
    with torch.no_grad():
        plain = generator(f, features)
        with torch.autocast("cpu", torch.bfloat16):
            half = generator(f, features)
        generator.to(memory_format=torch.channels_last)
        last = generator(f.contiguous(memory_format=torch.channels_last), features)
    assert torch.allclose(plain, last, atol=1e-4)
    assert half.dtype == torch.float32
    assert (plain - half).abs().mean() < 0.05 * plain.std()


def test_discriminator_gives_one_logit_and_trains_every_parameter():
    discriminator = Discriminator(tiny.config())
    logits = discriminator(tiny.images(4))
    assert logits.shape == (4, 1)
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in discriminator.parameters())


@pytest.mark.parametrize("batch", [1, 2, 3, 4, 6, 8])
def test_minibatch_stddev_is_the_spread_within_a_group(batch):
    x = torch.randn(batch, 3, 4, 4)
    found = minibatch_stddev(x)
    group = {1: 1, 2: 2, 3: 3, 4: 4, 6: 3, 8: 4}[batch]
    for start in range(batch // group):
        members = x[start :: batch // group]
        expected = (members.var(dim=0, correction=0) + 1e-8).sqrt().mean()
        assert torch.allclose(found[start :: batch // group], expected.expand(group, 1, 4, 4))
    assert minibatch_stddev(x[:1].expand(batch, -1, -1, -1)).max() < 2e-4  # equal pictures: no spread
