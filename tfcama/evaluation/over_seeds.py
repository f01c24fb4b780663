"""One accuracy over several seeds."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class OverSeeds:
    """An accuracy, in [0, 1], by seed; as text the mean and standard deviation in percent."""

    by_seed: Mapping[int, float]

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


def averaged(several: Sequence[OverSeeds]) -> OverSeeds:
    """The mean of several accuracies, seed by seed, of the seeds that all of them have."""
    common = set.intersection(*(set(each.by_seed) for each in several))
    return OverSeeds(
        {s: float(np.mean([each.by_seed[s] for each in several])) for s in sorted(common)}
    )
