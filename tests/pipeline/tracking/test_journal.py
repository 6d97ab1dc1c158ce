"""The log of a training outlives a server that is away, hangs, comes back, or has lost the run."""

import http.server
import json
import socket
import threading
import time

import numpy as np
import pytest

from pipeline.tracking import journal, store
from pipeline.tracking.journal import Journal, kept, send_leftovers
from uniface.images import write_image


@pytest.fixture
def log(registry_home, request):
    """A journal of its own in the project of the shared database."""
    return Journal(registry_home / "work/train_x" / request.node.name[:60] / "mlflow", registry_home)


@pytest.fixture
def fast(monkeypatch):
    monkeypatch.setattr(journal, "EVERY", 0.05)


def curve(log, metric="loss"):
    import mlflow

    found = mlflow.MlflowClient().get_metric_history(log.run_id(), metric)
    return sorted((point.step, point.value) for point in found)


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_curves_pictures_and_settings_arrive_and_a_resumed_training_draws_on(log, fast):
    import mlflow

    path = log.root / "work/train_x/0000002.png"
    with kept(log, "train_x", {"lr": 1e-4, "weights": {"identity": 2}}):
        write_image(path, np.zeros((8, 8, 3), np.uint8))
        for step in range(3):
            log.metrics({"loss": 1.0 / (step + 1), "psnr": float("nan")}, step)
        log.image(path, "sample", 2)
    client = mlflow.MlflowClient()
    run = client.get_run(log.run_id())
    assert (run.info.status, run.info.run_name) == ("FINISHED", "train_x")
    assert run.data.params == {"lr": "0.0001", "weights.identity": "2"}
    assert curve(log) == [(0, 1.0), (1, 0.5), (2, 1 / 3)]
    assert [item.path for item in client.list_artifacts(run.info.run_id)] == ["images"]
    assert not log.pending()

    with pytest.raises(ZeroDivisionError), kept(log, "train_x", {"lr": 1e-4, "weights": {"identity": 2}}):
        until(lambda: not log.pending())
        assert client.get_run(run.info.run_id).info.status == "RUNNING"
        log.metrics({"loss": 0.25}, 3)
        raise ZeroDivisionError
    assert client.get_run(log.run_id()).info.status == "FAILED" and log.run_id() == run.info.run_id
    assert len(curve(log)) == 4


@pytest.mark.parametrize("loss", ["deleted", "swept"])
def test_a_run_that_is_gone_is_made_anew_with_the_whole_curve(log, fast, loss, capsys):
    import mlflow
    from mlflow.tracking._tracking_service.utils import _get_store

    with kept(log, "train_x", {"lr": 1}):
        log.metrics({"loss": 1.0}, 0)
    old = log.run_id()
    mlflow.MlflowClient().delete_run(old)
    if loss == "swept":
        _get_store()._hard_delete_run(old)
    with kept(log, "train_x", {"lr": 1}):
        log.metrics({"loss": 0.5}, 1)
    assert log.run_id() != old and curve(log) == [(0, 1.0), (1, 0.5)]
    assert mlflow.MlflowClient().get_run(log.run_id()).info.status == "FINISHED"
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    assert len(warnings) == 1 and "a new one gets the whole curve" in warnings[0]


def test_a_server_away_costs_one_warning_and_what_it_missed_is_sent_later(log, fast, monkeypatch, capsys):
    import mlflow

    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        started = time.monotonic()
        with kept(log, "train_x", {"lr": 1}):
            log.metrics({"loss": 1.0}, 0)
        assert time.monotonic() - started < journal.PATIENCE + 5
    store.initialise(log.root)
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    assert len(warnings) == 1 and "does not answer" in warnings[0] and "its log is kept in work/train_x" in warnings[0]
    assert log.pending() and log.run_id() is None
    send_leftovers(log.root)
    assert curve(log) == [(0, 1.0)] and not log.pending()

    assert mlflow.MlflowClient().get_run(log.run_id()).info.status == "FINISHED"


def test_a_server_that_takes_and_never_answers_holds_nobody_back(tmp_path, monkeypatch, capsys):
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setattr(journal, "PATIENCE", 0.5)
        log = Journal(tmp_path / "work/train_x/a/mlflow", tmp_path)
        started = time.monotonic()
        with kept(log, "train_x", {"lr": 1}):
            log.metrics({"loss": 1.0}, 0)
        assert time.monotonic() - started < 5
    assert "MLflow takes too long" in capsys.readouterr().err and log.pending()


class Flaky(http.server.BaseHTTPRequestHandler):
    """As much of MLflow's interface as a journal needs; what it was sent is in `server.got`."""

    def answer(self, body):
        text = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def do_GET(self):
        info = {"run_id": "r1", "status": "RUNNING", "lifecycle_stage": "active", "experiment_id": "1"}
        experiment = {"experiment_id": "1", "name": "uniface", "artifact_location": "x:/", "lifecycle_stage": "active"}
        self.answer({"run": {"info": info}} if "/runs/" in self.path else {"experiment": experiment})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.got.append((self.path.rsplit("/", 1)[1], body))
        info = {"run_id": "r1", "status": "RUNNING", "lifecycle_stage": "active", "experiment_id": "1"}
        self.answer({"run": {"info": info}, "run_info": info})

    def log_message(self, *_):
        pass


def serve(port, got):
    """A server that is there until it is closed."""
    http.server.ThreadingHTTPServer.allow_reuse_address = True
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Flaky)
    server.got = got
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    return server


def test_a_server_that_dies_in_mid_training_and_comes_back_gets_every_point_once(tmp_path, monkeypatch, capsys, fast):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "false")
    monkeypatch.setattr(journal._Sender, "_watch_machine", lambda self: None)
    got = []
    server = serve(0, got)
    port = server.server_address[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    log = Journal(tmp_path / "work/train_x/a/mlflow", tmp_path)
    with kept(log, "train_x", {"lr": 1}):
        log.metrics({"loss": 0.0}, 0)
        until(lambda: not log.pending())
        server.shutdown()
        server.server_close()
        for step in range(1, 51):
            log.metrics({"loss": float(step)}, step)
        until(lambda: "does not answer" in capsys.readouterr().err)
        server = serve(port, got)
        until(lambda: not log.pending())
    server.shutdown()
    server.server_close()
    steps = [metric["step"] for name, body in got if name == "log-batch" for metric in body.get("metrics", [])]
    assert steps == list(range(51))
    assert [body["status"] for name, body in got if name == "update"] == ["RUNNING", "FINISHED"]
    out, err = capsys.readouterr()
    assert "train_x: MLflow answers again" in out and "warning" not in err  # the one warning was read above


def test_half_a_line_of_a_kill_costs_that_line(log, fast):
    with kept(log, "train_x", {"lr": 1}):
        log.metrics({"loss": 1.0}, 0)
    with log.lines.open("ab") as file:
        file.write(b'{"kind": "metrics", "ste')
    with kept(log, "train_x", {"lr": 1}):
        log.metrics({"loss": 0.5}, 1)
    assert curve(log) == [(0, 1.0), (1, 0.5)] and not log.pending()


def test_the_log_of_a_training_that_runs_is_its_own_to_send(log, registry_home):
    from filelock import FileLock

    log.begin("train_x", {"lr": 1})
    with FileLock(log.folder / "lock"):
        send_leftovers(registry_home)
        assert log.run_id() is None
    send_leftovers(registry_home)
    assert log.run_id() and not log.pending()
