"""The page: requests, results with their mark, refusals in one sentence; in the slow test a browser."""

import base64
import io
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import drawn_faces
import pytest
from PIL import Image
from starlette.testclient import TestClient

import uniface
from uniface.__main__ import main
from uniface.images import read_image
from uniface.use import demo, jobs, origin

HOME = "http://127.0.0.1:7860"
OURS = {"X-Uniface": "1"}
SOURCE, TARGET, VIDEO = "source-1.jpg", "target-1.jpg", "target-video.mp4"


@pytest.fixture(scope="module")
def editor(tmp_path_factory):
    return uniface.load(drawn_faces.write_models(tmp_path_factory.mktemp("models")))


@pytest.fixture
def page(editor, tmp_path, monkeypatch):
    """A browser's view of the page."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("UNIFACE_SIGNER", raising=False)
    with TestClient(demo.application(editor), base_url=HOME, headers=OURS) as client:
        yield client


def finished(page, **wanted) -> dict:
    """What the page says at the end of a request."""
    made = page.post("/jobs", json={"task": "swapping", "source": SOURCE, "target": TARGET} | wanted)
    assert made.status_code == 202, made.text
    for _ in range(6000):
        state = page.get(f"/jobs/{made.json()['key']}").json()
        if state["state"] not in ("waiting", "running"):
            return state
        time.sleep(0.05)
    raise AssertionError(state)


def test_the_page_is_whole_and_asks_for_nothing_from_elsewhere(page):
    text = page.get("/").text
    addresses = re.findall(r'(?:src|href)="(/[^"]*)"', text)
    assert len(addresses) >= 3
    for address in addresses:
        assert page.get(address).status_code == 200
    for file in demo.PAGE.glob("*.*"):
        assert not re.search(r"https?://(?!www\.w3\.org)", file.read_text())
    about = page.get("/about").json()
    assert about["tasks"] == ["reenactment", "swapping"] and about["examples"][-1] == VIDEO
    assert "default-src 'self'" in page.get("/").headers["content-security-policy"]


@pytest.mark.parametrize("task", ["reenactment", "swapping"])
def test_a_picture_comes_back_marked_and_explained(page, tmp_path, task):
    state = finished(page, task=task)
    assert state["state"] == "done" and set(state["files"]) == {"result", "fdf", "attention"}
    for name, address in state["files"].items():
        (tmp_path / f"{name}.png").write_bytes(page.get(address).content)
        assert origin.verify(tmp_path / f"{name}.png").state == "valid"
    shape = read_image(tmp_path / "result.png").shape
    assert shape == (read_image(demo.EXAMPLES / TARGET).shape if task == "swapping" else (32, 32, 3))
    assert read_image(tmp_path / "fdf.png").shape == (128, 128, 3)


def test_own_files_go_up_and_a_video_comes_back(page, tmp_path):
    drawn_faces.write_video(tmp_path / "in.mp4", [drawn_faces.frame("plain", k) for k in range(10)])
    source = drawn_faces.save(tmp_path / "me.png", drawn_faces.portrait())
    keys = [page.post("/files", params={"name": f.name}, content=f.read_bytes()) for f in (source, tmp_path / "in.mp4")]
    source, target = (key.json()["key"] for key in keys)
    state = finished(page, source=source, target=target, face="all")
    assert (state["state"], state["done"]) == ("done", 10)
    (tmp_path / "out.mp4").write_bytes(page.get(state["files"]["result"]).content)
    assert len(drawn_faces.described(tmp_path / "out.mp4")["frames"]) == 10
    assert origin.verify(tmp_path / "out.mp4").mark["digitalSourceType"] == origin.COMPOSITE


def test_what_cannot_be_done_is_said_in_a_sentence_without_folders(page, monkeypatch):
    key = page.post("/files", params={"name": "../../my cat.png"}, content=b"no picture").json()["key"]
    assert finished(page, source=key) == finished(page, source=key) | {
        "error": "my_cat.png cannot be read: not a picture"
    }
    assert "no face found in" in finished(page, source=blank(page))["error"]
    monkeypatch.setattr(demo, "LARGEST", 1000)
    large = page.post("/files", params={"name": "large.mp4"}, content=bytes(1001))
    assert large.status_code == 413 and "large.mp4 is larger than" in large.json()["error"]
    for address in ("/jobs/nothing", "/jobs/nothing/result.png"):
        assert "no longer here" in page.get(address).json()["error"]
    for wanted in ({"source": "../index.html"}, {"target": "nothing"}):
        answer = page.post("/jobs", json={"task": "swapping", "source": SOURCE, "target": TARGET} | wanted)
        assert (answer.status_code, answer.json()["error"]) == (404, "a file is no longer here: choose it again")
    answer = page.post("/jobs", json={"task": "ageing", "source": SOURCE, "target": TARGET})
    assert "cannot do ageing" in answer.json()["error"]


def blank(page) -> str:
    """An uploaded picture without a face."""
    out = io.BytesIO()
    Image.new("RGB", (256, 256), "grey").save(out, "PNG")
    return page.post("/files", params={"name": "blank.png"}, content=out.getvalue()).json()["key"]


def test_requests_wait_their_turn_can_be_stopped_and_too_many_are_refused(editor, tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "WAITING", 2)
    queue = jobs.Jobs(editor, tmp_path)
    go = []

    def edit(job):
        while not go:
            job.advance(1, 4)
            time.sleep(0.01)

    monkeypatch.setattr(queue, "_edit", edit)
    file = demo.EXAMPLES / SOURCE
    first = queue.add("swapping", file, file)
    while first.state == "waiting":
        time.sleep(0.01)
    second, third = (queue.add("swapping", file, file) for _ in range(2))
    assert [queue.ahead(job) for job in (first, second, third)] == [0, 1, 2]
    with pytest.raises(ValueError, match="2 requests are waiting already"):
        queue.add("swapping", file, file)
    first.stopping = third.stopping = True
    while second.state == "waiting":
        time.sleep(0.01)
    assert first.state == "stopped"
    go.append(True)
    queue.close()
    assert second.state == "done" or second.stopping
    assert third.state != "done"


def basic(password: str) -> dict:
    return {"Authorization": f"Basic {base64.b64encode(f'me:{password}'.encode()).decode()}"}


def test_a_password_guards_everything(editor, monkeypatch):
    monkeypatch.setattr(demo, "PAUSE", 0.0)
    with TestClient(demo.application(editor, "open sesame", own=False), base_url="http://box.local") as client:
        for address in ("/", "/about", "/page/page.js", f"/page/examples/{SOURCE}"):
            answer = client.get(address)
            assert answer.status_code == 401 and answer.headers["www-authenticate"].startswith("Basic")
            for wrong in ("open sesam", "", "open sesame "):
                assert client.get(address, headers=basic(wrong)).status_code == 401
            assert client.get(address, headers={"Authorization": "Basic ~~"}).status_code == 401
            assert client.get(address, headers=basic("open sesame")).status_code == 200
        assert client.post("/files", content=b"x", headers=OURS).status_code == 401


def test_other_pages_cannot_use_this_one(page):
    assert page.get("/about", headers={"Host": "evil.example"}).status_code == 403  # a name that leads here
    assert page.post("/files", content=b"x", headers={"X-Uniface": ""}).status_code == 200
    del page.headers["X-Uniface"]
    assert page.post("/files", content=b"x").status_code == 403  # a form elsewhere cannot send the header


@pytest.mark.parametrize(
    "host, password, sentence",
    [
        ("0.0.0.0", "", "--host 0.0.0.0 lets others use this machine: set a password in UNIFACE_DEMO_PASSWORD"),
        ("::", "", "set a password"),
        ("box.local", "", "set a password"),
        ("127.0.0.1", "short", "fewer than 8 letters"),
        ("127.0.0.1", "", "no model in models or pretrained"),
    ],
)
def test_sharing_without_a_password_is_refused(tmp_path, monkeypatch, capsys, host, password, sentence):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(demo.PASSWORD, password)
    assert main(["demo", "--host", host]) == 2
    said = capsys.readouterr().err
    assert sentence in said and said.count("\n") == 1


def test_a_taken_port_is_a_sentence(editor):
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ValueError, match="choose another --port"):
        demo.serve(editor, "127.0.0.1", taken.getsockname()[1], "")


@pytest.mark.slow
@pytest.mark.parametrize("size, dark", [((1280, 900), False), ((390, 844), False), ((390, 844), True)])
def test_a_browser_swaps_and_reenacts(tmp_path, size, dark):
    """In Chromium (`apt-get install chromium`, `pip install playwright==1.65.2`); its pictures go to UNIFACE_SHOTS."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright and a Chromium")
    browser_file = shutil.which("chromium") or shutil.which("google-chrome")
    if browser_file is None:
        pytest.skip("needs a Chromium: apt-get install chromium")
    models = Path(os.environ.get("UNIFACE_SHOWN_MODELS") or drawn_faces.write_models(tmp_path))
    shots = Path(os.environ.get("UNIFACE_SHOTS") or tmp_path)
    environment = os.environ | {"XDG_CONFIG_HOME": str(tmp_path / "config")}
    command = [sys.executable, "-m", "uniface", "demo", "--model", str(models), "--port", "0"]
    command += ["--detector", str(drawn_faces.DETECTOR)]
    server = subprocess.Popen(command, cwd=drawn_faces.ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        address = server.stdout.readline().split()[0]
        with playwright.sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=browser_file, args=["--no-sandbox"])
            page = browser.new_page(
                viewport={"width": size[0], "height": size[1]}, color_scheme="dark" if dark else "light"
            )
            page.set_default_timeout(240_000)
            errors = []
            page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.goto(address)
            page.wait_for_selector("#start:enabled")
            name = f"{size[0]}{'-dark' if dark else ''}"
            page.screenshot(path=shots / f"{name}-begin.png", full_page=True)
            page.click("#start")
            page.wait_for_selector("#result:visible")
            with page.expect_download() as download:
                page.click("#download")
            download.value.save_as(tmp_path / "swapped.png")
            assert read_image(tmp_path / "swapped.png").shape == (240, 426, 3)
            page.wait_for_timeout(500)
            page.screenshot(path=shots / f"{name}-swapped.png", full_page=True)
            page.click("text=Reenact")
            page.click("[value='target-video.mp4']")
            page.click("#start")
            page.wait_for_selector("#answer video:visible")
            page.wait_for_timeout(500)
            page.screenshot(path=shots / f"{name}-reenacted.png", full_page=True)
            assert page.eval_on_selector("#answer video", "video => video.error === null && video.videoWidth > 0")
            assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")  # nothing sticks out
            (tmp_path / "broken.png").write_bytes(b"no picture")
            page.set_input_files("[data-role=source] input", tmp_path / "broken.png")
            page.click("#start")
            page.wait_for_selector("#error:visible")
            assert page.inner_text("#error") == "broken.png cannot be read: not a picture"
            assert not [error for error in errors if "blob:" not in error]
            browser.close()
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(60)
    assert server.returncode == 0
