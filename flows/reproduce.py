"""`dvc repro` as a Prefect flow: one task a stage, with log lines, time and retry. `python -m flows.reproduce`.

No server is needed: Prefect brings up its own for the length of the run. With PREFECT_API_URL it reports there.
"""

import logging
import sys
import time

from prefect import flow, get_run_logger, task

from pipeline import params
from pipeline.common.orphans import end_with_us
from pipeline.common.repro import Busy, StageFailed, only_one, reproduce, stages

TEMPORARY_SERVER = "prefect.server.api.server:create_app"  # in its command line
EXPECTED = (StageFailed, Busy, ValueError, OSError)
"""Errors whose one sentence says what is wrong and what to do."""


def without_tracebacks(record: logging.LogRecord) -> bool:
    """Prefect logs every failure of a run with its traceback; an expected one keeps its sentence alone."""
    if record.exc_info and isinstance(record.exc_info[1], EXPECTED):
        record.exc_info = record.exc_text = None
    return True


for logger in ("prefect.flow_runs", "prefect.task_runs"):
    logging.getLogger(logger).addFilter(without_tracebacks)


def only_if_busy(task, run, state) -> bool:
    """Retry what waiting can help: a DVC lock held by somebody else. A stage that failed would fail again."""
    return isinstance(state.result(raise_on_failure=False), Busy)


@task(task_run_name="{name}", retries=20, retry_delay_seconds=15, retry_condition_fn=only_if_busy)
def stage(name: str) -> bool:
    """One stage of dvc.yaml; True if it ran, False if nothing had changed."""
    log = get_run_logger()
    started = time.monotonic()
    ran = reproduce(name, say=log.info)
    log.info("stage %s %s in %.1f s", name, "ran" if ran else "was up to date", time.monotonic() - started)
    return ran


@flow(name="reproduce", log_prints=True)
def reproduce_all() -> dict[str, bool]:
    """Every stage in order; stage -> whether it ran. The first stage that fails ends the flow."""
    with only_one(say=get_run_logger().info):
        return {name: stage.with_options(name=name)(name) for name in stages()}


def main() -> None:
    params.load_or_exit()
    end_with_us(TEMPORARY_SERVER)
    try:
        reproduce_all()
    except EXPECTED as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    sys.exit(main())
