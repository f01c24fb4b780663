"""The contract of an attack, and the wrapper that no family may escape."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Hashable
from typing import Any, ClassVar, NamedTuple

import numpy as np
import tensorflow as tf

from tfcama import random
from tfcama.ball import LINF, into_ball
from tfcama.config import check_at_least
from tfcama.errors import InputError
from tfcama.progress import tracked
from tfcama.types import Classifier


class Attacked(NamedTuple):
    """Adversarial inputs.

    Attributes:
      x: [N, *shape] float32, inside the eps-ball and the bounds, equal to the input off the mask.
      linf: [N], how far each moved, max norm.
      l2: [N], the same, Euclidean norm.
    """

    x: np.ndarray
    linf: np.ndarray
    l2: np.ndarray

    @classmethod
    def of(cls, adversarial: np.ndarray, x: np.ndarray) -> Attacked:
        """What an attack made of inputs x; what is missing stays missing, and does not move."""
        moved = np.nan_to_num(np.abs(adversarial - x)).reshape(len(x), -1)
        l2 = np.sqrt(np.sum(moved.astype(np.float64) ** 2, axis=1)).astype(np.float32)
        return cls(adversarial, moved.max(axis=1, initial=0.0), l2)


@dataclasses.dataclass(frozen=True)
class Attack(abc.ABC):
    """An untargeted attack.

    A family writes `_perturb`; calling the attack validates, runs it batch by batch, projects on
    the ball and the bounds, and keeps the mask.

    Attributes:
      eps: radius of the ball, in units of the input; 0 changes nothing.
      batch_size: inputs at a time.
    """

    eps: float
    batch_size: int = 50

    protocol: ClassVar[str]  # "paper", "strong" or "check", see BUILD.md, Attacks and honesty
    norm: ClassVar[str] = LINF  # of the ball
    nearest: ClassVar[bool] = False  # it looks for the nearest example, whatever eps is

    def __post_init__(self):
        check_at_least(self, eps=0, batch_size=1)

    def __call__(
        self,
        classifier: Classifier,
        x: np.ndarray,
        y: np.ndarray,
        *,
        seed: int,
        compiled: dict[Hashable, Any] | None = None,
    ) -> Attacked:
        """Attacks inputs; the same seed gives the same answer.

        Args:
          classifier: anything with the Classifier contract.
          x: [N, *shape], valid inputs.
          y: [N] int, true labels.
          seed: of the attacker's own draws (starts, the noise it averages over).
          compiled: what earlier attacks on this classifier compiled, and later ones will find.

        Raises:
          InputError: inputs that are not valid, or labels that do not fit them.
        """
        x = classifier.spec.check(x, what="inputs to attack")
        y = np.asarray(y, np.int32)
        if y.shape != x.shape[:1]:
            raise InputError(f"{len(x)} inputs and labels of shape {list(y.shape)} were given.")
        if self.eps == 0 or not len(x):
            return Attacked.of(x, x)
        compiled = {} if compiled is None else compiled
        if self._compiled_as not in compiled:
            compiled[self._compiled_as] = self._prepare(classifier)
        prepared = compiled[self._compiled_as]
        found = []
        starts = range(0, len(x), self.batch_size)
        for start in tracked(starts, "attacked inputs", unit=self.batch_size, total=len(x)):
            rows = slice(start, start + self.batch_size)
            batch_seed = random.stream(seed, "attack", start)
            adversarial = self._perturb(
                prepared, tf.constant(x[rows]), tf.constant(y[rows]), seed=batch_seed
            )
            found.append(self._allowed(adversarial, x[rows], classifier))
        return Attacked.of(np.concatenate(found), x)

    def within(self, found: Attacked, classifier: Classifier, x: np.ndarray) -> Attacked:
        """What the attack of a larger radius made of inputs x, brought into this one's ball."""
        return Attacked.of(self._allowed(found.x, x, classifier), x) if len(x) else found

    def _allowed(self, adversarial, x: np.ndarray, classifier: Classifier) -> np.ndarray:
        return into_ball(adversarial, x, self.eps, classifier, norm=self.norm).numpy()

    @property
    def _compiled_as(self) -> Hashable:
        """What attacks have in common for which `_prepare` gives the same."""
        return dataclasses.replace(self, eps=0.0)

    def _prepare(self, classifier: Classifier) -> Any:
        """What one classifier needs once (compiled functions); handed to `_perturb`."""
        return classifier

    @abc.abstractmethod
    def _perturb(self, prepared, x: tf.Tensor, y: tf.Tensor, *, seed: np.ndarray) -> tf.Tensor:
        """Adversarial [B, *shape] for inputs [B, *shape] and labels [B]; eps > 0."""


class CompiledAttack(Attack):
    """An attack that is compiled, (x, y, seed, eps) -> adversarial x, the same at every radius."""

    @abc.abstractmethod
    def _prepare(self, classifier: Classifier) -> Callable[..., tf.Tensor]:
        """That function."""

    def _perturb(self, prepared: Callable[..., tf.Tensor], x, y, *, seed):
        return prepared(x, y, tf.constant(seed), tf.constant(self.eps, tf.float32))
