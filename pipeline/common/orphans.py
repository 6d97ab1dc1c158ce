"""Processes that end with the one that started them, also when it is killed: `python -m pipeline.common.orphans`.

Prefect brings up a temporary server for a flow, which would outlive a flow that is killed with -9.
"""

import os
import subprocess
import sys
import time
from contextlib import suppress

MARK = "UNIFACE_STARTED_BY"
"""Variable in the environment of all that a process starts."""


def end_with_us(words: str) -> None:
    """Have every process started from here whose command line has `words` ended when this one is gone."""
    os.environ[MARK] = mark = f"{os.getpid()}-{time.time_ns()}"
    ours, theirs = os.pipe()  # nobody writes; it closes when we are gone, however we go
    command = [sys.executable, "-m", "pipeline.common.orphans", mark, words]
    subprocess.Popen(command, stdin=ours, stdout=subprocess.DEVNULL, start_new_session=True)
    os.close(ours)
    os.set_inheritable(theirs, False)


def sweep(mark: str, words: str) -> None:
    """End the processes of a mark with `words` in their command line, but for this one."""
    import psutil

    for process in psutil.process_iter():
        with suppress(psutil.Error):  # gone meanwhile, or somebody else's
            ours = words in " ".join(process.cmdline()) and process.environ().get(MARK) == mark
            if ours and process.pid != os.getpid():
                process.kill()


if __name__ == "__main__":
    sys.stdin.read()  # until whom we watch is gone
    sweep(*sys.argv[1:])
