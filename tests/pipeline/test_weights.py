"""Stage `weights`: copies of the sample's nets; downloads that break, lie, resume, or carry a hostile zip."""

import hashlib
import io
import json
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from pipeline import weights as stage
from pipeline.common.files import sha256
from pipeline.common.nets import OFFERS, read_manifest
from pipeline.common.places import Places
from pipeline.nets import fetch as fetching
from pipeline.nets.catalogue import INTERNET, PACKAGES, SAMPLE, Weight
from pipeline.nets.fetch import download
from pipeline.params import load
from pipeline.sections import RoleParams, WeightsParams

BODY = bytes(range(256)) * 40
SHA = hashlib.sha256(BODY).hexdigest()
OFFLINE, ONLINE = WeightsParams("sample", {}), WeightsParams("internet", {})
PARAMS = load(Path(__file__).resolve().parents[2] / "params.yaml")


def fetch(root: Path, settings: WeightsParams, *arguments, **more) -> dict:
    """Run the stage in the project `root`; what the manifest says."""
    return stage.weights(replace(PARAMS, weights=settings), Places(root), *arguments, **more)


class Site:
    """A web server on this machine: `files` path -> bytes; the first `breaks` replies stop half-way."""

    def __init__(self):
        self.files, self.breaks, self.ranges, self.asked = {}, 0, True, []
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                body, start = site.files.get(self.path), 0
                site.asked.append(self.headers.get("Range"))
                if body is None:
                    return self.send_error(404)
                if site.ranges and self.headers.get("Range"):
                    start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
                    if start >= len(body):
                        return self.send_error(416)
                body = body[start:]
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if site.breaks:
                    site.breaks -= 1
                    body = body[: len(body) // 2]
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture
def site():
    site = Site()
    yield site
    site.server.shutdown()
    site.server.server_close()


def test_download_goes_on_where_the_connection_broke(site, tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "BLOCK", 512)  # the last, broken block is asked for again
    site.files["/net.bin"], site.breaks = BODY, 2
    assert download(f"{site.url}/net.bin", SHA, tmp_path, pause_s=0).read_bytes() == BODY
    half = len(BODY) // 2
    assert site.asked == [None, f"bytes={half}-", f"bytes={half + half // 2}-"]
    download(f"{site.url}/net.bin", SHA, tmp_path)  # already there: asks nobody
    assert len(site.asked) == 3


def test_download_starts_over_when_the_server_cannot_continue(site, tmp_path):
    site.files["/net.bin"], site.breaks, site.ranges = BODY, 1, False
    assert download(f"{site.url}/net.bin", SHA, tmp_path, pause_s=0).read_bytes() == BODY


def test_download_forgets_a_beginning_of_something_else(site, tmp_path):
    site.files["/net.bin"] = BODY
    (tmp_path / f"{SHA}.part").write_bytes(b"x" * 100)
    assert download(f"{site.url}/net.bin", SHA, tmp_path, pause_s=0).read_bytes() == BODY


def test_wrong_checksum_names_the_address_and_both_sums_and_keeps_nothing(site, tmp_path):
    site.files["/net.bin"] = BODY + b"!"
    actual = hashlib.sha256(BODY + b"!").hexdigest()
    with pytest.raises(ValueError) as error:
        download(f"{site.url}/net.bin", SHA, tmp_path, pause_s=0)
    assert all(word in str(error.value) for word in (f"{site.url}/net.bin", SHA, actual))
    assert list(tmp_path.iterdir()) == []


def test_a_missing_page_fails_at_once_and_a_dead_server_after_five_tries(site, tmp_path):
    with pytest.raises(ConnectionError, match="404"):
        download(f"{site.url}/no.bin", SHA, tmp_path, pause_s=0)
    assert len(site.asked) == 1
    site.files["/net.bin"], site.breaks = BODY, 99
    with pytest.raises(ConnectionError, match="go on where it stopped"):
        download(f"{site.url}/net.bin", SHA, tmp_path, pause_s=0)
    assert len(site.asked) == 6
    with pytest.raises(ValueError, match="only http"):
        download("ftp://127.0.0.1/net.bin", SHA, tmp_path)


def _zip(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def _in_zip(site, data: bytes) -> Weight:
    site.files["/pack.zip"] = data
    archive_sha = hashlib.sha256(data).hexdigest()
    return Weight("judge", "judge.onnx", "j", "free", f"{site.url}/pack.zip", SHA, "net.onnx", archive_sha)


def test_internet_source_fetches_files_zip_members_and_packaged_files(site, tmp_path):
    lpips = next(weight for weight in INTERNET if weight.role == "lpips")  # really in the package lpips, sum and all
    site.files["/vgg16.pth"] = BODY
    plain = Weight("perceptual", "vgg16.pth", "v", "free", f"{site.url}/vgg16.pth", SHA)
    judge = _in_zip(site, _zip({"pack/net.onnx": BODY, "../../evil.txt": b"no"}))
    fetch(tmp_path, ONLINE, (plain, judge, lpips))
    manifest = read_manifest(tmp_path / "data/weights")
    out = tmp_path / "data/weights"
    assert (out / "vgg16.pth").read_bytes() == (out / "judge.onnx").read_bytes() == BODY
    assert not list(tmp_path.parent.rglob("evil.txt"))
    assert manifest["judge"] == {
        "file": "judge.onnx",
        "name": "j",
        "sha256": SHA,
        "licence": "free",
        "url": judge.url,
        "source": "internet",
        "stand_in": False,
    }
    assert manifest["lpips"]["sha256"] == lpips.sha256
    site.files.clear()  # a second run needs no network: everything is checked and kept
    fetch(tmp_path, ONLINE, (plain, judge, lpips))


@pytest.mark.parametrize(
    "members, message",
    [({"other.onnx": BODY}, "0 files named net.onnx"), ({"net.onnx": b"x"}, "not what was expected")],
)
def test_a_zip_without_the_right_member_is_refused(site, tmp_path, members, message):
    with pytest.raises(ValueError, match=message):
        fetch(tmp_path, ONLINE, (_in_zip(site, _zip(members)),))
    assert not (tmp_path / "data/weights").exists()


def _own(file, sha=SHA, **more) -> RoleParams:
    return RoleParams(file=str(file), sha256=sha, **more)


def test_a_file_of_your_own_for_a_role_is_checked_and_named(tmp_path):
    (tmp_path / "mine.onnx").write_bytes(BODY)
    own = WeightsParams("internet", {"regressor": _own(tmp_path / "mine.onnx", self_test=False)})
    manifest = fetch(tmp_path, own, ())
    assert manifest["regressor"]["source"] == "yours" and manifest["regressor"]["name"] == "mine (yours)"
    assert (tmp_path / "data/weights/regressor.onnx").read_bytes() == BODY
    with pytest.raises(ValueError, match=r"mine\.onnx is not what was expected: sha256"):
        fetch(tmp_path, WeightsParams("internet", {"judge": _own(tmp_path / "mine.onnx", "0" * 64)}), ())
    with pytest.raises(FileNotFoundError, match=r"gone\.onnx for the judge \(weights\.roles\.judge\.file\)"):
        fetch(tmp_path, WeightsParams("internet", {"judge": _own("gone.onnx")}), ())
    with pytest.raises(ValueError, match=r"weights\.roles\.judge\): it is not an ONNX file"):
        fetch(tmp_path, WeightsParams("internet", {"judge": _own(tmp_path / "mine.onnx")}), ())
    with pytest.raises(ValueError, match="can only be chosen for an ONNX file"):
        fetch(tmp_path, WeightsParams("internet", {"lpips": _own("mine.pth", channels="bgr")}), ())


def test_sources_mix_role_by_role(tmp_path):
    mixed = WeightsParams("internet", {"judge": RoleParams("sample"), "detector": RoleParams("sample")})
    manifest = fetch(tmp_path, mixed, ())
    assert {role: entry["source"] for role, entry in manifest.items()} == {"judge": "sample", "detector": "sample"}
    assert manifest["judge"]["report"]["right_share"] >= 0.95
    with pytest.raises(ValueError, match=r"roles\.lpips: the source sample has none; internet would"):
        fetch(tmp_path, WeightsParams("sample", {"lpips": RoleParams("sample")}))


def test_a_stage_that_misses_a_net_says_what_it_needs_and_the_choices(tmp_path):
    fetch(tmp_path, OFFLINE)
    with pytest.raises(ValueError) as error:
        read_manifest(tmp_path / "data/weights", ("judge", "inception"), "evaluate")
    assert "evaluate needs the networks judge, inception" in str(error.value)
    assert "has no inception. Choose inception from internet, or a file of yours" in str(error.value)
    sources = {"sample": SAMPLE, "packages": PACKAGES, "internet": INTERNET}
    for source, catalogue in sources.items():
        assert [one if isinstance(one, str) else one.role for one in catalogue] == list(OFFERS[source])


def test_wrong_roles_in_params_are_named(tmp_path):
    text = (Path(__file__).resolve().parents[2] / "params.yaml").read_text()
    wrong = "{judge: {source: sample, file: a.onnx}, detector: {file: b.onnx}, lpips: {source: internet, mean: 3.0}}"
    (tmp_path / "params.yaml").write_text(text.replace("  roles: {}", f"  roles: {wrong}"))
    with pytest.raises(ValueError) as error:
        load(tmp_path / "params.yaml")
    assert str(error.value).splitlines()[1:] == [
        "  weights.roles.judge: give either a source or a file",
        "  weights.roles.detector.sha256: missing (sha256sum b.onnx)",
        "  weights.roles.lpips: a source says all about its networks; the other keys belong to a file",
    ]


def test_sample_source_copies_the_shipped_nets_with_their_report(tmp_path):
    nets = tmp_path / "nets"
    nets.mkdir()
    for file, _ in SAMPLE.values():
        (nets / Path(file).name).write_bytes(file.encode())
    (nets / "report.json").write_text(json.dumps({"nets": {"regressor": {"r2": {"yaw": 0.9}}}}))
    out = tmp_path / "data/weights"
    fetch(tmp_path, OFFLINE, shipped=nets)
    manifest = read_manifest(out)
    assert sorted(path.name for path in (out / "faces").iterdir()) == ["detector.onnx", "recogniser.onnx"]
    assert all(sha256(out / entry["file"]) == entry["sha256"] for entry in manifest.values())
    assert all(entry["stand_in"] and "sample" in entry["name"] for entry in manifest.values())
    assert manifest["regressor"]["report"] == {"r2": {"yaw": 0.9}}
    (nets / "report.json").write_text(json.dumps({"nets": {"judge": {"sha256": "0" * 64}}}))
    with pytest.raises(ValueError, match=r"judge\.onnx has sha256"):
        fetch(tmp_path, OFFLINE, shipped=nets)
    (nets / "report.json").unlink()
    (nets / "judge.onnx").unlink()
    with pytest.raises(FileNotFoundError, match=r"judge\.onnx is missing"):
        fetch(tmp_path, OFFLINE, shipped=nets)
    with pytest.raises(FileNotFoundError, match="run the stage `weights` first"):
        read_manifest(tmp_path / "nowhere")


def test_the_catalogue_is_complete_and_keeps_the_faces_folder_to_insightface():
    roles = {weight.role for weight in INTERNET}
    assert roles >= {"detector", "recogniser", "judge", "perceptual", "lpips", "contextual", "inception"}
    assert all(len(weight.sha256) == 64 and weight.licence and weight.name for weight in INTERNET)
    assert all(len(weight.archive_sha256) == 64 for weight in INTERNET if weight.member)
    for vgg in (weight for weight in INTERNET if "torchvision" in weight.name):  # torch.hub's own rule
        assert vgg.url.endswith(f"-{vgg.sha256[:8]}.pth")
    assert [weight.role for weight in INTERNET if weight.file.startswith("faces/")] == ["detector", "recogniser"]
