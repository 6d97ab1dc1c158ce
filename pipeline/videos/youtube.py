"""One video from where it is published, by yt-dlp as a library: retries with back-off, resumes, never a shell.

What is lost for good (removed, private, blocked here) is told from what another try may get.
"""

import re
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Literal, Protocol
from urllib.parse import quote, urlsplit

from pipeline.videos import codec

TIMEOUT = 30.0
"""Seconds a server may stay silent."""
_REQUESTS = 2
"""Retries inside one attempt, as when a transfer breaks off and is continued."""
LONGEST_PAUSE = 60.0
"""Seconds; the pause before the n-th retry is 2^n up to this."""
BLOCK_PAUSE = 600.0
"""Seconds without a request after the first sign of a block; if the site still blocks then, the stage stops."""
EMPTY_ROW = 20
"""Videos one after another that have no format, from which on it is the site that gives us none."""

# How answers read in yt-dlp's messages, looked for in this order. Only what no later try can get is gone; YouTube says
# "Video unavailable" before reasons that pass, too.
_BLOCKED = re.compile(r"rate-limited|content isn.t available, try again later|not a bot|HTTP Error 429", re.IGNORECASE)
_PASSING = re.compile(
    r"try again|playback on other websites|not available on this app|content isn.t available|fragment|"
    r"unable to download (video|api|player)",
    re.IGNORECASE,
)
_EMPTY = re.compile(
    r"no video formats found|requested format is not available|only images are available", re.IGNORECASE
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
    pause: float
    kilobytes_per_second: int
    cookies: str
    max_megabytes: int


@dataclass(frozen=True)
class Outcome:
    """What became of one attempt: `path` of the file if ok; why not, and what yt-dlp warned of, in `reason`."""

    status: Literal["ok", "unavailable", "failed"]
    reason: str | None = None
    path: Path | None = None


class Blocked(RuntimeError):
    """The site answers nothing more to this session, whatever the video."""


class _Log:
    """yt-dlp's log; errors come as exceptions, and warnings say what is missing on our side."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def debug(self, message: str) -> None: ...

    info = error = debug

    def warning(self, message: str) -> None:
        self.warnings.append(_plain(message).removeprefix("WARNING: "))

    def add_to(self, reason: str | None) -> str | None:
        """The reason with the warnings behind it."""
        told = "; ".join(dict.fromkeys(self.warnings))[:600]
        return reason if not told else f"{reason} (warned: {told})" if reason else f"warned: {told}"


def check_tools(url: str) -> None:
    """Raise RuntimeError if YouTube is asked and yt-dlp lacks what it needs for that; other sites need nothing.

    YouTube hands out its formats only to who runs its player's JavaScript; without, yt-dlp just warns and gets few.
    """
    host = urlsplit(url).hostname or ""
    if not re.search(r"(^|\.)(youtube(-nocookie)?\.com|youtu\.be)$", host):
        return
    import yt_dlp
    from yt_dlp.dependencies import yt_dlp_ejs
    from yt_dlp.globals import supported_js_runtimes

    runtime = supported_js_runtimes.value["deno"]().info
    missing = [] if runtime and runtime.supported else ["the JavaScript runtime deno"]
    missing += [] if yt_dlp_ejs else ["the scripts yt-dlp-ejs"]
    if missing:
        raise RuntimeError(
            f"yt-dlp {yt_dlp.version.__version__} gets no videos from YouTube without {' and '.join(missing)}: "
            'install them with pip install "yt-dlp[default,deno]", then run the same again'
        )


class Site:
    """What the downloads of one process know together of a site that may block them."""

    def __init__(self) -> None:
        self._lock = Lock()  # held during a pause: nobody asks meanwhile
        self._empty = 0
        self._paused_until = float("-inf")  # the end of the last pause
        self._came = True  # whether a video has come since

    def fetch(self, video_id: str, folder: Path, settings: Settings) -> Outcome:
        """`fetch`; at a block all wait for `BLOCK_PAUSE` and try once more. Raises Blocked if it stays."""
        while True:
            with self._lock:
                began = time.monotonic()
            try:
                outcome = fetch(video_id, folder, settings)
                self._count(outcome)
                time.sleep(settings.pause)
                return outcome
            except Blocked as error:
                self._pause(error, began)

    def _count(self, outcome: Outcome) -> None:
        with self._lock:
            if outcome.status == "ok":
                self._empty, self._came = 0, True
            elif _EMPTY.search(outcome.reason):
                self._empty += 1
                if self._empty >= EMPTY_ROW:
                    raise _blocked(f"no formats for {self._empty} videos in a row: {outcome.reason}")
            else:
                self._empty = 0

    def _pause(self, error: Blocked, began: float) -> None:
        with self._lock:
            if began < self._paused_until:  # it was asked before the pause
                return
            if not self._came:
                raise error
            print(f"the site blocks us, trying again in {BLOCK_PAUSE:.0f} s", file=sys.stderr, flush=True)
            time.sleep(BLOCK_PAUSE)
            self._paused_until, self._came = time.monotonic(), False


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
    from yt_dlp.utils import DownloadCancelled, YoutubeDLError

    # this stand-in for a package that is missing raises the wrong error at any attribute, on which pickle trips
    sys.modules.pop("yt_dlp.dependencies.Cryptodome", None)
    height = f"[height<=?{settings.max_height}]"
    log, most = _Log(), settings.max_megabytes * 2**20

    def watch(progress: dict) -> None:
        size = max(progress.get("total_bytes") or 0, progress.get("downloaded_bytes") or 0)
        if most and size > most:
            raise DownloadCancelled(f"larger than download.max_megabytes, {settings.max_megabytes}")

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
        "logger": log,
        "progress_hooks": [watch],
    }
    url = settings.url.format(id=quote(video_id, safe=""))
    try:
        with YoutubeDL(options) as downloader:
            downloader.download([url])
    except (YoutubeDLError, OSError) as error:
        outcome = judge(_plain(str(error)).removeprefix("ERROR: ")[:300])
        return replace(outcome, reason=log.add_to(outcome.reason))
    files = [file for file in folder.iterdir() if file.suffix not in (".part", ".ytdl")]
    if not files:
        return Outcome("failed", log.add_to("nothing was downloaded"))
    broken = check(files[0])
    if broken:
        files[0].unlink()  # or the next try would take it for done
        return Outcome("failed", log.add_to(broken))
    return Outcome("ok", log.add_to(None), files[0])


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


def judge(reason: str) -> Outcome:
    """What an error of yt-dlp means for the video. Raises Blocked if it means the session."""
    if _BLOCKED.search(reason):
        raise _blocked(reason)
    gone = _GONE.search(reason) and not _PASSING.search(reason)
    return Outcome("unavailable" if gone else "failed", reason)


def _blocked(reason: str) -> Blocked:
    return Blocked(
        f"the site blocks this session for now ({reason}): wait an hour, set download.pause higher or "
        "download.cookies, and run the same command again; what was fetched is kept"
    )


def check(path: Path) -> str | None:
    """Why a file is no whole video, None if it is one."""
    try:
        codec.probe(path)
        return None if codec.reaches_end(path) else "the file ends before its video does"
    except codec.VideoError as error:
        return str(error)


def _pause(n: int) -> float:
    return min(2.0**n, LONGEST_PAUSE)
