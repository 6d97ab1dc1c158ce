"""The frozen networks of the metrics: on a processor by ONNX Runtime, which takes a quarter less of it than torch and
starts without onnx2torch; on a GPU by torch, and what is no ONNX file too.
"""

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from uniface import backbones


class OnnxFile(nn.Module):
    """An ONNX network without gradients: images (B, 3, H, W) to its outputs. `names` of its metadata, `size` (H = W)
    that it takes, None if any.

    Raises FileNotFoundError if the file is missing and ValueError if it is not such a network.
    """

    def __init__(self, path: Path):
        super().__init__()
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as errors

        if not path.is_file():
            raise FileNotFoundError(f"no network at {path}: run the stage `weights` first (python -m pipeline.weights)")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # it would burn what it saves
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except (errors.Fail, errors.InvalidGraph, errors.InvalidProtobuf, errors.NotImplemented) as error:
            raise ValueError(f"{path} is not an ONNX file that ONNX Runtime takes: {error}") from None
        taken = self._session.get_inputs()[0]
        self._input = taken.name
        # a free dimension is a name; a file may take one picture at a time
        self._batch, self.size = (one if isinstance(one, int) else None for one in (taken.shape[0], taken.shape[-1]))
        self.names = tuple(json.loads(self._session.get_modelmeta().custom_metadata_map.get("names", "[]")))

    def forward(self, images: Tensor) -> Tensor | list[Tensor]:
        parts = images.split(self._batch or len(images))
        runs = [self._session.run(None, {self._input: part.numpy()}) for part in parts]
        found = [torch.from_numpy(np.concatenate(outputs)) for outputs in zip(*runs, strict=True)]
        return found[0] if len(found) == 1 else found


def load_recogniser(path: Path, centre: list[float] | None, device: torch.device) -> backbones.Recogniser:
    """As `backbones.load_recogniser`."""
    if device.type != "cpu":
        return backbones.load_recogniser(path, centre).to(device)
    net = OnnxFile(path)
    if net.size != backbones.RECOGNISER_SIZE:
        raise ValueError(f"{path} is not a face recogniser: it takes {net.size or 'any size'}, not 112 x 112 crops")
    return backbones.Recogniser(net, centre)


def load_perceptual(path: Path, device: torch.device) -> backbones.Perceptual:
    """As `backbones.load_perceptual`."""
    if device.type != "cpu" or path.suffix != ".onnx":
        return backbones.load_perceptual(path).to(device)
    return backbones.Perceptual(OnnxFile(path))


def load_regressor(path: Path, device: torch.device) -> backbones.Regressor:
    """As `backbones.load_regressor`."""
    if device.type != "cpu":
        return backbones.load_regressor(path).to(device)
    net = OnnxFile(path)
    if not net.names:
        raise ValueError(f"{path}: its ONNX metadata has no `names`, a JSON list of its outputs")
    return backbones.Regressor(net, net.names, net.size)
