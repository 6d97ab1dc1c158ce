"""Ray, in one place: joining this machine or a cluster, and spreading independent tasks over workers that may die.

`RAY_ADDRESS` in the environment means a cluster; without it Ray runs inside this machine for as long as the process
does. With one worker nothing of Ray is loaded.
"""

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from threading import Thread
from typing import Any, TypeVar

from pipeline.sections import ComputeParams

T = TypeVar("T")

ATTEMPTS = 3
"""How often a task is tried that takes its worker down with it."""

PAUSES = (5, 20, 60)
"""Seconds before starting Ray on this machine is tried again; a start itself has 30 s, which Ray has fixed."""

KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "33554432", "MALLOC_TRIM_THRESHOLD_": "4294967296"}
"""Environment of workers on this machine: glibc otherwise returns the memory of every batch and takes it again, whose
page faults are up to a tenth of a small model's training step on a CPU."""


class WorkerDied(RuntimeError):
    """Stands for the result of a task whose worker died `ATTEMPTS` times; the message is the last death's reason."""


def connect(compute: ComputeParams) -> None:
    """Join the cluster of `RAY_ADDRESS`, or start Ray on this machine; does nothing if that happened before.

    Raises ConnectionError if the cluster does not answer, or Ray does not come up here.
    """
    import ray

    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    for name, value in KEEP_MEMORY.items():
        os.environ.setdefault(name, value)
    address = os.environ.get("RAY_ADDRESS", "local")
    here = {}
    if is_ours():  # named, or a stale cluster file would capture this run
        cores = os.cpu_count() or 1
        # never fewer than what is asked for: workers that wait for a core that no one has would wait for ever
        here = {
            "num_cpus": max(cores, compute.crop_workers, compute.workers * compute.cpus_per_worker),
            "include_dashboard": False,
        }
    for pause in (*PAUSES, None) if here else (None,):
        try:
            ray.init(address=address, logging_level="ERROR", log_to_driver=False, **here)
            return
        except Exception as error:  # a busy machine misses Ray's 30 seconds, which it reports as a bare Exception
            ray.shutdown()
            if pause is None:
                what = "Ray did not start on this machine" if here else f"the Ray cluster at {address} does not answer"
                raise ConnectionError(f"{what}: {str(error).strip().splitlines()[0]}; run the same again") from error
        print(f"Ray did not start, trying again in {pause} s", file=sys.stderr, flush=True)
        time.sleep(pause)


def is_ours() -> bool:
    """Whether Ray runs inside this machine for this process alone."""
    return os.environ.get("RAY_ADDRESS", "local") == "local"


def disconnect() -> None:
    """Leave Ray, and end it where it is ours; `connect` then begins anew."""
    import ray

    ray.shutdown()


def in_thread(work: Callable[[], T]) -> T:
    """What `work` gives, from a thread, so that Ctrl-C comes here at once: Ray would take half a minute over it."""
    result: Future[T] = Future()

    def run() -> None:
        try:
            result.set_result(work())
        except BaseException as error:  # handed on to whoever waits
            result.set_exception(error)

    Thread(target=run, daemon=True).start()
    return result.result()


def fan_out(
    make_worker: Callable[[], Callable[[Any], Any]],
    tasks: Iterable[Any],
    workers: int,
    compute: ComputeParams,
) -> Iterator[tuple[Any, Any]]:
    """(task, result) for every task, in the order they finish; with one worker in the order of `tasks`.

    `make_worker()` runs once in each worker and gives the function of one task. Each worker has one core. Tasks are
    drawn only as workers come free, so the iterable may be endless and large. When a worker dies, its task is given to
    a new one; the `ATTEMPTS`th death gives a `WorkerDied` as the result. What the function raises is raised here.
    `workers` 0 means every core of the cluster.
    """
    if workers == 1:
        work = make_worker()
        for task in tasks:
            yield task, work(task)
        return
    connect(compute)
    import ray

    if workers == 0:
        workers = max(1, int(ray.cluster_resources().get("CPU", 1)))
    yield from _fan_out(make_worker, iter(tasks), workers)


def _fan_out(make_worker: Callable, tasks: Iterator[Any], workers: int) -> Iterator[tuple[Any, Any]]:
    import ray

    actor_class = ray.remote(num_cpus=1)(_Worker)
    again: deque[tuple[Any, int]] = deque()
    busy: dict[Any, tuple[Any, Any, int]] = {}  # result -> actor, task, attempt
    idle: list[Any] = []
    try:
        while True:
            while len(busy) < workers:
                task, attempt = again.popleft() if again else (next(tasks, _END), 1)
                if task is _END:
                    break
                actor = idle.pop() if idle else actor_class.remote(make_worker)
                busy[actor.run.remote(task)] = actor, task, attempt
            if not busy:
                return
            for reference in ray.wait(list(busy), num_returns=1)[0]:
                actor, task, attempt = busy.pop(reference)
                try:
                    result = ray.get(reference)
                except ray.exceptions.RayTaskError as error:
                    raise error.as_instanceof_cause() from None
                except ray.exceptions.RayActorError as error:
                    if error.actor_init_failed:  # no other worker would start either
                        raise RuntimeError(f"workers cannot start: {error}") from error
                    if attempt < ATTEMPTS:
                        again.append((task, attempt + 1))
                        continue
                    result = WorkerDied(f"the worker died {attempt} times: {str(error).splitlines()[0]}")
                else:
                    idle.append(actor)
                yield task, result
    finally:
        for actor in [*idle, *(actor for actor, _, _ in busy.values())]:
            ray.kill(actor)


_END = object()


class _Worker:
    """The actor: makes its function once, then runs tasks."""

    def __init__(self, make_worker: Callable[[], Callable]):
        self._work = make_worker()

    def run(self, task: Any) -> Any:
        return self._work(task)
