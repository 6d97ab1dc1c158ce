#!/usr/bin/env bash
# pyarrow 25.0.1, moto 5.2.5 as the S3 server: what a small file costs in requests.
#
# Guess: a file that fits into one part is put by one request (PUT), and parts begin where it grows; at most the close
#   of the stream costs one more.
# Seen: open_output_stream begins a multipart upload at once, so one byte takes three requests (POST, PUT, POST), and a
#   writer that is killed leaves an unfinished upload. With allow_delayed_open=True it is one PUT.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
python3 -m venv venv
pins="pyarrow==25.0.1 moto[s3,server]==5.2.5"
if command -v uv >/dev/null; then uv pip install -q --python venv/bin/python $pins; else venv/bin/pip install -q $pins; fi
export HOME="$work" AWS_EC2_METADATA_DISABLED=true AWS_ACCESS_KEY_ID=a AWS_SECRET_ACCESS_KEY=b
cat > look.py <<'PY'
from moto.server import ThreadedMotoServer
from pyarrow.fs import S3FileSystem
from werkzeug.serving import WSGIRequestHandler

asked = []
WSGIRequestHandler.log_request = lambda self, *args: asked.append(self.command)
server = ThreadedMotoServer(port=0)
server.start()
host, port = server.get_host_and_port()
for delayed in (False, True):
    files = S3FileSystem(
        endpoint_override=f"http://{host}:{port}", region="us-east-1", allow_bucket_creation=True,
        allow_delayed_open=delayed,
    )
    files.create_dir("clips")
    asked.clear()
    with files.open_output_stream(f"clips/{delayed}.json") as out:
        out.write(b"1")
    print(f"allow_delayed_open={delayed}: {' '.join(asked)}")
server.stop()
PY
seen=$(venv/bin/python look.py 2>/dev/null | grep allow_delayed_open)
echo "$seen"
[ "$seen" = "allow_delayed_open=False: POST PUT POST
allow_delayed_open=True: PUT" ]
echo "as stated"
