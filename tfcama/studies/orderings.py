"""Do the orderings of the papers' shift figures hold? Each a check with the numbers behind it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tfcama.evaluation.checks import Check
from tfcama.evaluation.results import Row
from tfcama.report import labels

_VERTICAL, _HORIZONTAL, _BOTH = "vertical_shift", "horizontal_shift", "shift"
_EQUAL = 0.03  # "about equal": the mean difference is at most three points
_SLACK = 0.005  # "no worse": a mean loss of half a point is within the noise of one seed
_CLEARLY = 0.02


class _Curve(NamedTuple):
    """A model, what it was trained on besides clean images, and what it was fine-tuned on."""

    model: str
    trained: str = ""
    finetuned: str = ""


class _Claim(NamedTuple):
    """Mean accuracy of `one` minus that of `other` on a direction lies within [low, high]."""

    one: _Curve
    other: _Curve
    direction: str
    low: float = -1.0
    high: float = 1.0


def _other(clean: _Curve) -> tuple[_Claim, ...]:
    """A model that was trained on one direction is not above this one on the other."""
    return (
        _Claim(clean._replace(trained=_VERTICAL), clean, _HORIZONTAL, high=0.0),
        _Claim(clean._replace(trained=_HORIZONTAL), clean, _VERTICAL, high=0.0),
    )


_DNN, _CAMA = _Curve("dnn"), _Curve("cama")
_ORDERINGS = {
    "a DNN trained on one direction is worse than a clean one on the other": _other(_DNN),
    "a CNN trained on one direction is worse than a clean one on the other": _other(_Curve("cnn")),
    "a large DNN trained on one direction is worse than a clean one on the other": _other(
        _Curve("dnn_large")
    ),
    "a CNN trained on whitened images is worse than a clean one on both": tuple(
        _Claim(_Curve("cnn", "zca_whitening"), _Curve("cnn"), direction, high=0.0)
        for direction in (_VERTICAL, _HORIZONTAL)
    ),
    "CAMA is at least the DNN on vertical shifts, about equal on horizontal ones": (
        _Claim(_CAMA, _DNN, _VERTICAL, low=-_SLACK),
        _Claim(_CAMA, _DNN, _HORIZONTAL, low=-_EQUAL, high=_EQUAL),
    ),
    "fine-tuned on the same shift CAMA is clearly above CAMA without": (
        _Claim(_Curve("cama", "", _VERTICAL), _CAMA, _VERTICAL, low=_CLEARLY),
        _Claim(_Curve("cama", "", _HORIZONTAL), _CAMA, _HORIZONTAL, low=_CLEARLY),
    ),
    "fine-tuned on one direction, the other is no worse": (
        _Claim(_Curve("cama", "", _VERTICAL), _CAMA, _HORIZONTAL, low=-_SLACK),
        _Claim(_Curve("cama", "", _HORIZONTAL), _CAMA, _VERTICAL, low=-_SLACK),
    ),
    "fine-tuned on both, both improve": (
        _Claim(_Curve("cama", "", _BOTH), _CAMA, _VERTICAL, low=0.0),
        _Claim(_Curve("cama", "", _BOTH), _CAMA, _HORIZONTAL, low=0.0),
    ),
    "CAMA trained with vertical shifts is above clean-trained CAMA there, elsewhere no worse": (
        _Claim(_Curve("cama", _VERTICAL), _CAMA, _VERTICAL, low=0.0),
        _Claim(_Curve("cama", _VERTICAL), _CAMA, _HORIZONTAL, low=-_SLACK),
    ),
    "fine-tuning helps on top of training with shifts": (
        _Claim(_Curve("cama", _VERTICAL, _VERTICAL), _Curve("cama", _VERTICAL), _VERTICAL, low=0.0),
        _Claim(
            _Curve("cama", _HORIZONTAL, _HORIZONTAL),
            _Curve("cama", _HORIZONTAL),
            _HORIZONTAL,
            low=0.0,
        ),
    ),
}


def orderings(rows: Sequence[Row]) -> list[Check]:
    """The orderings for which there are rows.

    A difference is the mean over the shift ranges above 0 that both curves have, and over seeds,
    on all test images.

    Args:
      rows: of a shift study.
    """
    accuracies: dict[tuple[_Curve, str, float], list[float]] = defaultdict(list)
    for row in rows:
        if row.experiment in ("manipulation", "matched") and row.level > 0:
            accuracies[_curve(row), row.manipulation, row.level].append(row.accuracy)
    checks = []
    for name, claims in _ORDERINGS.items():
        found = [(claim, gains) for claim in claims if (gains := _gains(accuracies, claim))]
        if found:
            held = [claim.low <= np.mean(list(g.values())) <= claim.high for claim, g in found]
            detail = "; ".join(_sentence(claim, gains) for claim, gains in found)
            checks.append(Check(name, all(held), detail))
    return checks


def _curve(row: Row) -> _Curve:
    trained = row.trained_on.removeprefix("clean").removeprefix("+").split(":")[0]
    return _Curve(row.model, trained, row.finetuned_on.split(":")[0])


def _gains(
    accuracies: dict[tuple[_Curve, str, float], list[float]], claim: _Claim
) -> dict[float, float]:
    """Range -> accuracy of one minus that of the other."""
    return {
        level: float(np.mean(values) - np.mean(accuracies[claim.other, direction, level]))
        for (curve, direction, level), values in list(accuracies.items())
        if (curve, direction) == (claim.one, claim.direction)
        and (claim.other, direction, level) in accuracies
    }


def _sentence(claim: _Claim, gains: dict[float, float]) -> str:
    mean = 100 * float(np.mean(list(gains.values())))
    each = ", ".join(f"{level:g}: {100 * gain:+.1f}" for level, gain in sorted(gains.items()))
    return f"{labels.manipulation_name(claim.direction)} {mean:+.1f} points ({each})"
