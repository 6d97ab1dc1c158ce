"""The scheduled retraining: fetch what is new, dvc repro, gate, promote, report. `python -m flows.retrain`.

No server is needed; prefect.yaml deploys it with a schedule where there is one. Two retrainings never overlap: the
second waits. Killed at any moment, the next run goes on from what is there. UNIFACE_WEBHOOK, a URL, gets the report.
"""

import sys
import time

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact

from flows.promote import gate
from flows.reproduce import EXPECTED, TEMPORARY_SERVER, only_if_busy, stage
from pipeline import params as settings
from pipeline.common.notify import notify, retraining
from pipeline.common.orphans import end_with_us
from pipeline.common.repro import fetch, only_one, stages


@task(name="fetch", retries=20, retry_delay_seconds=15, retry_condition_fn=only_if_busy)
def fetch_new() -> list[str]:
    """Ask the sources for what is new; what was asked."""
    return fetch(settings.load().download.source, say=get_run_logger().info)


@task
def report(text: str) -> None:
    """The report as an artifact of the run, and to the webhook if there is one."""
    create_markdown_artifact(text, key="retraining")
    notify(text, say=get_run_logger().warning)


@flow(log_prints=True)
def retrain() -> str:
    """One retraining; the outcome: promoted, refused or unchanged. A failure is reported too, then raised."""
    started = time.monotonic()
    ran: dict[str, bool] = {}
    try:
        with only_one(say=get_run_logger().info):
            fetched = fetch_new()
            for name in stages():
                ran[name] = stage.with_options(name=name)(name)
            decision = gate(dry_run=False)
    except Exception as error:
        report(retraining(time.monotonic() - started, [], ran, error=error))
        raise
    text = retraining(time.monotonic() - started, fetched, ran, table=decision.table())
    report(text)
    print(text)
    return decision.outcome


def main() -> int:
    settings.load_or_exit()
    end_with_us(TEMPORARY_SERVER)
    try:
        retrain()
    except EXPECTED as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
