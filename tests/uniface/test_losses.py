"""Each loss equals its definition written out slowly; the contextual loss equals the released code's."""

import math
import zlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from uniface import losses


def drawn(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """The random array that the golden vectors call `name`."""
    bits = np.random.PCG64(zlib.crc32(name.encode()))
    return torch.from_numpy(np.random.Generator(bits).standard_normal(shape, dtype=np.float32))


def images(seed: int, batch: int = 3, size: int = 16) -> torch.Tensor:
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


FAKE, TARGET = images(0), images(1)
SAME = torch.tensor([1.0, 0.0, 1.0])


GOLDEN_GRADIENT = {
    "mean": -0.000002632,
    "std": 0.001979034,
    "largest": 0.034905234,
    "corner": [
        [0.00078519, 0.00055458, 0.00000000],
        [-0.01533072, 0.00000000, -0.00059945],
        [-0.00054958, 0.00000000, 0.00066326],
    ],  # channel 0, every second of the first rows and columns
}


def test_contextual_equals_the_released_code():
    """Values and gradients recorded from the official release in float64 (bandwidth 0.5)."""
    fake = drawn("cx.fake", (2, 32, 12, 12)).relu().requires_grad_()
    loss = losses.contextual(fake, drawn("cx.target", (2, 32, 12, 12)).relu())
    loss.backward()
    assert loss.item() == pytest.approx(2.7219818, abs=1e-5)
    gradient = fake.grad
    assert gradient.mean().item() == pytest.approx(GOLDEN_GRADIENT["mean"], abs=1e-6)
    assert gradient.std(correction=0).item() == pytest.approx(GOLDEN_GRADIENT["std"], abs=1e-6)
    assert gradient.abs().max().item() == pytest.approx(GOLDEN_GRADIENT["largest"], abs=1e-6)
    corner = gradient[0, 0, :6:2, :6:2]
    torch.testing.assert_close(corner, torch.tensor(GOLDEN_GRADIENT["corner"]), atol=1e-6, rtol=0)


def test_contextual_written_out():
    fake, target = drawn("a", (2, 4, 3, 3)), drawn("b", (2, 4, 3, 3))
    centre = target.mean((0, 2, 3))
    total = 0.0
    for a, b in zip(fake, target, strict=True):
        a = [v / v.norm() for v in (a.flatten(1).T - centre)]
        b = [v / v.norm() for v in (b.flatten(1).T - centre)]
        rows = []
        for u in a:
            d = [float(1 - u @ v) / 2 for v in b]
            w = [math.exp((1 - x / (min(d) + 1e-5)) / 0.5) for x in d]
            rows.append([x / sum(w) for x in w])
        total -= math.log(sum(max(row[j] for row in rows) for j in range(len(b))) / len(b))
    assert losses.contextual(fake, target).item() == pytest.approx(total / 2, rel=1e-4)


def test_contextual_of_a_shuffled_map_is_as_good_as_of_the_same():
    """It compares sets of features, not places: that is why it may accompany a change of identity."""
    target = drawn("t", (1, 8, 4, 4))
    shuffled = target.flatten(2)[:, :, torch.randperm(16)].view(1, 8, 4, 4)
    other = drawn("o", (1, 8, 4, 4))
    best = losses.contextual(target, target).item()
    assert losses.contextual(shuffled, target).item() == pytest.approx(best, abs=1e-5)
    assert losses.contextual(other, target).item() > best + 0.5


@pytest.mark.parametrize(("loss", "power"), [(losses.reconstruction, 2), (losses.absolute, 1)])
def test_pixel_losses_count_only_the_same(loss, power):
    per_image = (FAKE - TARGET).abs().pow(power).mean((1, 2, 3))
    assert loss(FAKE, TARGET, SAME).item() == pytest.approx(((per_image[0] + per_image[2]) / 3).item())
    assert loss(FAKE, TARGET, SAME * 0).item() == 0


def test_the_face_window_has_mean_one_and_the_weight_between_middle_and_edge():
    window = losses.face_window(64, 4.0)
    assert window.shape == (64, 64) and window.mean().item() == pytest.approx(1)
    assert (window.max() / window[0, 0]).item() == pytest.approx(4, rel=0.05)
    assert window[32, 31] == window.max()
    error = torch.zeros(1, 3, 64, 64)
    error[..., 28:38, 28:36] = 1
    for loss in (losses.reconstruction, losses.absolute, losses.edges):
        even = loss(error, torch.zeros_like(error), torch.ones(1))
        assert loss(error, torch.zeros_like(error), torch.ones(1), window) > 2 * even


def test_masked_losses_average_over_workers():
    """The mean over two shares of a batch is the loss of the whole, whatever the share of same pairs in each."""
    fake, target, same = images(0, 4), images(1, 4), torch.tensor([1.0, 1.0, 0.0, 0.0])
    for loss in (losses.reconstruction, losses.absolute, losses.edges, losses.colour, losses.border):
        halves = [loss(fake[i : i + 2], target[i : i + 2], same[i : i + 2]) for i in (0, 2)]
        assert sum(halves).item() / 2 == pytest.approx(loss(fake, target, same).item())


def test_perceptual_is_lpips():
    maps = [
        (drawn("f1", (2, 8, 6, 6)), drawn("t1", (2, 8, 6, 6))),
        (drawn("f2", (2, 16, 3, 3)), drawn("t2", (2, 16, 3, 3))),
    ]
    channels = [drawn("w1", (1, 8, 1, 1)).abs(), drawn("w2", (1, 16, 1, 1)).abs()]
    total = 0.0
    for (fake, target), weight in zip(maps, channels, strict=True):
        unit = [x / x.pow(2).sum(1, keepdim=True).sqrt() for x in (fake, target)]
        total += F.conv2d((unit[0] - unit[1]) ** 2, weight).mean().item()
    fakes, targets = zip(*maps, strict=True)
    assert losses.perceptual(list(fakes), list(targets), channels).item() == pytest.approx(total, rel=1e-5)
    plain = losses.perceptual(list(fakes), list(targets))
    assert plain.item() == pytest.approx(losses.perceptual(list(fakes), list(targets), [1.0, 1.0]).item())
    assert losses.perceptual(list(targets), list(targets)).item() == 0


def test_identity_is_one_minus_cosine():
    e = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    assert losses.identity(e, e * 3).item() == pytest.approx(0, abs=1e-6)
    assert losses.identity(e, torch.tensor([[0.0, 1.0], [0.0, -1.0]])).item() == pytest.approx((1 + 2) / 2)


def test_adversarial_losses():
    real, fake = torch.tensor([[2.0], [-1.0]]), torch.tensor([[0.5], [-3.0]])
    p_real, p_fake = real.sigmoid(), fake.sigmoid()
    assert losses.adversarial(fake).item() == pytest.approx(-p_fake.log().mean().item())
    expected = -(p_real.log().mean() + (1 - p_fake).log().mean())
    assert losses.discriminator(real, fake).item() == pytest.approx(expected.item(), rel=1e-6)


def test_gradient_penalty_of_a_linear_function():
    """Of w . x the gradient is w, so the penalty is |w|^2; and it can be differentiated to w."""
    weight = drawn("w", (3, 16, 16)).requires_grad_()
    real = TARGET.clone().requires_grad_()
    penalty = losses.gradient_penalty((real * weight).sum((1, 2, 3)), real)
    assert penalty.item() == pytest.approx(weight.square().sum().item(), rel=1e-5)
    penalty.backward()
    torch.testing.assert_close(weight.grad, 2 * weight.detach())


def test_edges_ignore_an_even_shift():
    assert losses.edges(TARGET + 0.3, TARGET, SAME).item() == pytest.approx(0, abs=1e-6)
    step = torch.zeros(1, 3, 16, 16)
    step[..., 8:] = 1.0  # one vertical edge: 1 of 15 columns at the finest scale, 1 of 7 and 1 of 3 at the next
    expected = 1 / 15 + 1 / 7 + 1 / 3
    assert losses.edges(step, torch.zeros_like(step), torch.ones(1)).item() == pytest.approx(expected)


def test_colour_sees_block_means_only():
    pattern = torch.ones(1, 3, 16, 16)
    pattern[..., ::2] = -1
    one = torch.ones(1)
    assert losses.colour(pattern, torch.zeros_like(pattern), one).item() == pytest.approx(0, abs=1e-6)
    assert losses.colour(torch.full_like(pattern, 0.5), torch.zeros_like(pattern), one).item() == pytest.approx(0.5)


def test_border_leaves_the_face_alone():
    one, target = torch.ones(1), torch.zeros(1, 3, 64, 64)
    inside = target.clone()
    inside[..., 14:58, 12:52] = 1
    assert losses.border(inside, target, one).item() == 0
    assert losses.border(target + 1, target, one).item() == pytest.approx(1 - 44 * 40 / 64**2)


def test_perceptual_counts_only_where_told():
    rng = torch.Generator().manual_seed(0)
    fake, target = ([torch.rand(3, 4, 5, 5, generator=rng)] for _ in range(2))
    where = torch.tensor([1.0, 0.0, 1.0])
    alone = sum(losses.perceptual([fake[0][i : i + 1]], [target[0][i : i + 1]]) for i in (0, 2))
    torch.testing.assert_close(losses.perceptual(fake, target, where=where), alone / 3)
    torch.testing.assert_close(losses.perceptual(fake, target, where=torch.ones(3)), losses.perceptual(fake, target))
