"""Converted networks to ONNX files, in the form that onnx2torch and insightface read."""

from pathlib import Path

from torch import Tensor, nn

from pipeline.common.files import atomic_write

OPSET = 17


def write(net: nn.Module, example: Tensor, path: Path, outputs: list[str], free: dict[int, str]) -> None:
    """Write `net` of images like `example` to `path`; `free` names the dimensions of the input that may change.

    Where the batch is free, it is so in the outputs as well.
    """
    import warnings

    import torch

    axes = {"images": free} | ({name: {0: free[0]} for name in outputs} if 0 in free else {})
    with atomic_write(path) as part, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # shapes that depend on the net alone become constants, as they should
        torch.onnx.export(
            net.eval(), (example,), str(part), input_names=["images"], output_names=outputs, dynamic_axes=axes,
            opset_version=OPSET, dynamo=False,  # onnx2torch cannot read the other exporter's reshapes
        )  # fmt: skip
