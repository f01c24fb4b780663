"""What every data set is: three splits of arrays and a promise about them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from tfcama import random
from tfcama.errors import InputError
from tfcama.types import InputSpec


@dataclasses.dataclass(frozen=True)
class Split:
    """Rows of one split.

    Attributes:
      x: float32 [N, *shape], inside the spec's bounds.
      y: int32 [N].
    """

    x: np.ndarray
    y: np.ndarray

    def __len__(self) -> int:
        return len(self.x)

    def take(self, rows: np.ndarray | slice) -> Split:
        """The split of these rows."""
        return Split(self.x[rows], self.y[rows])


class Dataset(NamedTuple):
    """A data set, split once and for all by a seed.

    Attributes:
      name: its registry name.
      spec: the promise: shape, classes, bounds.
      train, validation, test: validation is held out of the source's training rows.
    """

    name: str
    spec: InputSpec
    train: Split
    validation: Split
    test: Split


class Source(NamedTuple):
    """What a source file returns: the published split, before validation is held out."""

    spec: InputSpec
    train: Split
    test: Split


Loader = Callable[[str | None], Source]
"""data_dir -> Source; data_dir is None where the user named none."""


def hold_out(source: Source, *, name: str, fraction: float, seed: int) -> Dataset:
    """Holds `fraction` of the training rows out as validation, chosen by `seed`.

    Raises:
      InputError: the fraction is not inside (0, 1), or leaves a split without a row.
    """
    if not 0.0 < fraction < 1.0:
        raise InputError(f"validation_fraction={fraction:g} was given; it must be inside (0, 1).")
    rows = random.shuffled(len(source.train), random.stream(seed, "data", "validation")).numpy()
    held = round(fraction * len(rows))
    if not 0 < held < len(rows):
        raise InputError(
            f"validation_fraction={fraction:g} of {len(rows)} training rows leaves "
            f"{held} for validation and {len(rows) - held} for training; both need at least one."
        )
    return Dataset(
        name=name,
        spec=source.spec,
        train=source.train.take(np.sort(rows[held:])),
        validation=source.train.take(np.sort(rows[:held])),
        test=source.test,
    )
