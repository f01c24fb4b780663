"""Over draws of a stochastic model: the loss that attacks ascend, and the iterate they keep."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tfcama import random
from tfcama.attacks.losses import LOSSES
from tfcama.ball import over_values
from tfcama.types import Classifier, Sampled

ANSWER, SAMPLES = "answer", "samples"


def loss_of(
    classifier: Classifier, loss: str, *, of: str
) -> Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]:
    """(x, y, seed) -> [B], the loss under one draw.

    Args:
      classifier: what is attacked.
      loss: a key of LOSSES.
      of: ANSWER, or SAMPLES for the mean over the samples that are pooled for it; a classifier
        without samples has its answer.
    """
    one = LOSSES[loss]
    if of == ANSWER or not isinstance(classifier, Sampled):
        return lambda x, y, seed: one(classifier.log_scores(x, seed=seed), y)

    def mean_over_samples(x: tf.Tensor, y: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        scores = classifier.log_scores_by_sample(x, seed=seed)
        samples = tf.shape(scores)[0]
        losses = one(tf.reshape(scores, [-1, classifier.num_classes]), tf.tile(y, [samples]))
        return tf.reduce_mean(tf.reshape(losses, [samples, -1]), axis=0)

    return mean_over_samples


def over_draws(
    value: Callable[[tf.Tensor], tf.Tensor], seed: tf.Tensor, *, draws: int
) -> tf.Tensor:
    """value(seed of a draw) of so many draws, one after another, float32 [draws, ...]."""
    # One draw at a time, so that a tape never holds more than one. map_fn and not `total +=` in a
    # loop: Grappler rewrites that sum, nested in two more loops, into an op that fails.
    seeds = tf.stack(random.split(seed, draws))
    return tf.map_fn(value, seeds, fn_output_signature=tf.float32, parallel_iterations=1)


def mean_over_draws(
    value: Callable[[tf.Tensor], tf.Tensor], seed: tf.Tensor, *, draws: int
) -> tf.Tensor:
    """The mean of `over_draws`."""
    return tf.reduce_mean(over_draws(value, seed, draws=draws), axis=0)


def expected_loss(
    classifier: Classifier, loss: str, *, draws: int, of: str = ANSWER
) -> Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]:
    """(x, y, seed) -> [B], the loss in the mean over draws; inf where it is no number.

    Args:
      classifier: what is attacked.
      loss: a key of LOSSES.
      draws: of its noise; 1 for deterministic models, whatever is said.
      of: see `loss_of`.
    """
    one = loss_of(classifier, loss, of=of)
    draws = draws if classifier.stochastic else 1

    # AutoGraph is for the loops of attacks alone: to convert a model takes it seconds.
    @tf.autograph.experimental.do_not_convert
    def expected(x: tf.Tensor, y: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        found = mean_over_draws(lambda draw: one(x, y, draw), seed, draws=draws)
        return tf.where(tf.math.is_nan(found), np.inf, found)  # scores of no class are no hit

    return expected


def better_of(
    x: tf.Tensor, loss: tf.Tensor, best: tf.Tensor, best_loss: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Of every row [*shape] the iterate of the higher loss, and that loss, [B]."""
    better = loss > best_loss
    return tf.where(over_values(better, x), x, best), tf.maximum(loss, best_loss)
