"""The distribution of a table's children: numeric and categorical columns, some of them missing."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from tensorflow_probability import distributions as tfd

from tfcama.types import Column


class ChildrenDistribution(tfd.Distribution):
    """Independent columns given their causes: N(loc, scale^2) or categorical over one-hots.

    A missing value (NaN) is summed over: its column adds nothing to log_prob, which is exact since
    columns are independent given y, z, m and c.

    Args:
      outputs: [..., D] float32, a numeric column's loc, a categorical column's logits.
      log_scale: [number of numeric columns] float32, or [..., the same] to broadcast.
      columns: whose features the last axis holds, side by side, without indicators.
    """

    def __init__(self, outputs: tf.Tensor, log_scale: tf.Tensor, *, columns: tuple[Column, ...]):
        parameters = dict(locals())
        self._outputs, self._log_scale = outputs, log_scale
        starts = np.cumsum([0, *(column.width for column in columns)])
        self._numeric = np.array(
            [start for start, column in zip(starts, columns, strict=False) if column.numeric], int
        )
        self._categorical = [
            slice(int(start), int(start) + column.width)
            for start, column in zip(starts, columns, strict=False)
            if not column.numeric
        ]
        super().__init__(
            dtype=tf.float32,
            reparameterization_type=tfd.NOT_REPARAMETERIZED,
            validate_args=False,
            allow_nan_stats=True,
            parameters=parameters,
            name="ChildrenDistribution",
        )

    @classmethod
    def _parameter_properties(cls, dtype, num_classes=None):
        return {
            "outputs": tfp.util.ParameterProperties(event_ndims=1),
            "log_scale": tfp.util.ParameterProperties(event_ndims=1),
        }

    def _event_shape(self):
        return self._outputs.shape[-1:]

    def _event_shape_tensor(self):
        return tf.shape(self._outputs)[-1:]

    def stddev_of_numeric(self) -> tf.Tensor:
        """Standard deviation of the numeric columns, in the order of their features."""
        return tf.exp(self._log_scale)

    def _log_prob(self, x):
        if not self._categorical:
            return self._log_prob_numeric(x, self._outputs)
        numeric = [tf.gather(value, self._numeric, axis=-1) for value in (x, self._outputs)]
        total = self._log_prob_numeric(*numeric)
        for place in self._categorical:
            one_hot = tf.where(tf.math.is_nan(x[..., place]), 0.0, x[..., place])
            log_p = tf.nn.log_softmax(self._outputs[..., place])
            total += tf.reduce_sum(one_hot * log_p, axis=-1)
        return total

    def _log_prob_numeric(self, x: tf.Tensor, loc: tf.Tensor) -> tf.Tensor:
        seen = tf.math.is_finite(x)
        # Filled before the density: the gradient of a NaN that is masked later is NaN all the same.
        filled = tf.where(seen, x, 0.0)
        log_p = tfd.Normal(loc, tf.exp(self._log_scale)).log_prob(filled)
        return tf.reduce_sum(tf.where(seen, log_p, 0.0), axis=-1)

    def _mean(self):
        parts = tf.unstack(self._outputs, axis=-1)
        for place in self._categorical:
            probabilities = tf.nn.softmax(self._outputs[..., place])
            parts[place] = tf.unstack(probabilities, axis=-1)
        return tf.stack(parts, axis=-1) if parts else self._outputs
