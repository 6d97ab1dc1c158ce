"""One video from where it is published, by yt-dlp as a library: retries with back-off, resumes, never a shell.

What is lost for good (removed, private, blocked here) is told from what another try may get.
"""

import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol
from urllib.parse import quote

from pipeline.videos import codec

TIMEOUT = 30.0
"""Seconds a server may stay silent."""
_REQUESTS = 2
"""Retries inside one attempt, as when a transfer breaks off and is continued."""
LONGEST_PAUSE = 60.0
"""Seconds; the pause before the n-th retry is 2^n up to this."""

# How answers read in yt-dlp's messages, looked for in this order. Only what no later try can get is gone; YouTube says
# "Video unavailable" before reasons that pass, too.
_BLOCKED = re.compile(r"rate-limited|content isn.t available, try again later|not a bot|HTTP Error 429", re.IGNORECASE)
_PASSING = re.compile(
    r"try again|playback on other websites|not available on this app|content isn.t available|fragment|"
    r"unable to download (video|api|player)",
    re.IGNORECASE,
)
_GONE = re.compile(
    r"unable to download webpage: HTTP Error 4(04|10)|video (is )?(unavailable|private)\W*$|private video|"
    r"has been removed|was removed|been terminated|no longer available|isn.t available anymore|"
    r"not made this video available|blocked it|copyright|members-only|inappropriate for some users|confirm your age|"
    r"does not exist|unsupported url",
    re.IGNORECASE,
)


class Settings(Protocol):
    """What is read of `pipeline.sections.DownloadParams`."""

    url: str
    max_height: int
    attempts: int
    kilobytes_per_second: int
    cookies: str


@dataclass(frozen=True)
class Outcome:
    """What became of one attempt: `path` of the file if ok, else the reason."""

    status: Literal["ok", "unavailable", "failed"]
    reason: str | None = None
    path: Path | None = None


class Blocked(RuntimeError):
    """The site answers nothing more to this session, whatever the video."""


class _Silent:
    """yt-dlp's log; what matters comes as an exception."""

    def debug(self, message: str) -> None: ...

    info = warning = error = debug


def fetch(video_id: str, folder: Path, settings: Settings) -> Outcome:
    """Get one video into `folder`, which belongs to it alone; a partial file there is continued.

    What fails is tried `attempts` times with growing pauses, what is gone is not. Raises Blocked.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for attempt in range(settings.attempts):
        outcome = _try(video_id, folder, settings)
        if outcome.status != "failed" or attempt + 1 == settings.attempts:
            break
        time.sleep(_pause(attempt))
    return outcome


def _try(video_id: str, folder: Path, settings: Settings) -> Outcome:
    from yt_dlp import YoutubeDL
    from yt_dlp.utils import YoutubeDLError

    # this stand-in for a package that is missing raises the wrong error at any attribute, on which pickle trips
    sys.modules.pop("yt_dlp.dependencies.Cryptodome", None)
    height = f"[height<=?{settings.max_height}]"
    options = {
        "format": f"bv*[ext=mp4]{height}/b[ext=mp4]{height}/bv*{height}/b{height}",  # the picture is enough
        "paths": {"home": str(folder.resolve())},
        "outtmpl": {"default": "video.%(ext)s"},
        "continuedl": True,
        "retries": _REQUESTS,
        "fragment_retries": _REQUESTS,
        "extractor_retries": _REQUESTS,
        "retry_sleep_functions": dict.fromkeys(("http", "fragment", "extractor"), _pause),
        "socket_timeout": TIMEOUT,
        "ratelimit": settings.kilobytes_per_second * 1024 or None,
        "cookiefile": settings.cookies or None,
        "noplaylist": True,
        "cachedir": False,
        "quiet": True,
        "noprogress": True,
        "no_color": True,
        "logger": _Silent(),
    }
    url = settings.url.format(id=quote(video_id, safe=""))
    try:
        with YoutubeDL(options) as downloader:
            downloader.download([url])
    except (YoutubeDLError, OSError) as error:
        reason = re.sub(r"\s+", " ", str(error)).removeprefix("ERROR: ").strip()[:300]
        return judge(reason)
    files = [file for file in folder.iterdir() if file.suffix not in (".part", ".ytdl")]
    if not files:
        return Outcome("failed", "nothing was downloaded")
    broken = check(files[0])
    if broken:
        files[0].unlink()  # or the next try would take it for done
        return Outcome("failed", broken)
    return Outcome("ok", None, files[0])


def judge(reason: str) -> Outcome:
    """What an error of yt-dlp means for the video. Raises Blocked if it means the session."""
    if _BLOCKED.search(reason):
        raise Blocked(
            f"the site blocks this session for now ({reason}): wait an hour, set download.pause higher or "
            "download.cookies, and run the same command again; what was fetched is kept"
        )
    gone = _GONE.search(reason) and not _PASSING.search(reason)
    return Outcome("unavailable" if gone else "failed", reason)


def check(path: Path) -> str | None:
    """Why a file is no whole video, None if it is one."""
    try:
        codec.probe(path)
        return None if codec.reaches_end(path) else "the file ends before its video does"
    except codec.VideoError as error:
        return str(error)


def _pause(n: int) -> float:
    return min(2.0**n, LONGEST_PAUSE)
