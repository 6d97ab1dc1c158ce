#!/usr/bin/env bash
# Prefect 3.8.8 + SQLAlchemy 2.1.9 (2.0.58 beside it): a schedule on a server that looks well.
#
# Guess: Prefect's own requirements allow SQLAlchemy 2.1, so a plain install works with it; if the two did not fit, the
#   server would not start, or its health check or the creation of the deployment would fail.
# Seen: with 2.1 the server starts, reports health, takes the deployment and lists its schedule as active, but makes no
#   run of it in 30 s: its scheduler raises "Can't evaluate bulk DML statement" at every turn, in the server's log only.
#   With 2.0 the runs are there within seconds. fastapi is pinned, so that it has no part in this.
set -euo pipefail
work=$(mktemp -d); server=; trap '[ -z "$server" ] || kill "$server" 2>/dev/null; wait; rm -rf "$work"' EXIT; cd "$work"
python3 -m venv venv
install() { if command -v uv >/dev/null; then uv pip install -q --python venv/bin/python "$@"; else venv/bin/pip install -q "$@"; fi; }
cat > schedule.py <<'PY'
import time
from datetime import timedelta
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.schedules import IntervalSchedule

with get_client(sync_client=True) as client:
    for _ in range(60):
        if client.api_healthcheck() is None:
            break
        time.sleep(1)
    weekly = DeploymentScheduleCreate(schedule=IntervalSchedule(interval=timedelta(minutes=10)))
    made = client.create_deployment(client.create_flow_from_name("retrain"), name="weekly", schedules=[weekly])
    until = time.monotonic() + 30
    while not (runs := client.read_flow_runs()) and time.monotonic() < until:
        time.sleep(2)
    print("active", client.read_deployment(made).schedules[0].active, "runs", bool(runs))
PY
look() {  # look SQLALCHEMY: the client's last line, with a server of its own
    install prefect==3.8.8 fastapi==0.150.0 "sqlalchemy==$1" aiosqlite==0.22.1
    port=$(python3 -c "import socket; s = socket.socket(); s.bind(('127.0.0.1', 0)); print(s.getsockname()[1])")
    export HOME="$work/$1" PREFECT_HOME="$work/$1/prefect" PREFECT_API_URL="http://127.0.0.1:$port/api"
    export PREFECT_SERVER_ANALYTICS_ENABLED=false PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS=5
    mkdir -p "$HOME"
    venv/bin/prefect server start --host 127.0.0.1 --port "$port" >"$work/$1.log" 2>&1 &
    server=$!
    seen=$(venv/bin/python schedule.py)
    kill "$server"; wait "$server" || true; server=
    errors=$(grep -c "^sqlalchemy.exc.InvalidRequestError: Can't evaluate bulk DML statement" "$work/$1.log" || true)
    echo "SQLAlchemy $1: $seen, errors in the log: $errors"
}
account=$HOME
look 2.1.9
[ "$seen" = "active True runs False" ] && [ "$errors" -gt 0 ]
export HOME=$account  # where the installer keeps its downloads
look 2.0.58
[ "$seen" = "active True runs True" ] && [ "$errors" -eq 0 ]
echo "as stated"
