"""The network of a video: quicker convolutions that say the same."""

import pytest
import tiny
import torch
import torch.nn.functional as F

from uniface.model import UniFace
from uniface.use import winograd
from uniface.use.network import Network


@pytest.mark.parametrize("size", [(4, 4), (8, 24), (36, 16)])
def test_winograds_convolution_is_as_exact_as_the_plain_one(size):
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2, 64, *size), torch.randn(32, 64, 3, 3) / 24, torch.randn(32)
    exact = F.conv2d(x.double(), weight.double(), bias.double(), padding=1)
    found = winograd.Convolution(weight, bias)(x.contiguous(memory_format=torch.channels_last))
    assert found.shape == exact.shape and found.is_contiguous(memory_format=torch.channels_last)
    plain = (F.conv2d(x, weight, bias, padding=1) - exact).abs().max()
    assert (found - exact).abs().max() < 4 * plain + 1e-6


@pytest.mark.parametrize("extras", [{}, {"fdf_source": True, "attribute_maps": 4, "skip_strides": (1, 2, 4)}])
@pytest.mark.parametrize("task", ["reenactment", "swapping"])
def test_the_quick_network_equals_the_model(monkeypatch, task, extras):
    monkeypatch.setattr(winograd, "LEAST", 8)
    torch.manual_seed(0)
    model = UniFace(tiny.config(alpha_init=0.5, **extras)).eval()
    source, target = tiny.images(1, seed=1), tiny.images(2, seed=2)
    network = Network(model, task)
    kinds = [type(module) for module in network.model.modules()]
    assert kinds.count(winograd.Convolution) > 20
    with torch.no_grad():
        expected = model(source.expand(2, -1, -1, -1), target, task=task)
    assert (network.frame(network.source(source), target) - expected).abs().max() < 1e-4
    assert not any(isinstance(module, winograd.Convolution) for module in model.modules())  # a copy was changed
