"""LOSSES: what a white-box attack ascends; on logits, but for one that shows why."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from tfcama.objectives.classification import log_odds, others_scores
from tfcama.registry import Registry


def cross_entropy(scores: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """-log softmax(scores)[y], [B], as CleverHans has it; see `log_odds` for what is wrong."""
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=scores)


def double_softmax(scores: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """Cross-entropy of softmax outputs taken for logits, [B]: what the CausalIB authors attack.

    For ten classes it lies between 1.46 and 2.46, and where the answer is sure the inner softmax
    has no gradient left: accuracies under it say little about robustness.
    """
    return cross_entropy(tf.nn.softmax(scores, axis=-1), y)


def margin(scores: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """The best other score minus the true one, [B]; positive where the answer is wrong."""
    return tf.reduce_max(others_scores(scores, y), axis=-1) - tf.gather(scores, y, batch_dims=1)


def dlr(scores: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """Difference-of-logits ratio (Croce and Hein, 2020), [B]; the margin where C = 2."""
    if scores.shape[-1] < 3:
        return margin(scores, y)
    top = tf.math.top_k(scores, k=3).values
    return margin(scores, y) / (top[:, 0] - top[:, 2] + 1e-12)


LOSSES: Registry[Callable[[tf.Tensor, tf.Tensor], tf.Tensor]] = Registry(
    "attack loss",
    {
        "log_odds": log_odds,
        "cross_entropy": cross_entropy,
        "margin": margin,
        "dlr": dlr,
        "double_softmax": double_softmax,
    },
)
