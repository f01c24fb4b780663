"""One accuracy over several seeds."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from tfcama.evaluation.results import Row

_WIDTH = 1.96  # standard errors on either side of a 95 % interval


@dataclasses.dataclass(frozen=True)
class OverSeeds:
    """An accuracy, in [0, 1], by seed; as text the mean and standard deviation in percent.

    Attributes:
      by_seed: the accuracies.
      errors: the standard error of each that comes of its number of inputs; none where that is not
        known.
    """

    by_seed: Mapping[int, float]
    errors: Mapping[int, float] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, rows: Iterable[Row]) -> OverSeeds:
        """Of rows of any number of seeds; several of one seed count by their mean, see averaged."""
        by_seed: dict[int, list[Row]] = defaultdict(list)
        for row in rows:
            by_seed[row.seed].append(row)
        return cls(
            {s: float(np.mean([row.accuracy for row in own])) for s, own in by_seed.items()},
            {
                s: float(np.mean([standard_error(row.low, row.high) for row in own]))
                for s, own in by_seed.items()
            },
        )

    @property
    def mean(self) -> float:
        """Over seeds; NaN for none."""
        return float(np.mean(list(self.by_seed.values()))) if self.by_seed else float("nan")

    @property
    def spread(self) -> float:
        """Standard deviation over seeds (n - 1 in the denominator); NaN for one or none."""
        if len(self.by_seed) < 2:
            return float("nan")
        return float(np.std(list(self.by_seed.values()), ddof=1))

    def __str__(self) -> str:
        spread = "" if np.isnan(self.spread) else f" ± {100 * self.spread:.1f}"
        return f"{100 * self.mean:.1f}{spread}"


def standard_error(low: float, high: float) -> float:
    """Of what has this 95 % interval."""
    return (high - low) / (2.0 * _WIDTH)


def averaged(several: Sequence[OverSeeds]) -> OverSeeds:
    """The mean of several accuracies, seed by seed, of the seeds that all of them have.

    So is its standard error: they may be of the same inputs, manipulated in several ways, whose
    errors do not cancel.
    """
    common = set.intersection(*(set(each.by_seed) for each in several))
    return OverSeeds(
        {s: float(np.mean([each.by_seed[s] for each in several])) for s in sorted(common)},
        {s: float(np.mean([each.errors.get(s, 0.0) for each in several])) for s in sorted(common)},
    )


def curve(rows: Iterable[Row], axis: str = "level", **fields: str) -> dict[float, OverSeeds]:
    """Level or eps, in rising order -> accuracy of the rows with these fields.

    Args:
      rows: of any number of seeds.
      axis: "level" or "eps".
      **fields: what the rows must have, by field.
    """
    found: dict[float, list[Row]] = defaultdict(list)
    for row in rows:
        if all(getattr(row, name) == value for name, value in fields.items()):
            found[getattr(row, axis)].append(row)
    return {place: OverSeeds.of(group) for place, group in sorted(found.items())}


def mean_curve(rows: Iterable[Row], axis: str = "level", **fields: str) -> dict[float, float]:
    """The means of `curve`, in [0, 1]."""
    return {place: found.mean for place, found in curve(rows, axis, **fields).items()}


def above(ours: OverSeeds, theirs: OverSeeds) -> bool | None:
    """Whether a mean is above another one; None where the difference is within chance.

    Within chance is what is at most two standard errors, which are the larger of two: what comes of
    the numbers of inputs, as if either had inputs of its own, and what the spread over seeds says,
    of the difference where the seeds are the same. Without either, what is equal is not above.
    """
    difference = ours.mean - theirs.mean
    by_inputs = math.hypot(*(_error(list(each.errors.values())) for each in (ours, theirs)))
    if ours.by_seed.keys() == theirs.by_seed.keys():
        paired = {seed: value - theirs.by_seed[seed] for seed, value in ours.by_seed.items()}
        by_seeds = _error_of_mean(OverSeeds(paired))
    else:
        by_seeds = math.hypot(_error_of_mean(ours), _error_of_mean(theirs))
    error = max(by_inputs, by_seeds)
    return None if error and abs(difference) <= 2.0 * error else difference > 0.0


def _error_of_mean(found: OverSeeds) -> float:
    """By the spread over seeds; 0 of one."""
    return 0.0 if math.isnan(found.spread) else found.spread / math.sqrt(len(found.by_seed))


def _error(of_each: Sequence[float]) -> float:
    """The standard error of a mean of independent numbers; 0 of none."""
    return math.hypot(*of_each) / len(of_each) if of_each else 0.0
