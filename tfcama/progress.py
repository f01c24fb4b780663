"""How far long work has come, for whoever waits for it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import rich.progress
from rich.console import Console

_T = TypeVar("_T")
_EVERY = 60.0  # seconds between lines where there is no terminal


def tracked(
    values: Sequence[_T],
    title: str,
    *,
    unit: int = 1,
    total: int | None = None,
    console: Console | None = None,
) -> Iterable[_T]:
    """The values; meanwhile, how far their reader has come and an estimate of what is left.

    On a terminal a bar, which goes when all is read; elsewhere a line a minute. One value, or none,
    is told of nowhere.

    Args:
      values: to go through.
      title: what is being done.
      unit: how many a value stands for, where that is not one.
      total: how many all of them stand for, where the last one stands for fewer.
      console: where to tell; standard error by default.
    """
    if len(values) < 2:
        return values
    console = console or Console(stderr=True)
    if not console.is_terminal:
        total = unit * len(values) if total is None else total
        return _by_lines(values, title, unit, total, console)
    return rich.progress.track(values, title, console=console, transient=True)


def _by_lines(
    values: Sequence[_T], title: str, unit: int, total: int, console: Console
) -> Iterator[_T]:
    begun = told = time.monotonic()
    for done, value in enumerate(values):
        now = time.monotonic()
        if done and now - told >= _EVERY:
            left = (now - begun) / done * (len(values) - done)
            of = f"{unit * done:,} of {total:,}"
            console.print(f"{title}: {of}  left: {left:.0f} s", highlight=False, soft_wrap=True)
            told = now
        yield value
