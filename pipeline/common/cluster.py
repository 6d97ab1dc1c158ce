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

from pipeline.common import lost
from pipeline.common.joining import join, token_mode
from pipeline.sections import ComputeParams

T = TypeVar("T")

ATTEMPTS = 3
"""How often a task is tried that takes its worker down with it."""

PAUSES = (5, 20, 60)
"""Seconds before starting Ray on this machine is tried again; a start itself has 30 s, which Ray has fixed."""

START = 600
"""Seconds after which a fan-out of which no worker could start gives up."""

KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "33554432", "MALLOC_TRIM_THRESHOLD_": "4294967296"}
"""Environment of workers on this machine: glibc otherwise returns the memory of every batch and takes it again, whose
page faults are up to a tenth of a small model's training step on a CPU."""


class WorkerDied(RuntimeError):
    """Stands for the result of a task whose worker died `ATTEMPTS` times; the message is the last death's reason."""


def connect(compute: ComputeParams) -> None:
    """Join the cluster of `RAY_ADDRESS`, or start Ray on this machine; does nothing if that happened before.

    Raises ConnectionError if the cluster cannot be joined (`pipeline.common.joining`), or Ray does not come up here.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    for name, value in KEEP_MEMORY.items():
        os.environ.setdefault(name, value)
    if is_ours():  # else a worker a core is started at once, and what a training starts takes one of them at most
        os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
    else:
        token_mode()
    import ray

    if ray.is_initialized():
        return
    if not is_ours():
        join(os.environ["RAY_ADDRESS"])
        lost.watch(ray.get_runtime_context().gcs_address)
        return
    cores = os.cpu_count() or 1
    # never fewer than what is asked for: workers that wait for a core that no one has would wait for ever
    cores = max(cores, compute.crop_workers, compute.workers * compute.cpus_per_worker)
    for pause in (*PAUSES, None):
        try:  # "local" is named, or a stale cluster file would capture this run
            ray.init(
                address="local", num_cpus=cores, include_dashboard=False, logging_level="ERROR", log_to_driver=False
            )
            lost.watch(None)
            return
        except Exception as error:  # a busy machine misses Ray's 30 seconds, which it reports as a bare Exception
            ray.shutdown()
            if pause is None:
                said = str(error).strip().splitlines()[0]
                raise ConnectionError(f"Ray did not start on this machine: {said}; run the same again") from error
        print(f"Ray did not start, trying again in {pause} s", file=sys.stderr, flush=True)
        time.sleep(pause)


def is_ours() -> bool:
    """Whether Ray runs inside this machine for this process alone."""
    return os.environ.get("RAY_ADDRESS", "local") == "local"


def disconnect() -> None:
    """Leave Ray, and end it where it is ours; `connect` then begins anew."""
    import ray

    lost.leave()
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

    `make_worker()` runs once in each worker and gives the function of one task. Each worker has one core; as many of
    the `workers` are at work as there are free cores, and those without a task are let go. Tasks are drawn only as
    workers come free, so the iterable may be endless and large. When a worker dies, or its machine is lost, its task is
    given to another; the `ATTEMPTS`th death gives a `WorkerDied` as the result. What the function raises is raised
    here. `workers` 0 means every core of the cluster. Raises RuntimeError if no worker at all can start.
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
    pool = _Pool(make_worker, iter(tasks), workers)
    try:
        yield from pool.run()
    finally:
        pool.close()


class _Pool:
    """Workers that start, work, or wait for the next task. Only a worker that has started is given a task."""

    def __init__(self, make_worker: Callable, tasks: Iterator[Any], workers: int):
        import ray

        self._actor = ray.remote(num_cpus=1)(_Worker)
        self._make, self._tasks, self._workers = make_worker, tasks, workers
        self._waiting: deque[tuple[Any, int]] = deque()  # task, attempt
        self._starting: dict[Any, Any] = {}  # reference that comes when it has started -> worker
        self._idle: list[Any] = []
        self._busy: dict[Any, tuple[Any, Any, int]] = {}  # result -> worker, task, attempt
        self._failed_starts = 0

    def run(self) -> Iterator[tuple[Any, Any]]:
        import ray

        while self._assign():
            limit = None if self._busy else START
            done, _ = ray.wait([*self._busy, *self._starting], num_returns=1, timeout=limit)
            if not done:
                raise RuntimeError(f"no core of the Ray cluster came free within {START} s: others use them all")
            for reference in done:
                if reference in self._starting:
                    self._started(reference)
                else:
                    yield from self._finished(reference)

    def _assign(self) -> bool:
        """Draw tasks, give them to idle workers, start what is missing, let go who has none; whether there is more."""
        import ray

        while len(self._waiting) + len(self._busy) < self._workers:
            task = next(self._tasks, _END)
            if task is _END:
                break
            self._waiting.append((task, 1))
        while self._idle and self._waiting:
            worker, (task, attempt) = self._idle.pop(), self._waiting.popleft()
            self._busy[worker.run.remote(task)] = worker, task, attempt
        while len(self._starting) < len(self._waiting):
            worker = self._actor.remote(self._make)
            self._starting[worker.started.remote()] = worker
        while self._idle:
            ray.kill(self._idle.pop())
        while len(self._starting) > len(self._waiting):
            ray.kill(self._starting.popitem()[1])
        return bool(self._busy or self._waiting)

    def _started(self, reference: Any) -> None:
        import ray

        worker = self._starting.pop(reference)
        try:
            ray.get(reference)
        except ray.exceptions.RayError as error:
            self._failed_starts += 1  # a machine may have been lost; but what never starts is not tried for ever
            if getattr(error, "actor_init_failed", False) or self._failed_starts >= ATTEMPTS * self._workers:
                raise RuntimeError(f"workers cannot start: {error}") from error
            return
        self._failed_starts = 0
        self._idle.append(worker)

    def _finished(self, reference: Any) -> Iterator[tuple[Any, Any]]:
        import ray

        worker, task, attempt = self._busy.pop(reference)
        try:
            result = ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None  # Ray's own has the traceback in its message
        # of a lost machine the worker is unreachable at first, or the result is lost that lay there
        except (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError) as error:
            ray.kill(worker)  # if it is only unreachable, nothing shall come of it any more
            if attempt < ATTEMPTS:
                self._waiting.append((task, attempt + 1))
                return
            result = WorkerDied(f"the worker died {attempt} times: {str(error).splitlines()[0]}")
        else:
            self._idle.append(worker)
        yield task, result

    def close(self) -> None:
        """Let everybody go."""
        import ray

        for worker in [*self._idle, *self._starting.values(), *(worker for worker, _, _ in self._busy.values())]:
            ray.kill(worker)


_END = object()


class _Worker:
    """The actor: makes its function once, then runs tasks."""

    def __init__(self, make_worker: Callable[[], Callable]):
        self._work = make_worker()

    def started(self) -> None:
        """Comes back once the worker is there."""

    def run(self, task: Any) -> Any:
        return self._work(task)
