"""docs/cluster.md on two machines that share nothing but a bucket: its commands, and kill -9 of a machine in between.

One cluster for all of it, since a busy machine starts one in minutes; the tests build on each other, in their order.
"""

import re
import shutil
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest
from sandbox import HEAD, ROOT, Sandbox, need

sys.path.insert(0, str(ROOT / "tests" / "flows"))
from tiny_project import change_params, make_tiny

from pipeline.common.files import sha256, weights_digest
from uniface.model import UniFace, read_metadata
from uniface.tables import ELSEWHERE, read_table

pytestmark = pytest.mark.slow
DATA = "s3://bucket/project"
CLUSTER = {"RAY_ADDRESS": HEAD, "UNIFACE_DATA": DATA, "UNIFACE_CACHE": "/tmp/cache", "UNIFACE_CACHE_GB": "1"}
STEPS, EVERY = 40, 10
PERSONS = 8  # with a video each


@pytest.fixture(scope="module")
def machines(tmp_path_factory):
    """The store with its bucket, the head A with the project, and B."""
    need("moto", "boto3", programs=("unshare", "nsenter", "ip"))
    folder = tmp_path_factory.mktemp("machines")
    with Sandbox(folder) as sandbox:
        sandbox.server = sandbox.store()
        sandbox.wait_for_store()
        sandbox.make_bucket("bucket")
        make_tiny(folder / "A" / "project")
        change_params(
            folder / "A" / "project",
            {
                "sample": {"persons": PERSONS, "test_persons": 2},
                "train_reenactment": {"iterations": STEPS, "checkpoint_every": EVERY, "log_every": 2},
            },
        )
        sandbox.start_node("A", head=True)
        sandbox.start_node("B")
        yield sandbox


def stage(sandbox: Sandbox, *arguments: str, **more: str) -> str:
    """`python -m ARGUMENTS` in the project on the head, which must succeed; its output."""
    done = sandbox.run("A", "project", sys.executable, "-m", *arguments, seconds=1800, **more)
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


def begin(sandbox: Sandbox, log: Path, *arguments: str, **more: str):
    return sandbox.begin("A", "project", log, sys.executable, "-m", *arguments, **more)


def until(log: Path, process, found, seconds: float = 1800) -> None:
    """Until `found()` while a command runs."""
    end = time.monotonic() + seconds
    while not found():
        assert process.poll() is None, log.read_text()[-4000:]
        assert time.monotonic() < end, log.read_text()[-4000:]
        time.sleep(0.2)


def test_crop_ends_with_the_same_shards_though_a_machine_is_killed(machines, tmp_path):
    project = machines.folder / "A" / "project"
    for name in ("pipeline.weights", "pipeline.download"):
        stage(machines, name)
    stage(machines, "pipeline.crop")  # here, by one worker
    local = {path.name: sha256(path) for path in (project / "data/clips").glob("*-0*.parquet")}
    tables = {name: (project / "data/clips" / name).read_bytes() for name in ("index.parquet", "vox-metadata.csv")}
    assert len(local) >= 2

    def cropped() -> int:
        return len(list((project / "work/crop").glob("*/videos/*/*.json"))) - before

    before, log = len(list((project / "work/crop").glob("*/videos/*/*.json"))), tmp_path / "crop.txt"
    process = begin(machines, log, "pipeline.crop", UNIFACE_CROP_WORKERS="2", **CLUSTER)
    until(log, process, lambda: cropped() >= 2)
    assert cropped() < PERSONS
    machines.kill_node("B")
    assert process.wait(1800) == 0, log.read_text()[-4000:]
    rows = read_table(project / "data/clips" / ELSEWHERE, "shards").to_pylist()
    assert {row["name"]: row["sha256"] for row in rows} == local
    assert not list((project / "data/clips").glob("*-0*.parquet"))
    assert {name: (project / "data/clips" / name).read_bytes() for name in tables} == tables


def test_training_goes_on_though_a_machine_is_killed_and_the_bucket_is_away(machines, tmp_path):
    project, log = machines.folder / "A" / "project", tmp_path / "train.txt"
    machines.start_node("C")
    process = begin(machines, log, "pipeline.train", "reenactment", UNIFACE_WORKERS="2", **CLUSTER)

    def step() -> int:
        return max((int(at) for at in re.findall(rf"train_reenactment (\d+)/{STEPS}", log.read_text())), default=0)

    until(log, process, lambda: step() >= EVERY + 2)
    moto = psutil.Process(machines.server.pid).children(recursive=True)[-1]
    moto.send_signal(signal.SIGSTOP)
    time.sleep(60)
    moto.send_signal(signal.SIGCONT)
    until(log, process, lambda: step() >= 2 * EVERY + 2)
    machines.kill_node("C")
    machines.start_node("D")
    assert process.wait(2400) == 0, log.read_text()[-4000:]
    resumed = [int(at) for at in re.findall(rf"resuming at step (\d+) of {STEPS}", log.read_text())]
    assert resumed and min(resumed) >= EVERY
    model = project / "models" / "reenactment.safetensors"
    UniFace.load(model)
    assert read_metadata(model)[1]["step"] == STEPS
    assert [key for key in machines.keys("bucket", "project/runs/") if key.endswith("state.pt")]


def test_portraits_the_second_stage_and_the_evaluation_read_the_bucket(machines):
    project = machines.folder / "A" / "project"
    stage(machines, "pipeline.pairs", UNIFACE_DATA=DATA)
    assert not list((project / "data/pairs").glob("images-*.parquet"))
    stage(machines, "pipeline.train", "swapping", UNIFACE_WORKERS="2", **CLUSTER)
    stage(machines, "pipeline.evaluate", UNIFACE_DATA=DATA, UNIFACE_CACHE="/tmp/cache")
    assert (project / "reports" / "metrics.json").is_file()


def test_two_projects_on_one_cluster_and_in_one_bucket_do_not_mix(machines, tmp_path):
    """Two drivers at once, with the same params and data: each ends with its own run, and with the same model."""
    first = machines.folder / "A" / "project"
    for name in ("pipeline.weights", "pipeline.download", "pipeline.crop"):
        stage(machines, name, UNIFACE_CROP_WORKERS="2", **CLUSTER)
    each = EVERY // 2
    change_params(first, {"train_reenactment": {"iterations": EVERY, "checkpoint_every": each, "log_every": each}})
    second = first.with_name("second")
    shutil.copytree(first, second, symlinks=True, ignore=lambda folder, names: {"work"} & {*names})

    def there() -> set[str]:
        return {key.split("/")[2] for key in machines.keys("bucket", "project/runs/")} - {""}  # the folder itself

    before = there()
    logs = {project: tmp_path / f"{project.name}.txt" for project in (first, second)}
    processes = [
        machines.begin("A", project.name, log, sys.executable, "-m", "pipeline.train", "reenactment", **CLUSTER)
        for project, log in logs.items()
    ]
    for process, log in zip(processes, logs.values(), strict=True):
        assert process.wait(2400) == 0, log.read_text()[-4000:]
    runs = there() - before
    names = {(project / "work" / "project-id.txt").read_text() for project in logs}
    assert len(names) == len(runs) == 2 and {run.rpartition("-")[2] for run in runs} == names
    models = [project / "models" / "reenactment.safetensors" for project in logs]
    assert read_metadata(models[0])[1]["step"] == EVERY
    assert len({weights_digest(model) for model in models}) == 1


def test_what_keeps_us_out_is_one_sentence(machines):
    def refused(**more: str) -> str:
        began = time.monotonic()
        settings = {"UNIFACE_CROP_WORKERS": "2"} | CLUSTER | more
        done = machines.run("A", "project", sys.executable, "-c", JOIN, **settings)
        assert done.returncode == 1 and time.monotonic() - began < 300, done.stdout  # with a busy machine's imports
        said = done.stdout.strip()
        assert said and "\n" not in said, said
        return said

    said = refused(RAY_AUTH_TOKEN="cd" * 32)
    assert "does not let us in" in said or "refuses us" in said or "lets nobody in" in said
    assert "does not answer" in refused(RAY_ADDRESS="127.0.0.1:9")
    assert "has room for" in refused(UNIFACE_CPUS_PER_WORKER="64")


JOIN = """
import os, time
from pipeline import params
from pipeline.common import cluster, joining
compute = params.load("params.yaml").compute
began = time.monotonic()
try:
    cluster.connect(compute)
    joining.check_room(compute)
except ConnectionError as error:
    assert time.monotonic() - began < 30 or "room" in str(error)
    print(error)
    os._exit(1)
"""


def test_the_page_says_what_is_run_here():
    """Each command of docs/cluster.md in a block is one that a test of this folder runs."""
    page = (ROOT / "docs" / "cluster.md").read_text()
    blocks = "".join(re.findall(r"```bash\n(.*?)```", page, re.DOTALL))
    told = set(re.findall(r"python -m (pipeline\.\w+(?: \w+)?)", blocks))
    mine = Path(__file__).read_text()
    assert told and all(all(f'"{word}"' in mine for word in name.split()) for name in told), told
