#!/usr/bin/env bash
# Ray 2.60.0: ray.util.queue.Queue made by the driver on a cluster of two nodes.
#
# Guess: a queue that needs no CPU lives where it is made, beside the driver that reads from it, as Ray Train's controller
#   does; losing the other node loses no queue.
# Seen: each queue is put on any node. Of 24 made by the driver some 5 to 10 died with the other node, and whoever talks to
#   them gets an error for good: handed to a training, every restart of its workers fails. Pinned to the driver's node by
#   NodeAffinitySchedulingStrategy none is lost.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
python3 -m venv venv
install() { if command -v uv >/dev/null; then uv pip install -q --python venv/bin/python "$@"; else venv/bin/pip install -q "$@"; fi; }
install ray==2.60.0
cat > queues.py <<'PY'
import sys

import ray
from ray.cluster_utils import Cluster
from ray.util.queue import Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
other = cluster.add_node(num_cpus=2)
cluster.wait_for_nodes()
ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
options = {"num_cpus": 0}
if sys.argv[1] == "pinned":
    here = ray.get_runtime_context().get_node_id()
    options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(here, soft=False)
queues = [Queue(actor_options=options) for _ in range(24)]
for queue in queues:
    queue.put("before")
cluster.remove_node(other, allow_graceful=False)
lost = 0
for queue in queues:
    try:
        queue.put("after", timeout=60)
    except (ray.exceptions.ActorDiedError, ray.exceptions.ActorUnavailableError):
        lost += 1
print("lost", lost)
PY
export RAY_USAGE_STATS_ENABLED=0 RAY_TMPDIR="$work/ray"
# tried again where a busy machine misses the start of a node
look() { for _ in 1 2 3; do venv/bin/python queues.py "$1" >"$1.txt" 2>"$1.err" && break; done; seen=$(grep -o '^lost [0-9]*' "$1.txt" | cut -d' ' -f2); echo "$1: $seen of 24 lost"; }
look plain
[ "$seen" -gt 0 ] && [ "$seen" -lt 24 ]
look pinned
[ "$seen" -eq 0 ]
echo "as stated"
