#!/usr/bin/env bash
# decord 0.6.0 + OpenCV (opencv-python-headless 5.0.0.93): the order of two imports.
#
# Guess: two wheels that each carry their own libraries do not see each other's, so the order of `import decord` and
#   `import cv2` cannot matter; if it did, an import would fail.
# Seen: with decord first, both imports succeed and cv2 still writes PNG, but reads none: imdecode answers None with
#   "libpng error: bad parameters to zlib" on stderr (JPEG is untouched, and so are Pillow and Python's zlib).
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
python3 -m venv venv
pins="decord==0.6.0 opencv-python-headless==5.0.0.93 numpy==2.4.6 pillow==12.0.0"
if command -v uv >/dev/null; then uv pip install -q --python venv/bin/python $pins; else venv/bin/pip install -q $pins; fi
export HOME="$work"
cat > look.py <<'PY'
import importlib, io, sys, zlib

for name in sys.argv[1:]:
    importlib.import_module(name)
import cv2, numpy as np
from PIL import Image

face = np.arange(32 * 32 * 3, dtype=np.uint8).reshape(32, 32, 3)
png, jpg = (cv2.imencode(kind, face)[1] for kind in (".png", ".jpg"))
print(
    "png", cv2.imdecode(png, cv2.IMREAD_COLOR) is not None,
    "jpg", cv2.imdecode(jpg, cv2.IMREAD_COLOR) is not None,
    "pillow", np.array_equal(np.asarray(Image.open(io.BytesIO(png)))[..., ::-1], face),
    "zlib", zlib.decompress(zlib.compress(b"face")) == b"face",
)
PY
first=$(venv/bin/python look.py decord cv2 2>errors)
second=$(venv/bin/python look.py cv2 decord)
echo "decord first: $first ($(head -n 1 errors))"
echo "cv2 first:    $second"
[ "$first" = "png False jpg True pillow True zlib True" ]
grep -q "bad parameters to zlib" errors
[ "$second" = "png True jpg True pillow True zlib True" ]
echo "as stated"
