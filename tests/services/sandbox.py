"""An S3 server and machines that share nothing with each other but its bucket, all on this one; needs `unshare`.

One outer namespace has its own network and processes, so that no port can clash and its end ends everything. A machine
is a mount namespace in it with its own /tmp and home; only the first sees the project, and the second none of our code.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
PORT, HEAD = 5600, "127.0.0.1:6400"
KEYS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_ENDPOINT_URL": f"http://127.0.0.1:{PORT}",
}
MACHINE = """
set -e
mkdir -p "$0/home"
for kept in $KEPT; do mkdir -p "$0/${kept#/tmp/}"; mount --bind "$kept" "$0/${kept#/tmp/}"; done
for hidden in $HIDDEN; do mount -t tmpfs none "$hidden"; done
mount --rbind "$0" /tmp
mount -t tmpfs -o size=2g shm /dev/shm
export HOME=/tmp/home
cd /tmp/${FOLDER:-.}
exec "$@"
"""


def need(*modules: str, programs: tuple[str, ...] = ()) -> None:
    """Skip, saying why, where packages or programs are missing."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed: make services")
    absent = [name for name in programs if shutil.which(name) is None]
    if absent:
        pytest.skip(f"no {', '.join(absent)} on this machine")


class Sandbox:
    """The outer namespace with its machines; a context, at whose end nothing of it is left."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._machines: dict[str, subprocess.Popen] = {}

    def __enter__(self) -> "Sandbox":
        command = "ip link set lo up && echo up && exec sleep infinity"
        self._outer = subprocess.Popen(
            ["unshare", "-rmnp", "--fork", "--kill-child", "--mount-proc", "bash", "-c", command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        if self._outer.stdout.readline() != "up\n":
            pytest.skip(f"no namespaces here: {self._outer.stderr.read().strip()}")
        self._inner = psutil.Process(self._outer.pid).children()[0].pid
        return self

    def __exit__(self, *error: object) -> None:
        self._outer.kill()
        self._outer.wait()

    def command(self, *arguments: str) -> list[str]:
        """The command, in the outer namespace."""
        return ["nsenter", "-t", str(self._inner), "-U", "-m", "-n", "-p", "--preserve-credentials", *arguments]

    def machine(self, name: str, *arguments: str) -> list[str]:
        """The command, on a machine."""
        return self.command("unshare", "-m", "bash", "-c", MACHINE, str(self.folder / name), *arguments)

    def environment(self, name: str, folder: str = "", **more: str) -> dict[str, str]:
        """Of a command on a machine: its own home, one token for all, and on all but the first none of our code."""
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_", "UNIFACE_", "RAY_"))}
        (self.folder / name / "home" / ".ray").mkdir(parents=True, exist_ok=True)
        (self.folder / name / "home" / ".ray" / "auth_token").write_text("ab" * 32)
        packages = Path(sysconfig.get_paths()["purelib"])
        prefixes = {Path(sys.prefix), packages, *(Path(p) for p in sys.path if p.endswith("site-packages"))}
        places = prefixes | {path.resolve() for path in prefixes}  # .venv may be a link
        kept = [str(path) for path in places if str(path).startswith("/tmp/")]
        ours = {ROOT, Path(importlib.util.find_spec("uniface").origin).parents[1]}
        hidden = [str(root / package) for root in ours for package in ("pipeline", "uniface", "flows", "tests")]
        return {
            **clean,
            **KEYS,
            "KEPT": " ".join(kept),
            "HIDDEN": " ".join(path for path in hidden if Path(path).is_dir()),
            "FOLDER": folder,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": f"/tmp/{folder}" if folder else "",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",  # at its 15 a worker waits for whatever else runs here
            "OMP_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",
            **more,
        }

    def store(self) -> subprocess.Popen:
        """Start the S3 server; what it held before is gone."""
        log = (self.folder / "store.log").open("a")
        arguments = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(PORT)]
        return subprocess.Popen(self.command(*arguments), stdout=log, stderr=log)

    def python(self, code: str, seconds: float = 120) -> str:
        """What a piece of Python prints in the outer namespace, with the keys of the store."""
        done = subprocess.run(
            self.command(sys.executable, "-c", code),
            env=os.environ | KEYS,
            capture_output=True,
            text=True,
            timeout=seconds,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def wait_for_store(self, seconds: float = 180) -> None:
        code = (
            "import time, urllib.request\n"
            f"for _ in range({int(seconds)}):\n"
            f"    try: urllib.request.urlopen('http://127.0.0.1:{PORT}/moto-api/', timeout=5); break\n"
            "    except OSError: time.sleep(1)\n"
            "else: raise SystemExit('no store')\n"
        )
        self.python(code, seconds + 60)

    def make_bucket(self, name: str) -> None:
        self.python(f"import boto3; boto3.client('s3').create_bucket(Bucket={name!r})")

    def keys(self, bucket: str, prefix: str = "") -> list[str]:
        """The names of all objects."""
        code = (
            "import boto3\n"
            "listed = boto3.client('s3').get_paginator('list_objects_v2')\n"
            f"pages = listed.paginate(Bucket={bucket!r}, Prefix={prefix!r})\n"
            "print('\\n'.join(one['Key'] for page in pages for one in page.get('Contents', [])))\n"
        )
        return self.python(code).split()

    def start_node(self, name: str, head: bool = False, tries: int = 3) -> None:
        """`ray start` on a machine with one core, which a worker fills; a busy one needs more than one try."""
        if head:
            where = ["--head", "--node-ip-address=127.0.0.1", f"--port={HEAD.partition(':')[2]}"]
            where += ["--include-dashboard=false", "--include-log-monitor=false", "--no-monitor"]
        else:
            where = [f"--address={HEAD}"]
        ray = [sys.executable, "-m", "ray.scripts.scripts", "start", *where]
        ray += ["--num-cpus=1", "--object-store-memory=200000000", "--block"]
        log = self.folder / f"{name}.log"
        for _ in range(tries):
            with log.open("w") as file:
                process = subprocess.Popen(
                    self.machine(name, *ray),
                    env=self.environment(name, RAY_AUTH_MODE="token"),
                    stdout=file,
                    stderr=subprocess.STDOUT,
                )
            end = time.monotonic() + 240
            while process.poll() is None and time.monotonic() < end:
                if "Ray runtime started" in log.read_text():
                    self._machines[name] = process
                    return
                time.sleep(0.5)
            process.kill()
            process.wait()
            shutil.rmtree(self.folder / name / "ray", ignore_errors=True)
        raise AssertionError(f"node {name} does not start:\n{log.read_text()[-2000:]}")

    def kill_node(self, name: str) -> None:
        """SIGKILL everything of a machine's node at once."""
        first = psutil.Process(self._machines.pop(name).pid)
        processes = [first, *first.children(recursive=True)]
        # what Ray started may have left the tree: all that has this machine's /tmp
        place = str(self.folder / name)
        for process in psutil.process_iter():
            try:
                if process not in processes and f" {place} /tmp " in Path(f"/proc/{process.pid}/mountinfo").read_text():
                    processes.append(process)
            except (OSError, psutil.Error):
                continue
        for process in processes:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue

    def run(self, name: str, folder: str, *arguments: str, seconds: float = 900, **more: str):
        """A command on a machine to its end; both streams in `stdout`."""
        return subprocess.run(
            self.machine(name, *arguments),
            env=self.environment(name, folder, HIDDEN="", **more),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
        )

    def begin(self, name: str, folder: str, log: Path, *arguments: str, **more: str) -> subprocess.Popen:
        """A command on a machine, its output in the file `log`."""
        with log.open("w") as file:
            return subprocess.Popen(
                self.machine(name, *arguments),
                env=self.environment(name, folder, HIDDEN="", **more),
                stdout=file,
                stderr=subprocess.STDOUT,
            )
