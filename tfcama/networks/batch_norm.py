"""Batch normalisation whose three ways are asked for, not switched."""

from __future__ import annotations

import functools

import keras
import tensorflow as tf

_MOMENTUM = 0.9  # of the running statistics; Keras' 0.99 lags behind runs of a few hundred steps
_EPSILON = 1e-3


class BatchNorm(keras.layers.Layer):
    """Normalises each feature, then scales and shifts it (Ioffe and Szegedy, 2015, algorithm 1).

    Means and variances are float32 and over all axes but the last; those of a batch are over the
    rows of all replicas, so any strategy gives the numbers of one replica.

    Attributes:
      scale, shift: [F], trained.
      mean, variance: [F], the running statistics, which prediction uses.
    """

    def build(self, input_shape) -> None:
        add = functools.partial(
            self.add_weight, shape=(input_shape[-1],), dtype="float32", autocast=False
        )
        self.scale = add(name="scale", initializer="ones")
        self.shift = add(name="shift", initializer="zeros")
        fixed = functools.partial(add, trainable=False, aggregation="mean")
        self.mean = fixed(name="mean", initializer="zeros")
        self.variance = fixed(name="variance", initializer="ones")

    def call(self, x: tf.Tensor, batch: bool = False, update: bool = False) -> tf.Tensor:
        """[B, ..., F] -> the same.

        Args:
          x: features.
          batch: normalise by the statistics of this batch in place of the running ones.
          update: move the running statistics towards those of the batch.
        """
        wide = tf.cast(x, tf.float32)
        mean, variance = tf.convert_to_tensor(self.mean), tf.convert_to_tensor(self.variance)
        if batch:
            mean, variance = _moments(wide)
        if update:
            for running, seen in ((self.mean, mean), (self.variance, variance)):
                running.assign(_MOMENTUM * running + (1.0 - _MOMENTUM) * tf.stop_gradient(seen))
        gain = tf.math.rsqrt(variance + _EPSILON) * self.scale
        return tf.cast((wide - mean) * gain + self.shift, x.dtype)


def _moments(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Mean and variance of each feature, [F], over all rows of the global batch."""
    axes = list(range(x.shape.rank - 1))
    count = _over_replicas(tf.cast(tf.size(x), tf.float32) / x.shape[-1])
    mean = _over_replicas(tf.reduce_sum(x, axes)) / count
    return mean, _over_replicas(tf.reduce_sum(tf.square(x - mean), axes)) / count


def _over_replicas(value: tf.Tensor) -> tf.Tensor:
    """The sum over replicas; differentiable."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return value
    return context.all_reduce(tf.distribute.ReduceOp.SUM, value)
