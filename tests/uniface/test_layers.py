"""Layers against their definitions: zero-stuffing, true convolution, equalised learning rate."""

import math

import pytest
import torch
import torch.nn.functional as F

from uniface.layers import ActivatedConv, Blur, EqualizedLinear, ModulatedConv, ResampledSkip, ResidualBlock

TAPS = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8


def blurred(x, before, after):
    x = F.pad(x, (before, after, before, after))
    kernel = (TAPS[:, None] * TAPS).expand(x.shape[1], 1, 4, 4)
    return F.conv2d(x, kernel, groups=x.shape[1])


def zero_stuffed(x):
    out = x.new_zeros(*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3])
    out[..., ::2, ::2] = x
    return out


def test_blur_keeps_a_constant_and_spreads_a_point():
    assert torch.allclose(Blur(padding=0)(torch.ones(1, 2, 8, 8)), torch.ones(1, 2, 5, 5))
    point = torch.zeros(1, 1, 7, 7)
    point[0, 0, 3, 3] = 1
    assert torch.allclose(Blur(padding=2)(point)[0, 0, 2:6, 2:6], TAPS[:, None] * TAPS)


def test_activated_conv_is_the_textbook_formula():
    layer, x = ActivatedConv(3, 5), torch.randn(2, 3, 8, 8)
    layer.bias.data.normal_()
    plain = F.conv2d(x, layer.weight / math.sqrt(27), layer.bias, padding=1)
    assert torch.allclose(layer(x), F.leaky_relu(plain, 0.2) * math.sqrt(2), atol=1e-5)


@pytest.mark.parametrize("sampling", ["down", "up"])
def test_resampling_conv_blurs_on_the_right_side(sampling):
    layer, x = ActivatedConv(3, 5, sampling=sampling), torch.randn(2, 3, 8, 8)
    layer.bias.data.normal_()
    weight = layer.weight / math.sqrt(27)
    if sampling == "down":
        plain = F.conv2d(blurred(x, 2, 2), weight, stride=2)
    else:
        plain = 4 * blurred(F.conv_transpose2d(x, weight.transpose(0, 1), stride=2), 1, 1)
    plain = plain + layer.bias.view(1, -1, 1, 1)
    assert layer(x).shape[-1] == (4 if sampling == "down" else 16)
    assert torch.allclose(layer(x), F.leaky_relu(plain, 0.2) * math.sqrt(2), atol=1e-5)


def test_shortcuts_equal_blur_and_zero_stuffing_borders_included():
    x = torch.randn(2, 3, 8, 8)
    for sampling in ("same", "down", "up"):
        layer = ResampledSkip(3, 5, sampling)
        weight = layer.conv.weight / math.sqrt(3) / math.sqrt(2)
        expected = {
            "same": lambda w: F.conv2d(x, w),
            "down": lambda w: F.conv2d(blurred(x, 1, 1), w, stride=2),
            "up": lambda w: 4 * blurred(zero_stuffed(F.conv2d(x, w)), 2, 1),
        }[sampling](weight)
        assert torch.allclose(layer(x), expected, atol=1e-5), sampling


@pytest.mark.parametrize("sampling", ["same", "down", "up"])
def test_residual_block_is_the_sum_of_its_branches_over_sqrt_2(sampling):
    block, x = ResidualBlock(3, 5, sampling), torch.randn(2, 3, 8, 8)
    block.conv2.bias.data.normal_()
    branch = ActivatedConv(3, 5, sampling=sampling)  # with the gain of sqrt(2)
    branch.load_state_dict(block.conv2.state_dict())
    shortcut = block.skip(x) * math.sqrt(2)
    assert torch.allclose(block(x), (branch(block.conv1(x)) + shortcut) / math.sqrt(2), atol=1e-5)


def test_layers_keep_the_variance_whatever_the_width():
    torch.manual_seed(0)
    for width in (16, 256):
        x = torch.randn(4, width, 16, 16)
        assert 0.6 < ResidualBlock(width, width)(x).square().mean().sqrt() < 1.6
        assert 0.7 < EqualizedLinear(width, 64)(x.flatten(2).mean(2) * 16).std() < 1.4


def test_modulation_with_a_neutral_stylemap_is_layer_norm():
    layer = ModulatedConv(4, 6, 4, kernel=1, activate=False)
    x = 3 + 5 * torch.randn(2, 4, 8, 8)
    out = layer(x, torch.zeros(2, 4, 8, 8))  # gamma 1, beta 0
    expected = F.conv2d(F.layer_norm(x, x.shape[1:]), layer.weight / 2)
    assert torch.allclose(out, expected, atol=1e-5)


def test_modulation_is_gamma_times_x_plus_beta():
    layer, x, stylemap = ModulatedConv(4, 6, 3), torch.randn(2, 4, 8, 8), torch.randn(2, 3, 8, 8)
    both = F.conv2d(stylemap, layer.modulation.weight / math.sqrt(27), layer.modulation.bias, padding=1)
    modulated = F.layer_norm(x, x.shape[1:]) * both[:, :4] + both[:, 4:]
    expected = F.leaky_relu(F.conv2d(modulated, layer.weight / 6, padding=1), 0.2) * math.sqrt(2)
    assert torch.allclose(layer(x, stylemap), expected, atol=1e-5)
