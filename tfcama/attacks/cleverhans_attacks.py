"""FGSM and PGD as CleverHans 4.0.0 has them: the papers' protocol.

One noise draw a step, no average over draws, the last iterate. Its own loss, cross-entropy on the
logits, saturates in float32 (`losses.log_odds` says how), so by default the log-odds are ascended,
the same direction without the saturation; loss=cross_entropy is CleverHans' own.
CleverHans retraces its gradient for every new Python callable; all attacks on a classifier hand it
one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable
from typing import ClassVar

import numpy as np
import tensorflow as tf

from tfcama import random
from tfcama.attacks.base import Attack
from tfcama.attacks.losses import LOSSES
from tfcama.ball import on_mask
from tfcama.config import check_at_least
from tfcama.types import Classifier


class _Scores:
    """log_scores as CleverHans calls it, logits of x alone; a fresh noise draw every call.

    CleverHans knows of no mask: what an attack may not move is put back before it is scored, so
    that no step counts on it.
    """

    def __init__(self, classifier: Classifier):
        self.classifier = classifier
        self._seed = tf.Variable([0, 0], dtype=tf.int32, trainable=False)
        self._calls = tf.Variable(0, dtype=tf.int32, trainable=False)
        shape = [None, *classifier.input_shape]
        self._origin = tf.Variable(tf.zeros([0, *shape[1:]]), shape=shape, trainable=False)

    def reset(self, seed: np.ndarray, origin: tf.Tensor) -> None:
        self._seed.assign(seed)
        self._calls.assign(0)
        self._origin.assign(origin)

    @tf.autograph.experimental.do_not_convert  # CleverHans would, for seconds
    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        draw = self._calls.assign_add(1)
        x = on_mask(x, self._origin, self.classifier)
        return self.classifier.log_scores(x, seed=random.fold_in(self._seed, draw))


def _in_cleverhans_order(loss: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]):
    return lambda labels, logits: loss(logits, labels)


_LOSS_FNS = {name: _in_cleverhans_order(LOSSES[name]) for name in LOSSES}


@dataclasses.dataclass(frozen=True)
class _CleverHansAttack(Attack):
    """What both have.

    Attributes:
      loss: a key of LOSSES.
    """

    loss: str = "log_odds"

    protocol: ClassVar[str] = "paper"

    def __post_init__(self):
        super().__post_init__()
        LOSSES[self.loss]

    @property
    def _compiled_as(self) -> Hashable:
        return _Scores  # CleverHans compiles the gradient of a loss; the rest is not in the graph

    def _prepare(self, classifier: Classifier) -> _Scores:
        return _Scores(classifier)


@dataclasses.dataclass(frozen=True)
class FastGradientSign(_CleverHansAttack):
    """FGSM (Goodfellow et al., 2015): one step of size eps along the sign of the gradient."""

    def _perturb(self, prepared: _Scores, x, y, *, seed):
        from cleverhans.tf2.attacks.fast_gradient_method import fast_gradient_method

        prepared.reset(seed, x)
        return fast_gradient_method(
            prepared, x, self.eps, np.inf, loss_fn=_LOSS_FNS[self.loss], y=y
        )


@dataclasses.dataclass(frozen=True)
class ProjectedGradientDescent(_CleverHansAttack):
    """PGD (Madry et al., 2018): `steps` steps from a random start in the ball.

    Attributes:
      steps: gradient steps.
      step_size: of each; 0 takes max(0.01, 2.5 eps / steps), which can cross the ball.
    """

    steps: int = 40
    step_size: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        check_at_least(self, steps=1, step_size=0)

    def _perturb(self, prepared: _Scores, x, y, *, seed):
        from cleverhans.tf2.attacks.projected_gradient_descent import projected_gradient_descent

        bounds = prepared.classifier.bounds
        prepared.reset(seed, x)
        tf.random.set_seed(int(seed[0]))  # CleverHans draws its start from the global generator
        step_size = self.step_size or max(0.01, 2.5 * self.eps / self.steps)
        return projected_gradient_descent(
            prepared,
            x,
            self.eps,
            min(step_size, self.eps),
            self.steps,
            np.inf,
            loss_fn=_LOSS_FNS[self.loss],
            clip_min=None if bounds is None else bounds.low,
            clip_max=None if bounds is None else bounds.high,
            y=y,
            rand_init=True,
        )
