"""Where an attack may go, for attacks and for training that attacks."""

from __future__ import annotations

import tensorflow as tf

from tfcama.types import Classifier

LINF, L2 = "linf", "l2"  # norms of the ball


def into_ball(
    x: tf.Tensor,
    origin: tf.Tensor,
    eps: float | tf.Tensor,
    classifier: Classifier,
    *,
    norm: str = LINF,
) -> tf.Tensor:
    """Inputs [B, *shape] as near to their origin as an attack may go: mask, ball and bounds.

    Args:
      x: what an attack made.
      origin: of what.
      eps: radius of the ball, in units of the input.
      classifier: its bounds and its mask are kept.
      norm: of the ball, LINF or L2.
    """
    x = on_mask(x, origin, classifier)
    if norm == LINF:
        x = tf.clip_by_value(x, origin - eps, origin + eps)
    else:
        distance = l2_distance(x, origin)
        share = over_values(tf.math.divide_no_nan(eps, distance), x)
        x = tf.where(over_values(distance > eps, x), origin + share * (x - origin), x)
    if classifier.bounds is not None:
        x = tf.clip_by_value(x, classifier.bounds.low, classifier.bounds.high)
    return x


def on_mask(x: tf.Tensor, origin: tf.Tensor, classifier: Classifier) -> tf.Tensor:
    """Inputs [B, *shape] where an attack may move them, and their origin elsewhere."""
    mask = classifier.attack_mask
    return x if mask is None else tf.where(mask > 0, x, origin)


def l2_distance(x: tf.Tensor, origin: tf.Tensor) -> tf.Tensor:
    """How far inputs [B, *shape] moved in the Euclidean norm, [B]; missing values do not move."""
    return tf.sqrt(squared_distance(x, origin))


def squared_distance(x: tf.Tensor, origin: tf.Tensor) -> tf.Tensor:
    """The square of `l2_distance`, [B], which has a gradient where nothing moved."""
    moved = tf.where(tf.math.is_nan(origin), tf.zeros_like(x), x - origin)
    return tf.reduce_sum(tf.square(moved), axis=tf.range(1, tf.rank(x)))


def over_values(rows: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    """[B] as [B, 1, ..., 1], to be broadcast over the values of x's rows."""
    ones = tf.ones([tf.rank(x) - 1], tf.int32)
    return tf.reshape(rows, tf.concat([tf.shape(rows), ones], axis=0))
