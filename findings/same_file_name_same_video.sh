#!/usr/bin/env bash
# yt-dlp 2026.10.26: two plain links whose files share a name (its archive, and its output by id).
#
# Guess: what has no site's id is known by its whole address, so .../anna/interview.mp4 and .../ben/interview.mp4 are
#   two videos to the archive; and with "-o %(id)s" the second one gets the other size and replaces, or is refused.
# Seen: both have the id "interview". With --download-archive the second is "already recorded" and is skipped; without,
#   it "has already been downloaded" though its length on the server differs. Exit status 0 in both cases.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
python3 -m venv venv
pins="yt-dlp==2026.10.26"
if command -v uv >/dev/null; then uv pip install -q --python venv/bin/python $pins; else venv/bin/pip install -q $pins; fi
export HOME="$work"
venv/bin/python - <<'PY'
import functools, http.server, os, subprocess, sys, threading

class Handler(http.server.SimpleHTTPRequestHandler):
    log_message = lambda *_: None

for person, size in (("anna", 3000), ("ben", 5000)):  # an mp4's first box is enough for a direct link
    os.makedirs(f"site/{person}")
    with open(f"site/{person}/interview.mp4", "wb") as file:
        file.write(b"\0\0\0\x18ftypisom\0\0\2\0isomiso2" + bytes(size))
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory="site"))
threading.Thread(target=server.serve_forever, daemon=True).start()

def fetch(folder, person, *more):
    url = f"http://127.0.0.1:{server.server_port}/{person}/interview.mp4"
    call = [sys.executable, "-m", "yt_dlp", "--fixup", "never", "-o", f"{folder}/%(id)s.%(ext)s", *more, url]
    done = subprocess.run(call, capture_output=True, text=True)
    said = [text for text in ("already been recorded", "already been downloaded") if text in done.stdout]
    return done.returncode, said, {name: os.path.getsize(f"{folder}/{name}") for name in os.listdir(folder)}

seen = [fetch("plain", p) for p in ("anna", "ben")]
seen += [fetch("archived", p, "--download-archive", "archive.txt") for p in ("anna", "ben")]
archive = open("archive.txt").read()
print(*seen, repr(archive), sep="\n")
first = {"interview.mp4": 3024}
assert seen == [
    (0, [], first), (0, ["already been downloaded"], first), (0, [], first), (0, ["already been recorded"], first)
]
assert archive == "generic interview\n"
PY
echo "as stated"
