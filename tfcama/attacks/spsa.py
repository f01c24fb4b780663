"""`spsa`: gradients estimated from scores alone (Uesato et al., 2018), max norm.

Where a gradient is masked the scores still tell which way is down. CleverHans 4's SPSA does not run
under Keras 3.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import tensorflow as tf

from tfcama import random
from tfcama.attacks.adam import adam
from tfcama.attacks.base import CompiledAttack
from tfcama.attacks.draws import better_of, standing
from tfcama.attacks.losses import LOSSES
from tfcama.ball import into_ball, over_values
from tfcama.config import check_at_least
from tfcama.errors import InputError
from tfcama.types import Classifier

_HELD_OUT = 10  # draws of a stochastic model on which iterates are compared


@dataclasses.dataclass(frozen=True)
class Spsa(CompiledAttack):
    """Simultaneous perturbation stochastic approximation (Spall, 1992), ascended by Adam.

    Of each direction v of random signs it asks for the loss at x + delta v and x - delta v, both
    inside the ball and under one draw of a stochastic model's noise; their difference times v is an
    estimate of the gradient, and the mean over directions is what Adam gets. The best of the
    iterates is chosen, by held-out draws where answers are drawn.

    Attributes:
      steps: of Adam, each 2 * directions queries an input, and one more to compare iterates, ten
        of a stochastic model.
      directions: an estimate is the mean of.
      delta: half the distance of the two sides of a difference, in units of the input.
      learning_rate: of Adam, in units of the input; 0 takes eps * max(0.05, 2.5 / steps).
      loss: a key of LOSSES, on logits.
    """

    steps: int = 50
    directions: int = 64
    delta: float = 0.01
    learning_rate: float = 0.0
    loss: str = "margin"

    protocol: ClassVar[str] = "strong"

    def __post_init__(self):
        super().__post_init__()
        check_at_least(self, steps=1, directions=1, learning_rate=0)
        if not self.delta > 0:
            raise InputError(f"delta={self.delta:g} was given; it must be above 0.")
        LOSSES[self.loss]

    def _prepare(self, classifier: Classifier) -> Callable[..., tf.Tensor]:
        return _compiled(self, classifier)


def _compiled(attack: Spsa, classifier: Classifier) -> Callable[..., tf.Tensor]:
    """The whole attack as one graph: (x, y, seed, eps) -> adversarial x."""
    loss = LOSSES[attack.loss]
    judged = standing(classifier, attack.loss, draws=_HELD_OUT)

    @tf.autograph.experimental.do_not_convert
    def estimate(
        x: tf.Tensor, origin: tf.Tensor, y: tf.Tensor, seed: tf.Tensor, eps: tf.Tensor
    ) -> tf.Tensor:
        rows = tf.shape(x)[0]
        twice = tf.tile(y, [2])

        def one_direction(draw: tf.Tensor) -> tf.Tensor:
            sign_seed, noise_seed = random.split(draw, 2)
            signs = tf.sign(random.uniform(tf.shape(x), sign_seed, -1.0, 1.0))
            sides = [x + attack.delta * signs, x - attack.delta * signs]
            asked = tf.concat([into_ball(side, origin, eps, classifier) for side in sides], axis=0)
            losses = loss(classifier.log_scores(asked, seed=noise_seed), twice)
            gained = losses[:rows] - losses[rows:]
            gained = tf.where(tf.math.is_finite(gained), gained, 0.0)  # no direction
            return over_values(gained, x) * signs

        seeds = tf.stack(random.split(seed, attack.directions))
        estimates = tf.map_fn(
            one_direction, seeds, fn_output_signature=tf.float32, parallel_iterations=1
        )
        return tf.reduce_mean(estimates, axis=0) / (2.0 * attack.delta)

    @tf.function(reduce_retracing=True)
    def perturb(origin: tf.Tensor, y: tf.Tensor, seed: tf.Tensor, eps: tf.Tensor) -> tf.Tensor:
        learning_rate = attack.learning_rate or eps * max(0.05, 2.5 / attack.steps)
        held_out = random.fold_in(seed, 1)
        best, best_found = origin, judged(origin, y, held_out)
        x, first, second = origin, tf.zeros_like(origin), tf.zeros_like(origin)
        for step in tf.range(attack.steps):
            draw = random.fold_in(random.fold_in(seed, 0), step)
            slope = estimate(x, origin, y, draw, eps)
            direction, first, second = adam(slope, first, second, step)
            x = into_ball(x + learning_rate * direction, origin, eps, classifier)
            best, best_found = better_of(x, judged(x, y, held_out), best, best_found)
        return best

    return perturb
