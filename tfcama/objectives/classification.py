"""Losses of discriminative classifiers, in nats; minimised."""

from __future__ import annotations

import math

import tensorflow as tf

_OFF = -math.inf  # never the largest: log p(x, y) of a far input is below any number


def cross_entropy(scores: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """-log softmax(scores)[label], [B] nats, for scores [B, C] and labels [B] int."""
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=scores)


def entropy(scores: tf.Tensor) -> tf.Tensor:
    """Of softmax(scores), [B] nats, for scores [B, C]."""
    log_probabilities = tf.nn.log_softmax(scores, axis=-1)
    return -tf.reduce_sum(tf.exp(log_probabilities) * log_probabilities, axis=-1)


def divergence(scores: tf.Tensor, others: tf.Tensor) -> tf.Tensor:
    """KL(softmax(scores) || softmax(others)), [B] nats, for scores [B, C]."""
    log_p, log_q = tf.nn.log_softmax(scores, axis=-1), tf.nn.log_softmax(others, axis=-1)
    return tf.reduce_sum(tf.exp(log_p) * (log_p - log_q), axis=-1)


def others_scores(scores: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """The scores with the true class's switched off, [B, C]."""
    true = tf.one_hot(y, tf.shape(scores)[-1], on_value=True, off_value=False, dtype=tf.bool)
    return tf.where(true, _OFF, scores)


def log_odds(scores: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """Cross-entropy without its saturation: log sum_{c != y} exp(scores_c) - scores_y, [B].

    Cross-entropy is softplus of it, so for one draw both have gradients of the same direction. But
    softmax minus one-hot, cross-entropy's gradient, loses the true class in float32 once its margin
    exceeds 17 nats (1 - p_y rounds to 0), and the others at 87. Generative classifiers have margins
    of tens of nats: attacks on them look weak for that reason alone.
    """
    return tf.reduce_logsumexp(others_scores(scores, y), axis=-1) - tf.gather(
        scores, y, batch_dims=1
    )
