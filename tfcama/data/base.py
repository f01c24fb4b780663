"""What every data set is: three splits of rows, a promise about them, and how they came about."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
import tensorflow as tf

from tfcama import random
from tfcama.errors import InputError
from tfcama.types import InputSpec

BLOCK_ROWS = 4096  # of a generated split: made, shuffled and dropped together


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


@dataclasses.dataclass(frozen=True)
class GeneratedSplit:
    """Rows that are made when they are needed, so that any number of them fits into memory.

    Attributes:
      size: number of rows.
      block: block number -> float32 [BLOCK_ROWS, *shape] and int32 [BLOCK_ROWS], always the same
        for the same number; of the last block the first rows count.
    """

    size: int
    block: Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]

    def __len__(self) -> int:
        return self.size

    def sample(self) -> Split:
        """The first block's rows, for statistics and pictures."""
        x, y = self.block(tf.constant(0, tf.int64))
        return Split(x.numpy(), y.numpy()).take(slice(self.size))


class World(Protocol):
    """What made the rows, where that is known: it answers what an intervention would do."""

    def shifted(self, x: tf.Tensor, y: tf.Tensor, delta: tf.Tensor) -> tf.Tensor:
        """The rows under do(feature := feature + delta), all other noise as it was.

        Args:
          x: [B, D].
          y: [B] int32.
          delta: [B, D]; effects of a shifted cause follow by the structural equations.
        """
        ...

    def roles(self) -> dict[str, tuple[str, ...]]:
        """The true roles of every column, whatever a model was told."""
        ...


class Dataset(NamedTuple):
    """A data set, split once and for all by a seed.

    Attributes:
      name: its registry name.
      spec: the promise: shape, classes, bounds, columns.
      train, validation, test: validation is held out of the source's training rows.
      world: what made the rows; None where nobody knows.
      rows_sha256: of the user's file that the rows came from, as far as they did; "" of others.
    """

    name: str
    spec: InputSpec
    train: Split | GeneratedSplit
    validation: Split
    test: Split
    world: World | None = None
    rows_sha256: str = ""

    @property
    def reference(self) -> Split:
        """Training rows that statistics are fitted on: all, or the first of a generated split."""
        return self.train if isinstance(self.train, Split) else self.train.sample()


class Source(NamedTuple):
    """What a source file returns.

    Attributes:
      spec: see Dataset.
      train, test: the published split.
      validation: None: to be held out of the training rows.
      world, rows_sha256: see Dataset.
    """

    spec: InputSpec
    train: Split | GeneratedSplit
    test: Split
    validation: Split | None = None
    world: World | None = None
    rows_sha256: str = ""


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """A data set's own choices; most have none."""

    @property
    def variant(self) -> str:
        """What sets this configuration apart in a table of results; "" for the usual one."""
        return ""


class Request(NamedTuple):
    """What every loader is told besides its own configuration.

    Attributes:
      data_dir: of tensorflow-datasets; None where the user named none.
      seed: of the run.
      validation_fraction: of the training rows, for sources that hold them out themselves.
    """

    data_dir: str | None
    seed: int
    validation_fraction: float


Loader = Callable[[Any, Request], Source]
"""(configuration, request) -> Source."""


def held_out_rows(
    size: int, *, fraction: float, seed: int, labels: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Training and validation rows, chosen by `seed`, each in ascending order.

    Args:
      size: how many rows there are.
      fraction: of them, for validation.
      seed: of the run.
      labels: classes of the rows, [size]; of each one that chance held out altogether, a row stays
        in training.

    Raises:
      InputError: the fraction is not inside (0, 1), or leaves a split without a row.
    """
    if not 0.0 < fraction < 1.0:
        raise InputError(f"validation_fraction={fraction:g} was given; it must be inside (0, 1).")
    rows = random.shuffled(size, random.stream(seed, "data", "validation")).numpy()
    held = round(fraction * size)
    training, validation = rows[held:], rows[:held]
    if labels is not None:
        lost = np.setdiff1d(labels[validation], labels[training])
        spared = [validation[labels[validation] == label][0] for label in lost]
        training = np.append(training, np.array(spared, int))
        validation = np.setdiff1d(validation, spared)
    if not len(validation) or not len(training):
        raise InputError(
            f"validation_fraction={fraction:g} of {size} training rows leaves {len(validation)} "
            f"for validation and {len(training)} for training; both need at least one."
        )
    return np.sort(training), np.sort(validation)


def hold_out(source: Source, *, name: str, fraction: float, seed: int) -> Dataset:
    """The data set of a source; validation is held out of the training rows unless it has its own.

    Raises:
      InputError: see held_out_rows.
    """
    train, validation = source.train, source.validation
    if validation is None:
        if not isinstance(train, Split):
            raise TypeError("a source that generates its training rows brings its validation rows.")
        kept, held = held_out_rows(len(train), fraction=fraction, seed=seed)
        train, validation = train.take(kept), train.take(held)
    return Dataset(
        name, source.spec, train, validation, source.test, source.world, source.rows_sha256
    )
