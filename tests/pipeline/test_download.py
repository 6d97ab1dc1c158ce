"""The download stage: folders in every layout, and yt-dlp against a server with the internet's bad habits."""

import contextlib
import dataclasses
import http.server
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from drawn_videos import annotation, face_video, picture
from numbered import number, numbered

from pipeline import params
from pipeline.common.places import Places
from pipeline.download import download
from pipeline.videos import codec, folders
from pipeline.videos.annotations import Annotations
from uniface.images import write_image
from uniface.tables import read_table

ROOT = Path(__file__).resolve().parents[2]
PARAMS = params.load(ROOT / "params.yaml")


def settings(tmp_path, **changes):
    changes = {"folder": str(tmp_path / "raw"), "annotations": str(tmp_path / "txt.zip"), "pause": 0.0} | changes
    return dataclasses.replace(PARAMS, download=dataclasses.replace(PARAMS.download, **changes))


def run(tmp_path, **changes):
    counts = download(settings(tmp_path, **changes), Places(tmp_path))
    rows = read_table(tmp_path / "data" / "videos.parquet", "videos").to_pylist()
    return counts, {row["video_id"]: row for row in rows}


def list_videos(tmp_path, names, person="id00012"):
    with zipfile.ZipFile(tmp_path / "txt.zip", "w") as archive:
        for name in names:
            archive.writestr(f"txt/{person}/{name}/00001.txt", annotation(person, name, range(30)))


# --- folders -------------------------------------------------------------------------------------------------------


def test_videos_by_id_with_holes(tmp_path):
    list_videos(tmp_path, ["-dashed_id1", "deep", "gone", "zero", "half"])
    raw = tmp_path / "raw"
    first = face_video(raw / "-dashed_id1.mp4", 40)
    face_video(raw / "some" / "where" / "deep.mkv", 40)
    (raw / "zero.mp4").write_bytes(b"")
    (raw / "half.mp4").write_bytes(first.read_bytes()[:2000])
    counts, rows = run(tmp_path, source="folder")
    assert counts == {"ok": 2, "unavailable": 1, "failed": 2}
    assert {name: row["status"] for name, row in rows.items()} == {
        "-dashed_id1": "ok",
        "deep": "ok",
        "gone": "unavailable",
        "half": "failed",
        "zero": "failed",
    }
    assert all(row["reason"] for row in rows.values() if row["status"] != "ok")
    row = rows["-dashed_id1"]
    assert row["path"] == "videos/id00012/-dashed_id1.mp4" and len(row["sha256"]) == 64
    assert (row["width"], row["height"], row["fps"], row["frames"], row["split"]) == (160, 120, 25.0, 40, "train")
    assert (tmp_path / "data" / row["path"]).read_bytes() == first.read_bytes()
    with zipfile.ZipFile(tmp_path / "data" / "annotations" / "txt.zip") as archive:
        assert "txt/id00012/deep/00001.txt" in archive.namelist()


def test_a_rerun_looks_only_at_what_changed(tmp_path, monkeypatch):
    list_videos(tmp_path, ["a", "b", "gone"])
    face_video(tmp_path / "raw" / "a.mp4", 30)
    (tmp_path / "raw" / "b.mp4").write_bytes(b"broken")
    assert run(tmp_path, source="folder")[0] == {"ok": 1, "unavailable": 1, "failed": 1}
    face_video(tmp_path / "raw" / "b.mp4", 30)
    looked = []
    import pipeline.download as module

    probe = module.codec.probe
    monkeypatch.setattr(module.codec, "probe", lambda path: looked.append(Path(path).name) or probe(path))
    assert run(tmp_path, source="folder")[0] == {"ok": 2, "unavailable": 1, "failed": 0}
    assert looked == ["b.mp4"]
    face_video(tmp_path / "raw" / "gone.mp4", 30)
    assert run(tmp_path, source="folder")[0] == {"ok": 3, "unavailable": 0, "failed": 0}
    assert looked == ["b.mp4", "gone.mp4"]


def test_what_another_version_remembered_is_said_and_looked_at_again(tmp_path, capsys):
    list_videos(tmp_path, ["a", "b"])
    for name in ("a", "b"):
        face_video(tmp_path / "raw" / f"{name}.mp4", 30)
    run(tmp_path, source="folder")
    assert "another version" not in capsys.readouterr().out
    for note in (tmp_path / "work/download/folder").rglob("*.json"):
        note.write_text('{"facts": {"status": "ok"}}')  # as before there were versions
    assert run(tmp_path, source="folder")[0]["ok"] == 2
    assert (
        "download: 2 notes of another version set aside: these videos were looked at again" in capsys.readouterr().out
    )
    run(tmp_path, source="folder")
    assert "another version" not in capsys.readouterr().out


def test_voxceleb2s_own_release_and_fomms_folders(tmp_path):
    raw = tmp_path / "raw"
    face_video(raw / "mp4" / "id00017" / "vid" / "00001.mp4", 30, size=(64, 64), box=(8, 8, 56, 56))
    face_video(raw / "mp4" / "id00017" / "vid" / "00002.mp4", 30, size=(64, 64), box=(8, 8, 56, 56))
    face_video(raw / "train" / "id10001#w#00003.txt#002.mp4", 30, size=(64, 64), box=(8, 8, 56, 56))
    for k in range(4):
        write_image(raw / "test" / "id10270#x#00004.txt#000.mp4" / f"{k:07d}.png", picture((64, 64), (8, 8, 56, 56)))
    counts, rows = run(tmp_path, source="folder")
    assert counts == {"ok": 3, "unavailable": 0, "failed": 0}
    assert {name: row["split"] for name, row in rows.items()} == {"vid": "test", "w": "train", "x": "test"}
    data = tmp_path / "data"
    files = {p.relative_to(data / "videos").as_posix() for p in (data / "videos").rglob("*.mp4")}
    assert files == {
        "id00017/vid/00001.mp4",
        "id00017/vid/00002.mp4",
        "id10001/w/00003#002.mp4",
        "id10270/x/00004#000.mp4",
    }
    assert rows["vid"]["frames"] == 60 and rows["vid"]["path"] == "videos/id00017/vid"


def frames_folder(raw, name):
    folder = raw / "train" / name
    folder.mkdir(parents=True)
    return folder


def test_folders_of_frames_come_in_natural_order_and_keep_their_central_square(tmp_path):
    folder = frames_folder(tmp_path / "raw", "id10001#w#00003.txt#002.mp4")
    for k in range(70):
        image = np.zeros((48, 96, 3), np.uint8)
        image[:, 24:72] = numbered(k, (48, 48))
        image[:, 72:] = 255
        write_image(folder / f"{k}{('.png', '.PNG', '.jpeg', '.jpg')[k % 4]}", image)
    (folder / ".DS_Store").write_bytes(b"x")
    assert run(tmp_path, source="folder")[0]["ok"] == 1
    stored = tmp_path / "data/videos/id10001/w/00003#002.mp4"
    found = [picture.rgb() for _, picture in codec.ticks(stored, as_stored=True)]
    assert {frame.shape for frame in found} == {(48, 48, 3)}
    assert [number(frame) for frame in found] == list(range(70))


def test_a_broken_folder_of_frames_costs_its_video_alone(tmp_path):
    raw = tmp_path / "raw"
    for video in ("good", "cut", "zero", "sizes"):
        folder = frames_folder(raw, f"id10001#{video}#00003.txt#000.mp4")
        for k in range(3):
            write_image(folder / f"{k}.png", numbered(k, (48, 48)))
    frames_folder(raw, "id10001#empty#00003.txt#000.mp4")
    cut = raw / "train" / "id10001#cut#00003.txt#000.mp4" / "1.png"
    cut.write_bytes(cut.read_bytes()[:60])
    (raw / "train" / "id10001#zero#00003.txt#000.mp4" / "2.png").write_bytes(b"")
    write_image(raw / "train" / "id10001#sizes#00003.txt#000.mp4" / "2.png", numbered(1, (60, 60)))
    counts, rows = run(tmp_path, source="folder")
    assert counts == {"ok": 1, "unavailable": 0, "failed": 4} and rows["good"]["status"] == "ok"
    for name, place in {"cut": "1.png", "zero": "2.png", "sizes": "2.png", "empty": "id10001#empty"}.items():
        assert rows[name]["status"] == "failed" and place in rows[name]["reason"] and rows[name]["path"] is None
    write_image(cut, numbered(1, (48, 48)))  # mended in place
    assert run(tmp_path, source="folder")[1]["cut"]["status"] == "ok"


def test_any_talking_heads_without_annotations(tmp_path):
    raw = tmp_path / "raw"
    face_video(raw / "anna" / "one talk.mp4", 30)
    face_video(raw / "anna" / "two.mov", 30)
    face_video(raw / "test" / "bob" / "x.mp4", 30)
    face_video(raw / "solo.mp4", 30)
    counts, rows = run(tmp_path, source="videos")
    assert counts["ok"] == 4
    assert {(row["person_id"], row["split"]) for row in rows.values() if row["person_id"] == "bob"} == {("bob", "test")}
    assert len({row["split"] for row in rows.values() if row["person_id"] == "anna"}) == 1
    assert "two" in rows and rows["solo"]["person_id"] == "solo"
    spaced = next(row for name, row in rows.items() if name.startswith("one_talk_"))
    assert (tmp_path / "data" / spaced["path"]).is_file()


def test_what_systems_leave_in_folders_is_no_video_and_no_annotation(tmp_path):
    junk = ("@eaDir", "$RECYCLE.BIN", "__MACOSX", ".AppleDouble", "#recycle", "System Volume Information", ".Trash-0")
    raw = tmp_path / "raw"
    face_video(raw / "ann" / "talk.mp4", 30)
    for name in junk:
        for folder in (raw / name, raw / "ann" / name):
            folder.mkdir()
            (folder / "talk.mp4").write_bytes(b"a thumbnail")
    (raw / "ann" / "._talk.mp4").write_bytes(b"a resource fork")
    assert [(one.person_id, one.video_id) for one in folders.plain(raw)[0]] == [("ann", "talk")]
    assert folders.scan(raw).sources == {("", "talk"): raw / "ann" / "talk.mp4"}
    with zipfile.ZipFile(tmp_path / "txt.zip", "w") as archive:
        archive.writestr("txt\\id00012\\talk\\00001.txt", annotation("id00012", "talk", range(30)))
        archive.writestr("__MACOSX/txt/id00012/talk/._00001.txt", b"a resource fork")
        archive.writestr("txt/id00012/talk/._00001.txt", b"a resource fork")
    assert list(Annotations(tmp_path / "txt.zip").texts("id00012", "talk")) == ["00001"]


def test_a_split_by_names_is_stable_and_never_without_test_persons(tmp_path):
    for k in range(12):
        (tmp_path / "a" / f"p{k}").mkdir(parents=True)
        (tmp_path / "a" / f"p{k}" / "v.mp4").touch()
    before = {one.person_id: one.split for one in folders.plain(tmp_path / "a")[0]}
    assert set(before.values()) == {"train", "test"}
    (tmp_path / "one" / "p").mkdir(parents=True)
    (tmp_path / "one" / "p" / "v.mp4").touch()
    assert [one.split for one in folders.plain(tmp_path / "one")[0]] == ["test"]


def test_an_empty_folder_says_what_to_do(tmp_path):
    list_videos(tmp_path, ["a"])
    with pytest.raises(FileNotFoundError, match=r"download\.folder"):
        run(tmp_path, source="folder")


# --- yt-dlp --------------------------------------------------------------------------------------------------------


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


# --- the sample ----------------------------------------------------------------------------------------------------


def test_the_sample_is_rendered_and_goes_the_same_way(tmp_path):
    tiny = dataclasses.replace(PARAMS.sample, persons=3, test_persons=1, seconds=0.4, video_height=64)
    world = dataclasses.replace(PARAMS, sample=tiny)
    counts = download(world, Places(tmp_path))
    assert counts == {"ok": 3, "unavailable": 0, "failed": 0}
    rows = read_table(tmp_path / "data" / "videos.parquet", "videos").to_pylist()
    assert sorted(row["split"] for row in rows) == ["test", "train", "train"]
    assert all(row["height"] == 64 and row["fps"] == 25 for row in rows)
    assert np.all([(tmp_path / "data" / row["path"]).is_file() for row in rows])


def test_a_frame_replaced_in_a_folder_of_frames_is_another_clip(tmp_path):
    """The folder's own time does not change."""
    folder = tmp_path / "raw" / "test" / "id10270#x#00004.txt#000.mp4"
    for k in range(4):
        write_image(folder / f"{k:07d}.png", picture((64, 64), (8, 8, 56, 56)))
    _, before = run(tmp_path, source="folder")
    changed, time = picture((64, 64), (8, 8, 56, 56)), folder.stat().st_mtime_ns
    changed[10:30] = 0
    write_image(tmp_path / "other.png", changed)
    (folder / "0000002.png").write_bytes((tmp_path / "other.png").read_bytes())
    assert folder.stat().st_mtime_ns == time
    _, after = run(tmp_path, source="folder")
    assert after["x"]["sha256"] != before["x"]["sha256"]
