"""Randomness without state: a root seed, names, and nothing else, decide every draw.

A `Seed` is an int32 tensor of shape [2], as TensorFlow's stateless ops take it. The algorithm is
always named (philox), for the default differs between devices and under XLA; but for gammas, whose
op takes none. The values are those of tf.random's functions under alg="philox", by a third of their
ops.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import keras
import numpy as np
import tensorflow as tf

Seed: TypeAlias = tf.Tensor

_PHILOX = tf.random.Algorithm.PHILOX.value
_KEY = 0x02461E293EC8F720  # core/kernels/stateless_random_ops.cc
_TINY = 1e-30


def stream(root: int, *names: str | int) -> np.ndarray:
    """The named stream of a root seed.

    Args:
      root: the run's seed, any integer.
      *names: what the stream is for, e.g. `"train", "augment"`.

    Returns:
      int32 [2]; different names give unrelated streams.

    Example:
      >>> bool((stream(0, "train") == stream(0, "train")).all())
      True
      >>> bool((stream(0, "train") == stream(0, "test")).all())
      False
    """
    text = "/".join(str(part) for part in (root, *names))
    return np.frombuffer(hashlib.sha256(text.encode()).digest()[:8], dtype=np.int32).copy()


def fold_in(seed: Seed, data: int | tf.Tensor) -> Seed:
    """A new seed from a seed and an integer (a step, an epoch, a restart)."""
    return tf.stack([_integers([], seed), tf.cast(data, tf.int32)])


def split(seed: Seed, num: int = 2) -> list[Seed]:
    """`num` independent seeds."""
    return tf.unstack(_integers([num, 2], seed))


def normal(shape, seed: Seed) -> tf.Tensor:
    """float32 N(0, 1) draws."""
    return _drawn(tf.raw_ops.StatelessRandomNormalV2, shape, seed, tf.float32)


def uniform(shape, seed: Seed, low=0.0, high=1.0) -> tf.Tensor:
    """float32 draws from [low, high)."""
    return low + (high - low) * _shares(shape, seed)


def shuffled(size: int, seed: Seed) -> tf.Tensor:
    """A permutation of 0 … size-1, int64 [size]."""
    return tf.random.experimental.stateless_shuffle(
        tf.range(size, dtype=tf.int64), seed=seed, alg=_PHILOX
    )


def _integers(shape, seed: Seed) -> tf.Tensor:
    """int32 draws, all of them equally likely."""
    return _drawn(tf.raw_ops.StatelessRandomUniformFullIntV2, shape, seed, tf.int32)


def _shares(shape, seed: Seed) -> tf.Tensor:
    """float32 draws from [0, 1)."""
    return _drawn(tf.raw_ops.StatelessRandomUniformV2, shape, seed, tf.float32)


def _drawn(op: Callable[..., tf.Tensor], shape, seed: Seed, dtype: tf.DType) -> tf.Tensor:
    shape = tf.convert_to_tensor(shape, tf.int32)
    draws = op(shape=shape, **_key_and_counter(seed), alg=_PHILOX, dtype=dtype)
    if not draws.shape.is_fully_defined():
        # The op does not see through what a loop's body took from outside; tf.zeros does.
        draws.set_shape(tf.zeros(shape).shape)
    return draws


def _key_and_counter(seed: Seed) -> dict[str, tf.Tensor]:
    """What tf.random mixes a seed into, under XLA too: there the op that does it takes no name."""
    mixed = tf.raw_ops.StatelessRandomUniformFullIntV2(
        shape=[2, 2],
        key=tf.constant([_KEY], tf.uint64),
        counter=tf.cast(seed, tf.uint64),
        alg=_PHILOX,
        dtype=tf.uint32,
    )
    pair = tf.bitcast(mixed, tf.uint64)
    return {"key": tf.slice(pair, [0], [1]), "counter": pair * tf.constant([0, 1], tf.uint64)}


def seed_everything(root: int) -> None:
    """Seeds what is outside our control: Keras initialisers, Python, NumPy."""
    keras.utils.set_random_seed(int(stream(root, "initialisers")[0]) & 0x7FFFFFFF)


class RowDraws(NamedTuple):
    """Draws for the rows of a global batch, of which a replica holds some.

    Every replica draws for the whole global batch and picks its rows: an example's noise is the
    same however many replicas share the batch.

    Attributes:
      seed: of the step.
      rows: [B] int32, places in the global batch.
      num_rows: size of the global batch.
    """

    seed: Seed
    rows: tf.Tensor
    num_rows: int

    def fold(self, data: int) -> RowDraws:
        """Independent draws for the same rows."""
        return self._replace(seed=fold_in(self.seed, data))

    def normal(self, *shape: int) -> tf.Tensor:
        """N(0, 1), at most 5.7 from 0, [B, *shape].

        By Box and Muller's transform in TensorFlow's vectorised ops: its own stateless normals,
        which `normal` takes, need twice the time on a CPU, and a bottleneck's training step draws
        a million.
        """
        whole = (self.num_rows, *shape)
        size = math.prod(whole)
        pairs = _shares([2, -(-size // 2)], self.seed)
        radius = tf.sqrt(-2.0 * tf.math.log(1.0 - pairs[0]))  # 1 - [0, 1) has no zero
        angle = 2.0 * math.pi * pairs[1]
        draws = tf.concat([radius * tf.cos(angle), radius * tf.sin(angle)], axis=0)
        return tf.gather(tf.reshape(draws[:size], whole), self.rows)

    def uniform(self, *shape: int) -> tf.Tensor:
        """U[0, 1), [B, *shape]."""
        return tf.gather(uniform([self.num_rows, *shape], self.seed), self.rows)

    def beta(self, alpha: float) -> tf.Tensor:
        """Beta(alpha, alpha), [B]."""
        gammas = tf.random.stateless_gamma([self.num_rows, 2], seed=self.seed, alpha=alpha)
        gammas = tf.gather(gammas, self.rows) + _TINY  # both may underflow where alpha is small
        return gammas[:, 0] / tf.reduce_sum(gammas, axis=1)
