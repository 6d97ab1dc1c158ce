"""What a retraining did, as markdown, and the message of it to a webhook."""

import os
from collections.abc import Callable, Mapping, Sequence


def retraining(
    seconds: float,
    fetched: Sequence[str],
    ran: Mapping[str, bool],
    table: str | None = None,
    error: Exception | None = None,
) -> str:
    """A report: `ran` says for each stage whether it ran or was up to date, `table` is the gates' decision."""
    head = f"# Retraining {'failed' if error else 'done'} after {seconds / 60:.1f} min"
    lines = [head, "", f"Fetched: {', '.join(fetched) or 'nothing'}", "", "| stage | |", "|---|---|"]
    lines += [f"| {name} | {'ran' if done else 'up to date'} |" for name, done in ran.items()]
    if table:
        lines += ["", "## Decision", "", table]
    if error:
        lines += ["", "## Error", "", f"`{type(error).__name__}`: {error}", "", "The next run goes on from here."]
    return "\n".join(lines)


def notify(text: str, say: Callable[[str], None] = print) -> bool:
    """Post `{"text": text}` to the URL in UNIFACE_WEBHOOK (Slack, Mattermost and others take it); True if it was taken.

    A webhook that does not answer is said, not raised: the retraining itself is done.
    """
    url = os.environ.get("UNIFACE_WEBHOOK")
    if not url:
        return False
    import requests

    try:
        requests.post(url, json={"text": text}, timeout=10).raise_for_status()
    except requests.RequestException as error:
        say(f"the webhook did not take the report: {type(error).__name__}")  # its URL is a secret, and in the message
        return False
    return True
