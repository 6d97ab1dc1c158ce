#!/usr/bin/env bash
# PyAV 18.1.0 (its x264) + DVC's way of telling change, the md5: one clip encoded with one thread and with two.
#
# Guess: the number of threads decides how long an encoder takes; with a constant rate factor the same frames and options
#   give the same stream, or at most another line in the header that names the options.
# Seen: repeated with one number of threads the file is the same to the byte, with another it is another file, and its
#   decoded pictures differ as well. A stage that leaves the number to the machine has other outputs on other machines.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
python3 -m venv venv
pins="av==18.1.0 numpy==2.4.6"
if command -v uv >/dev/null; then uv pip install -q --python venv/bin/python $pins; else venv/bin/pip install -q $pins; fi
export HOME="$work"
venv/bin/python - <<'PY'
import hashlib
import av, numpy as np

rng = np.random.default_rng(0)
wide = np.kron(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8), np.ones((10, 10, 1), np.uint8))
frames = [np.ascontiguousarray(wide[2 * i : 2 * i + 256, i : i + 256]) for i in range(60)]  # a moving picture

def encode(threads):
    with av.open("clip.mp4", "w") as clip:
        stream = clip.add_stream("libx264", rate=25, width=256, height=256, pix_fmt="yuv420p")
        # the macroblock tree is off, as it alone can differ from run to run on some processors
        stream.options = {"crf": "20", "threads": str(threads), "x264-params": "mbtree=0"}
        for frame in frames:
            clip.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        clip.mux(stream.encode())
    with av.open("clip.mp4") as clip:
        pictures = np.stack([frame.to_ndarray(format="rgb24") for frame in clip.decode(video=0)]).astype(int)
    return hashlib.md5(open("clip.mp4", "rb").read()).hexdigest(), pictures

one, again, two, two_again = encode(1), encode(1), encode(2), encode(2)
print("md5:", one[0], again[0], two[0], two_again[0], "largest difference:", abs(one[1] - two[1]).max(), "of 255")
assert one[0] == again[0] and two[0] == two_again[0], "one number of threads, one file"
assert one[0] != two[0] and (one[1] != two[1]).any(), "two numbers, two files with other pictures"
PY
echo "as stated"
