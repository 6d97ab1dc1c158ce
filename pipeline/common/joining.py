"""Joining a Ray cluster that others started: its token, its versions, its size, and the way our code gets there.

Nothing but Ray connects its machines: the packages `uniface` and `pipeline` travel as Ray's runtime environment (and
nothing of data/, work/ or .git); what requirements.txt pins must be installed there, which is compared.
"""

import os
import re
import socket
import sys
from collections.abc import Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as TooLong
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from threading import Thread

from pipeline.common.code import PACKAGES, ROOT
from pipeline.sections import ComputeParams

REACH, JOIN = 5, 24
"""Seconds until the address must answer, and until the cluster must have let us in: together below 30."""

FIRST_TASK = 180
"""Seconds until each machine must have said its versions: a busy one takes 40 to start its first process."""


def token_mode() -> None:
    """Use the token of a cluster if there is one, as `ray start` does; before Ray's first import, which reads this.

    Ray itself does so for `address="auto"` alone, and is refused by a cluster that `ray start` began after a first
    local run has written the file.
    """
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    if "RAY_AUTH_TOKEN" in os.environ or file.is_file():
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def join(address: str) -> None:
    """Connect to the cluster at `address`, with our code.

    Raises ConnectionError in one sentence, within half a minute if it does not answer, wants another token, or has
    another version of Ray or Python; a little later if a machine has other packages.
    """
    import ray

    _reach(address)
    joined: Future[None] = Future()

    def init() -> None:
        try:
            ray.init(address=address, logging_level="ERROR", log_to_driver=False, runtime_env=code_travels())
            joined.set_result(None)
        except BaseException as error:  # handed on to whoever waits
            joined.set_exception(error)

    with _hushed():
        Thread(target=init, daemon=True).start()
        try:
            joined.result(JOIN)
        except TooLong:
            raise ConnectionError(
                f"the Ray cluster at {address} answers, but lets nobody in within {JOIN} s: {_token_hint()}"
            ) from None
        except Exception as error:  # Ray has no common class for what can be wrong here
            ray.shutdown()
            raise ConnectionError(f"the Ray cluster at {address} {_why(error)}") from error
    try:
        _check_packages(ray.nodes())
    except ConnectionError:
        ray.shutdown()
        raise


def code_travels() -> dict:
    """The runtime environment that brings the project's packages, of this very state, to every worker."""
    # the sample's networks get there as data/weights, like any others
    return {"py_modules": [str(ROOT / name) for name in PACKAGES], "excludes": ["__pycache__", "*.onnx"]}


def _reach(address: str) -> None:
    """Raise ConnectionError if nobody listens at HOST:PORT."""
    if "://" in address:
        raise ConnectionError(
            f"RAY_ADDRESS is {address}: give HOST:PORT as `ray start --head` prints it, and start this on that machine "
            "(Ray Train does not work through Ray Client)"
        )
    host, _, port = address.rpartition(":")
    if not port.isdecimal():
        if address == "auto":
            return
        raise ConnectionError(f"RAY_ADDRESS is {address}: HOST:PORT is expected, as `ray start --head` prints it")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH).close()
    except (OSError, OverflowError) as error:
        raise ConnectionError(
            f"the Ray cluster at {address} (RAY_ADDRESS) does not answer: {error}: is it the address that "
            "`ray start --head` printed, and does it still run?"
        ) from error


@contextmanager
def _hushed() -> Iterator[None]:
    """Ray's core writes what fails to standard error, many times: the sentence says it once."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _why(error: Exception) -> str:
    """What keeps us out, as the rest of a sentence."""
    text = str(error)
    if "Version mismatch" in text:
        theirs, ours = (
            " and ".join(f"{name} {number}" for name, number in re.findall(r"(Ray|Python): (\S+)", part))
            for part in (text.partition("This process")[0], text.partition("This process")[2])
        )
        return f"runs {theirs}, this machine {ours}: use the same (requirements.txt, and the same Python) everywhere"
    if re.search(r"auth|token", text, re.IGNORECASE):
        return f"refuses us: {_token_hint()}"
    lines = text.strip().splitlines()
    return f"does not let us in: {lines[0] if lines else type(error).__name__} ({_token_hint()})"


def _token_hint() -> str:
    if os.environ.get("RAY_AUTH_MODE") == "token":
        return "~/.ray/auth_token must be that of the cluster's head (or RAY_AUTH_MODE=disabled on both)"
    return "if it wants a token, copy ~/.ray/auth_token from the cluster's head, or set RAY_AUTH_TOKEN"


def check_room(compute: ComputeParams) -> None:
    """Raise ConnectionError if the training's workers would wait for machines that are not there."""
    import ray

    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    wants = {"CPU": compute.cpus_per_worker, "GPU": max(compute.gpus_per_worker, 0)}
    needs = {kind: share for kind, share in wants.items() if share}
    room = sum(int(min(have.get(kind, 0) // share for kind, share in needs.items())) for have in machines)
    if room < compute.workers:
        has = ", ".join(f"{have.get('CPU', 0):g} CPUs and {have.get('GPU', 0):g} GPUs" for have in machines)
        each = " and ".join(f"{share} {kind}{'s' if share > 1 else ''}" for kind, share in needs.items())
        raise ConnectionError(
            f"the Ray cluster has room for {room} of {compute.workers} workers with {each} each "
            f"(its machines: {has}): add machines, or lower compute.workers, cpus_per_worker or gpus_per_worker"
        )


def installed(names: list[str]) -> dict[str, str | None]:
    """Versions of packages in this process; None for what is not there."""
    found: dict[str, str | None] = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def pinned(text: str) -> list[str]:
    """The names in a list such as requirements.txt."""
    return re.findall(r"^([A-Za-z0-9][\w.-]*)(?=\[.*\]==|==)", text, re.MULTILINE)


def _check_packages(nodes: list[dict]) -> None:
    """Raise ConnectionError naming a machine where a package has another version than here.

    One that has died counts no more, even if the cluster learns of it only now.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    names = pinned((ROOT / "requirements.txt").read_text(encoding="utf-8"))
    ours = {name: number for name, number in installed(names).items() if number}
    task = ray.remote(num_cpus=0, max_retries=0)(installed)
    asked = {
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
            list(ours)
        ): node
        for node in nodes
        if node["Alive"]
    }
    done, open_ = ray.wait(list(asked), num_returns=len(asked), timeout=FIRST_TASK)
    if open_:
        slow = asked[open_[0]]["NodeManagerAddress"]
        raise ConnectionError(f"{slow} of the Ray cluster starts no process within {FIRST_TASK} s")
    for reference in done:
        machine = asked[reference]["NodeManagerAddress"]
        try:
            theirs = ray.get(reference)
        except ray.exceptions.RayError as error:
            if asked[reference]["NodeID"] not in {node["NodeID"] for node in ray.nodes() if node["Alive"]}:
                continue
            said = str(error).strip().splitlines()[-1]
            raise ConnectionError(f"{machine} of the Ray cluster cannot run our code: {said}") from error
        if line := difference(ours, theirs):
            raise ConnectionError(f"{machine} of the Ray cluster {line}")


def difference(ours: dict[str, str], theirs: dict[str, str | None]) -> str:
    """What another machine has otherwise, as the rest of a sentence; nothing if it has the same."""
    wrong = [name for name, number in ours.items() if theirs[name] != number]
    if not wrong:
        return ""
    first, more = wrong[0], f" and {len(wrong) - 1} more packages otherwise" if len(wrong) > 1 else ""
    has = f"has {first} {theirs[first]}" if theirs[first] else f"has no {first}"
    return f"{has}{more}, here it is {first} {ours[first]}: install requirements.txt of this project there"
