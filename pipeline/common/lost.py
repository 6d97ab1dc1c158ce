"""Ray that is lost for good: its C++ ends the driver then, and nothing in Python hears of it, so we are first.

Where Ray is ours the command begins again, with all that it has done on disk; else it ends with one sentence.
"""

import atexit
import os
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from threading import Event, Lock, Thread
from typing import NoReturn

import psutil

from pipeline.common.places import Places, say_failed

SERVERS = ("gcs_server", "raylet")
"""Ray's programs on this machine. With the first gone a driver has 60 s left, with the second some ten."""

PATIENCE = 30
"""Seconds that a cluster may be silent."""

TIMES = 2
"""How often Ray of our own may be lost before a command gives up."""

LOSSES = "UNIFACE_RAY_LOST"
"""Variable that tells a command how often it has begun again."""

_left = Event()
_ending = Lock()


def watch(cluster: str | None) -> None:
    """Look after Ray until `leave`: the cluster whose `host:port` is given, or the servers that this process started.

    Only in a command of the project: what else joins Ray, such as a notebook, cannot be begun again.
    """
    if not in_command():
        return
    if cluster is None:
        servers = [child for child in psutil.Process().children() if child.name() in SERVERS]
        arguments = (lambda: any(map(_ended, servers))), begin_again
    else:
        arguments = (lambda: _silent(cluster)), (lambda: _give_up(f"the Ray cluster at {cluster} is gone"))
    _left.clear()
    Thread(target=_look, args=arguments, daemon=True).start()
    atexit.register(leave)  # before Ray's own, which ends its servers


def in_command() -> bool:
    """Whether this process is a command of the project, which can begin again."""
    main = sys.modules["__main__"].__spec__
    return main is not None and main.name.startswith("pipeline.")


def leave() -> None:
    """That Ray is gone from now on is as it should be."""
    _left.set()


def _look(gone: Callable[[], bool], then: Callable[[], None]) -> None:
    while not _left.wait(1):
        if gone() and not _left.is_set():
            then()


def _ended(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def _silent(address: str) -> bool:
    host, _, port = address.rpartition(":")
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until and not _left.wait(PATIENCE / 10):
        with suppress(OSError):
            socket.create_connection((host, int(port)), timeout=PATIENCE / 10).close()
            return False
    return True


def begin_again(said: str = "Ray was lost") -> NoReturn:
    """Put the same command in this process's place, `TIMES` times; then end it. `said` is what it tells."""
    _ending.acquire()  # whoever looks after Ray and whoever works with it may both notice
    children = psutil.Process().children(recursive=True)
    for child in children:
        with suppress(psutil.Error):  # ended meanwhile
            child.kill()
    psutil.wait_procs(children, 10)  # or they would be children of the command that begins, and count as its servers
    losses = int(os.environ.get(LOSSES, 0)) + 1
    if losses > TIMES:
        _give_up(f"Ray was lost {losses} times")
    print(f"warning: {said}, beginning again from what is done", file=sys.stderr, flush=True)
    os.environ[LOSSES] = str(losses)
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _give_up(said: str) -> NoReturn:
    say_failed(f"{said}: the same command goes on from what is done", Places())
    os._exit(1)  # Ray would wait for its servers
