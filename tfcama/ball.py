"""Where an attack may go, for attacks and for training that attacks."""

from __future__ import annotations

import tensorflow as tf

from tfcama.types import Classifier


def into_ball(
    x: tf.Tensor, origin: tf.Tensor, eps: float | tf.Tensor, classifier: Classifier
) -> tf.Tensor:
    """Inputs [B, *shape] as near to their origin as an attack may go: ball, bounds and mask."""
    x = tf.clip_by_value(x, origin - eps, origin + eps)
    if classifier.bounds is not None:
        x = tf.clip_by_value(x, classifier.bounds.low, classifier.bounds.high)
    mask = classifier.attack_mask
    return x if mask is None else tf.where(mask > 0, x, origin)
