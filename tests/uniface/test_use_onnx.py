"""ONNX files equal torch in ONNX Runtime, take any batch, and fit FaceFusion's slot."""

import dataclasses
import functools
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import tiny
import torch

from uniface.model import UniFace
from uniface.released import reenactment_config, swapping_config
from uniface.use import onnx

SMALL = {"max_channels": 32, "channel_base": 512, "image_size": 32, "attribute_dim": 16}
SMALL |= {"attribute_channels": 8, "attribute_max_channels": 32}
EXTRAS = {"fdf_source": True, "fdf_stride": 2, "attribute_maps": 4, "skip": "zero_init", "skip_strides": (1, 2, 4)}
CONFIGS = {
    "joint": tiny.config(alpha_init=0.5),
    "beyond the paper": tiny.config(alpha_init=0.5, **EXTRAS),
    "released swapping": dataclasses.replace(swapping_config(), **SMALL),
    "released reenactment": dataclasses.replace(reenactment_config(), **SMALL),
    "cosine": tiny.config(alpha_init=1.0, attention_logits="cosine", attention_locality=1.5, coordinates=True),
}


def model(name: str) -> UniFace:
    torch.manual_seed(0)
    return UniFace(CONFIGS[name]).eval()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Exports a network as one graph, once: torch's network, what `export` said, and the file."""
    folder = tmp_path_factory.mktemp("whole")

    @functools.cache
    def make(name: str, task: str, half: bool) -> tuple[UniFace, dict[Path, float], Path]:
        net, path = model(name), folder / f"{name}-{task}-{half}" / "net.onnx"
        return net, onnx.export(net, task, path, half), path

    return make


def opened(path, *inputs: str) -> onnxruntime.InferenceSession:
    """The graph, which takes just these inputs."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # more of them wait by counting
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    assert {i.name: i.type for i in session.get_inputs()} == dict.fromkeys(inputs, "tensor(float)")
    return session


def run(session, **inputs) -> list[np.ndarray]:
    return session.run(None, {name: value.numpy() for name, value in inputs.items()})


@pytest.mark.parametrize("half, limit", [(False, 1e-3), (True, 1e-2)])
@pytest.mark.parametrize(
    "name, task", [(n, "swapping") for n in CONFIGS if n != "released reenactment"] + [("joint", "reenactment")]
)
def test_the_graph_equals_torch(whole, name, task, half, limit):
    net, parities, path = whole(name, task, half)
    (written,) = parities.items()
    assert written[0] == path and written[1] <= limit
    session = opened(path, "source", "target")
    for batch in (1, 3):
        source, target = tiny.images(batch, seed=3), tiny.images(batch, seed=4)
        (answer,) = run(session, source=(source + 1) / 2, target=target)
        with torch.no_grad():
            expected = net(source, target, task=task).numpy()
        assert answer.dtype == np.float32 and np.abs(answer - expected).max() <= limit * max(1, np.abs(expected).max())


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize(
    "name, task",
    [(name, "reenactment") for name in ("joint", "beyond the paper", "released reenactment")] + [("joint", "swapping")],
)
def test_two_graphs_equal_the_whole(whole, tmp_path, name, task, half):
    net, _, path = whole(name, task, half)
    parts = list(onnx.export(net, task, tmp_path / "split.onnx", half, split=True))
    assert [path.name for path in parts] == ["split.source.onnx", "split.frame.onnx"]
    source, target = (tiny.images(1, seed=5) + 1) / 2, tiny.images(1, seed=6)
    session = opened(parts[0], "source")
    names = [output.name for output in session.get_outputs()]
    features = dict(zip(names, map(torch.from_numpy, run(session, source=source)), strict=True))
    (answer,) = run(opened(parts[1], "target", *features), target=target, **features)
    (expected,) = run(opened(path, "source", "target"), source=source, target=target)
    assert np.abs(answer - expected).max() <= (1e-2 if half else 1e-4)


def test_a_graph_that_differs_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx, "LIMIT", {False: 0.0, True: 0.0})
    with pytest.raises(ValueError, match="would differ from torch"):
        onnx.export(model("joint"), "swapping", tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())
