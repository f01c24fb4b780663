"""Accuracy against the strength of a manipulation: the papers' Figures 1, 7 and 10."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

from tfcama.data import manipulations
from tfcama.evaluation.results import Row, accuracy_text, scored
from tfcama.evaluation.subject import Subject
from tfcama.evaluation.unfinished import Keep, made_anew


def clean(subject: Subject, experiment: str) -> Row:
    """Accuracy on the test rows as they are, by one draw; the row's experiment is so called."""
    hits = subject.predictor.hits(subject.test.x, subject.test.y)
    return scored(hits, **subject.identity(experiment))


def manipulation_curve(
    subject: Subject,
    manipulation: str,
    levels: Sequence[float | None],
    *,
    experiment: str = "manipulation",
    draws: int = 1,
    progress: Callable[[str], None] = lambda text: None,
    keep: Keep = made_anew,
) -> list[Row]:
    """Accuracy on the test rows, each manipulated by its own draw, at every level.

    Args:
      subject: a finished run; what it was fine-tuned on stays fixed along the curve.
      manipulation: `name[:key=value…]`, see `data.manipulations.parse`.
      levels: of the manipulation; level 0 is clean. None takes those in its text, and the row's
        level is 1: all of it.
      experiment: what the rows are called.
      draws: of a stochastic model's noise, whose mean accuracy the rows have; one is what a user
        of the deployed model meets. All rows of a draw share its noise.
      progress: called with a line of text after each level.
      keep: what was scored of a level, where the call before this one was interrupted.

    Returns:
      A row a level on all test rows, and where the run was fine-tuned on a part of the test
      images, another on the rest ("<experiment>_held_out"), if there is one.
    """
    rows = []
    predictor, held_out = subject.predictor, subject.held_out
    # All levels are read before the first is scored: a bad last one costs no time.
    moves = {level: manipulations.parse(manipulation, level=level) for level in levels}
    for level, move in moves.items():
        fitted = move.fit(subject.dataset)
        split = manipulations.manipulate(subject.test, fitted, seed=subject.loaded.config.seed)
        score = functools.partial(predictor.hits, split.x, split.y, draws=draws)
        hits = keep(f"{manipulation} {level}", score)
        fields = {"manipulation": manipulation, "level": 1.0 if level is None else level}
        full = scored(hits, **subject.identity(experiment, **fields))
        rows.append(full)
        if held_out is not None and len(held_out):
            identity = subject.identity(f"{experiment}_held_out", **fields)
            rows.append(scored(hits[:, held_out], **identity))
        progress(f"{manipulation} {fields['level']:g}: {accuracy_text(full)}")
    return rows
