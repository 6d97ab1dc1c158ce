"""What networks say of pictures is computed once: by block, by content, and not again in the next evaluation."""

import os
import time

import numpy as np
import pytest
import torch

from pipeline.scoring import features
from pipeline.scoring.features import Pictures, Store, joined


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(features, "BLOCK", 2)
    monkeypatch.setattr(features, "TOGETHER", 2)


def pictures(n: int = 5, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 4, 4, 3), dtype=np.uint8)


def test_pictures_are_made_when_they_are_looked_at_and_known_before():
    a, b, made = Pictures(pictures()), Pictures(pictures(seed=1)), []

    def add(x, y):
        made.append(len(x))
        return x + y

    both = Pictures.made(add, a, b, name="sum")
    keys = [both.key(rows) for rows in both.blocks()]
    assert len(both) == 5 and [rows.stop for rows in both.blocks()] == [2, 4, 5] and made == []
    assert len(set(keys)) == 3 and keys == [Pictures.made(add, a, b, name="sum").key(rows) for rows in both.blocks()]
    assert keys != [Pictures.made(add, b, a, name="sum").key(rows) for rows in both.blocks()]
    assert keys != [Pictures.made(add, a, b, name="other").key(rows) for rows in both.blocks()]
    assert np.array_equal(both[slice(0, 2)], a[slice(0, 2)] + b[slice(0, 2)]) and made == [2]
    assert np.array_equal(np.asarray(both), pictures() + pictures(seed=1)) and np.array_equal(both[[3]], both[3:4])


def test_the_same_pictures_are_made_together_whichever_are_asked_for_first():
    """A network's last bits depend on the batch: a second evaluation that asks for a few must get the same ones."""
    made = []
    for rows in ([3, 0], [0, 3], slice(0, 5)):
        both = Pictures.made(lambda x: made.append(x.copy()) or x, Pictures(pictures()), name="same")
        both[rows]
    assert [len(batch) for batch in made] == [2, 2, 2, 2, 2, 2, 1]
    for first in (0, 2, 4):
        assert all(np.array_equal(made[first + k], pictures()[2 * k : 2 * k + 2]) for k in (0, 1))


def test_equal_pictures_have_equal_keys_and_others_others():
    first = slice(0, 2)
    assert Pictures(pictures()).key(first) == Pictures(pictures().copy()).key(first)
    assert Pictures(pictures()).key(first) != Pictures(pictures(seed=1)).key(first)
    made = []
    eager = Pictures.made(lambda x: made.append(1) or x, Pictures(pictures()))
    assert made == [1] and eager.key(first) == Pictures(pictures()).key(first)  # without a name its content is the key


def test_what_was_kept_is_not_made_again_and_a_damaged_file_is(tmp_path):
    store, calls = Store(tmp_path), []

    def make():
        calls.append(1)
        return {"x": torch.arange(3.0), "flag": torch.tensor([True, False])}

    for _ in range(2):
        found = store.get("key", make)
        assert found["x"].tolist() == [0, 1, 2] and found["flag"].dtype == torch.bool
    assert calls == [1]
    (tmp_path / "key.safetensors").write_bytes(b"cut off")
    assert store.get("key", make)["x"].tolist() == [0, 1, 2] and calls == [1, 1]
    Store(None).get("key", make)
    assert calls == [1, 1, 1] and len(list(tmp_path.iterdir())) == 1
    old = time.time() - 61 * 86400
    os.utime(tmp_path / "key.safetensors", (old, old))
    store.get("key", make)  # used: young again
    store.tidy()
    assert (tmp_path / "key.safetensors").is_file()
    os.utime(tmp_path / "key.safetensors", (old, old))
    store.tidy()
    assert not list(tmp_path.iterdir())


def test_blocks_are_joined_in_their_order():
    parts = [{"x": torch.tensor([0, 1])}, {"x": torch.tensor([2])}]
    assert joined(parts)["x"].tolist() == [0, 1, 2]
