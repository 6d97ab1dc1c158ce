"""95 % intervals hold the truth in 95 of 100 worlds, also where several pairs show one person."""

import numpy as np
import pytest

from pipeline.scoring.intervals import difference, interval

WORLDS = 400


def normal(rng):
    return rng.normal(1, 2, 100), None, 1.0


def yes_or_no(rng):
    return (rng.random(200) < 0.7).astype(float), None, 0.7


def persons(rng):
    """34 persons in 200 pairs, half of the spread between persons."""
    who = rng.integers(0, 34, 200)
    return rng.normal(0, 1, 34)[who] + rng.normal(0, 1, 200), who, 0.0


def two_persons(rng):
    """Pairs of a source and a target, each of 34 persons who are in several pairs."""
    who, whom = np.random.default_rng(0).permuted(np.arange(204).reshape(2, 102) % 34, axis=1)
    return rng.normal(0, 1, 34)[who] + rng.normal(0, 1, 34)[whom] + rng.normal(0, 1, 102), (who, whom), 0.0


@pytest.mark.parametrize("world", [normal, yes_or_no, persons, two_persons])
def test_intervals_cover_the_truth(world):
    hits = 0
    for seed in range(1000, 1000 + WORLDS):
        values, groups, truth = world(np.random.default_rng(seed))
        low, high = interval(values, *groups) if world is two_persons else interval(values, groups)
        hits += low <= truth <= high
    assert 0.93 <= hits / WORLDS <= 0.97


def test_one_person_in_two_places_counts_once():
    """Reconstruction: source and target show the same person, the pairs' interval is that of the persons."""
    values, who, _ = persons(np.random.default_rng(0))
    assert interval(values, who, who) == pytest.approx(interval(values, who), rel=1e-6)
    assert interval(values, who, np.zeros(200)) is None


def test_pairs_of_one_person_are_not_taken_for_independent():
    values, groups, _ = persons(np.random.default_rng(0))
    wide, narrow = interval(values, groups), interval(values)
    assert wide[1] - wide[0] > 1.3 * (narrow[1] - narrow[0])


def test_differences_are_paired():
    rng = np.random.default_rng(0)
    base = rng.normal(0, 10, 100)
    found = difference(base + 0.5 + rng.normal(0, 0.1, 100), base)
    assert found["mean"] == pytest.approx(0.5, abs=0.05) and found["interval"][0] > 0.4


def test_unknown_values_are_left_out_and_one_group_gives_none():
    assert interval([1.0, 2.0, 3.0, np.nan]) == interval([1.0, 2.0, 3.0])
    assert interval([1.0, 2.0], ["a", "a"]) is None and interval([np.nan]) is None
    assert difference([1.0], [2.0]) is None
