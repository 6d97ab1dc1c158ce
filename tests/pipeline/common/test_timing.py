"""What is said of a stage's time before and after it."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.common import timing
from pipeline.params import load

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def work(tmp_path):
    (tmp_path / "work").mkdir()
    (tmp_path / "dvc.yaml").write_text("stages: {train_swapping: {desc: second}, pairs: {desc: portraits}}")
    return tmp_path / "work"


def test_a_stage_says_what_it_does_and_how_long_by_its_last_time_here(work, capsys, monkeypatch):
    params, clock = load(ROOT / "params.yaml"), iter([100.0, 400.0, 1000.0, 1001.0])
    monkeypatch.setattr(timing.time, "time", lambda: next(clock))
    assert timing.table(work) == []
    with timing.timed("train_swapping", params, work):
        assert capsys.readouterr().out.startswith("train_swapping: second; perhaps ")
    assert "5 min 0 s" in timing.table(work)[2]
    half = replace(params.train_swapping, batch_size=params.train_swapping.batch_size // 2)
    with pytest.raises(ValueError), timing.timed("train_swapping", replace(params, train_swapping=half), work):
        assert capsys.readouterr().out == "train_swapping: second; about 2 min 30 s, by the last time here\n"
        raise ValueError("it fails")
    assert "5 min 0 s" in timing.table(work)[2] and "5 min 0 s" in timing.table(work)[3], "a failure is no time"


def test_of_data_that_nobody_counted_nothing_is_foretold(work, capsys):
    params = load(ROOT / "params.yaml")
    with timing.timed("pairs", replace(params, pairs=replace(params.pairs, source="folder")), work):
        assert capsys.readouterr().out == "pairs: portraits\n"
    with timing.timed("a look", params, work):
        assert capsys.readouterr().out == ""
    assert len(timing.table(work)) == 4  # of the stage alone
    (work / timing.TIMES).write_text('{"pairs": ')
    assert timing.table(work) == []
