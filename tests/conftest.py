"""For all tests."""

import pytest


@pytest.fixture(autouse=True)
def no_registry_of_another_test(monkeypatch):
    """`mlflow.set_registry_uri` leaves its address in the environment, where the next test would find it."""
    monkeypatch.delenv("MLFLOW_REGISTRY_URI", raising=False)
