"""What videos.parquet says of a video, besides whose it is."""

from datetime import UTC, datetime
from pathlib import Path

from pipeline.common.files import sha256
from pipeline.videos import codec

_FACTS = ("status", "reason", "width", "height", "fps", "frames", "sha256", "tried_at")


def facts(status: str, reason: str | None) -> dict:
    """The facts of a video that was tried now, and of which nothing else is known."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return dict.fromkeys(_FACTS) | {"status": status, "reason": reason, "tried_at": now}


def of_file(path: Path, reason: str | None = None) -> dict:
    """The facts of a whole video file; `reason` is what its source warned of. Raises VideoError if it is none."""
    info = codec.probe(path)
    shown = {"width": info.width, "height": info.height, "fps": info.fps, "frames": info.frames}
    return facts("ok", reason) | shown | {"sha256": sha256(path)}
