"""The causal loss of CausalIB (samples of the code as instruments, Eqs. 8 to 10) and of CiiV.

An effect per unit of instrument, w_i = effect_i / r_i (Eq. 9), should be the same for any two
samples i and j of one input (Eq. 10). K samples, B inputs, Z dimensions.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from tfcama.registry import Registry

_WITHIN = 2.0  # standard deviations
_LEAST_STRENGTH = 1e-2


def instrument_strength(noise: tf.Tensor) -> tf.Tensor:
    """r_i: the share of a sample's dimensions within two standard deviations of their mean.

    The authors' code; about 0.954 for Gaussian noise, so never near 0 where Z is large.

    Args:
      noise: standardised, (z - loc) / scale, [..., Z].

    Returns:
      [...] in [0, 1]; no gradient.
    """
    return tf.reduce_mean(tf.cast(tf.abs(noise) < _WITHIN, tf.float32), axis=-1)


def smooth_l1(difference: tf.Tensor) -> tf.Tensor:
    """Sum over the last axis of d^2 / 2 where |d| < 1 and |d| - 1/2 elsewhere (Huber)."""
    size = tf.abs(difference)
    return tf.reduce_sum(tf.where(size < 1.0, 0.5 * tf.square(size), size - 0.5), axis=-1)


def l1(difference: tf.Tensor) -> tf.Tensor:
    """Sum over the last axis of |d|."""
    return tf.reduce_sum(tf.abs(difference), axis=-1)


def l2(difference: tf.Tensor) -> tf.Tensor:
    """Root of the sum over the last axis of d^2; its gradient at 0 is 0."""
    squares = tf.reduce_sum(tf.square(difference), axis=-1)
    positive = squares > 0
    return tf.where(positive, tf.sqrt(tf.where(positive, squares, 1.0)), 0.0)


Norm = Callable[[tf.Tensor], tf.Tensor]

NORMS: Registry[Norm] = Registry("norm", {"smooth_l1": smooth_l1, "l1": l1, "l2": l2})


def cross_multiplied(
    codes: tf.Tensor, mean: tf.Tensor, strength: tf.Tensor, *, norm: Norm
) -> tf.Tensor:
    """||z_i mean_{j != i} r_j - r_i mean_{j != i} z_j||, mean over i: the authors' code.

    It is zero where all z_i / r_i are equal and divides by nothing. The effects are the codes
    themselves, as if Y[X = x] of Eq. 9 were 0. For K = 2 it is r_1 r_2 times `ratio` with mean 0
    and a norm of degree one.

    Args:
      codes: z_i, [K, B, Z], K at least 2.
      mean: of q(z|x), [B, Z]; not used.
      strength: r_i, [K, B] or [K, 1].
      norm: over the last axis.

    Returns:
      [B].
    """
    del mean
    strength = strength[..., None]
    return tf.reduce_mean(norm(codes * _others(strength) - _others(codes) * strength), axis=0)


def ratio(codes: tf.Tensor, mean: tf.Tensor, strength: tf.Tensor, *, norm: Norm) -> tf.Tensor:
    """||w_i - w_j||, mean over pairs i != j, w_i = (z_i - mean) / r_i: Eqs. 9 and 10 as printed.

    Eq. 10's sum is a mean here, so that K does not change what beta means. r is taken for at least
    0.01, since a sample may have no dimension within two standard deviations.

    Args:
      codes: z_i, [K, B, Z], K at least 2: Y[X = x_{r_i}].
      mean: of q(z|x), [B, Z]: Y[X = x], the code without the instrument.
      strength: r_i, [K, B] or [K, 1].
      norm: over the last axis.

    Returns:
      [B].
    """
    effects = (codes - mean) / tf.maximum(strength, _LEAST_STRENGTH)[..., None]
    samples = effects.shape[0]
    pairs = norm(effects[:, None] - effects[None, :])  # [K, K, B]; 0 where i = j
    return tf.reduce_sum(pairs, axis=[0, 1]) / (samples * (samples - 1))


def _others(values: tf.Tensor) -> tf.Tensor:
    """The mean over all other samples, [K, ...]."""
    samples = values.shape[0]
    return (tf.reduce_sum(values, axis=0, keepdims=True) - values) / (samples - 1)


FORMS: Registry[Callable[..., tf.Tensor]] = Registry(
    "form of the causal loss", {"cross_multiplied": cross_multiplied, "ratio": ratio}
)
