#!/usr/bin/env bash
# MLflow 3.17.2 + Prefect 3.8.8: a flow opens an MLflow run and its tasks log to it.
#
# Guess: inside `with mlflow.start_run()` whatever the flow starts in its own process logs to that run, whether a task
#   is called or submitted; where there is no run, log_metric raises.
# Seen: a task that is called logs to the run. A submitted one (in a thread of the same process) sees no run, so
#   log_metric opens one with a made-up name, says nothing and never ends it: it stays RUNNING after the flow and after
#   the process, with the metric in it. The flow's own run is FINISHED and lacks the number.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
python3 -m venv venv
pins="mlflow==3.17.2 prefect==3.8.8 fastapi==0.150.0 sqlalchemy==2.0.58"
if command -v uv >/dev/null; then uv pip install -q --python venv/bin/python $pins; else venv/bin/pip install -q $pins; fi
export HOME="$work" MLFLOW_TRACKING_URI="sqlite:///$work/mlflow.db" MLFLOW_DISABLE_TELEMETRY=true
export PREFECT_HOME="$work/prefect" PREFECT_SERVER_ANALYTICS_ENABLED=false PREFECT_LOGGING_LEVEL=ERROR
export PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS=120
cat > road.py <<'PY'
import mlflow
from prefect import flow, task

@task
def measure(name, value):
    mlflow.log_metric(name, value)

@flow
def road():
    with mlflow.start_run(run_name="road"):
        measure("called", 1.0)
        measure.submit("submitted", 2.0).result()

mlflow.set_experiment("faces")
road()
PY
venv/bin/python road.py >said 2>&1 || { tail -n 5 said; exit 1; }
venv/bin/python - 2>errors <<'PY' || { tail -n 5 errors; exit 1; }
import mlflow

client = mlflow.MlflowClient()
runs = client.search_runs([client.get_experiment_by_name("faces").experiment_id])
seen = {run.info.run_name: (run.info.status, run.data.metrics) for run in runs}
print(seen)
assert seen.pop("road") == ("FINISHED", {"called": 1.0}), "the flow's own run"
assert list(seen.values()) == [("RUNNING", {"submitted": 2.0})], seen
PY
echo "as stated"
