"""Over draws of a stochastic model: the loss that attacks ascend, and the iterate they keep."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfcama import random
from tfcama.attacks.losses import LOSSES, margin
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
    sampled = _sampled(classifier, of)
    if sampled is None:
        return lambda x, y, seed: one(classifier.log_scores(x, seed=seed), y)

    def mean_over_samples(x: tf.Tensor, y: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        scores = sampled.log_scores_by_sample(x, seed=seed)
        samples = tf.shape(scores)[0]
        losses = one(tf.reshape(scores, [-1, classifier.num_classes]), tf.tile(y, [samples]))
        return tf.reduce_mean(tf.reshape(losses, [samples, -1]), axis=0)

    return mean_over_samples


def _sampled(classifier: Classifier, of: str) -> Sampled | None:
    """The classifier where a loss is of its samples: it was asked for, and there are some."""
    return classifier if of == SAMPLES and isinstance(classifier, Sampled) else None


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


class Standing(NamedTuple):
    """How far an attack has come, by draws that its steps did not see, [B] each.

    Attributes:
      wrong: share of the draws whose answer is not y.
      loss: in the mean over the draws.
    """

    wrong: tf.Tensor
    loss: tf.Tensor


def standing(
    classifier: Classifier, loss: str, *, draws: int, of: str = ANSWER
) -> Callable[[tf.Tensor, tf.Tensor, tf.Tensor], Standing]:
    """(x, y, seed) -> how far an attack has come; scores that are no numbers are wrong answers.

    Args:
      classifier: what is attacked.
      loss: a key of LOSSES.
      draws: of its noise; 1 for deterministic models, whatever is said.
      of: see `loss_of`.
    """
    draws = draws if classifier.stochastic else 1
    by_samples = loss_of(classifier, loss, of=of) if _sampled(classifier, of) is not None else None

    # AutoGraph is for the loops of attacks alone: to convert a model takes it seconds.
    @tf.autograph.experimental.do_not_convert
    def found(x: tf.Tensor, y: tf.Tensor, seed: tf.Tensor) -> Standing:
        def by_draw(draw: tf.Tensor) -> tf.Tensor:
            scores = classifier.log_scores(x, seed=draw)
            right = margin(scores, y) <= 0.0  # NaN is not
            value = by_samples(x, y, draw) if by_samples else LOSSES[loss](scores, y)
            return tf.stack([1.0 - tf.cast(right, tf.float32), value])

        wrong, value = tf.unstack(mean_over_draws(by_draw, seed, draws=draws))
        return Standing(wrong, tf.where(tf.math.is_nan(value), np.inf, value))

    return found


def better_of(
    x: tf.Tensor, found: Standing, best: tf.Tensor, best_found: Standing
) -> tuple[tf.Tensor, Standing]:
    """Of every row [*shape] the iterate that fools more draws, or as many at a higher loss.

    A loss has no upper end: what is far beyond the boundary in one draw of ten outweighs what is
    just beyond it in all, and log-odds may rise where the answer stays.
    """
    better = (found.wrong > best_found.wrong) | (
        (found.wrong == best_found.wrong) & (found.loss > best_found.loss)
    )
    kept = Standing(
        *(tf.where(better, new, old) for new, old in zip(found, best_found, strict=True))
    )
    return tf.where(over_values(better, x), x, best), kept
