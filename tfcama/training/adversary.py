"""The attacker inside a training step: ascent of a loss in a max-norm ball around the inputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from tfcama import random
from tfcama.ball import into_ball
from tfcama.config import check_at_least, check_positive
from tfcama.registry import Registry
from tfcama.types import Classifier


@dataclasses.dataclass(frozen=True)
class Adversary:
    """Signed gradient steps, projected onto the ball, the bounds and the attack mask.

    Attributes:
      eps: radius of the ball, in units of the inputs.
      steps: of the gradient.
      step_size: of each.
      random_start: uniform in the ball; otherwise the input itself.
    """

    eps: float
    steps: int
    step_size: float
    random_start: bool

    def __post_init__(self):
        check_positive(self, "eps", "step_size")
        check_at_least(self, steps=1)

    def __call__(
        self,
        loss: Callable[[tf.Tensor], tf.Tensor],
        x: tf.Tensor,
        *,
        classifier: Classifier,
        draws: random.RowDraws | None,
        share: float | tf.Tensor = 1.0,
    ) -> tf.Tensor:
        """Adversarial inputs, [B, *shape]; no gradient flows through them.

        Args:
          loss: of inputs, [B]; each row's depends on that row alone.
          x: valid inputs.
          classifier: its bounds and mask.
          draws: of the rows' starts; None starts from the inputs themselves.
          share: of radius and steps, in [0, 1].
        """
        eps, step_size = share * self.eps, share * self.step_size

        def ascend(step: tf.Tensor, moved: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(moved)
                value = loss(moved)
            direction = tf.sign(tape.gradient(value, moved))
            return step + 1, into_ball(moved + step_size * direction, x, eps, classifier)

        start = x
        if self.random_start and draws is not None:
            start = x + eps * (2.0 * draws.uniform(*x.shape[1:]) - 1.0)
            start = into_ball(start, x, eps, classifier)
        _, found = tf.while_loop(
            lambda step, moved: step < self.steps,
            ascend,
            (tf.constant(0), start),
            shape_invariants=(tf.TensorShape([]), x.shape),
        )
        return tf.stop_gradient(found)


def fgsm(eps: float, *, steps: int, step_size: float) -> Adversary:
    """One step of eps from the input (Goodfellow et al., 2015), whatever else is said."""
    del steps, step_size
    return Adversary(eps, steps=1, step_size=eps or 1.0, random_start=False)


def pgd(eps: float, *, steps: int, step_size: float) -> Adversary:
    """`steps` steps from a random start (Madry et al., 2018); size 0 means 2.5 eps / steps."""
    size = step_size or 2.5 * eps / max(1, steps) or 1.0
    return Adversary(eps, steps=steps, step_size=size, random_start=True)


ADVERSARIES: Registry[Callable[..., Adversary]] = Registry(
    "attack of adversarial training", {"fgsm": fgsm, "pgd": pgd}
)
