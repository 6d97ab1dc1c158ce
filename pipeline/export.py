"""The trained networks as ONNX files, one for each task, for programs without torch; checked against torch's output."""

import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn

from pipeline.files import atomic_write
from uniface.model import UniFace

OPSET = 17  # grid_sample, which the warps use, needs 16
TOLERANCE = 1e-2  # largest difference accepted between ONNX Runtime and torch; images span 2.0


class Task(nn.Module):
    """One task of the model as a graph: source, target -> image, float (B, 3, H, W) in [-1, 1] (Sec. 3.2)."""

    def __init__(self, model: UniFace, task: str):
        super().__init__()
        self.model = model
        self.task = task

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return self.model.reenact(source, target) if self.task == "reenactment" else self.model.swap(source, target)


def export(model: UniFace, task: str, size: int, path: Path) -> float:
    """Write `path` (inputs `source` and `target`, output `output`, any batch); its largest difference to torch.

    Raises ValueError, leaving no file, if the graph cannot be exported or answers otherwise than torch does.
    """
    graph = Task(model.cpu().eval(), task).eval()
    generator = torch.Generator().manual_seed(0)
    source, target = (torch.rand(2, 3, size, size, generator=generator) * 2 - 1 for _ in range(2))
    with atomic_write(path) as part, torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer warns of every shape that it reads as a constant
        try:
            torch.onnx.export(
                graph,
                (source[:1], target[:1]),
                str(part),
                input_names=["source", "target"],
                output_names=["output"],
                dynamic_axes={name: {0: "batch"} for name in ("source", "target", "output")},
                opset_version=OPSET,
                dynamo=False,  # onnx2torch and older runtimes read this exporter's graphs
            )
        except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
            raise ValueError(f"torch cannot export {task}: {str(error).splitlines()[0]}") from error
        difference = _difference(part, graph(source, target).numpy(), source.numpy(), target.numpy())
        if not difference <= TOLERANCE:
            raise ValueError(f"the ONNX graph of {task} differs from torch by {difference:.3g} (limit {TOLERANCE})")
    return difference


def _difference(path: Path, expected: np.ndarray, source: np.ndarray, target: np.ndarray) -> float:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (answer,) = session.run(None, {"source": source, "target": target})
    return float(np.abs(answer - expected).max())
