"""Prefect flows: thin, no file I/O, no torch."""
