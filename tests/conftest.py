"""For all tests."""

import pytest


@pytest.fixture(autouse=True)
def no_registry_of_the_machine(monkeypatch):
    """A registry that this machine's environment names is not the tests'."""
    monkeypatch.delenv("MLFLOW_REGISTRY_URI", raising=False)
