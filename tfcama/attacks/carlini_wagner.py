"""`cw`: Carlini and Wagner's L2 attack (2017), the nearest adversarial example.

By "Towards Evaluating the Robustness of Neural Networks", Sections V and VI-A. CleverHans 4's does
not run under Keras 3, and where it is made to, its search for the constant does nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import tensorflow as tf

from tfcama import random
from tfcama.attacks.adam import adam
from tfcama.attacks.base import CompiledAttack
from tfcama.attacks.draws import over_draws
from tfcama.attacks.losses import margin
from tfcama.ball import L2, l2_distance, on_mask, over_values, squared_distance
from tfcama.config import check_at_least, check_positive
from tfcama.progress import tracked
from tfcama.types import Classifier

_INSIDE = 0.999999  # of the range: the tanh never reaches its ends, as in the authors' code
_LARGEST = 1e10  # constant, likewise
_HELD_OUT = 10  # draws of a stochastic model under all of which an example must fool it


@dataclasses.dataclass(frozen=True)
class CarliniWagner(CompiledAttack):
    """Minimises ||x' - x||^2 + c max(Z_y - max_{i != y} Z_i, -confidence) by Adam, x' by tanh.

    The constant c is searched for each input by bisection, times ten until an example is found.
    Inputs without bounds are moved as they are, without a tanh. Where answers are drawn, every step
    has a draw of its own, and an example counts where it fools ten held-out draws, all of them: the
    nearest that fools one draw fools few others.

    Attributes:
      steps: of Adam, for each constant; 1,000 as in CleverHans, the paper has up to 10,000.
      searches: constants that are tried.
      learning_rate: of Adam, in units of the tanh's argument, or of unbounded inputs.
      const: the first constant.
      confidence: margin of the log scores, in nats, by which an example must fool; at least 0.
      checks: how many times, for each constant, iterates of a stochastic model meet the held-out
        draws; a deterministic one meets every iterate.
    """

    steps: int = 1000
    searches: int = 9
    learning_rate: float = 0.01
    const: float = 0.01
    confidence: float = 0.0
    checks: int = 50

    protocol: ClassVar[str] = "strong"
    norm: ClassVar[str] = L2
    nearest: ClassVar[bool] = True

    def __post_init__(self):
        super().__post_init__()
        check_at_least(self, steps=1, searches=1, confidence=0, checks=1)
        check_positive(self, "learning_rate", "const")

    def _prepare(self, classifier: Classifier) -> Callable[..., tf.Tensor]:
        return _compiled(self, classifier)


def _compiled(attack: CarliniWagner, classifier: Classifier) -> Callable[..., tf.Tensor]:
    """The whole attack, a graph for each constant: (x, y, seed, eps) -> nearest adversarial x.

    Inputs of which none was found stay as they are.
    """
    to_x, from_x = _coordinates(classifier)
    draws = _HELD_OUT if classifier.stochastic else 1
    every = -(-attack.steps // attack.checks) if classifier.stochastic else 1

    # AutoGraph is for the loop of `with_constant` alone: to convert a model takes it seconds.
    @tf.autograph.experimental.do_not_convert
    def gradient(
        w: tf.Tensor, origin: tf.Tensor, y: tf.Tensor, const: tf.Tensor, seed: tf.Tensor
    ) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(w)
            x = on_mask(to_x(w), origin, classifier)
            found = margin(classifier.log_scores(x, seed=seed), y)
            hinge = tf.maximum(-found, -attack.confidence)
            value = squared_distance(x, origin) + const * hinge
        slope = tape.gradient(value, w)
        return tf.where(tf.math.is_finite(slope), slope, tf.zeros_like(slope))  # no direction

    @tf.autograph.experimental.do_not_convert
    def fools(x: tf.Tensor, y: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        def by_draw(draw: tf.Tensor) -> tf.Tensor:
            return margin(classifier.log_scores(x, seed=draw), y)

        found = over_draws(by_draw, seed, draws=draws)
        stands = found <= attack.confidence  # scores of no class do not
        return tf.logical_not(tf.reduce_any(stands, axis=0))

    @tf.function(reduce_retracing=True, autograph=False)
    def unmoved(origin: tf.Tensor, y: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        return tf.where(fools(origin, y, random.fold_in(seed, 1)), 0.0, float("inf"))

    @tf.function(reduce_retracing=True)
    def with_constant(
        search: tf.Tensor,
        const: tf.Tensor,
        nearest: tf.Tensor,
        distance: tf.Tensor,
        origin: tf.Tensor,
        y: tf.Tensor,
        seed: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        held_out, along = random.fold_in(seed, 1), random.fold_in(seed, 0)
        w = from_x(origin)
        first, second = tf.zeros_like(w), tf.zeros_like(w)
        hit = tf.fill(tf.shape(y), False)
        for step in tf.range(attack.steps):
            draw = random.fold_in(along, search * attack.steps + step)
            slope = gradient(w, origin, y, const, draw)
            direction, first, second = adam(slope, first, second, step)
            w -= attack.learning_rate * direction
            if (step + 1) % every == 0 or step + 1 == attack.steps:
                x = on_mask(to_x(w), origin, classifier)
                fooled = fools(x, y, held_out)
                hit = tf.logical_or(hit, fooled)
                moved = l2_distance(x, origin)
                nearer = tf.logical_and(fooled, moved < distance)
                nearest = tf.where(over_values(nearer, x), x, nearest)
                distance = tf.where(nearer, moved, distance)
        return hit, nearest, distance

    def perturb(origin: tf.Tensor, y: tf.Tensor, seed: tf.Tensor, eps: tf.Tensor) -> tf.Tensor:
        del eps
        nearest, distance = origin, unmoved(origin, y, seed)
        const = tf.fill(tf.shape(y), attack.const)
        low, high = tf.zeros_like(const), tf.fill(tf.shape(y), _LARGEST)
        for search in tracked(range(attack.searches), "constants of C&W"):
            hit, nearest, distance = with_constant(
                tf.constant(search), const, nearest, distance, origin, y, seed
            )
            high = tf.where(hit, tf.minimum(high, const), high)
            low = tf.where(hit, low, tf.maximum(low, const))
            const = tf.where(high < _LARGEST, 0.5 * (low + high), 10.0 * const)
        return nearest

    return perturb


def _coordinates(
    classifier: Classifier,
) -> tuple[Callable[[tf.Tensor], tf.Tensor], Callable[[tf.Tensor], tf.Tensor]]:
    """From what Adam moves to inputs, and back."""
    if classifier.bounds is None:
        return tf.identity, tf.identity
    low, high = classifier.bounds
    centre, half = 0.5 * (low + high), 0.5 * (high - low)
    return (
        lambda w: centre + half * tf.tanh(w),
        lambda x: tf.atanh(_INSIDE * (x - centre) / half),
    )
