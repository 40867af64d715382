"""Progress: a bar on a terminal, few lines in a file."""

import io

import pytest

from utils.reporting import progress
from utils.reporting.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch):
    """A second passes at each look at the clock; returns a list whose item is the seconds of a look."""
    step, now = [1.0], [0.0]

    def look() -> float:
        now[0] += step[0]
        return now[0]

    monkeypatch.setattr(progress.time, "monotonic", look)
    return step


def written(monkeypatch, stream, items, **more):
    monkeypatch.setattr("sys.stderr", stream)
    bar = Progress(items, "val", len(items), **more)
    seen = []
    for item in bar:
        bar.say(f"at {item}")
        seen.append(item)
    assert seen == list(items)
    return stream.getvalue()


def test_a_file_gets_no_line_of_a_short_loop_and_one_of_an_epoch(monkeypatch, clock):
    clock[0] = 0.01
    assert written(monkeypatch, io.StringIO(), range(500)) == ""
    assert written(monkeypatch, io.StringIO(), range(500), unit="batch", kept=True) == "at 499: 500/500 batch, 0:05\n"


def test_a_long_loop_has_at_most_ten_lines_half_a_minute_apart(monkeypatch, clock):
    lines = written(monkeypatch, io.StringIO(), range(1000), kept=True).splitlines()
    assert len(lines) == 10 and lines[0] == "at 99: 100/1000 it, 1:40" and lines[-1].startswith("at 999: 1000/1000 it")
    clock[0] = 0.2
    assert len(written(monkeypatch, io.StringIO(), range(1000)).splitlines()) == 4  # 20 s for 100 items


def test_a_terminal_has_a_bar_and_others_than_the_main_process_nothing(monkeypatch):
    text = written(monkeypatch, Terminal(), range(3), kept=True)
    assert "\r" in text and "3/3" in text and "100%" in text
    assert written(monkeypatch, Terminal(), range(3), shown=False) == ""
    assert written(monkeypatch, io.StringIO(), range(3), shown=False, kept=True) == ""


def test_it_goes_on_where_an_epoch_was_stopped(monkeypatch):
    assert written(monkeypatch, io.StringIO(), range(3), start=4, kept=True).startswith("at 2: 7/3")
    monkeypatch.setattr("sys.stderr", None)
    assert not progress.is_terminal()
