"""The bounds on information that VIB and CausalIB trade, [B] nats each; Eq. 4 of CausalIB."""

from __future__ import annotations

import math

import tensorflow as tf
from tensorflow_probability import distributions as tfd

from tfcama.objectives.classification import cross_entropy
from tfcama.registry import Registry

UNITS: Registry[float] = Registry("unit", {"nats": 1.0, "bits": 1.0 / math.log(2.0)})
"""What a nat is in each unit."""


def rate(q_z: tfd.Independent) -> tf.Tensor:
    """KL(q(z|x) || N(0, I)), whose mean over x is at least I(Z; X): Eq. 3, in closed form.

    Args:
      q_z: batch shape [B], event shape [Z].

    Returns:
      [B] nats, 0.5 sum(loc^2 + scale^2 - 1 - 2 log scale).
    """
    prior = tfd.Independent(tfd.Normal(tf.zeros(q_z.event_shape), 1.0), 1)
    return tfd.kl_divergence(q_z, prior)


def expected_cross_entropy(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """The mean over samples of -log q(y|z), Eq. 4; H(Y) minus its mean is at most I(Z; Y), Eq. 2.

    Args:
      logits: [K, B, C].
      labels: [B] int.

    Returns:
      [B] nats.
    """
    repeated = tf.broadcast_to(labels, tf.shape(logits)[:-1])
    return tf.reduce_mean(cross_entropy(logits, repeated), axis=0)
