"""`pgd_eot`: PGD on the expectation over the model's noise, the strong protocol's white-box attack.

Fresh noise at every step, gradients averaged over draws (Athalye et al., 2018), several starts,
and each example's iterate chosen on draws that its gradients never saw: by how many of them it
fools, then by the loss.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import numpy as np
import tensorflow as tf

from tfcama import random
from tfcama.attacks.base import CompiledAttack
from tfcama.attacks.draws import (
    ANSWER,
    SAMPLES,
    Standing,
    better_of,
    loss_of,
    mean_over_draws,
    standing,
)
from tfcama.attacks.losses import LOSSES
from tfcama.ball import into_ball
from tfcama.config import check_at_least
from tfcama.errors import unknown_name
from tfcama.progress import tracked
from tfcama.types import Classifier


@dataclasses.dataclass(frozen=True)
class ExpectationPgd(CompiledAttack):
    """Ascends a loss averaged over noise draws, from several starts.

    Attributes:
      steps: gradient steps from each start.
      step_size: of the first step; 0 takes eps / 4, or what crosses the ball in so many steps. It
        decays to a tenth along a cosine.
      draws: noise draws a gradient is averaged over; 1 for deterministic models, whatever is said.
      restarts: starts; the first is the input itself, the others uniform in the ball.
      loss: a key of LOSSES, on logits.
      of: whose loss: of the answer, or the mean over the samples that are pooled for it.
      checks: how many times along the way iterates are compared on held-out draws.
    """

    steps: int = 40
    step_size: float = 0.0
    draws: int = 20
    restarts: int = 1
    loss: str = "log_odds"
    of: str = ANSWER
    checks: int = 4

    protocol: ClassVar[str] = "strong"

    def __post_init__(self):
        super().__post_init__()
        check_at_least(self, steps=1, draws=1, restarts=1, checks=1, step_size=0)
        LOSSES[self.loss]
        if self.of not in (ANSWER, SAMPLES):
            raise unknown_name("value of 'of'", self.of, [ANSWER, SAMPLES])

    def _prepare(self, classifier: Classifier) -> Callable[..., tf.Tensor]:
        return _compiled(self, classifier)


def _compiled(attack: ExpectationPgd, classifier: Classifier) -> Callable[..., tf.Tensor]:
    """The whole attack, a graph for each start: (x, y, seed, eps) -> adversarial x."""
    draws = attack.draws if classifier.stochastic else 1
    per_check = -(-attack.steps // attack.checks)
    loss = loss_of(classifier, attack.loss, of=attack.of)
    judged = standing(classifier, attack.loss, draws=attack.draws, of=attack.of)

    # AutoGraph is for the loop of `from_start` alone: to convert a model takes it seconds.
    @tf.autograph.experimental.do_not_convert
    def gradient(x: tf.Tensor, y: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        def one_draw(draw: tf.Tensor) -> tf.Tensor:
            with tf.GradientTape() as tape:
                tape.watch(x)
                value = loss(x, y, draw)
            found = tape.gradient(value, x)
            return tf.where(tf.math.is_nan(found), tf.zeros_like(found), found)  # no direction

        return mean_over_draws(one_draw, seed, draws=draws)

    @tf.function(reduce_retracing=True, autograph=False)
    def unmoved(origin: tf.Tensor, y: tf.Tensor, seed: tf.Tensor) -> Standing:
        return judged(origin, y, random.fold_in(seed, 1))

    @tf.function(reduce_retracing=True)
    def from_start(
        restart: tf.Tensor,
        best: tf.Tensor,
        best_found: Standing,
        origin: tf.Tensor,
        y: tf.Tensor,
        seed: tf.Tensor,
        eps: tf.Tensor,
    ) -> tuple[tf.Tensor, Standing]:
        held_out = random.fold_in(seed, 1)
        step_size = attack.step_size or eps * max(0.25, 2.5 / attack.steps)
        start = random.uniform(tf.shape(origin), random.fold_in(seed, 2 + restart), -1.0, 1.0) * eps
        start = tf.where(restart == 0, tf.zeros_like(start), start)
        x = into_ball(origin + start, origin, eps, classifier)
        for step in tf.range(attack.steps):
            number = tf.cast(step, tf.float32) / attack.steps
            size = step_size * (0.1 + 0.45 * (1.0 + tf.cos(np.pi * number)))
            draw = random.fold_in(random.fold_in(seed, 0), restart * attack.steps + step)
            x = into_ball(x + size * tf.sign(gradient(x, y, draw)), origin, eps, classifier)
            if (step + 1) % per_check == 0 or step + 1 == attack.steps:
                best, best_found = better_of(x, judged(x, y, held_out), best, best_found)
        return best, best_found

    def perturb(origin: tf.Tensor, y: tf.Tensor, seed: tf.Tensor, eps: tf.Tensor) -> tf.Tensor:
        best, best_found = origin, unmoved(origin, y, seed)
        for restart in tracked(range(attack.restarts), "starts of an attack"):
            best, best_found = from_start(
                tf.constant(restart), best, best_found, origin, y, seed, eps
            )
        return best

    return perturb
