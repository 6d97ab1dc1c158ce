"""For all tests."""

import ctypes

import pytest

# glibc gives the memory of every large array back at once, and the kernel clears it anew for the next: a sixth of what
# the largest networks take here. The numbers are M_MMAP_MAX and M_TRIM_THRESHOLD of malloc.h.
if hasattr(libc := ctypes.CDLL(None), "mallopt"):
    libc.mallopt(-4, 0)
    libc.mallopt(-1, 2**31 - 1)


@pytest.fixture(autouse=True)
def no_registry_of_the_machine(monkeypatch):
    """A registry that this machine's environment names is not the tests'."""
    monkeypatch.delenv("MLFLOW_REGISTRY_URI", raising=False)
