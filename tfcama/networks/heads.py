"""Heads: features in, TFP distribution out. Parameters and densities are float32 throughout."""

from __future__ import annotations

import keras
import tensorflow as tf
from tensorflow_probability import distributions as tfd

_LOG_VARIANCE_RANGE = (-14.0, 14.0)  # keeps exp() finite: a scale from 1e-3 to 1e3


class NormalHead(keras.layers.Layer):
    """Features to N(loc, diag(scale^2)), by a mean and a log-variance (both papers' appendix C).

    Args:
      dim: size of the random variable.
      kernel_initializer: of the linear layer.
    """

    def __init__(self, dim: int, *, kernel_initializer: str = "he_normal", **kwargs):
        super().__init__(**kwargs)
        self._parameters = keras.layers.Dense(2 * dim, kernel_initializer=kernel_initializer)

    def call(self, features: tf.Tensor) -> tfd.Independent:
        """[..., features] -> a distribution of batch shape [...] and event shape [dim]."""
        parameters = tf.cast(self._parameters(features), tf.float32)
        loc, log_variance = tf.split(parameters, 2, axis=-1)
        log_variance = tf.clip_by_value(log_variance, *_LOG_VARIANCE_RANGE)
        return tfd.Independent(tfd.Normal(loc, tf.exp(0.5 * log_variance)), 1)
