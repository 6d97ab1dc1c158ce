"""`download.keep: none` at the size it is made for, in processes of their own whose memory is measured."""

import http.server
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from drawn_videos import annotation, face_video

from pipeline.videos.annotations import METADATA_COLUMNS

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
VIDEOS, BYTES = 200, 50 << 20
LISTED = 1_000_000
GB = 1 << 30
SETTINGS = """
import dataclasses, json, resource, sys, time
from pathlib import Path
from pipeline import params
from pipeline.common.places import Places
from pipeline.crop import crop
from pipeline.download import download
from pipeline.videos.shards import Jobs

def chosen(url):
    whole = params.load(ROOT / "params.yaml")
    fetched = {"source": "youtube", "keep": "none", "url": url, "annotations": "given", "attempts": 1, "pause": 0.0}
    cut = {"min_frames": 20, "min_size": 32, "detect_height": 120}
    return dataclasses.replace(
        whole,
        image_size=32,
        download=dataclasses.replace(whole.download, **fetched),
        crop=dataclasses.replace(whole.crop, **cut),
        compute=dataclasses.replace(whole.compute, crop_workers=1),
    )

def used():
    # not ru_maxrss of this process: that begins at the peak of the one that started it, a whole run of tests
    peaks = [int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")]
    peak = max(*peaks, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
    return {"seconds": time.process_time(), "bytes": peak * 1024}
"""


def run(folder: Path, code: str) -> dict:
    """What a piece of Python prints as JSON in the end."""
    code = f"from pathlib import Path; ROOT = Path({str(ROOT)!r})\n{SETTINGS}\n{code}"
    places = os.pathsep.join(map(str, (ROOT, Path(__file__).parent)))
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": places, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def on_disk(folder: Path) -> int:
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(place, name)).st_blocks * 512
            except FileNotFoundError:  # dropped meanwhile
                continue
    return total


@contextmanager
def serving(body: bytes) -> Iterator[str]:
    """The URL of a server that gives the same video under every name."""

    class Server(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(200)
            self.send_header("Content-Type", "video/mp4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()

        def do_GET(self):
            self.do_HEAD()
            self.wfile.write(body)

        def log_message(self, *_): ...

    listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{listening.server_port}/{{id}}.mp4"
    listening.shutdown()
    listening.server_close()


class Watched:
    """The most bytes that a folder holds meanwhile; a context."""

    def __init__(self, folder: Path):
        self._folder, self._ended, self.most = folder, threading.Event(), 0

    def __enter__(self) -> "Watched":
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def _look(self) -> None:
        while not self._ended.wait(0.02):
            self.most = max(self.most, on_disk(self._folder))

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()


def test_ten_gigabytes_of_videos_pass_through_one(tmp_path, monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    body = face_video(tmp_path / "v.mp4", 30).read_bytes()
    padding = BYTES - len(body)
    body += padding.to_bytes(4, "big") + b"free" + bytes(padding - 8)  # a box that every reader of mp4 leaves aside
    for k in range(VIDEOS):
        place = tmp_path / "project" / "given" / "txt" / "id00012" / f"v{k:03d}" / "00001.txt"
        place.parent.mkdir(parents=True)
        place.write_text(annotation("id00012", f"v{k:03d}", range(30)))
    with serving(body) as url, Watched(tmp_path / "project") as watched:
        found = run(
            tmp_path / "project",
            "from drawn_videos import GreenDetector\n"
            f"places, settings = Places(Path.cwd()), chosen({url!r})\n"
            "download(settings, places)\n"
            "report = crop(settings, places, GreenDetector)\n"
            "print(json.dumps(used() | report['videos'] | {'kept': report['kept']}))\n",
        )
    print(found | {"disk": watched.most})
    assert (found["ok"], found["kept"]) == (VIDEOS, VIDEOS)
    assert BYTES <= watched.most < GB and found["bytes"] < GB


def test_a_million_videos_are_planned_in_a_minute_and_a_gigabyte(tmp_path):
    (tmp_path / "given").mkdir()
    with (tmp_path / "given" / "vox-metadata.csv").open("w") as file:
        file.write(",".join(METADATA_COLUMNS) + "\n")
        for k in range(LISTED):
            file.write(f"v{k:010d},{k % 500},{k % 500 + 200},100-50-400-350,25,1280,720,train,id{k // 150:06d}\n")
    began = time.monotonic()
    found = run(
        tmp_path,
        "places, settings = Places(Path.cwd()), chosen('http://127.0.0.1:9/{id}')\n"
        "download(settings, places)\n"
        "jobs = Jobs(places)\n"
        "job, key = next(iter(jobs))\n"
        "print(json.dumps(used() | {'jobs': len(jobs), 'first': [job.video_id, len(job.crops)]}))\n",
    )
    print(found | {"by the clock": time.monotonic() - began})
    assert (found["jobs"], found["first"]) == (LISTED, ["v0000000000", 1])
    assert found["seconds"] < 60 and found["bytes"] < GB  # of the processor: others may be at work here
