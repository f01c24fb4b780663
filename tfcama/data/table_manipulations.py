"""What the world does to a row of measurements: an instrument shifts, or a cause of its reading."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, NamedTuple

import numpy as np
import tensorflow as tf

from tfcama import random, specs
from tfcama.data.base import Dataset, World
from tfcama.data.manipulation_base import Manipulated, Manipulation, choice
from tfcama.errors import InputError, unknown_name
from tfcama.types import CHILD, COPARENT, PARENT


class _Fitted(NamedTuple):
    """What a shift needs to know of its table.

    Attributes:
      names: of the columns that are shifted.
      moves: [D], 1 at their features.
      absent: [D], which feature is 1 where this one's value is missing; -1 for none.
      world: what made the rows, if anybody knows.
    """

    names: tuple[str, ...]
    moves: np.ndarray
    absent: np.ndarray
    world: World | None


@dataclasses.dataclass(frozen=True)
class _Shift(Manipulation):
    """do(column := column + level) for numeric columns of one role; the code is the signed level.

    A level is in units of the column's feature: training standard deviations. What is missing stays
    missing; where no training row lacked a co-parent, its features have no room to say so, and a
    missing one, which reads as the mean, moves with the others.

    Attributes:
      direction: "up" adds the level, "down" subtracts it.
      column: one column, in a flag with `%2B` for `+` and `%3A` for `:` in its name; "" shifts all
        of the role.
    """

    kind: ClassVar[str] = "table"
    unit: ClassVar[str] = "training standard deviations"
    max_level: ClassVar[float] = 1000.0
    example: ClassVar[float | None] = 2.0
    role: ClassVar[str]

    direction: str = choice("up", "up", "down")
    column: str = ""
    fitted: Any = dataclasses.field(default=None, repr=False, compare=False)

    def fit(self, dataset: Dataset) -> Manipulation:
        """Finds its columns, by their true roles where those are known.

        Raises:
          InputError: the inputs are images, or no numeric column has the role and name.
        """
        super().fit(dataset)
        spec, world = dataset.spec, dataset.world
        roles = world.roles() if world is not None else {c.name: c.roles for c in spec.columns}
        names = [
            c.name
            for c in spec.columns
            # What also causes Y would change the answer: no valid manipulation (section 2).
            if c.numeric and self.role in roles[c.name] and PARENT not in roles[c.name]
        ]
        if not names:
            raise InputError(f"{dataset.name} has no numeric {self.role} that could be shifted.")
        if self.column and self.column not in names:
            raise unknown_name(f"numeric {self.role}", self.column, map(specs.escaped, names))
        chosen = (self.column,) if self.column else tuple(names)
        moves, absent = np.zeros(spec.shape, np.float32), np.full(spec.shape, -1)
        for column in spec.columns:
            if column.name in chosen:
                places = spec.places(column.name)
                moves[places[0]] = 1.0
                absent[places[0]] = places[-1] if column.indicator else -1
        return dataclasses.replace(self, fitted=_Fitted(chosen, moves, absent, world))

    def __call__(
        self, x: tf.Tensor, *, seed: random.Seed, y: tf.Tensor | None = None
    ) -> Manipulated:
        del seed
        if self.fitted is None:
            raise InputError(f"{type(self).__name__} has seen no table; call fit() before it.")
        _, moves, absent, world = self.fitted
        signed = self.level if self.direction == "up" else -self.level
        delta = tf.broadcast_to(signed * moves, tf.shape(x))
        there = tf.where(absent < 0, 1.0, 1.0 - tf.gather(x, np.maximum(absent, 0), axis=1))
        delta *= there  # [B, D]
        if world is None or self.role == CHILD:
            moved = x + delta
        elif y is None:
            raise TypeError("the effects of a shifted co-parent follow from its row's label y.")
        else:
            moved = world.shifted(x, y, delta)
        return Manipulated(moved, tf.fill([tf.shape(x)[0], 1], signed))


@dataclasses.dataclass(frozen=True)
class ChildrenShift(_Shift):
    """The instruments that measure the effects X are recalibrated: X moves alone."""

    role: ClassVar[str] = CHILD

    def parameters(self, code, shape):
        return {f"shift {name}": code[:, 0] for name in self.fitted.names}


@dataclasses.dataclass(frozen=True)
class CoparentsShift(_Shift):
    """The co-parents C move, and with them X, by its structural equation.

    Where nobody knows that equation (a user's own table) only the reading of C can be moved; then
    this is a recalibrated instrument of C.
    """

    role: ClassVar[str] = COPARENT
