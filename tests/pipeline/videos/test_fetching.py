"""yt-dlp against a server with the internet's bad habits."""

import contextlib
import http.server
import threading
import time

import pytest
from drawn_videos import face_video
from small_downloads import list_videos, run, settings


class Server(http.server.BaseHTTPRequestHandler):
    """Serves `files` with ranges; `truncated` break off in the middle, `slow` trickle, `flaky` fail at first."""

    files: dict[str, bytes]
    log: list[tuple[str, str | None]]
    failures: dict[str, int]
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        name = self.path.removeprefix("/watch/").removesuffix(".mp4")
        wanted = self.headers.get("Range")
        self.log.append((name, wanted))
        if self.failures.get(name, 0) > 0:
            self.failures[name] -= 1
            return self.answer(503)
        if name not in self.files:
            return self.answer(404)
        body, start = self.files[name], 0
        if wanted:
            start = int(wanted.removeprefix("bytes=").split("-")[0])
            if start >= len(body):
                return self.answer(416)
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Type", "video/mp4")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(body) - start))
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.end_headers()
        if self.command == "HEAD":
            return None
        rest = body[start:]
        if name == "truncated":
            self.wfile.write(rest[: len(rest) // 2])
            self.close_connection = True
        elif name == "slow":
            for at in range(0, len(rest), 1 + len(rest) // 5):
                with contextlib.suppress(BrokenPipeError):  # yt-dlp looks at the beginning and leaves
                    self.wfile.write(rest[at : at + 1 + len(rest) // 5])
                self.wfile.flush()
                time.sleep(0.1)
        else:
            self.wfile.write(rest)
        return None

    def answer(self, code):
        self.send_response(code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_): ...


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pipeline.videos.youtube._pause", lambda n: 0.01)
    monkeypatch.setattr("pipeline.videos.youtube.BLOCK_PAUSE", 0.01)
    Server.files, Server.log, Server.failures = {}, [], {}
    listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    yield Server, f"http://127.0.0.1:{listening.server_port}/watch/{{id}}.mp4"
    listening.shutdown()
    listening.server_close()


def test_a_list_with_holes_is_fetched_from_a_server(tmp_path, server):
    handler, url = server
    body = face_video(tmp_path / "v.mp4", 50).read_bytes()
    cut = body[: len(body) * 2 // 3]
    handler.files = dict.fromkeys(("-leading_das", "slow", "truncated", "flaky", "plain"), body) | {"junk": cut}
    handler.failures = {"flaky": 1}
    list_videos(tmp_path, [*handler.files, "missing"])
    options = {"source": "youtube", "url": url, "attempts": 2}
    counts, rows = run(tmp_path, **options)
    status = {name: row["status"] for name, row in rows.items()}
    assert status == {
        "-leading_das": "ok",
        "slow": "ok",
        "flaky": "ok",
        "plain": "ok",
        "truncated": "failed",
        "junk": "failed",
        "missing": "unavailable",
    }
    assert counts == {"ok": 4, "unavailable": 1, "failed": 2}
    assert "404" in rows["missing"]["reason"] and rows["truncated"]["reason"] and rows["junk"]["reason"]
    for name in ("-leading_das", "slow", "flaky", "plain"):
        assert (tmp_path / "data" / "videos" / "id00012" / f"{name}.mp4").read_bytes() == body

    handler.log.clear()
    handler.files["junk"] = handler.files["missing"] = body
    counts, rows = run(tmp_path, **options)
    assert {name for name, _ in handler.log} == {"truncated", "junk"}  # what is done or gone for good is left alone
    assert rows["junk"]["status"] == "ok" and rows["missing"]["status"] == "unavailable"
    handler.log.clear()
    counts, rows = run(tmp_path, **options, retry_unavailable=True)
    assert rows["missing"]["status"] == "ok" and "plain" not in {name for name, _ in handler.log}


def test_a_partial_file_is_continued(tmp_path, server):
    from pipeline.videos.youtube import fetch

    handler, url = server
    body = face_video(tmp_path / "v.mp4", 50).read_bytes()
    handler.files = {"vid": body}
    folder = tmp_path / "store"
    folder.mkdir()
    (folder / "video.mp4.part").write_bytes(body[:1500])
    outcome = fetch("vid", folder, settings(tmp_path, url=url).download)
    assert outcome.status == "ok" and outcome.path.read_bytes() == body
    assert ("vid", "bytes=1500-") in handler.log


def test_the_address_is_not_given_a_chance_to_inject(tmp_path, server):
    from pipeline.videos.youtube import fetch

    handler, url = server
    outcome = fetch("../../x?y", tmp_path / "store", settings(tmp_path, url=url).download)
    assert outcome.status == "unavailable"
    assert {name for name, _ in handler.log} == {"..%2F..%2Fx%3Fy"}


GONE = (
    "Private video. Sign in if you've been granted access to this video",
    "Video unavailable. This video has been removed by the uploader",
    "Video unavailable. This video is no longer available because the YouTube account has been terminated.",
    "Video unavailable. The uploader has not made this video available in your country",
    "Video unavailable",
    "This video isn't available anymore",
)
PASSING = (
    "Video unavailable. Playback on other websites has been disabled by the video owner",
    "Video unavailable. This content isn\u2019t available.",
    "fragment 1 not found, unable to continue",
    "unable to download video data: HTTP Error 404: Not Found",
    "unable to download video data: HTTP Error 403: Forbidden",
    "Unable to download API page: HTTP Error 404: Not Found",
    "An error occurred. Please try again later",
    "Video unavailable. The following content is not available on this app.. Watch on the latest version of YouTube",
    "The read operation timed out",
)
LIMIT = (
    "Video unavailable. This content isn\u2019t available, try again later. The current session has been rate-limited "
    "by YouTube for up to an hour. It is recommended to use `-t sleep`"
)
BLOCKED = (
    LIMIT,
    "This content isn't available, try again later.",
    "Sign in to confirm you\u2019re not a bot. Use --cookies-from-browser or --cookies for the authentication.",
    "Unable to download webpage: HTTP Error 429: Too Many Requests",
)


def test_only_what_is_certainly_gone_is_unavailable():
    from pipeline.videos import youtube

    assert {text: youtube.judge(f"[youtube] abc: {text}").status for text in GONE} == dict.fromkeys(GONE, "unavailable")
    assert {text: youtube.judge(f"[youtube] abc: {text}").status for text in PASSING} == dict.fromkeys(
        PASSING, "failed"
    )
    for text in BLOCKED:
        with pytest.raises(youtube.Blocked, match=r"blocks this session.*same command"):
            youtube.judge(f"[youtube] abc: {text}")


def test_a_block_stops_the_stage_and_the_next_run_goes_on(tmp_path, server, monkeypatch):
    import yt_dlp

    handler, url = server
    names = [f"v{k:02d}" for k in range(30)]
    handler.files = dict.fromkeys(names, face_video(tmp_path / "v.mp4", 30).read_bytes())
    list_videos(tmp_path, names)
    plain = yt_dlp.YoutubeDL.download
    asked = []

    def limited(self, urls):
        asked.append(urls)
        if len(asked) > 2:
            raise yt_dlp.utils.DownloadError(f"[youtube] x: {LIMIT}")
        return plain(self, urls)

    monkeypatch.setattr(yt_dlp.YoutubeDL, "download", limited)
    options = {"source": "youtube", "url": url, "parallel": 1}
    with pytest.raises(RuntimeError, match=r"rate-limited.*download\.pause"):
        run(tmp_path, **options)
    assert len(asked) == 4  # once more after the pause, and not one more
    monkeypatch.undo()
    handler.log.clear()
    counts, _ = run(tmp_path, **options)
    assert counts == {"ok": 30, "unavailable": 0, "failed": 0}
    assert not {"v00", "v01"} & {name for name, _ in handler.log}
