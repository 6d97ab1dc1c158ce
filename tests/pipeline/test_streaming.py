"""`download.keep: none`: the stage crop fetches each video, crops it and drops it."""

import dataclasses
import http.server
import json
import threading
import zipfile
from pathlib import Path

import pytest
from drawn_videos import GreenDetector, annotation, face_video

from pipeline import params
from pipeline.common.places import Places
from pipeline.crop import crop
from pipeline.download import download
from pipeline.videos import youtube
from uniface.tables import read_table

ROOT = Path(__file__).resolve().parents[2]
WHOLE = params.load(ROOT / "params.yaml")


class Server(http.server.BaseHTTPRequestHandler):
    """Serves `files`; counts what was asked for."""

    files: dict[str, bytes]
    asked: list[str]

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        name = self.path.removeprefix("/").removesuffix(".mp4")
        if self.command == "GET":
            self.asked.append(name)
        body = self.files.get(name, b"")
        self.send_response(200 if body else 404)
        self.send_header("Content-Type", "video/mp4")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_): ...


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(youtube, "_pause", lambda n: 0.01)
    monkeypatch.setattr(youtube, "BLOCK_PAUSE", 0.01)
    Server.files, Server.asked = {}, []
    listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{listening.server_port}/{{id}}.mp4"
    listening.shutdown()
    listening.server_close()


def settings(tmp_path, url, **changes):
    options = {
        "source": "youtube",
        "keep": "none",
        "url": url,
        "annotations": str(tmp_path / "txt.zip"),
        "attempts": 1,
        "pause": 0.0,
    }
    cut = {"min_frames": 20, "min_size": 32, "detect_height": 120}
    return dataclasses.replace(
        WHOLE,
        image_size=32,
        download=dataclasses.replace(WHOLE.download, **options | changes),
        crop=dataclasses.replace(WHOLE.crop, **cut),
        compute=dataclasses.replace(WHOLE.compute, crop_workers=1),
    )


def list_videos(tmp_path, names):
    with zipfile.ZipFile(tmp_path / "txt.zip", "w") as archive:
        for name in names:
            archive.writestr(f"txt/id00012/{name}/00001.txt", annotation("id00012", name, range(30)))


def run(tmp_path, chosen):
    assert set(download(chosen, Places(tmp_path))) == {"listed"}
    report = crop(chosen, Places(tmp_path), GreenDetector)
    rows = read_table(tmp_path / "data" / "clips" / "videos.parquet", "videos").to_pylist()
    return report, {row["video_id"]: row for row in rows}


def test_videos_are_fetched_cropped_and_dropped_and_only_failures_are_tried_again(tmp_path, server):
    body = face_video(tmp_path / "v.mp4", 30).read_bytes()
    Server.files = {"a": body, "b": body, "junk": body[: len(body) // 2]}
    list_videos(tmp_path, ["a", "b", "junk", "gone"])
    chosen = settings(tmp_path, server)
    report, rows = run(tmp_path, chosen)
    status = {name: row["status"] for name, row in rows.items()}
    assert status == {"a": "ok", "b": "ok", "junk": "failed", "gone": "unavailable"}
    assert rows["junk"]["reason"] and "404" in rows["gone"]["reason"]
    assert len(rows["a"]["sha256"]) == 64 and (rows["a"]["frames"], rows["a"]["path"]) == (30, None)
    assert report["videos"] == {"ok": 2, "unavailable": 1, "failed": 1} and report["kept"] == 2
    assert not [path for path in tmp_path.rglob("*.mp4") if path != tmp_path / "v.mp4"]
    assert not list(tmp_path.rglob("*.part"))

    Server.asked.clear()
    Server.files |= {"junk": body, "gone": body}
    report, rows = run(tmp_path, chosen)
    assert set(Server.asked) == {"junk"} and rows["junk"]["status"] == "ok" and report["kept"] == 3
    report, rows = run(tmp_path, settings(tmp_path, server, retry_unavailable=True))
    assert rows["gone"]["status"] == "ok" and report["kept"] == 4

    kept = dataclasses.replace(chosen, download=dataclasses.replace(chosen.download, keep="all"))
    shards = {path.name: path.read_bytes() for path in (tmp_path / "data/clips").glob("train-*.parquet")}
    download(kept, Places(tmp_path))
    crop(kept, Places(tmp_path), GreenDetector)
    assert shards == {path.name: path.read_bytes() for path in (tmp_path / "data/clips").glob("train-*.parquet")}


def test_a_video_larger_than_the_bound_is_left_out(tmp_path, server):
    body = face_video(tmp_path / "v.mp4", 30).read_bytes()
    Server.files = {"a": body, "huge": body + bytes(3 << 20)}
    list_videos(tmp_path, Server.files)
    _, rows = run(tmp_path, settings(tmp_path, server, max_megabytes=2))
    assert rows["a"]["status"] == "ok"
    assert rows["huge"]["status"] == "failed" and "max_megabytes" in rows["huge"]["reason"]


def test_a_block_stops_the_crop_and_the_next_run_goes_on(tmp_path, server, monkeypatch):
    body = face_video(tmp_path / "v.mp4", 30).read_bytes()
    names = [f"v{k}" for k in range(6)]
    Server.files = dict.fromkeys(names, body)
    list_videos(tmp_path, names)
    plain, calls = youtube.fetch, []

    def limited(video_id, *rest):
        calls.append(video_id)
        if len(calls) > 2:
            youtube.judge("Sign in to confirm you're not a bot")
        return plain(video_id, *rest)

    monkeypatch.setattr(youtube, "fetch", limited)
    chosen = settings(tmp_path, server)
    with pytest.raises(RuntimeError, match=r"blocks this session.*not a bot"):
        run(tmp_path, chosen)
    assert calls == ["v0", "v1", "v2", "v2"]  # once more after the pause, then no more
    notes = [json.loads(path.read_text()) for path in (tmp_path / "work/crop").rglob("id00012/*.json")]
    assert [note["facts"]["status"] for note in notes] == ["ok", "ok"]
    monkeypatch.setattr(youtube, "fetch", plain)
    Server.asked.clear()
    report, _ = run(tmp_path, chosen)
    assert report["videos"]["ok"] == 6 and not {"v0", "v1"} & set(Server.asked)
