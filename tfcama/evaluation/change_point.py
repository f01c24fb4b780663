"""When did a stream change? A CUSUM on the ranks of a number that each input has, log p(x) say.

Standardised by its rank among those that came before, the number is N(0, 1) whatever its own
distribution was, so the rate of false alarms is known without knowing how log p(x) is distributed:
McDonald, "A cusum procedure based on sequential ranks" (Naval Research Logistics 37, 1990), with
Page's (1954) two sums and Siegmund's (1985) run lengths.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from scipy import optimize, special

from tfcama.errors import InputError

_OVERSHOOT = 2 * 0.583  # Siegmund: what a sum jumps beyond its bounds in the mean, sd = 1
_LARGEST_SHIFT = 10.0  # sd; one number shows more
_FEWEST = 20  # ranks among fewer say little


class Alarm(NamedTuple):
    """A change that was noticed.

    Attributes:
      place: of the input that raised it, from 0.
      start: where the change probably began: after the sum was last zero.
      direction: -1 where the numbers fell, 1 where they rose.
    """

    place: int
    start: int
    direction: int


class RankCusum:
    """Two-sided CUSUM on normal scores of sequential ranks.

    The u-th number since the last alarm becomes z = Phi^-1((r - 1/2) / u), r its rank among the u;
    S+ = max(0, S+ + z - k), S- = max(0, S- - z - k), and max(S+, S-) > h is an alarm, after which
    all begins anew. As long as the numbers are exchangeable the ranks are uniform, and the first
    `reference` of them are independent; later ones, all among the same numbers, nearly so.

    Args:
      false_alarm_rate: alarms an input where nothing changes, inside (0, 0.1]; it decides h.
      shift: the change to be found soonest, in standard deviations; k is half of it.
      reference: the first so many numbers since an alarm are what later ones are compared with:
        memory is bounded, and a slow drift does not become its own reference.

    Raises:
      InputError: an argument out of range.
    """

    def __init__(self, *, false_alarm_rate: float = 1e-4, shift: float = 1.0, reference: int = 500):
        if not 0.0 < false_alarm_rate <= 0.1:
            raise InputError(
                f"false_alarm_rate={false_alarm_rate:g} was given; it must be in (0, 0.1]."
            )
        if not 0.0 < shift <= _LARGEST_SHIFT:
            raise InputError(f"shift={shift:g} was given; it must be in (0, {_LARGEST_SHIFT:g}].")
        if reference < _FEWEST:
            raise InputError(
                f"reference={reference} was given; at least {_FEWEST} numbers are needed."
            )
        self.false_alarm_rate = false_alarm_rate
        self.reference = reference
        self._allowance = 0.5 * shift
        self.threshold = threshold(false_alarm_rate, allowance=self._allowance)
        self._seen = 0
        self._begin()

    def _begin(self) -> None:
        self._sorted: list[float] = []
        self._sums = {1: 0.0, -1: 0.0}
        self._starts = {1: self._seen, -1: self._seen}

    def prime(self, values: Iterable[float]) -> None:
        """Numbers from before the stream, that are known to be of one kind."""
        for value in values:
            if len(self._sorted) < self.reference:
                bisect.insort(self._sorted, float(value))

    def update(self, value: float) -> Alarm | None:
        """Takes the stream's next number; an alarm if it is one too many.

        Raises:
          InputError: NaN, which has no rank.
        """
        if math.isnan(value):
            raise InputError(f"number {self._seen} of the stream is NaN; it has no rank.")
        place, self._seen = self._seen, self._seen + 1
        z = self._normal_score(float(value))
        if len(self._sorted) < self.reference:
            bisect.insort(self._sorted, float(value))
        if len(self._sorted) <= _FEWEST:
            return None
        for direction in self._sums:
            total = self._sums[direction] + direction * z - self._allowance
            if total <= 0.0:
                total, self._starts[direction] = 0.0, self._seen
            self._sums[direction] = total
        direction = max(self._sums, key=lambda side: self._sums[side])
        if self._sums[direction] <= self.threshold:
            return None
        alarm = Alarm(place, self._starts[direction], direction)
        self._begin()
        return alarm

    def _normal_score(self, value: float) -> float:
        low = bisect.bisect_left(self._sorted, value)
        high = bisect.bisect_right(self._sorted, value)
        rank = 0.5 * (low + high) + 1.0  # ties share their mean rank
        return float(special.ndtri((rank - 0.5) / (len(self._sorted) + 1)))


def threshold(false_alarm_rate: float, *, allowance: float) -> float:
    """The h at which a two-sided CUSUM of N(0, 1) numbers raises so many false alarms a number.

    0 where it raises fewer at any h.
    """
    one_sided = 2.0 / false_alarm_rate  # mean run lengths of two sides: 1 / L = 1 / L+ + 1 / L-
    if mean_run_length(0.0, drift=-allowance) >= one_sided:
        return 0.0
    return float(
        optimize.brentq(
            lambda h: mean_run_length(h, drift=-allowance) - one_sided, 0.0, 60.0 / allowance
        )
    )


def mean_run_length(h: float, *, drift: float) -> float:
    """Numbers until a one-sided CUSUM of N(drift, 1) increments first exceeds h, in the mean.

    Siegmund's approximation (exp(-2 d b) + 2 d b - 1) / (2 d^2), b = h + 1.166; b^2 at d = 0. Of a
    shift by s standard deviations d = s - k, and this is the mean delay; without one d = -k.

    Example:
      >>> round(mean_run_length(5.0, drift=-0.5)), round(mean_run_length(5.0, drift=0.5), 1)
      (938, 10.3)
    """
    reach = h + _OVERSHOOT
    if abs(drift) < 1e-6:
        return reach**2
    return (math.exp(-2 * drift * reach) + 2 * drift * reach - 1) / (2 * drift**2)


def alarms(values: Iterable[float], detector: RankCusum) -> list[Alarm]:
    """All alarms of a finished stream."""
    return [alarm for alarm in map(detector.update, values) if alarm is not None]


class Detection(NamedTuple):
    """What a detector made of one stretch of a stream between two true changes.

    Attributes:
      change: the first input of the new kind.
      alarm: the first alarm in it, or None.
      extra: how many followed it.
    """

    change: int
    alarm: Alarm | None
    extra: int

    @property
    def delay(self) -> int | None:
        """Inputs of the new kind that had been seen when the alarm was raised; None if missed."""
        return None if self.alarm is None else self.alarm.place - self.change + 1


def match(found: Sequence[Alarm], changes: Sequence[int]) -> tuple[list[Detection], int]:
    """Alarms against the truth.

    Args:
      found: in order.
      changes: the first input of every new kind, ascending.

    Returns:
      A detection a change, and how many alarms were false: those before the first change, and all
      but the first between two.
    """
    ends = [*changes, math.inf][1:]
    detections = []
    for start, end in zip(changes, ends, strict=True):
        inside = [alarm for alarm in found if start <= alarm.place < end]
        detections.append(Detection(start, inside[0] if inside else None, max(0, len(inside) - 1)))
    before = sum(alarm.place < changes[0] for alarm in found) if changes else len(found)
    return detections, before + sum(detection.extra for detection in detections)
