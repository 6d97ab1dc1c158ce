"""Against a real S3 server (moto's): what is wrong is one sentence, an outage loses nothing, DVC keeps data there."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from sandbox import KEYS, need

from pipeline.common import bucket
from pipeline.nets.fetch import download
from uniface import store
from uniface.store import StoreError

pytestmark = pytest.mark.slow
AWAY = 60  # seconds


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The process of an S3 server with a bucket `bucket`; the environment leads there."""
    need("moto", "boto3")
    import boto3
    from moto.server import ThreadedMotoServer  # noqa: F401  its dependencies are there too

    log = (tmp_path_factory.mktemp("s3") / "log.txt").open("w")
    port = _free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], stdout=log, stderr=log
    )
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (KEYS | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}).items():
            patch.setenv(name, value)
        store.filesystem.cache_clear()
        _until_answers(process, port)
        boto3.client("s3").create_bucket(Bucket="bucket")
        yield process
    process.kill()
    process.wait()
    store.filesystem.cache_clear()


def _free_port() -> int:
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def _until_answers(process: subprocess.Popen, port: int) -> None:
    import socket

    end = time.monotonic() + 300
    while time.monotonic() < end:
        assert process.poll() is None
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.5)
    raise AssertionError("the S3 server does not start")


def test_files_come_back_whole_and_in_parts(server, tmp_path):
    content = os.urandom(3 << 20)
    (tmp_path / "shard.bin").write_bytes(content)
    row = bucket.put(tmp_path / "shard.bin", "s3://bucket/p/clips")
    assert store.read(row["url"]) == content and store.read(row["url"], 100, 50) == content[100:150]
    assert store.size(row["url"]) == len(content) and store.size("s3://bucket/p/nothing") is None
    store.fetch(row["url"], tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == content
    with pytest.raises(StoreError, match="s3://bucket/p/nothing is not there"):
        store.read("s3://bucket/p/nothing")


def test_a_network_may_lie_in_the_bucket(server, tmp_path):
    (tmp_path / "net.onnx").write_bytes(b"a network")
    row = bucket.put(tmp_path / "net.onnx", "s3://bucket/nets")
    assert download(row["url"], row["sha256"], tmp_path / "downloads").read_bytes() == b"a network"
    with pytest.raises(ValueError, match="is not what was expected"):
        download(row["url"], "0" * 64, tmp_path / "downloads")
    assert [path.name for path in (tmp_path / "downloads").iterdir()] == [row["sha256"]]


def test_a_wrong_bucket_or_key_is_one_sentence_at_once(server, monkeypatch):
    began = time.monotonic()
    with pytest.raises(StoreError, match=r"cannot write s3://none/p/inputs/check: there is no such bucket") as caught:
        bucket.check("s3://none/p")
    assert "\n" not in str(caught.value)
    import boto3
    import requests

    requests.post(f"{os.environ['AWS_ENDPOINT_URL']}/moto-api/reset-auth", data=b"0", timeout=60)  # keys count from now
    try:
        with pytest.raises(StoreError, match="the store refuses these credentials") as caught:
            bucket.check("s3://bucket/p")
        assert "\n" not in str(caught.value)
    finally:
        requests.post(f"{os.environ['AWS_ENDPOINT_URL']}/moto-api/reset-auth", data=b"inf", timeout=60)
    boto3.client("s3").head_bucket(Bucket="bucket")
    assert time.monotonic() - began < 60


def test_a_store_that_goes_away_for_a_minute_loses_nothing(server, tmp_path):
    (tmp_path / "shard.bin").write_bytes(os.urandom(1 << 20))
    row = bucket.put(tmp_path / "shard.bin", "s3://bucket/away")
    server.send_signal(signal.SIGSTOP)
    threading.Timer(AWAY, server.send_signal, [signal.SIGCONT]).start()
    began = time.monotonic()
    (tmp_path / "second.bin").write_bytes(b"written meanwhile")
    second = bucket.put(tmp_path / "second.bin", "s3://bucket/away")
    assert time.monotonic() - began >= AWAY - 5
    assert store.read(row["url"]) == (tmp_path / "shard.bin").read_bytes()
    assert store.read(second["url"]) == b"written meanwhile"


def test_dvc_keeps_the_small_index_and_whole_folders_there(server, tmp_path):
    need("dvc_s3")

    def run(*arguments: str) -> str:
        done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    dvc = (sys.executable, "-m", "dvc")
    run("git", "init", "--quiet")
    run(*dvc, "init", "--quiet")
    (tmp_path / "data").mkdir()
    for name in ("index.parquet", "shards.parquet"):
        (tmp_path / "data" / name).write_bytes(os.urandom(1000))
    before = {path.name: path.read_bytes() for path in (tmp_path / "data").iterdir()}
    run(*dvc, "remote", "add", "--default", "store", "s3://bucket/dvc")
    run(*dvc, "remote", "modify", "store", "endpointurl", os.environ["AWS_ENDPOINT_URL"])
    run(*dvc, "add", "--quiet", "data")
    run(*dvc, "push", "--quiet")
    run("rm", "-rf", "data", ".dvc/cache")
    run(*dvc, "pull", "--quiet")
    assert {path.name: path.read_bytes() for path in (tmp_path / "data").iterdir()} == before
