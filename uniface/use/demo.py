"""The page of `python -m uniface demo`: two files in, a picture or a video out, in the browser of who runs it.

It listens to this machine alone. At any other address it asks for the password in UNIFACE_DEMO_PASSWORD (HTTP's basic
authentication, any user name): whoever reaches the page could otherwise make pictures of anybody on this machine. A
password travels readable without TLS: on a network that is not yours, go through SSH or a proxy with a certificate.
"""

import asyncio
import base64
import ipaddress
import re
import secrets
import socket
import tempfile
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel

from uniface.use import origin
from uniface.use.api import FaceEditor
from uniface.use.jobs import Job, Jobs

PAGE = Path(__file__).with_name("page")
EXAMPLES = PAGE / "examples"
PASSWORD = "UNIFACE_DEMO_PASSWORD"
SHORTEST = 8  # letters of a password
LARGEST = 100 << 20
"""Bytes of an upload."""
UPLOADS = 32
"""Uploads that are kept."""
PAUSE = 1.0  # seconds after a wrong password
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob:; media-src 'self' blob:; "
    "frame-ancestors 'none'; form-action 'self'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


class Wanted(BaseModel):
    """A request: `source` and `target` are keys of uploads, or names of examples."""

    task: str
    source: str
    target: str
    face: str = "largest"


def check(host: str, password: str) -> None:
    """Raise ValueError for an address that others can reach, without a password, and for a short one."""
    if password and len(password) < SHORTEST:
        raise ValueError(f"{PASSWORD} has fewer than {SHORTEST} letters: choose a longer password")
    if not password and not _is_own(host):
        raise ValueError(f"--host {host} lets others use this machine: set a password in {PASSWORD} first")


def serve(editor: FaceEditor, host: str, port: int, password: str) -> None:
    """Serve the page until interrupted. Raises ValueError if the address cannot be had."""
    import uvicorn

    origin.check(Path("result.png"))
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"cannot listen at {host}, port {port} ({reason}): choose another --port or --host") from error
    shown = f"[{host}]" if ":" in host else host
    print(f"http://{shown}:{listening.getsockname()[1]}  (Ctrl-C ends it)", flush=True)
    if not _is_own(host):
        print("others reach it with the password, which travels readable: use a network that you trust", flush=True)
    config = uvicorn.Config(application(editor, password, _is_own(host)), log_level="warning", server_header=False)
    with suppress(KeyboardInterrupt):  # uvicorn raises it again when it has ended well
        uvicorn.Server(config).run(sockets=[listening])


def application(editor: FaceEditor, password: str = "", own: bool = True) -> FastAPI:
    """The page and what it asks for. `own`: only this machine's own addresses are answered to."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with tempfile.TemporaryDirectory(prefix="uniface-") as folder:
            app.state.folder, app.state.uploads = Path(folder), {}
            app.state.jobs = Jobs(editor, Path(folder) / "jobs")
            yield
            await asyncio.to_thread(app.state.jobs.close)

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)

    @app.middleware("http")
    async def guard(request: Request, call_next: Any) -> Response:
        # a page elsewhere could have its own name lead to this machine, or send a form here
        if own and not _is_own(request.url.hostname or ""):
            return _refusal(403, "open the page by the address that the terminal shows")
        given = request.headers.get("authorization")
        if password and not _knows(given, password):
            if given:
                await asyncio.sleep(PAUSE)
            return _refusal(401, "the password is needed", {"WWW-Authenticate": 'Basic realm="UniFace"'})
        if request.method not in ("GET", "HEAD") and "x-uniface" not in request.headers:
            return _refusal(403, "only the page itself may ask for that")
        response = await call_next(request)
        response.headers.update(HEADERS)
        return response

    @app.exception_handler(HTTPException)
    async def sentence(request: Request, error: HTTPException) -> Response:
        return _refusal(error.status_code, str(error.detail))

    @app.get("/")
    async def page() -> FileResponse:
        return FileResponse(PAGE / "index.html")

    @app.get("/about")
    async def about() -> dict:
        names = sorted(path.name for path in EXAMPLES.iterdir())
        jobs: Jobs = app.state.jobs
        return {"model": editor.files.version, "tasks": jobs.tasks, "examples": names, "largest": LARGEST, "own": own}

    @app.post("/files")
    async def upload(request: Request, name: str = "file") -> dict:
        key = uuid.uuid4().hex
        path = app.state.folder / "uploads" / key / _harmless(name)
        path.parent.mkdir(parents=True)
        size = 0
        with path.open("wb") as file:
            async for part in request.stream():
                size += len(part)
                if size > LARGEST:
                    path.unlink()
                    raise HTTPException(413, f"{path.name} is larger than {LARGEST >> 20} MB: give a smaller file")
                file.write(part)
        uploads = app.state.uploads
        uploads[key] = path
        used = app.state.jobs.in_use()
        for old in [key for key, path in uploads.items() if path not in used][:-UPLOADS]:
            uploads.pop(old).unlink()
        return {"key": key}

    def found(key: str) -> Path:
        path = app.state.uploads.get(key)
        if path is None and key in {example.name for example in EXAMPLES.iterdir()}:
            path = EXAMPLES / key
        if path is None:
            raise HTTPException(404, "a file is no longer here: choose it again")
        return path

    def job(key: str) -> Job:
        try:
            return app.state.jobs.get(key)
        except KeyError:
            raise HTTPException(404, "this result is no longer here: make it again") from None

    @app.post("/jobs", status_code=202)
    async def ask(wanted: Wanted) -> dict:
        try:
            made = app.state.jobs.add(wanted.task, found(wanted.source), found(wanted.target), wanted.face)
        except ValueError as error:
            raise HTTPException(409, str(error)) from error
        return {"key": made.key}

    @app.get("/jobs/{key}")
    async def state(key: str) -> dict:
        it = job(key)
        return {
            "state": it.state,
            "ahead": app.state.jobs.ahead(it),
            "done": it.done,
            "total": it.total,
            "seconds_left": it.seconds_left,
            "error": it.error,
            "files": {name: f"/jobs/{key}/{path.name}" for name, path in it.files.items()} if it.over else {},
        }

    @app.delete("/jobs/{key}")
    async def stop(key: str) -> dict:
        job(key).stopping = True
        return {}

    @app.get("/jobs/{key}/{name}")
    async def result(key: str, name: str) -> FileResponse:
        for path in job(key).files.values():
            if path.name == name:
                return FileResponse(path)
        raise HTTPException(404, "this result is no longer here: make it again")

    app.mount("/page", StaticFiles(directory=PAGE))
    return app


def _is_own(host: str) -> bool:
    """Whether nothing but this machine reaches the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _knows(given: str | None, password: str) -> bool:
    """Whether the header has the password; takes as long for one that is nearly right."""
    try:
        pair = base64.b64decode((given or "").removeprefix("Basic "), validate=True)
    except ValueError:  # not base64, or not even ASCII
        return False
    return secrets.compare_digest(pair.partition(b":")[2], password.encode())


def _harmless(name: str) -> str:
    """A file name without folders or signs."""
    return re.sub(r"[^\w.-]+", "_", Path(name).name)[-60:].lstrip(".") or "file"


def _refusal(status: int, sentence: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": sentence}, status, headers=HEADERS | (headers or {}))
