"""What long work tells those who wait."""

import io
import itertools

import pytest
from rich.console import Console

from tfcama import progress


def console(*, terminal):
    return Console(file=io.StringIO(), force_terminal=terminal, width=100)


@pytest.fixture
def half_minutes(monkeypatch):
    """A clock that is read twice a minute."""
    clock = itertools.count(0.0, 30.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))


def test_off_a_terminal_a_line_a_minute_says_what_is_left(half_minutes):
    told = console(terminal=False)
    assert list(
        progress.tracked(range(0, 6), "scored inputs", unit=250, total=1_400, console=told)
    ) == [*range(6)]
    assert told.file.getvalue().splitlines() == [
        "scored inputs: 250 of 1,400  left: 300 s",
        "scored inputs: 750 of 1,400  left: 120 s",
        "scored inputs: 1,250 of 1,400  left: 36 s",
    ]


def test_what_is_soon_done_says_nothing_off_a_terminal():
    told = console(terminal=False)
    assert list(progress.tracked(range(100), "starts", console=told)) == [*range(100)]
    assert told.file.getvalue() == ""


def test_a_terminal_shows_a_bar_in_a_bar():
    told = console(terminal=True)
    for _ in progress.tracked([1, 2], "attacked inputs", console=told):
        assert list(progress.tracked([3, 4, 5], "starts", console=told)) == [3, 4, 5]
    shown = told.file.getvalue()
    assert "attacked inputs" in shown
    assert "starts" in shown


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("values", [[], [7]])
def test_one_step_needs_no_bar(values, terminal):
    told = console(terminal=terminal)
    assert list(progress.tracked(values, "starts", console=told)) == values
    assert told.file.getvalue() == ""
