"""Networks that want their pixels otherwise than this project feeds them, made to take what it feeds."""

from pathlib import Path

from pipeline.nets.catalogue import Layout


def adapt(source: Path, path: Path, layout: Layout, role: str) -> None:
    """Write the ONNX network `source` to `path` with a 1 x 1 convolution before it that turns our pixels into its own.

    Ours are RGB in [-1, 1], to a detector (pixel - 127.5) / 128 (insightface). Raises ValueError for what is no ONNX
    file with one image as input.
    """
    import numpy as np
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(source)
    except DecodeError as error:
        raise ValueError(f"{source} is not an ONNX file: {error}") from None
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    if len(inputs) != 1:
        raise ValueError(f"{source} has {len(inputs)} inputs, not one image")
    ours = 128.0 if role == "detector" else 127.5
    mean = 127.5 if layout.mean is None else layout.mean
    scale = ours if layout.scale is None else layout.scale
    colours = np.eye(3, dtype=np.float32)[:: -1 if layout.channels == "bgr" else 1]
    kernel = (colours * (ours / scale)).reshape(3, 3, 1, 1).astype(np.float32)
    bias = np.full(3, (127.5 - mean) / scale, np.float32)
    old = inputs[0].name
    new = f"laid_out_{old}"  # longer, so another, even where this was done before
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name == old:
                node.input[place] = f"{new}_pixels"
    inputs[0].name = new
    graph.initializer.extend(
        onnx.numpy_helper.from_array(values, f"{new}_{name}") for name, values in (("kernel", kernel), ("bias", bias))
    )
    first = onnx.helper.make_node(
        "Conv",
        [new, f"{new}_kernel", f"{new}_bias"],
        [f"{new}_pixels"],
        name=f"{new}_layout",
        kernel_shape=[1, 1],
        dilations=[1, 1],
        group=1,
        pads=[0, 0, 0, 0],
        strides=[1, 1],
    )
    graph.node.insert(0, first)
    onnx.save(model, path)
