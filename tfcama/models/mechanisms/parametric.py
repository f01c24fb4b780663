"""What mechanisms with a meaning share: m in standard deviations of numbers that people know."""

from __future__ import annotations

import abc
from typing import Any

import numpy as np
import tensorflow as tf

from tfcama.errors import InputError
from tfcama.models.mechanisms.base import Context, Mechanism, Parameter

_SPEED = 5.0  # Adam moves a variable by its learning rate: a scale must get from 2 to 10 pixels


class ParametricMechanism(Mechanism, abc.ABC):
    """value_i = limit_i tanh(s_i m_i / limit_i), with one learned scale s_i a parameter.

    So do(m = 0) is the identity by construction, m_i = 1 is one standard deviation of the
    manipulations that the model expects, and Eq. 8 fits their spread: an ELBO with p(m) = N(0, I)
    and a learned s is one with the prior N(0, s^2) on the value, chosen by maximum marginal
    likelihood. A parameter that explains nothing costs likelihood by its samples, so its scale
    shrinks and it falls silent, at KL 0: automatic relevance determination (MacKay, 1994).

    Args:
      context: what it is built for.
      part: its name.
      scale: factor of all the parameters' initial scales.
    """

    def __init__(self, context: Context, *, part: str, scale: float = 1.0, **kwargs: Any):
        super().__init__(context, part=part, scale=scale, **kwargs)
        self._parameters = self.make_parameters(context)
        self.size = len(self._parameters)
        if context.dim_m not in (0, self.size):
            raise InputError(
                f"dim_m={context.dim_m} was given; mechanism '{part}' has {self.size} parameters, "
                "one a coordinate of m. Leave dim_m out."
            )
        self._initial_scale = scale * np.array([p.scale for p in self._parameters], np.float32)
        self._limit = np.array([p.limit for p in self._parameters], np.float32)
        self.log_scale = self.add_weight(
            shape=(self.size,), initializer="zeros", name="log_scale", dtype="float32"
        )
        self.built = True

    @abc.abstractmethod
    def make_parameters(self, context: Context) -> tuple[Parameter, ...]:
        """The parameters for these inputs."""

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        return self._parameters

    def coordinates_of_parameters(self) -> dict[str, int]:
        return {parameter.name: place for place, parameter in enumerate(self._parameters)}

    @property
    def scale(self) -> tf.Tensor:
        """Standard deviation of each parameter's prior (before the limit bends it), [P]."""
        learned = tf.cast(tf.convert_to_tensor(self.log_scale), tf.float32)
        return self._initial_scale * tf.exp(_SPEED * learned)

    def values(self, m: tf.Tensor) -> tf.Tensor:
        return self._limit * tf.tanh(m * self.scale / self._limit)

    def m_of(self, values: tf.Tensor) -> tf.Tensor:
        """The m at which `values` gives these, [..., M]; beyond the limits, just inside them."""
        share = tf.clip_by_value(values / self._limit, -0.999, 0.999)
        return self._limit * tf.atanh(share) / self.scale
