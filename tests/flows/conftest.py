"""A real Prefect server for the tests that want one: one for all of them, it takes seconds to start."""

import subprocess
import sys

import pytest
from small_project import environment, free_port, wait_for


@pytest.fixture(scope="session")
def prefect_log(tmp_path_factory):
    """The file with what the Prefect server says: an error of its scheduler is seen nowhere else."""
    return tmp_path_factory.mktemp("server") / "log.txt"


@pytest.fixture(scope="session")
def prefect_server(prefect_log):
    """The API address of a real Prefect server, which looks for due schedules and free slots every few seconds."""
    folder = prefect_log.parent
    port = free_port()
    quick = {
        "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "5",
        "PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS": "5",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }
    with prefect_log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)],
            cwd=folder,
            env=environment(folder, **quick),
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_for(f"http://127.0.0.1:{port}/api/health", process, seconds=300)
        yield f"http://127.0.0.1:{port}/api"
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:  # a server that is still starting does not listen to signals
            process.kill()
            process.wait()
