"""`blur_noise`: a Gaussian blur, then Gaussian noise that the range of pixels clips."""

from __future__ import annotations

import math

import tensorflow as tf

from tfcama.models.mechanisms.base import Parameter
from tfcama.models.mechanisms.parametric import ParametricMechanism

_FLOOR = 1e-37  # of a share of black or white
_LEAST_NOISE, _LEAST_SLOPE = 1e-4, 0.05
_RADIUS = 9  # pixels of the blur's kernel to each side: three standard deviations of the widest
_REGULARISATION = 0.05  # of the Wiener filter: noise power over signal power


class BlurNoiseMechanism(ParametricMechanism):
    """blur is a standard deviation in pixels, noise one with full scale = 1; signs mean nothing.

    A pixel's mean mu becomes E[clip(mu + noise e, 0, 1)], e ~ N(0, 1), in closed form: what one
    expects of a noisy pixel; the noise itself is not modelled. T_m^-1 is Wiener's filter for the
    blur, and for the noise the inverse of that expectation: an estimate, since both lose
    information.
    """

    def __init__(self, context, **kwargs):
        super().__init__(context, **kwargs)
        # noise 0.5 lifts black to 0.2: the table that inverts the expectation, by bisection.
        self._steps = 12

    def make_parameters(self, context):
        del context
        return (
            Parameter("blur", "pixels", 0.5, 3.0),
            Parameter("noise", "full scale = 1", 0.1, 1.0),
        )

    def apply(self, m, outputs):
        blur, noise = tf.unstack(self.values(m), axis=-1)
        size, (height, width, channels) = tf.shape(outputs)[1], outputs.shape[3:]
        rows, columns = _blur_matrix(blur, height), _blur_matrix(blur, width)
        samples, classes = tf.shape(outputs)[0], tf.shape(outputs)[2]

        def blurred(mean: tf.Tensor) -> tf.Tensor:
            mean = tf.transpose(mean, [1, 0, 2, 5, 3, 4])  # [B, K, C, channels, H, W]
            stacked = tf.reshape(mean, [size, -1, height, width])
            stacked = tf.einsum("bij,bnjk,blk->bnil", rows, stacked, columns)
            shape = tf.stack([size, samples, classes, channels, height, width])
            return tf.transpose(tf.reshape(stacked, shape), [1, 0, 2, 4, 5, 3])

        # White and black each by itself: one minus the other loses confident pixels of float32, and
        # with them the likelihood of m near 0 would jump.
        beyond_row, beyond_column = _beyond(blur, height)[:, :, None], _beyond(blur, width)[:, None]
        beyond = beyond_row + beyond_column - beyond_row * beyond_column
        noise_of_each = noise[:, None, None, None, None]
        white = _expected_clip(blurred(tf.sigmoid(outputs)), noise_of_each)
        black = blurred(tf.sigmoid(-outputs)) + beyond[:, None, :, :, None]
        black = _expected_clip(black, noise_of_each)
        changed = tf.math.log(tf.maximum(white, _FLOOR)) - tf.math.log(tf.maximum(black, _FLOOR))
        # Exactly the identity where nothing happens.
        still = tf.reshape((blur == 0.0) & (noise == 0.0), [-1, 1, 1, 1, 1])
        return tf.where(still, outputs, changed)

    def invert(self, m, x):
        blur, noise = tf.unstack(self.values(m), axis=-1)
        noise = noise[:, None, None, None]
        low, high = tf.zeros_like(x), tf.ones_like(x)
        for _ in range(self._steps):
            middle = 0.5 * (low + high)
            above = _expected_clip(middle, noise) > x
            low, high = tf.where(above, low, middle), tf.where(above, middle, high)
        # One step of Newton's, whose derivatives in x and noise are those of the inverse.
        root = tf.stop_gradient(low)
        slope = tf.stop_gradient(tf.maximum(_slope_of_expected_clip(root, noise), _LEAST_SLOPE))
        root = tf.clip_by_value(root + (x - _expected_clip(root, noise)) / slope, 0.0, 1.0)
        clean = tf.where(noise == 0.0, x, root)
        rows = _wiener(_blur_matrix(blur, x.shape[1]))
        columns = _wiener(_blur_matrix(blur, x.shape[2]))
        sharp = tf.einsum("bij,bjkc,blk->bilc", rows, clean, columns)
        still = (blur == 0.0)[:, None, None, None]
        return tf.where(still, clean, tf.clip_by_value(sharp, 0.0, 1.0))


def _blur_matrix(blur: tf.Tensor, size: int) -> tf.Tensor:
    """A Gaussian blur along one axis, black outside, [B, size, size]; the identity at blur 0."""
    distance = tf.range(size)[:, None] - tf.range(size)[None]
    place = tf.clip_by_value(distance + _RADIUS, 0, 2 * _RADIUS)
    weight = tf.gather(_kernel(blur), place, axis=1)
    return tf.where(tf.abs(distance) <= _RADIUS, weight, 0.0)


def _beyond(blur: tf.Tensor, size: int) -> tf.Tensor:
    """What share of each place's blurred light comes from beyond the frame, [B, size].

    It is exactly zero where none does, which one minus the matrix's row sums is not.
    """
    source = tf.range(size)[:, None] + tf.range(-_RADIUS, _RADIUS + 1)[None]
    outside = tf.cast((source < 0) | (source >= size), tf.float32)
    return tf.matmul(_kernel(blur), outside, transpose_b=True)


def _kernel(blur: tf.Tensor) -> tf.Tensor:
    """Weights of the neighbours from _RADIUS before to _RADIUS after, [B, 2 _RADIUS + 1]."""
    distance = tf.range(-_RADIUS, _RADIUS + 1, dtype=tf.float32)
    precision = 0.5 / (tf.square(blur) + 1e-3)
    weight = tf.exp(-tf.square(distance) * precision[:, None])
    return weight / tf.reduce_sum(weight, axis=1, keepdims=True)


def _wiener(matrix: tf.Tensor) -> tf.Tensor:
    """(A'A + r I)^-1 A' (1 + r), [B, n, n]."""
    gram = tf.matmul(matrix, matrix, transpose_a=True)
    regular = gram + _REGULARISATION * tf.eye(matrix.shape[-1])
    return (1.0 + _REGULARISATION) * tf.linalg.solve(regular, tf.linalg.matrix_transpose(matrix))


def _expected_clip(mean: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
    """E[clip(mean + noise e, 0, 1)], e ~ N(0, 1); between no noise and the least, in proportion."""
    share = tf.minimum(tf.abs(noise) / _LEAST_NOISE, 1.0)
    noise = tf.maximum(tf.abs(noise), _LEAST_NOISE)

    def positive_part(z: tf.Tensor) -> tf.Tensor:  # E[max(z + e, 0)]
        density = tf.exp(-0.5 * tf.square(z)) / math.sqrt(2.0 * math.pi)
        return z * 0.5 * tf.math.erfc(-z / math.sqrt(2.0)) + density

    clipped = noise * (positive_part(mean / noise) - positive_part((mean - 1.0) / noise))
    return mean + share * (clipped - mean)


def _slope_of_expected_clip(mean: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
    """Its derivative in the mean: the probability that nothing is clipped."""
    width = math.sqrt(2.0) * tf.maximum(tf.abs(noise), _LEAST_NOISE)
    return 0.5 * (tf.math.erf(mean / width) - tf.math.erf((mean - 1.0) / width))
