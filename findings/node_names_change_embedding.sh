#!/usr/bin/env bash
# insightface 2.1 + ONNX 1.23.2 / onnxruntime 1.31.1: a recogniser whose nodes are named otherwise.
#
# Guess: a node's name in an ONNX graph is a label; two graphs that differ in labels only give one embedding, as they do
#   in onnxruntime. How pictures are scaled is a setting, or is told by what the first nodes do.
# Seen: ArcFaceONNX looks at the *names* of the first eight nodes: with one that begins with "Sub" and one with "Mul" it
#   feeds 0..255, else (x - 127.5) / 127.5. The net that scales its own input is scaled twice once its nodes are
#   renamed, the faces' embeddings change to another direction, and nothing is said.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
python3 -m venv venv
pins="onnx==1.23.2 onnxruntime==1.31.1 opencv-python-headless==5.0.0.93 scikit-image==0.26.0 numpy==2.4.6"
pins="$pins requests==2.34.2 tqdm==4.70.1"
install() { if command -v uv >/dev/null; then uv pip install -q --python venv/bin/python "$@"; else venv/bin/pip install -q "$@"; fi; }
install $pins
install --no-deps insightface==2.1  # it asks for the opencv-python that wants libGL
export HOME="$work"
venv/bin/python - <<'PY'
import numpy as np, onnx, onnxruntime as ort
from insightface.model_zoo.arcface_onnx import ArcFaceONNX
from onnx import TensorProto, helper, numpy_helper

rng = np.random.default_rng(0)
values = {"mean": np.float32(127.5), "scale": np.float32(1 / 128), "w": rng.normal(size=(8, 3, 112, 112)) / 100}
parts = [("Sub", "x mean", "a"), ("Mul", "a scale", "b"), ("Conv", "b w", "c"), ("Flatten", "c", "y")]

def net(path, names):
    nodes = [helper.make_node(op, i.split(), [o], name=name) for (op, i, o), name in zip(parts, names, strict=True)]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", (1, 3, 112, 112)), ("y", (1, 8)))]
    held = [numpy_helper.from_array(np.asarray(v, np.float32), n) for n, v in values.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "net", ends[:1], ends[1:], held), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path

face = rng.integers(0, 256, (112, 112, 3), dtype=np.uint8)
blob = np.ascontiguousarray(face[None, ..., ::-1].transpose(0, 3, 1, 2), np.float32)
nets = net("by_op.onnx", ["Sub_0", "Mul_1", "Conv_2", "Flatten_3"]), net("by_scope.onnx", ["in/Sub", "in/Mul", "c", "f"])
raw = [ort.InferenceSession(path).run(None, {"x": blob})[0] for path in nets]
found = [ArcFaceONNX(path) for path in nets]
one, other = (model.get_feat(face).ravel() for model in found)
cosine = float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))
print("mean and std:", [(model.input_mean, model.input_std) for model in found], "cosine:", round(cosine, 3))
assert np.array_equal(raw[0], raw[1]) and np.allclose(one, raw[0], atol=1e-3)
assert [(model.input_mean, model.input_std) for model in found] == [(0.0, 1.0), (127.5, 127.5)]
assert cosine < 0.9, cosine
PY
echo "as stated"
