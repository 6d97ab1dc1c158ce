"""Joining a cluster: what keeps us out is one sentence, in time."""

import socket
import time
from dataclasses import replace

import pytest

from pipeline.common import joining
from pipeline.common.code import ROOT


def test_an_address_where_nobody_listens_or_that_is_none(monkeypatch):
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{found.getsockname()[1]}"
    began = time.monotonic()
    for address, said in (
        (nobody, rf"the Ray cluster at {nobody} \(RAY_ADDRESS\) does not answer: .*refused"),
        ("ray://head:10001", "give HOST:PORT as `ray start --head` prints it"),
        ("head", "RAY_ADDRESS is head: HOST:PORT is expected"),
    ):
        with pytest.raises(ConnectionError, match=said) as caught:
            joining.join(address)
        assert "\n" not in str(caught.value)
    assert time.monotonic() - began < 30


def test_a_token_is_used_where_there_is_one(monkeypatch, tmp_path):
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    joining.token_mode()
    assert "RAY_AUTH_MODE" not in joining.os.environ
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("00")
    joining.token_mode()
    assert joining.os.environ["RAY_AUTH_MODE"] == "token"
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    joining.token_mode()
    assert joining.os.environ["RAY_AUTH_MODE"] == "disabled"


def test_versions_that_differ_are_one_sentence():
    ray_says = RuntimeError(
        "Version mismatch: The cluster was started with:\n    Ray: 2.59.0\n    Python: 3.11.9\n"
        "This process on node 10.0.0.2 was started with:\n    Ray: 2.60.0\n    Python: 3.11.7\n"
    )
    assert joining._why(ray_says).startswith("runs Ray 2.59.0 and Python 3.11.9, this machine Ray 2.60.0 and Python")
    ours = {"torch": "2.15.0", "av": "18.1.0", "ray": "2.60.0"}
    assert joining.difference(ours, dict(ours)) == ""
    assert joining.difference(ours, ours | {"av": None}) == (
        "has no av, here it is av 18.1.0: install requirements.txt of this project there"
    )
    both = joining.difference(ours, ours | {"torch": "2.11.0", "av": None})
    assert both.startswith("has torch 2.11.0 and 1 more packages otherwise, here it is torch 2.15.0")


def test_the_pins_are_read_from_the_list():
    names = joining.pinned((ROOT / "requirements.txt").read_text())
    assert {"torch", "ray", "pyarrow", "opencv-python-headless"} <= set(names) and len(names) > 200
    assert joining.installed(["ray", "no-such-package"])["no-such-package"] is None


def test_the_code_that_travels_is_the_two_packages_and_no_data():
    modules = joining.code_travels()["py_modules"]
    assert modules == [str(ROOT / "uniface"), str(ROOT / "pipeline")]


def test_a_cluster_with_too_little_room_is_one_sentence(monkeypatch):
    import ray
    from test_cluster import COMPUTE

    nodes = [{"Alive": True, "Resources": {"CPU": 3.0}}, {"Alive": True, "Resources": {"CPU": 3.0, "GPU": 1.0}}]
    nodes.append({"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}})
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    wants = {"workers": 2, "cpus_per_worker": 2, "gpus_per_worker": 0}
    joining.check_room(replace(COMPUTE, **wants))  # one on each machine
    with pytest.raises(ConnectionError, match="has room for 2 of 3 workers with 2 CPUs each"):
        joining.check_room(replace(COMPUTE, **wants | {"workers": 3}))
    with pytest.raises(ConnectionError, match=r"room for 1 of 2 workers with 2 CPUs and 1 GPU each .*3 CPUs and 0 GPU"):
        joining.check_room(replace(COMPUTE, **wants | {"gpus_per_worker": 1}))


def test_a_machine_that_has_just_died_is_no_reason_to_refuse_the_cluster(monkeypatch):
    """The cluster calls it alive for some seconds more. What a machine that lives cannot run is another matter."""
    import ray

    nodes = [
        {"NodeID": 28 * k, "NodeManagerAddress": name, "Alive": True} for k, name in (("ab", "lives"), ("cd", "dies"))
    ]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    ours = joining.installed(["ray"])
    monkeypatch.setattr(joining, "pinned", lambda text: ["ray"])

    class Task:
        def options(self, scheduling_strategy, **_):
            self.node = scheduling_strategy.node_id
            return self

        def remote(self, names):
            return self.node

    def get(node):
        if node == nodes[1]["NodeID"]:
            raise ray.exceptions.TaskUnschedulableError("it is not there")
        return ours

    monkeypatch.setattr(ray, "remote", lambda **_: lambda function: Task())
    monkeypatch.setattr(ray, "wait", lambda tasks, **_: (tasks, []))
    monkeypatch.setattr(ray, "get", get)
    with pytest.raises(ConnectionError, match="dies of the Ray cluster cannot run our code"):
        joining._check_packages(nodes)
    monkeypatch.setattr(ray, "nodes", lambda: [nodes[0], nodes[1] | {"Alive": False}])
    joining._check_packages(nodes)
