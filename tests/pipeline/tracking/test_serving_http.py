"""A real `mlflow server` and `mlflow models serve`: register, promote, load by alias, answer over HTTP."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest
from small_requests import face, text
from test_register import run

from pipeline import params as settings
from pipeline import promote
from pipeline.common.places import Places
from pipeline.sections import GateParams, PromoteParams, RegisterParams
from pipeline.tracking import serving, versions

GATES = PromoteParams({"reenactment.psnr": GateParams("higher", 18.0, 0.3)}, {"reenactment": 10})


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def start(*arguments, **more):
    """A command of this environment in a group of its own, quiet."""
    here = str(Path(sys.executable).parent)  # `mlflow models serve` looks for uvicorn on PATH
    return subprocess.Popen(
        [sys.executable, "-m", "mlflow", *arguments],
        env={**os.environ, "PATH": f"{here}{os.pathsep}{os.environ['PATH']}", **more},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def stop(process):
    os.killpg(process.pid, 15)  # the servers have children
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:  # a busy machine; whatever it was doing, its test is over
        os.killpg(process.pid, 9)
        process.wait()


def wait_for(url, process, seconds=300):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert process.poll() is None, f"{process.args} ended with {process.returncode}"
        try:
            urllib.request.urlopen(url, timeout=2).close()
            return
        except OSError:
            time.sleep(0.3)
    raise AssertionError(f"{url} did not answer in {seconds} s")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The address of a tracking server whose clients see nothing but HTTP."""
    home, port = tmp_path_factory.mktemp("server"), free_port()
    process = start(
        *("server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{home}/server.db", "--artifacts-destination", str(home / "artifacts")),
    )
    try:
        wait_for(f"http://127.0.0.1:{port}/health", process)
        yield f"http://127.0.0.1:{port}"
    finally:
        stop(process)


def ask(url, rows):
    """Status and body of one request."""
    body = json.dumps({"dataframe_records": rows}).encode()
    request = urllib.request.Request(f"{url}/invocations", body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def timed(url, row):
    """Milliseconds of one request with one row."""
    began = time.perf_counter()
    assert ask(url, [row])[0] == 200
    return 1000 * (time.perf_counter() - began)


@pytest.mark.slow
def test_register_promote_and_serve_over_http(server, tmp_path, monkeypatch, record_property):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    model = settings.load(Path(__file__).resolve().parents[3] / "params.yaml").model
    registered = run(tmp_path, name="served", model=model)
    assert registered["tracking_uri"] == server and not (tmp_path / "mlflow.db").exists()
    decided_by = SimpleNamespace(promote=GATES, register=RegisterParams(name="served"))
    assert promote.promote(decided_by, Places(tmp_path)).outcome == "promoted"
    assert versions.Registry("served", tmp_path).aliases() == {"candidate": "1", "champion": "1"}

    port = free_port()
    process = start(
        *("models", "serve", "--model-uri", "models:/served@champion", "--env-manager", "local"),
        *("--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
    )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(f"{url}/ping", process)
        size = model.image_size
        faces = face(0, size), face(1, size)
        rows = [{"task": task, "source": text(faces[0]), "target": text(faces[1])} for task in serving.TASKS]
        status, answer = ask(url, rows)
        assert status == 200
        images = [serving.decode(row["image"]) for row in answer["predictions"]]
        assert [image.shape for image in images] == [(size, size, 3)] * 2
        assert (images[0] != images[1]).any()
        status, answer = ask(url, [{"task": "swapping", "source": faces[0].tolist(), "target": faces[1].tolist()}])
        assert status == 200
        assert abs(serving.decode(answer["predictions"][0]["image"]).astype(int) - images[1]).max() <= 1
        for row, sentence in (
            ({**rows[0], "task": "colour"}, "it must be one of reenactment, swapping"),
            ({**rows[0], "source": "?"}, "source: not base64 text"),
            ({"task": "swapping", "source": rows[0]["source"]}, "target"),
        ):
            status, answer = ask(url, [row])
            assert status == 400 and sentence in answer["message"], answer
        for row in rows:
            times = sorted(timed(url, row) for _ in range(20))
            record_property(f"{row['task']}_ms", times)
            print(f"{row['task']} at {size} px: median {times[10]:.0f} ms, slowest of 20 {times[-1]:.0f} ms a request")
            assert times[10] < 5000
    finally:
        stop(process)
