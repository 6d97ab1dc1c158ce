"""One MLflow database for all tests of this folder that need one: making it takes seconds."""

import pytest


@pytest.fixture(scope="session")
def registry_home(tmp_path_factory):
    """A project folder with an MLflow database. Tests use runs and registered models of their own in it."""
    from pipeline.tracking import store

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        home = tmp_path_factory.mktemp("registry")
        store.initialise(home)
        yield home
