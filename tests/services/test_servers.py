"""MLflow and Prefect as several people have them: Postgres under both, MLflow's artifacts in the bucket."""

import os
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from sandbox import KEYS, ROOT, need

sys.path.insert(0, str(ROOT / "tests" / "flows"))
from small_project import environment, free_port, wait_for

pytestmark = pytest.mark.slow
NOBODY = 65534  # Postgres refuses to be run by root


@pytest.fixture(scope="module")
def postgres(tmp_path_factory):
    """HOST:PORT of a Postgres server with the databases mlflow and prefect."""
    need("psycopg2", "asyncpg", programs=("initdb", "postgres", "setpriv"))
    folder = Path("/tmp") / f"uniface-postgres-{os.getpid()}"  # where another user may look into the folders above
    folder.mkdir(mode=0o755)
    as_user: list[str] = []
    if os.getuid() == 0:
        os.chown(folder, NOBODY, NOBODY)
        as_user = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    port, data = free_port(), folder / "data"
    made = subprocess.run(
        [*as_user, "initdb", "-D", str(data), "--auth=trust", "--username=u", "--no-sync"],
        capture_output=True,
        text=True,
        cwd=folder,
    )
    if made.returncode:
        shutil.rmtree(folder)
        pytest.skip(f"initdb: {made.stderr.strip().splitlines()[-1]}")
    server = subprocess.Popen(
        [*as_user, "postgres", "-D", str(data), "-p", str(port), "-k", str(folder), "-c", "fsync=off"],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=(folder / "log.txt").open("w") if os.getuid() else subprocess.DEVNULL,
    )
    import psycopg2

    end = time.monotonic() + 120
    while True:
        with suppress(psycopg2.OperationalError):
            connection = psycopg2.connect(host="127.0.0.1", port=port, user="u", dbname="postgres")
            break
        assert server.poll() is None and time.monotonic() < end
        time.sleep(0.5)
    connection.autocommit = True
    with connection.cursor() as cursor:
        for name in ("mlflow", "prefect"):
            cursor.execute(f"CREATE DATABASE {name}")
    connection.close()
    yield f"127.0.0.1:{port}"
    server.kill()
    server.wait()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    """The keys and endpoint of an S3 server with a bucket `bucket`."""
    need("moto", "boto3")
    import boto3

    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    keys = KEYS | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
    wait_for(f"{keys['AWS_ENDPOINT_URL']}/moto-api/", process, seconds=300)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in keys.items():
            patch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket="bucket")
        yield keys
    process.kill()
    process.wait()


def test_mlflow_keeps_its_runs_in_postgres_and_its_artifacts_in_the_bucket(postgres, bucket, tmp_path, monkeypatch):
    import boto3
    import psycopg2

    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += [
        "--backend-store-uri",
        f"postgresql://u@{postgres}/mlflow",
        "--artifacts-destination",
        "s3://bucket/mlflow",
    ]
    server = subprocess.Popen(
        [*command, "--workers", "1"], cwd=tmp_path, env=environment(tmp_path, **bucket), start_new_session=True
    )
    try:
        wait_for(f"http://127.0.0.1:{port}/health", server, seconds=600)
        code = (
            "from pipeline.tracking import runs\n"
            "import pathlib\n"
            "pathlib.Path('model').mkdir(); pathlib.Path('model/weights.txt').write_text('w')\n"
            "with runs.start_run('train_reenactment') as run:\n"
            "    run.log_metrics({'reconstruction': 0.5}, step=3)\n"
            "    run.log_artifact('model', 'model')\n"
        )
        keyless = {k: v for k, v in environment(tmp_path).items() if not k.startswith("AWS_")}
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env=keyless | {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{port}"},
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr
        found = boto3.client("s3").list_objects_v2(Bucket="bucket", Prefix="mlflow/")["Contents"]
        assert [one for one in found if one["Key"].endswith("weights.txt")]
        host, _, number = postgres.partition(":")
        connection = psycopg2.connect(host=host, port=number, user="u", dbname="mlflow")
        with connection, connection.cursor() as cursor:
            cursor.execute("SELECT value, step FROM metrics WHERE key = 'reconstruction'")
            assert cursor.fetchall() == [(0.5, 3)]
        connection.close()
    finally:
        os.killpg(server.pid, 9)
        server.wait()


def test_prefect_keeps_its_flow_runs_in_postgres(postgres, tmp_path):
    import psycopg2

    port = free_port()
    more = {"PREFECT_API_DATABASE_CONNECTION_URL": f"postgresql+asyncpg://u@{postgres}/prefect"}
    server = subprocess.Popen(
        [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)],
        cwd=tmp_path,
        env=environment(tmp_path, PREFECT_SERVER_ANALYTICS_ENABLED="false", **more),
        start_new_session=True,
    )
    try:
        wait_for(f"http://127.0.0.1:{port}/api/health", server, seconds=600)
        done = subprocess.run(
            [sys.executable, "-c", "import prefect\n@prefect.flow\ndef small():\n    return 1\nassert small() == 1"],
            cwd=tmp_path,
            env=environment(tmp_path, PREFECT_API_URL=f"http://127.0.0.1:{port}/api"),
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr
        host, _, number = postgres.partition(":")
        connection = psycopg2.connect(host=host, port=number, user="u", dbname="prefect")
        with connection, connection.cursor() as cursor:
            cursor.execute("SELECT state_type FROM flow_run")
            assert [str(state) for (state,) in cursor.fetchall()] == ["COMPLETED"]
        connection.close()
    finally:
        os.killpg(server.pid, 9)
        server.wait()
