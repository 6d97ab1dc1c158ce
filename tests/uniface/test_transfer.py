"""AttrT warps as Eq. 3 says, IdT attends as Eq. 4 and 5 say."""

import math

import pytest
import tiny
import torch
import torch.nn.functional as F

from uniface.transfer import AttributeTransfer, IdentityTransfer, resize, warp

CHANNELS, TOKENS = 32, 4  # F at 32 px: 32 x 4 x 4


def idt(**changes) -> IdentityTransfer:
    return IdentityTransfer(tiny.config(**changes))


def features(seed: int, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, CHANNELS, TOKENS, TOKENS, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("padding", ["zeros", "border"])
@pytest.mark.parametrize("fdf_size", [4, 8, 32])
def test_zero_fdf_is_the_identity_warp(padding, fdf_size):
    transfer = AttributeTransfer(tiny.config(warp_padding=padding))
    f_s = features(0)
    assert torch.allclose(transfer(f_s, torch.zeros(2, 2, fdf_size, fdf_size)), f_s, atol=1e-6)


def test_a_translation_moves_the_pattern_the_right_way():
    size, step = 9, 2 / 8  # one pixel
    pattern = torch.zeros(1, 1, size, size)
    pattern[0, 0, 4, 4] = 1  # row 4, column 4
    for x_pixels, y_pixels in ((2, 0), (0, 3), (-1, 2)):
        fdf = torch.zeros(1, 2, size, size)
        fdf[:, 0], fdf[:, 1] = x_pixels * step, y_pixels * step  # channel 0 is x, channel 1 is y
        row, column = divmod(warp(pattern, fdf).argmax().item(), size)
        assert (row, column) == (4 - y_pixels, 4 - x_pixels)  # sampled from the right: the content moves left


def test_outside_is_zero_or_the_border():
    fdf = torch.full((1, 2, 4, 4), 2.0)  # everything from beyond the lower right corner
    f_s = torch.arange(16.0).view(1, 1, 4, 4)
    assert warp(f_s, fdf)[0, 0, 1:, 1:].abs().max() == 0
    assert (warp(f_s, fdf, "border") == 15).all()


def test_resize_keeps_a_linear_field():
    line = torch.linspace(-1, 1, 8)
    assert torch.allclose(resize(line.expand(1, 2, 8, 8), 4)[0, 0, 0], torch.linspace(-1, 1, 4), atol=1e-6)


def test_warp_is_float32_under_autocast():
    fdf = torch.full((1, 2, 32, 32), 0.001)
    ramp = torch.linspace(-1, 1, 32).expand(1, 1, 32, 32)
    with torch.autocast("cpu", torch.bfloat16):
        moved = warp(ramp, fdf)[0, 0, 16, 10:20] - ramp[0, 0, 16, 10:20]
    assert torch.allclose(moved, torch.full((10,), 0.001), atol=1e-5)


def test_alpha_zero_makes_idt_the_identity_on_f_r():
    module = idt()
    assert module.alpha.item() == 0  # Sec. 3.1: zero-initialised
    f_r = features(1)
    assert torch.equal(module(features(0), f_r), f_r)
    module.alpha.data.fill_(0.5)
    assert not torch.allclose(module(features(0), f_r), f_r)


def test_alpha_receives_a_gradient_at_zero():
    module = idt()
    module(features(0), features(1)).square().sum().backward()
    assert module.alpha.grad.abs() > 0


@pytest.mark.parametrize("value", ["reduced", "full"])
@pytest.mark.parametrize("logits", ["dot", "released", "cosine"])
def test_forward_is_equations_4_and_5(logits, value):
    module = idt(attention_logits=logits, attention_value=value, alpha_init=0.7)
    f_i, f_r = features(0), features(1)
    q, k, v = (module.get_submodule(n)(f).flatten(2) for n, f in (("query", f_r), ("key", f_i), ("value", f_i)))
    assert q.shape[1] == k.shape[1] == CHANNELS // 4
    assert v.shape[1] == (CHANNELS // 4 if value == "reduced" else CHANNELS)
    if logits == "cosine":
        q, k = 10 * F.normalize(q, dim=1), F.normalize(k, dim=1)
    scale = 1 / math.sqrt(CHANNELS) if logits == "released" else 1.0
    m = torch.softmax(q.transpose(1, 2) @ k * scale, dim=-1)
    out = (m @ v.transpose(1, 2)).transpose(1, 2).reshape(2, -1, TOKENS, TOKENS)
    expected = 0.7 * (out if module.project is None else module.project(out)) + f_r
    assert torch.allclose(module(f_i, f_r), expected, atol=1e-5)
    assert torch.allclose(module.attention(f_i, f_r), m, atol=1e-6)


def distinct(module: IdentityTransfer) -> torch.Tensor:
    """A feature map whose 16 tokens are orthogonal, and a module whose Q and K see them sharply."""
    f = torch.eye(CHANNELS)[:, : TOKENS**2].reshape(1, CHANNELS, TOKENS, TOKENS)
    for projection in (module.query, module.key):
        projection.weight.data = 30 * torch.eye(CHANNELS)[: module.query.weight.shape[0], :, None, None]
    return f


def test_identity_keys_give_back_v():
    module = idt(attention_reduction=1, attention_value="full", alpha_init=1.0)
    f = distinct(module)
    assert torch.allclose(module.attention(f, f)[0], torch.eye(TOKENS**2), atol=1e-3)  # Q = K: each finds itself
    assert torch.allclose(module(f, f) - f, module.value(f), atol=1e-3)


def test_attention_follows_a_permutation_of_the_identity_tokens():
    module = idt(attention_reduction=1, attention_value="full", alpha_init=1.0)
    f_r = distinct(module)
    order = torch.randperm(TOKENS**2, generator=torch.Generator().manual_seed(0))
    shuffled = f_r.flatten(2)[..., order].view_as(f_r)
    found = module.attention(shuffled, f_r)[0].argmax(dim=-1)
    assert torch.equal(order[found], torch.arange(TOKENS**2))  # each query finds where its token went
    assert torch.allclose(module(shuffled, f_r), module(f_r, f_r), atol=1e-4)  # hence the same result
    other = torch.roll(f_r, 1, dims=3)
    assert torch.allclose(  # and permuting the reference permutes the result
        module(f_r, other), torch.roll(module(f_r, f_r), 1, dims=3), atol=1e-4
    )


def test_locality_adds_a_gaussian_of_the_distance():
    sigma = 1.5
    near, far = idt(attention_locality=sigma), idt()
    far.load_state_dict({k: v for k, v in near.state_dict().items() if k != "log_precision"})
    f_i, f_r = features(0), features(1)
    place = torch.stack(torch.meshgrid(torch.arange(4.0), torch.arange(4.0), indexing="ij"), -1).view(-1, 2)
    bias = -torch.cdist(place, place).square() / (2 * sigma**2)
    q, k = far._query_key(f_i, f_r)
    expected = torch.softmax(q @ k.transpose(1, 2) + bias, dim=-1)
    assert torch.allclose(near.attention(f_i, f_r), expected, atol=1e-5)
    near.alpha.data.fill_(1)
    near(f_i, f_r).square().sum().backward()
    assert near.log_precision.grad.abs() > 0  # sigma is learnt


def test_cosine_attention_starts_with_like_attending_to_like():
    module = idt(attention_logits="cosine")
    assert torch.equal(module.query.weight, module.key.weight)
    f = features(0)
    attention = module.attention(f, f)
    assert torch.equal(attention.argmax(dim=-1), torch.arange(TOKENS**2).expand(2, -1))
