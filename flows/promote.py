"""The promotion as a Prefect flow, for a server's history. `python -m flows.promote [--dry-run | rollback]`.

`python -m pipeline.promote` does the same without Prefect, and has more.
"""

import sys

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact

from flows.reproduce import TEMPORARY_SERVER
from pipeline import params as settings
from pipeline import promote as registry
from pipeline.common.orphans import end_with_us
from pipeline.common.places import Places


@task
def gate(dry_run: bool) -> registry.Decision:
    """Check the candidate and carry the decision out; the table becomes an artifact of the run."""
    params = settings.load()
    decision = registry.promote(params, Places(), dry_run=dry_run)
    create_markdown_artifact(decision.table(), key="decision", description=f"{decision.name} {decision.candidate}")
    return decision


@flow(log_prints=True)
def promote(dry_run: bool = False) -> str:
    """Make the candidate the champion if every gate holds; the outcome."""
    decision = gate(dry_run)
    print(decision.table())
    return decision.outcome


@flow(log_prints=True)
def rollback() -> str:
    """The previous champion serves again; what was done."""
    text = registry.rollback(settings.load(), Places())
    create_markdown_artifact(text, key="rollback")
    print(text)
    return text


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["--dry-run"], ["rollback"]):
        return registry.main(arguments)  # `show`, `mend` or the usage: nothing for a flow to do
    settings.load_or_exit()
    end_with_us(TEMPORARY_SERVER)
    try:
        if arguments == ["rollback"]:
            rollback()
            return 0
        return int(promote(dry_run=bool(arguments)) == "refused")
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
