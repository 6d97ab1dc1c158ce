"""The trained networks as ONNX files, one for each task, for programs without torch; checked against torch's output."""

import copy
import warnings
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from pipeline.common.files import atomic_write
from uniface.layers import Blur
from uniface.model import UniFace

OPSET = 17  # grid_sample, which the warps use, needs 16
TOLERANCE = 1e-2  # largest difference accepted between ONNX Runtime and torch; images span 2.0
NAMES = ("source", "target", "output")


class ExportError(ValueError):
    """ONNX cannot hold this model; there is nothing wrong with the model."""


class TaskGraph(nn.Module):
    """One task of the model as a graph: source, target -> image, float (B, 3, H, W) in [-1, 1] (Sec. 3.2)."""

    def __init__(self, model: UniFace, task: str):
        super().__init__()
        self.model = model
        self.task = task

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        # not the model itself: it checks sizes, which the tracer holds as tensors
        return self.model._parts(self.task, source, target, target).image


class FixedBlur(nn.Module):
    """A `Blur` whose kernel is written out for its channels: ONNX wants to know a kernel's shape beforehand."""

    def __init__(self, blur: Blur, channels: int):
        super().__init__()
        self.register_buffer("kernel", blur.kernel.expand(channels, 1, 4, 4).clone())
        self.padding, self.stride, self.channels = blur.padding, blur.stride, channels

    def forward(self, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        return F.conv2d(x, self.kernel, bias, stride=self.stride, padding=self.padding, groups=self.channels)


def export(model: UniFace, task: str, size: int, path: Path) -> float:
    """Write `path` (inputs `source` and `target`, output `output`, any batch); its largest difference to torch.

    Raises ExportError, leaving no file, if the graph cannot be exported or answers otherwise than torch does.
    """
    graph = TaskGraph(copy.deepcopy(model).cpu(), task).eval()
    generator = torch.Generator().manual_seed(0)
    source, target = (torch.rand(2, 3, size, size, generator=generator) * 2 - 1 for _ in range(2))
    with atomic_write(path) as part, torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer warns of every shape that it reads as a constant
        expected = _fix_blurs(graph, source, target)
        try:
            torch.onnx.export(
                graph,
                (source, target),
                str(part),
                input_names=NAMES[:2],
                output_names=NAMES[2:],
                dynamic_axes={name: {0: "batch"} for name in NAMES},
                opset_version=OPSET,
                dynamo=False,  # onnx2torch and older runtimes read this exporter's graphs
            )
        except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
            raise ExportError(f"torch cannot export {task}: {str(error).splitlines()[0]}") from error
        # another batch than the traced one, so that a size that was frozen by mistake shows
        difference = _difference(part, expected[:1].numpy(), source[:1].numpy(), target[:1].numpy())
        if not difference <= TOLERANCE:
            raise ExportError(f"the ONNX graph of {task} differs from torch by {difference:.3g} (limit {TOLERANCE})")
    return difference


def _fix_blurs(graph: nn.Module, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Run the graph once, put a `FixedBlur` in the place of every `Blur` that was used; what it answered."""
    channels: dict[str, int] = {}
    blurs = {name: module for name, module in graph.named_modules() if isinstance(module, Blur)}
    hooks = [
        blur.register_forward_pre_hook(lambda _, inputs, name=name: channels.update({name: inputs[0].shape[1]}))
        for name, blur in blurs.items()
    ]
    answer = graph(source, target)
    for hook in hooks:
        hook.remove()
    for name, count in channels.items():
        graph.set_submodule(name, FixedBlur(blurs[name], count))
    return answer


def _difference(path: Path, expected: np.ndarray, source: np.ndarray, target: np.ndarray) -> float:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (answer,) = session.run(None, {"source": source, "target": target})
    return float(np.abs(answer - expected).max())
