"""Adam (Kingma and Ba, 2015) on inputs, as attacks that do not go by signs take their steps."""

from __future__ import annotations

import tensorflow as tf

_BETA_1, _BETA_2, _TINY = 0.9, 0.999, 1e-8  # as published


def adam(
    slope: tf.Tensor, first: tf.Tensor, second: tf.Tensor, step: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The direction of a step, before its learning rate, and the moments that the next one needs.

    Args:
      slope: of the loss.
      first: moment of earlier slopes; zeros at the start.
      second: the same of their squares.
      step: how many steps came before, int32.
    """
    first = _BETA_1 * first + (1.0 - _BETA_1) * slope
    second = _BETA_2 * second + (1.0 - _BETA_2) * tf.square(slope)
    taken = tf.cast(step + 1, tf.float32)
    mean = first / (1.0 - tf.pow(_BETA_1, taken))
    spread = tf.sqrt(second / (1.0 - tf.pow(_BETA_2, taken)))
    return mean / (spread + _TINY), first, second
