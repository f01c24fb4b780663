"""Lower bounds on log p(x, y) and log p(x), from the weights of posterior samples.

Equations of "A Causal View on Robustness of Neural Networks" (ICLR 2020 submission, NeurIPS 2020).
All are maximised, in nats.
"""

from __future__ import annotations

import tensorflow as tf

from tfcama.types import LogWeights


def elbo(weights: LogWeights) -> tf.Tensor:
    """Evidence lower bound on log p(x, y), Eq. 4; Eq. 3 on rows whose m was set by do(m).

    Args:
      weights: of K posterior samples, [K, B] or [K, B, C].

    Returns:
      [B] or [B, C] nats; the mean over K.
    """
    return tf.reduce_mean(weights.total(), axis=0)


def marginal_over_classes(bounds: tf.Tensor) -> tf.Tensor:
    """ELBO(x) = log sum_c exp ELBO(x, y_c), Eq. 7: a lower bound on log p(x).

    Args:
      bounds: [B, C] nats, a lower bound on log p(x, y_c) for every class.

    Returns:
      [B] nats.
    """
    return tf.reduce_logsumexp(bounds, axis=-1)
