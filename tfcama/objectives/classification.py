"""Losses of discriminative classifiers, in nats; minimised."""

from __future__ import annotations

import tensorflow as tf


def cross_entropy(scores: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """-log softmax(scores)[label], [B] nats, for scores [B, C] and labels [B] int."""
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=scores)


def entropy(scores: tf.Tensor) -> tf.Tensor:
    """Of softmax(scores), [B] nats, for scores [B, C]."""
    log_probabilities = tf.nn.log_softmax(scores, axis=-1)
    return -tf.reduce_sum(tf.exp(log_probabilities) * log_probabilities, axis=-1)
