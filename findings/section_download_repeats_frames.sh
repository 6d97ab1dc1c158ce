#!/usr/bin/env bash
# yt-dlp 2026.10.26 + decord 0.6.0 (OpenCV 5.0.0.93, PyAV 18.1.0): a section of a video (--download-sections).
#
# Guess: a cut that is not on a keyframe either begins early (the keyframe's frames are there) or is re-encoded; and
#   a reader's length, its frames in order and its frames by index agree about it.
# Seen: the file keeps the keyframe's frames behind an edit list. PyAV shows only the asked-for frames, but decord's
#   len() and OpenCV's frame count include the hidden ones. Read in order, decord shows what PyAV shows and then the
#   last picture again and again up to its length; asked for one index alone it counts the hidden frames as soon as a
#   second keyframe lies before it: number 30 is picture 45 in order and picture 30 alone. Nothing is raised.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
python3 -m venv venv
pins="yt-dlp==2026.10.26 av==18.1.0 decord==0.6.0 opencv-python-headless==5.0.0.93 numpy==2.4.6 imageio-ffmpeg==0.8.1"
if command -v uv >/dev/null; then uv pip install -q --python venv/bin/python $pins; else venv/bin/pip install -q $pins; fi
export HOME="$work"
venv/bin/python - 2>errors <<'PY' || { tail -n 5 errors; exit 1; }
import functools, http.server, os, subprocess, sys, threading
import av, cv2, decord, imageio_ffmpeg, numpy as np

os.makedirs("site"), os.makedirs("bin")
os.symlink(imageio_ffmpeg.get_ffmpeg_exe(), "bin/ffmpeg")
with av.open("site/talk.mp4", "w") as clip:  # frame i is grey 4 * i, a keyframe every 30
    stream = clip.add_stream("libx264", rate=25, width=64, height=64, pix_fmt="yuv420p")
    stream.options = {"crf": "10", "g": "30", "keyint_min": "30", "sc_threshold": "0"}
    for i in range(60):
        clip.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((64, 64, 3), 4 * i, np.uint8), format="rgb24")))
    clip.mux(stream.encode())
handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory="site")
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}/talk.mp4"
call = [sys.executable, "-m", "yt_dlp", "-q", "--download-sections", "*0.6-inf", "-o", "part.%(ext)s", url]
subprocess.run(call, check=True, env={**os.environ, "PATH": os.path.abspath("bin")})

number = lambda picture: round(float(np.mean(picture)) / 4)
with av.open("part.mp4") as clip:
    shown = [number(f.to_ndarray(format="rgb24")) for f in clip.decode(video=0)]
length = len(decord.VideoReader("part.mp4", num_threads=1))
in_order = [number(f) for f in decord.VideoReader("part.mp4", num_threads=1).get_batch(range(length)).asnumpy()]
alone = [number(decord.VideoReader("part.mp4", num_threads=1)[i].asnumpy()) for i in range(length)]
count = int(cv2.VideoCapture("part.mp4").get(cv2.CAP_PROP_FRAME_COUNT))
print("PyAV shows", len(shown), "decord's len", length, "OpenCV's count", count)
print("in order", in_order, "each alone", alone, sep="\n")
assert shown == list(range(15, 60)), shown  # asked for from 0.6 s on
assert length == count == 60, (length, count)
assert in_order == shown + [59] * 15, in_order
assert alone == list(range(15, 45)) + list(range(30, 60)), alone
PY
echo "as stated"
