"""Files from the internet, resumed after a break and checked before use."""

import time
from pathlib import Path
from urllib.parse import urlsplit

from pipeline.common.files import sha256
from uniface import store

STORES = ("s3", "gs", "gcs", "abfs", "abfss")
"""Of addresses that are read through `uniface.store`, with the keys of the environment."""

ATTEMPTS, TIMEOUT_S, BLOCK = 5, 30, 1 << 16


def check(path: Path, expected: str, url: str) -> None:
    """ValueError, naming the address and both sums, unless the file's sha256 is `expected`."""
    actual = sha256(path)
    if actual != expected:
        raise ValueError(f"{url} is not what was expected: sha256 {actual}, not {expected}; nothing of it was used")


def download(url: str, expected: str, folder: Path, pause_s: float = 2.0) -> Path:
    """A file with sha256 `expected` from `url`, kept in `folder`; a broken download goes on where it stopped.

    Tries five times, waiting longer each time. Raises ValueError naming the address and both checksums if what came is
    something else (it is then deleted), ConnectionError if it never came whole.
    """
    import requests

    scheme = urlsplit(url).scheme
    if scheme not in ("http", "https", *STORES):
        raise ValueError(f"cannot download {url}: only http, https, {', '.join(STORES)} are supported")
    done, part = folder / expected, folder / f"{expected}.part"
    if done.is_file() and sha256(done) == expected:
        return done
    if scheme in STORES:
        store.fetch(url, part)
        try:
            check(part, expected, url)
        except ValueError:
            part.unlink()
            raise
        return part.replace(done)
    folder.mkdir(parents=True, exist_ok=True)
    problem = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(pause_s * 2 ** (attempt - 1))
        resuming = part.is_file()
        try:
            _transfer(url, part)
        except (requests.RequestException, ConnectionError) as error:
            problem = f"{type(error).__name__}: {error}"
            print(f"weights: try {attempt + 1} of {ATTEMPTS} for {url}: {problem}", flush=True)
            if isinstance(error, requests.HTTPError) and error.response.status_code in (401, 403, 404, 410):
                break  # trying again changes nothing
            continue
        try:
            check(part, expected, url)
        except ValueError as error:
            part.unlink()
            if resuming:  # perhaps the beginning was of another version: once more from the start
                problem = str(error)
                continue
            raise
        part.replace(done)
        return done
    raise ConnectionError(f"could not download {url}: {problem}. Run the same command again to go on where it stopped")


def _transfer(url: str, part: Path) -> None:
    """Append what is missing of `url` to `part`, or start over if the server cannot continue."""
    import requests
    from tqdm import tqdm

    have = part.stat().st_size if part.is_file() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_S) as reply:
        if reply.status_code == 416:  # nothing beyond what we have: the checksum decides
            return
        reply.raise_for_status()
        resumed = reply.status_code == 206
        if not resumed:
            have = 0
        length = int(reply.headers.get("Content-Length", 0))
        name = url.rsplit("/", 1)[-1]
        total = have + length if length else None
        got = 0
        with (
            part.open("ab" if resumed else "wb") as file,
            tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=name, disable=None) as bar,
        ):
            for block in reply.iter_content(BLOCK):
                file.write(block)
                got += len(block)
                bar.update(len(block))
    if length and got < length:
        raise ConnectionError(f"{got} of {length} bytes came")
