"""`location_scale`: every numeric child of a table is shifted and stretched."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tfcama.errors import InputError
from tfcama.models.mechanisms.base import Parameter
from tfcama.models.mechanisms.parametric import ParametricMechanism
from tfcama.types import CHILD


class LocationScaleMechanism(ParametricMechanism):
    """x_j' = exp(a_j) x_j + b_j in standard deviations of the column: an instrument recalibrated.

    p(x_j|.) = N(loc, scale^2) becomes N(exp(a) loc + b, exp(2a) scale^2), its exact push-forward.
    Categorical children stay as they are.

    Raises:
      InputError: the table has no numeric child.
    """

    kinds = ("table",)
    moves_together = True  # a shift of one instrument is mostly that of its neighbours, too

    def make_parameters(self, context):
        self._places = np.concatenate(
            [np.full(column.width, column.numeric) for column in context.spec.with_role(CHILD)]
            or [np.zeros(0, bool)]
        ).nonzero()[0]
        self._children = len(context.spec.features(CHILD))
        names = [column.name for column in context.spec.with_role(CHILD) if column.numeric]
        if not names:
            raise InputError("location_scale moves numeric children; the table has none.")
        shifts = [Parameter(f"shift {name}", "standard deviations", 1.0, 20.0) for name in names]
        return (*shifts, *(Parameter(f"log scale {name}", "", 0.1, 1.5) for name in names))

    def _shift_and_log_factor(self, m: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """[B, numeric] each."""
        shift, log_factor = tf.split(self.values(m), 2, axis=-1)
        return shift, log_factor

    def _spread(self, of_numeric: tf.Tensor) -> tf.Tensor:
        """[B, numeric] to [B, children], zero at categories."""
        return tf.matmul(of_numeric, np.eye(self._children, dtype=np.float32)[self._places])

    def apply(self, m, outputs):
        shift, log_factor = (self._spread(part) for part in self._shift_and_log_factor(m))
        return outputs * tf.exp(log_factor)[:, None] + shift[:, None]

    def log_stretch(self, m):
        return self._shift_and_log_factor(m)[1]

    def invert(self, m, x):
        shift, log_factor = (self._spread(part) for part in self._shift_and_log_factor(m))
        return (x - shift) * tf.exp(-log_factor)
