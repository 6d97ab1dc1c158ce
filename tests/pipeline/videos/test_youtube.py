"""What yt-dlp needs and warns of, and a site that blocks the whole address."""

import threading

import pytest

from pipeline.videos import youtube
from pipeline.videos.youtube import Blocked, Outcome, Site


class Settings:
    url, max_height, attempts, pause = "https://example.org/{id}", 360, 1, 0.0
    kilobytes_per_second, cookies, max_megabytes = 0, "", 0


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr(youtube, "BLOCK_PAUSE", 0.01)


def answers(monkeypatch, outcomes):
    """`fetch` gives these one after another; an exception is raised. Returns the list of what was asked."""
    remaining, asked = iter(outcomes), []

    def fetch(video_id, folder, settings):
        asked.append(video_id)
        found = next(remaining)
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(youtube, "fetch", fetch)
    return asked


EMPTY = Outcome("failed", "[youtube] x: No video formats found!")


def test_a_block_pauses_once_and_is_forgotten_when_a_video_comes(monkeypatch, tmp_path):
    blocked, ok = Blocked("not a bot"), Outcome("ok")
    asked = answers(monkeypatch, [blocked, ok, blocked, ok, blocked, blocked])
    site = Site()
    assert site.fetch("a", tmp_path, Settings).status == site.fetch("b", tmp_path, Settings).status == "ok"
    with pytest.raises(Blocked, match="not a bot"):
        site.fetch("c", tmp_path, Settings)
    assert asked == ["a", "a", "b", "b", "c", "c"]


def test_no_formats_for_many_videos_in_a_row_is_a_block_and_for_some_it_is_not(monkeypatch, tmp_path):
    row = youtube.EMPTY_ROW
    answers(monkeypatch, [EMPTY] * (row - 1) + [Outcome("ok")] + [EMPTY] * (row + 1))
    site = Site()
    for k in range(row - 1):
        assert site.fetch(str(k), tmp_path, Settings).status == "failed"
    site.fetch("ok", tmp_path, Settings)
    with pytest.raises(Blocked, match=f"no formats for {row + 1} videos in a row"):
        for k in range(row):
            assert site.fetch(str(k), tmp_path, Settings).status == "failed"  # not gone


def test_downloads_side_by_side_share_one_pause(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(youtube, "BLOCK_PAUSE", 0.3)
    tries, together = {}, threading.Barrier(3)

    def fetch(video_id, folder, settings):
        tries[video_id] = tries.get(video_id, 0) + 1
        if tries[video_id] == 1:
            together.wait()
            raise Blocked("429")
        return Outcome("ok")

    monkeypatch.setattr(youtube, "fetch", fetch)
    site = Site()
    threads = [threading.Thread(target=site.fetch, args=(name, tmp_path, Settings)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert tries == {"a": 2, "b": 2, "c": 2}
    assert capsys.readouterr().err.count("trying again") == 1


def test_what_youtube_needs_is_checked_before_the_first_video(monkeypatch):
    import yt_dlp.dependencies
    from yt_dlp.globals import supported_js_runtimes

    class Absent:
        info = None

    class Present:
        class info:
            supported = True

    monkeypatch.setattr(yt_dlp.dependencies, "yt_dlp_ejs", None)
    monkeypatch.setitem(supported_js_runtimes.value, "deno", Absent)
    for url in ("https://www.youtube.com/watch?v={id}", "https://youtu.be/{id}"):
        with pytest.raises(RuntimeError, match=r"deno and the scripts yt-dlp-ejs: .*yt-dlp\[default,deno\]"):
            youtube.check_tools(url)
    youtube.check_tools("https://example.org/{id}.mp4")
    youtube.check_tools("https://notyoutube.com/{id}")
    monkeypatch.setattr(yt_dlp.dependencies, "yt_dlp_ejs", object())
    monkeypatch.setitem(supported_js_runtimes.value, "deno", Present)
    youtube.check_tools("https://www.youtube.com/watch?v={id}")


def test_warnings_come_into_the_reason(monkeypatch, tmp_path):
    import yt_dlp

    def download(self, urls):
        self.report_warning("n challenge solving failed: Some formats may be missing.")
        raise yt_dlp.utils.DownloadError("ERROR: [youtube] x: Requested format is not available")

    monkeypatch.setattr(yt_dlp.YoutubeDL, "download", download)
    outcome = youtube.fetch("x", tmp_path, Settings)
    assert outcome.status == "failed"
    assert outcome.reason == (
        "[youtube] x: Requested format is not available "
        "(warned: n challenge solving failed: Some formats may be missing.)"
    )
