"""How far a stage is: ten lines in a log file, a bar on a terminal."""

import io
import queue
import sys
import threading

import pytest

from pipeline.common.progress import progress
from pipeline.tracking.journal import Journal
from pipeline.tracking.watch import Watcher


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(("total", "lines"), [(3, 3), (10, 10), (418, 10), (20_000, 10), (0, 0)])
def test_a_file_gets_a_line_a_tenth_of_the_way(total, lines, monkeypatch):
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    assert list(progress(range(total), total, "videos")) == list(range(total))
    written = log.getvalue().splitlines()
    assert len(written) == lines
    assert not lines or written[-1].startswith(f"{total}/{total} videos, ")


def test_a_terminal_gets_a_bar(monkeypatch):
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    assert list(progress(iter("abc"), 3, "videos")) == ["a", "b", "c"]
    assert "100%" in terminal.getvalue() and terminal.getvalue().count("\n") == 1


def test_a_training_on_a_terminal_is_a_bar_too(tmp_path, monkeypatch, capsys):
    messages, done = queue.Queue(), threading.Event()
    journal = Journal(tmp_path / "mlflow", tmp_path)
    journal.begin("train_x", {})
    messages.put(("start", 0, 1))
    for step in range(10, 401, 10):
        messages.put(("log", step, {"reconstruction": 0.25, "pairs_per_second": 8.0}))
    done.set()
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    Watcher("train_x", 400, journal, tmp_path).follow(messages, done)
    assert "400/400" in terminal.getvalue() and terminal.getvalue().count("\n") == 1
    assert capsys.readouterr().out == "train_x: starting: 400 steps, 1 worker\n"
