#!/usr/bin/env bash
# pyarrow 25.0.1: an S3FileSystem that is sent to another process (pickle, as Ray and Dask do with every argument).
#
# Guess: the copy answers as the original does; what cannot travel, if anything, raises when it is pickled.
# Seen: region, endpoint and keys travel, `retry_strategy` is dropped without a word: the copy has the default's
#   patience. A server that answers 503 is asked twice by the original, three times by its copy.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
python3 -m venv venv
pins="pyarrow==25.0.1"
if command -v uv >/dev/null; then uv pip install -q --python venv/bin/python $pins; else venv/bin/pip install -q $pins; fi
export HOME="$work" AWS_EC2_METADATA_DISABLED=true
cat > look.py <<'PY'
import pickle, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem

asked = []


class Busy(BaseHTTPRequestHandler):
    def do_HEAD(self):
        asked.append(self.path)
        self.send_response(503)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD

    def log_message(self, *args):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Busy)
threading.Thread(target=server.serve_forever, daemon=True).start()
impatient = S3FileSystem(
    endpoint_override=f"http://127.0.0.1:{server.server_port}", region="us-east-1", access_key="a", secret_key="b",
    retry_strategy=AwsStandardS3RetryStrategy(max_attempts=2),
)
counts = []
for files in (impatient, pickle.loads(pickle.dumps(impatient))):
    asked.clear()
    try:
        files.open_input_file("bucket/clip.parquet")
    except OSError:
        pass
    counts.append(len(asked))
print(*counts)
PY
seen=$(venv/bin/python look.py)
echo "requests of the original and of its copy: $seen"
read -r original copy <<< "$seen"
[ "$copy" -gt "$original" ]
[ "$seen" = "2 3" ]
echo "as stated"
