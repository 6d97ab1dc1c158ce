#!/usr/bin/env bash
# Ray 2.60.0: a Ray Train run of one worker that is given no datasets and saves no checkpoint.
#
# Guess: what is not used is not started; beside the worker there is the controller that the documentation tells of, or
#   none, since a cluster that cannot grow needs no autoscaling and a run without datasets nobody to split them.
# Seen: beside worker and controller five more processes: a manager of datasets, an autoscaling coordinator, a
#   synchroniser of workers, a watcher for preemption and a cleaner. Each imports Ray for itself.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
python3 -m venv venv
pins="ray[train]==2.60.0 psutil==7.2.2"
if command -v uv >/dev/null; then uv pip install -q --python venv/bin/python $pins; else venv/bin/pip install -q $pins; fi
cat > train.py <<'PY'
import json
import os
import time

import ray
from ray.train import RunConfig, ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer


def look(config):
    import psutil

    raylet = psutil.Process(os.getppid())  # every actor's process is its child
    seen = set()
    for _ in range(60):  # some are only just starting
        titles = {"".join(process.cmdline()[:1]).strip() for process in raylet.children()}
        seen |= {title[5:].split(".")[0] for title in titles if title.startswith("ray::")}
        time.sleep(0.5)
    with open(config["out"], "w") as file:
        json.dump(sorted(seen), file)


ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
run = RunConfig(storage_path=os.path.abspath("runs"), name="run")
out = os.path.abspath("seen.json")
DataParallelTrainer(look, train_loop_config={"out": out}, scaling_config=ScalingConfig(num_workers=1), run_config=run).fit()
print(*json.load(open(out)))
PY
export RAY_USAGE_STATS_ENABLED=0 RAY_TMPDIR="$work/ray" HOME="$work"
venv/bin/python train.py >seen.txt 2>err.txt || { tail -5 err.txt; exit 1; }
cat seen.txt
for name in RayTrainWorker TrainController DatasetManager _AutoscalingCoordinatorActor SynchronizationActor PreemptionWatcher \
  PlacementGroupCleaner; do
  grep -qw "$name" seen.txt || { echo "no $name"; exit 1; }
done
echo "as stated"
