"""The trained networks as ONNX files for programs without torch, checked against torch when written.

The files fit FaceFusion's slot `uniface_256`: inputs `source` in [0, 1] and `target` in [-1, 1], both RGB (B, 3, S, S)
and aligned as FFHQ is (reenactment: FOMM's box), one output in [-1, 1]. Any batch.
"""

import copy
import os
import warnings
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uniface.layers import Blur
from uniface.model import UniFace
from uniface.use.network import Frame, SourceFeatures

OPSET = 17  # grid_sample, which the warps use, needs 16
LIMIT = {False: 1e-3, True: 1e-2}
"""Largest difference to torch that is accepted, of float32 and float16, for values in [-1, 1].

Larger ones, as untrained networks and features have them, may differ in proportion.
"""
FLOAT32 = ("GridSample", "Resize", "MatMul", "Softmax", "InstanceNormalization")
"""Kept in float32 in float16 files: coordinates, attention and sums over a map need the digits."""


class ExportError(ValueError):
    """ONNX cannot hold this model; there is nothing wrong with the model."""


class _Source(nn.Module):
    """`source` in [0, 1] to the features."""

    def __init__(self, features: SourceFeatures):
        super().__init__()
        self.features = features

    def forward(self, source: Tensor) -> tuple[Tensor, ...]:
        return self.features(source * 2 - 1)


class _Whole(nn.Module):
    """`source` in [0, 1] and `target` in [-1, 1] to the image."""

    def __init__(self, source: _Source, frame: Frame):
        super().__init__()
        self.source, self.frame = source, frame

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        return self.frame(target, *self.source(source))


class FixedBlur(nn.Module):
    """A `Blur` whose kernel is written out for its channels: ONNX wants to know a kernel's shape beforehand."""

    def __init__(self, blur: Blur, channels: int):
        super().__init__()
        self.register_buffer("kernel", blur.kernel.expand(channels, 1, 4, 4).clone())
        self.padding, self.stride, self.channels = blur.padding, blur.stride, channels

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.kernel, stride=self.stride, padding=self.padding, groups=self.channels)


def export(model: UniFace, task: str, path: Path, half: bool = False, split: bool = False) -> dict[Path, float]:
    """Write `path`, or with `split` its parts `NAME.source.onnx` and `NAME.frame.onnx`; each file's parity.

    Parity is the largest difference to torch, on a batch other than the traced one. Raises ExportError, leaving no
    file, if a graph cannot be exported or answers otherwise than torch does.
    """
    model = copy.deepcopy(model).cpu().float().eval()
    size = model.config.image_size
    source, frame = _Source(SourceFeatures(model, task)), Frame(model, task)
    names = source.features.names
    generator = torch.Generator().manual_seed(0)
    first, second = torch.rand(2, 2, 3, size, size, generator=generator)
    second = second * 2 - 1
    whole = _Whole(source, frame)
    with torch.no_grad():
        _fix_blurs(whole, first, second)
        if not split:
            return {path: _write(whole, (first, second), ["source", "target"], ["output"], path, half)}
        features = source(first)
        parts = [path.with_suffix(f".{name}.onnx") for name in ("source", "frame")]
        found = {parts[0]: _write(source, (first,), ["source"], names, parts[0], half)}
        found[parts[1]] = _write(frame, (second, *features), ["target", *names], ["output"], parts[1], half)
    return found


def _write(
    graph: nn.Module, inputs: tuple[Tensor, ...], names: list[str], outputs: list[str], path: Path, half: bool
) -> float:
    import onnx

    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the tracer warns of every shape that it reads as a constant
            torch.onnx.export(
                graph,
                inputs,
                str(part),
                input_names=names,
                output_names=outputs,
                dynamic_axes={name: {0: "batch"} for name in (*names, *outputs)},
                opset_version=OPSET,
                dynamo=False,  # onnx2torch and older runtimes read this exporter's graphs
            )
        if half:
            onnx.save(_halved(onnx.load(part)), part)
        expected = graph(*(value[:1] for value in inputs))
        expected = [expected] if isinstance(expected, Tensor) else list(expected)
        difference = _difference(part, names, [value[:1].numpy() for value in inputs], [e.numpy() for e in expected])
        if not difference <= LIMIT[half]:
            raise ExportError(
                f"{path.name} would differ from torch by {difference:.3g} (limit {LIMIT[half]}): not written"
            )
        os.replace(part, path)
    except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
        raise ExportError(f"torch cannot export {path.name}: {str(error).splitlines()[0]}") from error
    finally:
        part.unlink(missing_ok=True)
    return difference


def _halved(graph: "onnx.ModelProto") -> "onnx.ModelProto":  # noqa: F821
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

    blocked = [*DEFAULT_OP_BLOCK_LIST, *FLOAT32]
    graph = convert_float_to_float16(graph, keep_io_types=True, op_block_list=blocked)
    known: set[str] = set()
    for node in list(graph.graph.node):
        if node.output[0] in known:  # the converter casts a value once for each that reads it, always by one name
            graph.graph.node.remove(node)
        known.add(node.output[0])
    return graph


def _fix_blurs(graph: nn.Module, *inputs: Tensor) -> None:
    """Run the graph once and put a `FixedBlur` in the place of every `Blur` that was used."""
    channels: dict[str, int] = {}
    blurs = {name: module for name, module in graph.named_modules() if isinstance(module, Blur)}
    hooks = [
        blur.register_forward_pre_hook(lambda _, inputs, name=name: channels.update({name: inputs[0].shape[1]}))
        for name, blur in blurs.items()
    ]
    graph(*inputs)
    for hook in hooks:
        hook.remove()
    for name, count in channels.items():
        graph.set_submodule(name, FixedBlur(blurs[name], count))


def _difference(path: Path, names: list[str], inputs: list[np.ndarray], expected: list[np.ndarray]) -> float:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    answers = session.run(None, dict(zip(names, inputs, strict=True)))
    return max(float(np.abs(a - e).max() / max(1.0, np.abs(e).max())) for a, e in zip(answers, expected, strict=True))
