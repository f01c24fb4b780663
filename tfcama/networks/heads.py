"""Heads: features in, TFP distribution out. Parameters and densities are float32 throughout."""

from __future__ import annotations

from collections.abc import Callable

import keras
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from tfcama.networks.rows import over_rows
from tfcama.networks.self_building import SelfBuilding
from tfcama.networks.towers import Mlp
from tfcama.registry import Registry

_LOG_VARIANCE_RANGE = (-14.0, 14.0)  # keeps exp() finite: a scale from 1e-3 to 1e3


class NormalHead(SelfBuilding):
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
        parameters = tf.cast(over_rows(self._parameters, features), tf.float32)
        loc, log_variance = tf.split(parameters, 2, axis=-1)
        log_variance = tf.clip_by_value(log_variance, *_LOG_VARIANCE_RANGE)
        return tfd.Independent(tfd.Normal(loc, tf.exp(0.5 * log_variance)), 1)


SCALES: Registry[Callable[[tf.Tensor], tf.Tensor]] = Registry(
    "scale", {"softplus": tf.nn.softplus, "absolute": tf.abs}
)
"""How a network's output becomes a scale. `absolute` is what it means to use the output itself, of
either sign, as the CausalIB authors do: N(loc, s^2) is N(loc, (-s)^2)."""


class MeanAndScaleHead(SelfBuilding):
    """Features to N(loc, diag(scale^2)), the mean and the scale by networks of their own.

    Args:
      dim: size of the random variable.
      hidden: units of the layer in front of each; 0 for none.
      scale: a key of SCALES.
      floor: added to the scale, so that it stays positive and log-densities finite.
      kernel_initializer: of the hidden layers; the last ones start as glorot_uniform.
    """

    def __init__(
        self,
        dim: int,
        *,
        hidden: int,
        scale: str = "softplus",
        floor: float = 1e-3,
        kernel_initializer: str = "he_normal",
        **kwargs,
    ):
        super().__init__(**kwargs)
        sizes = (hidden,) if hidden else ()
        self._hidden = [Mlp(sizes, kernel_initializer=kernel_initializer) for _ in range(2)]
        self._last = [keras.layers.Dense(dim) for _ in range(2)]
        self._scale, self._floor = SCALES[scale], floor

    def call(self, features: tf.Tensor) -> tfd.Independent:
        """[..., features] -> a distribution of batch shape [...] and event shape [dim]."""
        loc, raw = (
            tf.cast(last(hidden(features)), tf.float32)
            for hidden, last in zip(self._hidden, self._last, strict=True)
        )
        return tfd.Independent(tfd.Normal(loc, self._scale(raw) + self._floor), 1)


def moments(distribution: tfd.Distribution) -> tf.Tensor:
    """Mean and standard deviation, [..., 2, Z], of a distribution of event shape [Z]."""
    return tf.stack([distribution.mean(), distribution.stddev()], axis=-2)


def normal(moments: tf.Tensor) -> tfd.Distribution:
    """The diagonal Gaussian of these `moments`, event shape [Z]."""
    return tfd.Independent(tfd.Normal(moments[..., 0, :], moments[..., 1, :]), 1)
