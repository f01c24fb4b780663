"""`photometric`: gamma, contrast and brightness; inversion is a contrast of -1."""

from __future__ import annotations

import tensorflow as tf

from tfcama.models.mechanisms.base import Parameter
from tfcama.models.mechanisms.parametric import ParametricMechanism

_FLOOR = 1e-4  # of the probability of what clipping made black or white: 9 nats
_TINY = 1e-30
_DARK = 1e-6
_MIN_CONTRAST = 0.05  # a flatter image is inverted as if it had this contrast


class PhotometricMechanism(ParametricMechanism):
    """x' = 1/2 + c (x^g - 1/2) + b, clipped to [0, 1], on every pixel's mean.

    contrast is c - 1, so that -2 inverts the image; brightness is b, full scale = 1; gamma is
    log g. Both mu' and 1 - mu' are computed from logits, so that no pixel loses its confidence.
    """

    def make_parameters(self, context):
        del context
        return (
            Parameter("contrast", "relative change", 0.25, 4.0),
            Parameter("brightness", "full scale = 1", 0.1, 1.5),
            Parameter("gamma", "log exponent", 0.1, 1.5),
        )

    def _contrast_brightness_power(self, m: tf.Tensor, axes: int):
        values = tf.reshape(self.values(m), tf.concat([[-1], tf.ones([axes], tf.int32), [3]], 0))
        return 1.0 + values[..., 0], values[..., 1], tf.exp(values[..., 2])

    def apply(self, m, outputs):
        contrast, brightness, power = self._contrast_brightness_power(m, 4)  # [B, 1, 1, 1, 1]
        log_mean = -tf.nn.softplus(-outputs) * power
        # expm1 keeps 1 - mean of bright pixels; at g = 1 it is the logistic function of -l.
        mean, rest = tf.exp(log_mean), -tf.math.expm1(log_mean)
        # c mean is |c| rest - |c| where c < 0: no difference of numbers close to 1.
        upright, size = contrast >= 0.0, tf.abs(contrast)
        bottom, top = tf.where(upright, mean, rest), tf.where(upright, rest, mean)
        low = 0.5 * (1.0 - size) + brightness  # what the darker of black and white becomes
        bright, dark = low + size * bottom, (1.0 - low - size) + size * top
        # A pixel that was surer than the floor may stay so, up to 69 nats: do(m = 0) leaves it.
        bright = tf.maximum(bright, tf.clip_by_value(bottom, _TINY, _FLOOR))
        dark = tf.maximum(dark, tf.clip_by_value(top, _TINY, _FLOOR))
        return tf.math.log(bright) - tf.math.log(dark)

    def invert(self, m, x):
        contrast, brightness, power = self._contrast_brightness_power(m, 3)  # [B, 1, 1, 1]
        sign = tf.where(contrast < 0.0, -1.0, 1.0)
        contrast = sign * tf.maximum(tf.abs(contrast), _MIN_CONTRAST)
        before = (x - 0.5 - brightness) / contrast + 0.5
        # The floor keeps the derivative of the power finite at black.
        return tf.where(before > _DARK, tf.clip_by_value(before, _DARK, 1.0) ** (1.0 / power), 0.0)
