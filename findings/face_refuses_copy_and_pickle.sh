#!/usr/bin/env bash
# insightface 2.1 with pickle, cloudpickle 3.1.2 (what Ray and joblib send with) and numpy 2.4.6: a detected face.
#
# Guess: Face is a dict of numpy arrays, so it can be copied, pickled, handed to another process and put in an array
#   of objects; an attribute that it lacks raises AttributeError; a key and the attribute of its name are one thing.
# Seen: every attribute that it lacks is None, those that Python itself looks for as well: copy and deepcopy fail with
#   "'NoneType' object is not callable"; pickle and cloudpickle write it without complaint and fail so on reading, in the
#   process that receives it; numpy says "invalid __array_struct__". A key set by update() is absent as attribute, and
#   one removed by pop() stays there. dict(face) is plain and may be sent.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
python3 -m venv venv
pins="onnx==1.23.2 onnxruntime==1.31.1 opencv-python-headless==5.0.0.93 scikit-image==0.26.0 numpy==2.4.6"
pins="$pins cloudpickle==3.1.2 requests==2.34.2 tqdm==4.70.1"
install() { if command -v uv >/dev/null; then uv pip install -q --python venv/bin/python "$@"; else venv/bin/pip install -q "$@"; fi; }
install $pins
install --no-deps insightface==2.1  # it asks for the opencv-python that wants libGL
export HOME="$work"
venv/bin/python - <<'PY'
import copy, pickle
import cloudpickle, numpy as np
from insightface.app.common import Face

face = Face(bbox=np.zeros(4, np.float32), kps=np.zeros((5, 2), np.float32), det_score=0.9)
seen = {"bytes": pickle.dumps(face)}
for name, use in {
    "copy": copy.copy, "deepcopy": copy.deepcopy, "pickle": lambda face: pickle.loads(seen["bytes"]),
    "cloudpickle": lambda face: pickle.loads(cloudpickle.dumps(face)),
    "array": lambda face: np.array([face], dtype=object), "dict": lambda face: pickle.loads(pickle.dumps(dict(face))),
}.items():
    try:
        seen[name] = type(use(face)).__name__
    except Exception as error:
        seen[name] = f"{type(error).__name__}: {error}"
face.update(age=30)
seen["updated"] = face["age"], face.age
face.pop("det_score")
seen["popped"] = "det_score" in face, face.det_score
seen["misspelt"] = face.embeding, hasattr(face, "embeding")
assert seen.pop("bytes").startswith(b"\x80")
print(*seen.items(), sep="\n")
no_call = "TypeError: 'NoneType' object is not callable"
assert seen == {
    **dict.fromkeys(("copy", "deepcopy", "pickle", "cloudpickle"), no_call),
    "array": "ValueError: invalid __array_struct__", "dict": "dict",
    "updated": (30, None), "popped": (False, 0.9), "misspelt": (None, True),
}
PY
echo "as stated"
