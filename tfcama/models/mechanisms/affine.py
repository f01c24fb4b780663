"""`affine` and its parts `translation`, `rotation`, `zoom`: the image moves in its frame."""

from __future__ import annotations

import abc
import math

import numpy as np
import tensorflow as tf

from tfcama.models.mechanisms.base import Context, Parameter
from tfcama.models.mechanisms.parametric import ParametricMechanism
from tfcama.warp import pixel_grid, sample_bilinear, sample_upright

OUTSIDE = -9.0  # logit of what comes into the frame from outside: black, with p = 1e-4


class WarpMechanism(ParametricMechanism, abc.ABC):
    """T_m takes each pixel's distribution from another point of the unmanipulated image.

    The pixel at p shows the point `source(p)`; its logit is interpolated bilinearly between those
    of the pixels around. So p(x|y,z,m) stays a product of one density a pixel of the frame and is
    normalised for every m. What T_m carries out of the frame is not scored; what it brings in from
    outside is expected to be black, at a logit of -9. x is interpolated likewise in T_m^-1 x.
    """

    hides = True

    def __init__(self, context: Context, **kwargs):
        super().__init__(context, **kwargs)
        height, width, _ = context.spec.shape
        self._grid = tf.constant(pixel_grid(height, width))

    @abc.abstractmethod
    def source(self, values: tf.Tensor) -> tf.Tensor:
        """The point of the unmanipulated image that each pixel shows, [B, H, W, 2] pixels."""

    @abc.abstractmethod
    def target(self, values: tf.Tensor) -> tf.Tensor:
        """The point of the manipulated image at which each pixel is shown: `source` inverted."""

    def apply(self, m, outputs):
        samples, size, classes, height, width, channels = tf.unstack(tf.shape(outputs))
        stacked = tf.transpose(outputs - OUTSIDE, [1, 3, 4, 0, 2, 5])  # [B, H, W, K, C, channels]
        stacked = tf.reshape(
            stacked,
            tf.stack([size, *outputs.shape[3:5], samples * classes * channels]),
        )
        moved = sample_bilinear(stacked, self.source(self.values(m)))
        moved = tf.reshape(moved, tf.stack([size, height, width, samples, classes, channels]))
        moved = tf.transpose(moved, [3, 0, 4, 1, 2, 5]) + OUTSIDE
        return tf.ensure_shape(moved, outputs.shape)

    def simulate(self, m, x):
        return self._sampled(x, self.source(self.values(m)))

    def visible(self, m, shown):
        return self._sampled(shown, self.target(self.values(m)))

    def invert(self, m, x):
        return self._sampled(x, self.target(self.values(m)))

    def _sampled(self, images: tf.Tensor, points: tf.Tensor) -> tf.Tensor:
        """Images [B, H, W, channels] at points [B, H, W, 2]."""
        return sample_bilinear(images, points)


class AffineMechanism(WarpMechanism):
    """Shear, aspect, zoom and rotation about the centre of the image, in this order, then a shift.

    shift_x, shift_y in pixels, to the right and down; rotation in degrees, counter-clockwise; zoom
    and aspect as logarithms of a factor (of both axes; of the width, by which the height is
    divided); shear as a tangent.
    """

    names: tuple[str, ...] = ("shift_x", "shift_y", "rotation", "zoom", "aspect", "shear")
    versatile = True

    def make_parameters(self, context):
        height, width, _ = context.spec.shape
        known = {
            "shift_x": Parameter("shift_x", "pixels", width / 14, width),
            "shift_y": Parameter("shift_y", "pixels", height / 14, height),
            "rotation": Parameter("rotation", "degrees", 8.0, 120.0),
            "zoom": Parameter("zoom", "log factor", 0.1, math.log(4.0)),
            "aspect": Parameter("aspect", "log factor", 0.05, math.log(2.0)),
            "shear": Parameter("shear", "tangent", 0.05, 1.0),
        }
        return tuple(known[name] for name in self.names)

    def _matrix_and_shift(self, values: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """A [B, 2, 2] and t [B, 2]: the pixel at p shows the point A (p - t), from the centre."""
        given = dict(zip(self.names, tf.unstack(values, axis=-1), strict=True))
        zero = tf.zeros_like(values[..., 0])

        def value(name: str) -> tf.Tensor:
            return given.get(name, zero)

        angle = value("rotation") * (np.pi / 180.0)
        cos, sin = tf.cos(angle), tf.sin(angle)
        wide = tf.exp(-value("zoom") - value("aspect"))
        high = tf.exp(-value("zoom") + value("aspect"))
        # [[1, -shear], [0, 1]] diag(wide, high) [[cos, -sin], [sin, cos]]
        slant = value("shear") * high
        upper = [wide * cos - slant * sin, -wide * sin - slant * cos]
        lower = [high * sin, high * cos]
        matrix = tf.stack([tf.stack(upper, axis=-1), tf.stack(lower, axis=-1)], axis=-2)
        return matrix, tf.stack([value("shift_x"), value("shift_y")], axis=-1)

    def source(self, values):
        matrix, shift = self._matrix_and_shift(values)
        return tf.einsum("bij,bhwj->bhwi", matrix, self._grid - shift[:, None, None])

    def target(self, values):
        matrix, shift = self._matrix_and_shift(values)
        inverse = tf.linalg.inv(matrix)
        return tf.einsum("bij,hwj->bhwi", inverse, self._grid) + shift[:, None, None]


class UprightMechanism(AffineMechanism, abc.ABC):
    """Rows stay rows and columns columns: resampling is two small products of matrices."""

    versatile = False

    def apply(self, m, outputs):
        planes = tf.transpose(outputs - OUTSIDE, [0, 1, 2, 5, 3, 4])  # [K, B, C, channels, H, W]
        shape = tf.shape(planes)
        planes = tf.reshape(planes, tf.concat([shape[:2], [-1], shape[4:]], axis=0))
        moved = sample_upright(planes, *_axes(self.source(self.values(m))))
        moved = tf.transpose(tf.reshape(moved, shape), [0, 1, 2, 4, 5, 3]) + OUTSIDE
        return tf.ensure_shape(moved, outputs.shape)

    def _sampled(self, images, points):
        moved = sample_upright(tf.transpose(images, [0, 3, 1, 2]), *_axes(points))
        return tf.transpose(moved, [0, 2, 3, 1])


def _axes(points: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The columns [B, W] and rows [B, H] of an upright grid of points [B, H, W, 2]."""
    return points[:, 0, :, 0], points[:, :, 0, 1]


class TranslationMechanism(UprightMechanism):
    """A shift alone, in pixels."""

    names = ("shift_x", "shift_y")


class RotationMechanism(AffineMechanism):
    """A rotation about the centre alone, in degrees."""

    names = ("rotation",)
    versatile = False


class ZoomMechanism(UprightMechanism):
    """A change of size about the centre alone, as the logarithm of the factor."""

    names = ("zoom",)
