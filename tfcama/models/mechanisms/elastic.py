"""`elastic`: a smooth field of displacements, from a coarse grid of control points."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tfcama.models.mechanisms.affine import WarpMechanism
from tfcama.models.mechanisms.base import Parameter

_CONTROLS = 4  # points along each side
_ITERATIONS = 5  # of the fixed point that inverts the field: 0.004 pixels off in 400 dreamt ones


class ElasticMechanism(WarpMechanism):
    """The pixel at p shows the point p + d(p), d interpolated between 4 x 4 displacements.

    d is a cubic B-spline over the control points, whose displacements are in pixels. T_m^-1 solves
    q + d(q) = p by fixed-point iteration, which converges where d stretches less than the image
    (|d'| < 1): the limits of the displacements keep it so but for extreme fields.
    """

    versatile = True

    def make_parameters(self, context):
        height, width, _ = context.spec.shape
        scale, limit = min(height, width) / 28, min(height, width) / 7
        return tuple(
            Parameter(f"move_{axis}_{row}{column}", "pixels", scale, limit)
            for row in range(_CONTROLS)
            for column in range(_CONTROLS)
            for axis in "xy"
        )

    def __init__(self, context, **kwargs):
        super().__init__(context, **kwargs)
        height, width, _ = context.spec.shape
        self._spacing = np.array([width, height], np.float32) / (_CONTROLS - 1)

    def _displacement(self, values: tf.Tensor, points: tf.Tensor) -> tf.Tensor:
        """D at points [B or 1, H, W, 2], [B, H, W, 2]."""
        controls = tf.reshape(values, [-1, _CONTROLS**2, 2])
        places = points / self._spacing + (_CONTROLS - 1) / 2  # in units of the grid
        at = tf.range(_CONTROLS, dtype=tf.float32)
        columns = _cubic(places[..., 0:1] - at)  # [B or 1, H, W, controls]
        rows = _cubic(places[..., 1:2] - at)
        basis = rows[..., :, None] * columns[..., None, :]
        basis = tf.reshape(basis, [-1, np.prod(points.shape[1:3]), _CONTROLS**2])
        if points.shape[0] == 1:
            moved = tf.einsum("pk,bkd->bpd", basis[0], controls)
        else:
            moved = tf.matmul(basis, controls)
        return tf.reshape(moved, [-1, *points.shape[1:]])

    def source(self, values):
        return self._grid + self._displacement(values, self._grid[None])

    def target(self, values):
        points = self._grid[None]
        for _ in range(_ITERATIONS):
            points = self._grid - self._displacement(values, points)
        return points


def _cubic(distance: tf.Tensor) -> tf.Tensor:
    """The cubic B-spline, 2/3 at 0 and 0 from 2 on."""
    away = tf.abs(distance)
    inner = 2.0 / 3.0 - tf.square(away) + 0.5 * away**3
    outer = tf.maximum(2.0 - away, 0.0) ** 3 / 6.0
    return tf.where(away < 1.0, inner, outer)
