"""Spreading tasks: in order with one worker, as they finish with more, and over a worker's death."""

import dataclasses
import os
import time
from pathlib import Path

import pytest

from pipeline import params
from pipeline.common import cluster

ROOT = Path(__file__).resolve().parents[3]
COMPUTE = dataclasses.replace(params.load(ROOT / "params.yaml").compute, workers=1, cpus_per_worker=1, crop_workers=2)


@pytest.fixture
def make_worker():
    def make():  # inside a function, so that it travels to the workers by value
        made = os.getpid()

        def work(task):
            kind, value, folder = task
            if kind == "slow":  # until the other worker is well ahead, however late that one started
                patience = time.monotonic() + 60
                while not (Path(folder) / "died 8").exists() and time.monotonic() < patience:
                    time.sleep(0.05)
            if kind == "raises":
                raise ValueError(f"cannot do {value}")
            if kind in ("dies", "dies once"):
                mark = Path(folder) / f"died {value}"
                if kind == "dies" or not mark.exists():
                    mark.touch()
                    os._exit(1)
            return value * 2, made

        return work

    return make


def test_one_worker_is_this_process_in_order_without_ray(monkeypatch, make_worker):
    monkeypatch.setattr(cluster, "connect", lambda compute: pytest.fail("Ray was started"))
    drawn = []

    def tasks():
        for value in range(3):
            drawn.append(value)
            yield "plain", value, ""

    results = cluster.fan_out(make_worker, tasks(), 1, COMPUTE)
    assert next(results) == (("plain", 0, ""), (0, os.getpid())) and drawn == [0]
    assert [value for _, (value, _) in results] == [2, 4]


def test_a_ray_that_does_not_start_is_tried_again_after_longer_waits_and_then_one_sentence(monkeypatch, capsys):
    import ray

    tries, waits = [], []

    def init(**arguments):
        tries.append(arguments)
        raise Exception("The current node timed out during startup.\nmore lines")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(cluster.time, "sleep", waits.append)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(ConnectionError) as caught:
        cluster.connect(COMPUTE)
    assert len(tries) == 4 and waits == list(cluster.PAUSES) == sorted(waits)
    assert str(caught.value) == (
        "Ray did not start on this machine: The current node timed out during startup.; run the same again"
    )
    assert "trying again in 60 s" in capsys.readouterr().err


@pytest.fixture(scope="module")
def two_cores():
    """Ray on this machine with two cores, for the tests here."""
    import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        cluster.connect(dataclasses.replace(COMPUTE, crop_workers=2))
        yield ray
        ray.shutdown()


def test_two_workers_survive_deaths_and_give_results_as_they_finish(tmp_path, two_cores, make_worker):
    folder = str(tmp_path)
    drawn = []

    def tasks():
        yield "slow", 1, folder
        for value in range(2, 8):
            drawn.append(value)
            yield "plain", value, folder
        yield "dies once", 8, folder
        yield "dies", 9, folder
        yield "plain", 10, folder

    results = cluster.fan_out(make_worker, tasks(), 2, COMPUTE)
    first = next(results)
    assert len(drawn) <= 2  # no more in flight than workers
    rest = [first, *results]
    values = {task[1]: result for task, result in rest}
    assert set(values) == set(range(1, 11))
    assert isinstance(values.pop(9), cluster.WorkerDied)
    assert all(result[0] == value * 2 for value, result in values.items())
    assert rest[0][0][1] != 1 and (tmp_path / "died 8").exists()  # the slow one does not hold up the others
    assert os.getpid() not in {result[1] for result in values.values()}
    with pytest.raises(ValueError, match="cannot do 5"):
        list(cluster.fan_out(make_worker, [("raises", 5, folder), ("plain", 6, folder)], 2, COMPUTE))


def test_more_workers_than_free_cores_do_every_task(two_cores, make_worker):
    """A worker that waits for a core holds no task."""

    @two_cores.remote(num_cpus=max(1, (os.cpu_count() or 1) - 1))
    class Other:
        def ready(self):
            return True

    other = Other.remote()  # leaves one core
    assert two_cores.get(other.ready.remote())
    done = [task[1] for task, _ in cluster.fan_out(make_worker, (("plain", n, "") for n in range(6)), 3, COMPUTE)]
    assert sorted(done) == list(range(6))
    two_cores.kill(other)
