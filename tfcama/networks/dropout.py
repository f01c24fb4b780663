"""Dropout without state."""

from __future__ import annotations

import tensorflow as tf

from tfcama.random import RowDraws


def dropout(x: tf.Tensor, rate: float, draws: RowDraws | None) -> tf.Tensor:
    """Zeroes features with probability `rate` and scales the rest by 1 / (1 - rate).

    Args:
      x: [B, ...].
      rate: in [0, 1).
      draws: of the batch's rows; None, as at test time, changes nothing.
    """
    if draws is None or rate == 0.0:
        return x
    kept = draws.uniform(*x.shape[1:]) >= rate
    return tf.where(kept, x / tf.cast(1.0 - rate, x.dtype), tf.zeros([], x.dtype))
