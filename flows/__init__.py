"""Prefect flows: thin, no file I/O, no torch."""

import os

# Before Prefect is imported: on a busy machine its temporary server takes longer than the 20 s it is given, and what it
# sends home costs an error line where there is no internet.
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "300")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
