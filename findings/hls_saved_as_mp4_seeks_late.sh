#!/usr/bin/env bash
# yt-dlp 2026.10.26 + PyAV 18.1.0, decord 0.6.0, OpenCV 5.0.0.93: an HLS talk fetched where there is no ffmpeg.
#
# Guess: without ffmpeg yt-dlp refuses HLS or leaves a .ts; and whatever it is, seeking in it back to a frame's own
#   timestamp lands at or before that frame (FFmpeg's rule for a seek without flags), as a reader by index relies on.
# Seen: exit status 0, one warning, and a file called .mp4 that is MPEG-TS. Decoded in order it is right. A seek to the
#   timestamp of frame i lands *behind* it, on the next keyframe, and within the last group of pictures on nothing at
#   all; decord's index and (in the first group) OpenCV's give other pictures. With ffmpeg at hand all three are right.
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
with av.open("talk.mp4", "w") as clip:  # frame i is grey 4 * i, a keyframe every 12
    stream = clip.add_stream("libx264", rate=25, width=64, height=64, pix_fmt="yuv420p")
    stream.options = {"crf": "10", "g": "12", "keyint_min": "12", "sc_threshold": "0"}
    for i in range(60):
        clip.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((64, 64, 3), 4 * i, np.uint8), format="rgb24")))
    clip.mux(stream.encode())
hls = "-c copy -hls_time 0.9 -hls_list_size 0 -hls_playlist_type vod site/talk.m3u8"
subprocess.run(["bin/ffmpeg", "-v", "error", "-i", "talk.mp4", *hls.split()], check=True)
handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory="site")
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
number = lambda picture: round(float(np.mean(picture)) / 4)

def look(name, path):
    url = f"http://127.0.0.1:{server.server_port}/talk.m3u8"
    call = [sys.executable, "-m", "yt_dlp", "-q", "-o", f"{name}.%(ext)s", url]
    code = subprocess.run(call, env={**os.environ, "PATH": path}).returncode
    file, landed, jumped = f"{name}.mp4", [], []
    with av.open(file) as clip:
        kind, frames = clip.format.name, [(f.pts, number(f.to_ndarray(format="rgb24"))) for f in clip.decode(video=0)]
    for i in range(1, 60, 8):
        with av.open(file) as clip:
            clip.seek(frames[i][0], stream=clip.streams.video[0])
            first = next(clip.decode(video=0), None)
            landed.append(first and number(first.to_ndarray(format="rgb24")))
        jumped.append(number(decord.VideoReader(file, num_threads=1)[i].asnumpy()))
    video = cv2.VideoCapture(file)
    video.set(cv2.CAP_PROP_POS_FRAMES, 1)
    print(name, code, kind, "wanted", list(range(1, 60, 8)), "PyAV", landed, "decord", jumped)
    in_order = [n for _, n in frames] == list(range(60))
    return code, kind, in_order, landed, jumped == list(range(1, 60, 8)), number(video.read()[1]) == 1

seen = look("without", "/nowhere"), look("with", os.path.abspath("bin"))
stated = (
    (0, "mpegts", True, [12, 12, 24, 36, 36, 48, None, None], False, False),
    (0, "mov,mp4,m4a,3gp,3g2,mj2", True, [0, 0, 12, 24, 24, 36, 48, 48], True, True),
)
assert seen == stated, f"changed: {seen}"
PY
echo "as stated"
