"""LOSSES: what a white-box attack ascends, on logits (never on softmax outputs)."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from tfcama.registry import Registry

_OFF = -1e9  # a logit that is never the largest


def _others(scores: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
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
    return tf.reduce_logsumexp(_others(scores, y), axis=-1) - tf.gather(scores, y, batch_dims=1)


def cross_entropy(scores: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """-log softmax(scores)[y], [B], as CleverHans has it; see `log_odds` for what is wrong."""
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=scores)


def margin(scores: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """The best other score minus the true one, [B]; positive where the answer is wrong."""
    return tf.reduce_max(_others(scores, y), axis=-1) - tf.gather(scores, y, batch_dims=1)


def dlr(scores: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """Difference-of-logits ratio (Croce and Hein, 2020), [B]; the margin where C = 2."""
    if scores.shape[-1] < 3:
        return margin(scores, y)
    top = tf.math.top_k(scores, k=3).values
    return margin(scores, y) / (top[:, 0] - top[:, 2] + 1e-12)


LOSSES: Registry[Callable[[tf.Tensor, tf.Tensor], tf.Tensor]] = Registry(
    "attack loss",
    {"log_odds": log_odds, "cross_entropy": cross_entropy, "margin": margin, "dlr": dlr},
)
