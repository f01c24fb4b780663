"""DEFENCES: what hardens the training step of any model, by name."""

from __future__ import annotations

import abc
import dataclasses
from typing import Any, ClassVar, Protocol

import tensorflow as tf

from tfcama import random, specs
from tfcama.config import check_at_least, check_fraction, check_positive
from tfcama.objectives.classification import divergence, log_odds
from tfcama.registry import Registry
from tfcama.training.adversary import ADVERSARIES, Adversary, pgd
from tfcama.types import Batch

_OWN = -1  # a model's own draws are folded by places, from 0


class Trainable(Protocol):
    """All that a defence sees of a trainer.

    Attributes:
      classifier: what is trained; its bounds and attack mask.
      optimizer: its `iterations`.
    """

    classifier: Any
    optimizer: Any

    def terms(self, batch: Any, *, draws: random.RowDraws | None) -> dict[str, tf.Tensor]:
        """Per-example "loss" and what else is logged, [B] each."""

    def scores(self, x: tf.Tensor, *, seed: tf.Tensor) -> tf.Tensor:
        """The classifier's scores, [B, C]."""


class Defence(abc.ABC):
    """A wrapper around a trainer's terms; it sees nothing else of the model than its scores.

    Attributes:
      mixes_rows: whether a row's loss depends on other rows.
      leaves_bounds: whether rows may leave the bounds of the inputs.
    """

    mixes_rows: ClassVar[bool] = False
    leaves_bounds: ClassVar[bool] = False

    @abc.abstractmethod
    def terms(
        self, trainer: Trainable, batch: Batch, *, draws: random.RowDraws
    ) -> dict[str, tf.Tensor]:
        """What `trainer.terms` returns, its "loss" hardened.

        Args:
          trainer: of the model.
          batch: what the stream yields.
          draws: of the batch's rows.
        """


@dataclasses.dataclass(frozen=True)
class AttackingDefence(Defence):
    """A defence that attacks its own training inputs.

    Attributes:
      eps: radius, max norm, in units of the inputs.
      steps: of pgd, in training and always in validation.
      step_size: of each; 0 takes 2.5 eps / steps.
      ramp: training steps over which the radius grows from nothing to eps; 0 for the whole radius
        from the first step on. A bottleneck may never start to learn without it.
    """

    eps: float = 0.0
    steps: int = 20
    step_size: float = 0.0
    ramp: int = 0

    def __post_init__(self):
        check_positive(self, "eps")
        check_at_least(self, steps=1, step_size=0, ramp=0)

    @property
    def adversary(self) -> Adversary:
        """The attacker in training."""
        return self.validating

    @property
    def validating(self) -> Adversary:
        """The attacker in validation, see robust_hits."""
        return pgd(self.eps, steps=self.steps, step_size=self.step_size)

    def grown(self, trainer: Trainable) -> float | tf.Tensor:
        """The share of the radius that the trainer's step has reached, in (0, 1]."""
        if not self.ramp:
            return 1.0
        done = tf.cast(trainer.optimizer.iterations + 1, tf.float32)
        return tf.minimum(1.0, done / self.ramp)

    def robust_hits(self, trainer: Trainable, batch: Batch, *, seed: tf.Tensor) -> tf.Tensor:
        """Whether rows are answered rightly when PGD ascends from them, bool [B].

        What validation goes by (Rice et al., 2020, "Overfitting in adversarially robust deep
        learning"): the whole radius, the log-odds, no random start. PGD also where training takes
        a single step: a model learns to fool its own FGSM, under which it may answer better than on
        clean inputs (Wong et al., 2020, "Fast is better than free": catastrophic overfitting).

        Args:
          trainer: of the model.
          batch: held-out rows.
          seed: of a stochastic model, the same for attack and answer.
        """
        attacked = self.validating(
            lambda x: log_odds(trainer.scores(x, seed=seed), batch.y),
            batch.x,
            classifier=trainer.classifier,
            draws=None,
        )
        answers = tf.argmax(trainer.scores(attacked, seed=seed), axis=-1, output_type=tf.int32)
        return tf.equal(answers, batch.y)


@dataclasses.dataclass(frozen=True)
class AdversarialTraining(AttackingDefence):
    """The model's own loss on adversarial inputs (Goodfellow et al., 2015; Madry et al., 2018).

    The attacker ascends the log-odds (cross-entropy without its saturation) of the trainer's
    scores, under one draw of a stochastic model's noise.

    Attributes:
      attack: a key of ADVERSARIES.
      clean: weight of the loss on clean inputs, the rest is the adversarial ones'; Goodfellow et
        al. take 0.5, Madry et al. 0.
    """

    attack: str = "pgd"
    clean: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        check_fraction(self, "clean")
        ADVERSARIES[self.attack]

    @property
    def adversary(self) -> Adversary:
        return ADVERSARIES[self.attack](self.eps, steps=self.steps, step_size=self.step_size)

    def terms(
        self, trainer: Trainable, batch: Batch, *, draws: random.RowDraws
    ) -> dict[str, tf.Tensor]:
        own = draws.fold(_OWN)
        attacked = self.adversary(
            lambda x: log_odds(trainer.scores(x, seed=own.seed), batch.y),
            batch.x,
            classifier=trainer.classifier,
            draws=own.fold(0),
            share=self.grown(trainer),
        )
        terms = trainer.terms(batch._replace(x=attacked), draws=draws)
        if self.clean:
            clean = trainer.terms(batch, draws=draws)["loss"]
            terms["loss"] = self.clean * clean + (1.0 - self.clean) * terms["loss"]
        return terms


@dataclasses.dataclass(frozen=True)
class Trades(AttackingDefence):
    """The model's own loss + beta KL(p(y|x) || p(y|x')), x' the worst in the ball (TRADES).

    Zhang et al., "Theoretically Principled Trade-off between Robustness and Accuracy" (2019),
    Eq. 5. p(y|x) is the softmax of the trainer's scores, under one draw of a stochastic model's
    noise for both, normalised as in prediction (the paper's code: by the batch). x' starts
    uniformly in the ball; at x itself the divergence has no gradient.

    Attributes:
      beta: weight, 1 / lambda in the paper.
      steps: of the ascent.
    """

    beta: float = 6.0
    steps: int = 10

    def __post_init__(self):
        super().__post_init__()
        check_at_least(self, beta=0)

    def terms(
        self, trainer: Trainable, batch: Batch, *, draws: random.RowDraws
    ) -> dict[str, tf.Tensor]:
        own = draws.fold(_OWN)
        clean = trainer.scores(batch.x, seed=own.seed)
        fixed = tf.stop_gradient(clean)
        attacked = self.adversary(
            lambda x: divergence(fixed, trainer.scores(x, seed=own.seed)),
            batch.x,
            classifier=trainer.classifier,
            draws=own.fold(0),
            share=self.grown(trainer),
        )
        # Before the model's own terms, which move batch normalisation's running statistics.
        penalty = self.beta * divergence(clean, trainer.scores(attacked, seed=own.seed))
        terms = trainer.terms(batch, draws=draws)
        terms["loss"] += penalty
        return terms


@dataclasses.dataclass(frozen=True)
class Mixup(Defence):
    """Pairs of rows mixed, and their losses with them (Zhang et al., ICLR 2018).

    x = lambda x_i + (1 - lambda) x_j, loss = lambda loss(x, y_i) + (1 - lambda) loss(x, y_j): for
    cross-entropy that of the mixed labels. lambda ~ Beta(alpha, alpha) is a row's own; j is i in
    reverse order, which shuffled batches make random. Pairs stay within a replica. A value that
    x_j lacks is that of x_i.

    Attributes:
      alpha: of the Beta distribution, 0.05 or more; with less hardly a row is mixed.
    """

    alpha: float = 1.0

    mixes_rows: ClassVar[bool] = True

    def __post_init__(self):
        check_at_least(self, alpha=0.05)  # float32's gammas underflow below

    def terms(
        self, trainer: Trainable, batch: Batch, *, draws: random.RowDraws
    ) -> dict[str, tf.Tensor]:
        share = draws.fold(_OWN).beta(self.alpha)
        wide = tf.reshape(share, [-1] + [1] * (len(batch.x.shape) - 1))
        x = wide * batch.x + (1.0 - wide) * tf.reverse(batch.x, [0])
        x = tf.where(tf.math.is_nan(x), batch.x, x)
        mine = trainer.terms(batch._replace(x=x), draws=draws)
        others = trainer.terms(batch._replace(x=x, y=tf.reverse(batch.y, [0])), draws=draws)
        return {name: share * mine[name] + (1.0 - share) * others[name] for name in mine}


@dataclasses.dataclass(frozen=True)
class GaussianNoise(Defence):
    """Gaussian noise on the inputs, as randomized smoothing trains (Cohen et al., 2019).

    Noise may leave the bounds, which smoothing's guarantee needs; it stays where an attack may act.

    Attributes:
      sigma: standard deviation, in units of the inputs.
    """

    sigma: float = 0.25

    leaves_bounds: ClassVar[bool] = True

    def __post_init__(self):
        check_positive(self, "sigma")

    def terms(
        self, trainer: Trainable, batch: Batch, *, draws: random.RowDraws
    ) -> dict[str, tf.Tensor]:
        noise = self.sigma * draws.fold(_OWN).normal(*batch.x.shape[1:])
        mask = trainer.classifier.attack_mask
        x = batch.x + (noise if mask is None else mask * noise)
        return trainer.terms(batch._replace(x=x), draws=draws)


DEFENCES: Registry[type[Defence]] = Registry(
    "defence",
    {
        "adversarial": AdversarialTraining,
        "trades": Trades,
        "mixup": Mixup,
        "noise": GaussianNoise,
    },
)


def parse(text: str) -> Defence:
    """The defence that a flag names: `name[:key=value…]`.

    Raises:
      InputError: an unknown name or option, or a value out of range.

    Example:
      >>> parse("mixup:alpha=0.4")
      Mixup(alpha=0.4)
    """
    return specs.make(text, DEFENCES)
