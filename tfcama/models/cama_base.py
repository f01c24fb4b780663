"""A deep CAMA without its networks: what it tells of an input besides its class, and its variables.

Densities and their equations are in `cama_densities`, Bayes' rule is in `cama_prediction`. A family
adds its networks; objectives, training and fine-tuning are shared.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tfcama import random
from tfcama.models.cama_prediction import CamaPrediction
from tfcama.networks.sum_dense import SumDense


class Explanation(NamedTuple):
    """What a model takes inputs to have come of.

    Attributes:
      scores: of the prediction, [B, C] nats.
      y: one-hots of the predicted class, [B, 1, C].
      z: the posterior mean at that class and that m, [1, B, 1, Z].
      m: the one that stands for the prediction, [B, M].
    """

    scores: tf.Tensor
    y: tf.Tensor
    z: tf.Tensor
    m: tf.Tensor

    def first(self, size: int) -> Explanation:
        """That of the first inputs."""
        return Explanation(self.scores[:size], self.y[:size], self.z[:, :size], self.m[:size])


class CamaBase(CamaPrediction):
    """A deep CAMA; a family creates its networks and fills in the densities that are theirs."""

    # --- the Generative and Explaining contracts ---------------------------------------------

    def log_px(self, x: tf.Tensor, *, seed: random.Seed) -> tf.Tensor:
        """Log p(x) = log sum_c p(x, y = c), [B] nats."""
        return tf.reduce_logsumexp(self.log_scores(x, seed=seed), axis=-1)

    def latents_of(
        self, x: tf.Tensor, labels: tf.Tensor, m: tf.Tensor, *, z_steps: int | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """What made x besides m if its class is `labels`.

        Args:
          x: [B, *shape].
          labels: [B] int.
          m: of the prediction (`log_scores_and_m`), [B, M]. Not the mean of q(m|x): NNpM is nearly
            homogeneous, so a fine-tuned model can say a shift by the length of m while q(m|x)
            stays around zero.
          z_steps: of ascent, in place of the configuration's.

        Returns:
          One-hots y [B, 1, C], and the posterior mean of z [1, B, 1, Z].
        """
        y = self._one_hots(labels)
        q_z = self._best_posterior_z(x, y, m)
        steps = self.config.z_steps if z_steps is None else z_steps
        if steps:
            q_z = self._ascended(q_z, x, y, m, steps=steps)
        return y, q_z.mean()[None]

    def log_p_untouched(self, x: tf.Tensor, *, seed: random.Seed) -> tf.Tensor:
        """Log p(untouched | x), that nothing manipulated each input, [B] nats.

        -inf where the prior p_untouched is 0, 0 where prediction intervenes with do(m = 0).
        """
        if self.config.m_at_test == "do_m0":
            return tf.zeros([tf.shape(x)[0]])
        if not self.config.p_untouched:
            return tf.fill([tf.shape(x)[0]], -math.inf)
        _, parts = self.scores_by_m(x, seed=seed, z_steps=0)
        parts = tf.reduce_logsumexp(parts, axis=-1)  # [S, B]
        return parts[-1] - tf.reduce_logsumexp(parts, axis=0)

    @abc.abstractmethod
    def _mean(self, x: tf.Tensor, y: tf.Tensor, z: tf.Tensor, m: tf.Tensor) -> tf.Tensor:
        """Inputs whose effects are the mean of p(x | y, z, m), [B, *shape]."""

    def explanation(
        self, x: tf.Tensor, *, seed: random.Seed, z_steps: int | None = None
    ) -> Explanation:
        """The predicted class of inputs, its m and the posterior mean of z.

        Args:
          x: [B, *shape].
          seed: of the prediction.
          z_steps: of ascent, in place of the configuration's.
        """
        scores, m = self.log_scores_and_m(x, seed=seed, z_steps=z_steps)
        y, z = self.latents_of(x, tf.argmax(scores, axis=-1), m, z_steps=z_steps)
        return Explanation(scores, y, z, m)

    def reconstruct(
        self, x: tf.Tensor, *, seed: random.Seed, do_m0: bool | tuple[str, ...]
    ) -> tf.Tensor:
        """`decoded` of the explanation under that seed."""
        return self.decoded(x, self.explanation(x, seed=seed), do_m0=do_m0)

    def decoded(
        self, x: tf.Tensor, explanation: Explanation, *, do_m0: bool | tuple[str, ...]
    ) -> tf.Tensor:
        """Mean of p(x | y, z, m) of an explanation, or of what it says of an intervention.

        Args:
          x: what was explained, [B, *shape].
          explanation: of it.
          do_m0: True decodes under do(m = 0): what the input would be, had nobody manipulated it
            (the papers' Figure 9); names of parts or parameters of the mechanism intervene on
            those alone: do(m_rotation = 0) keeps the shift.

        Returns:
          [B, *shape]; of a table, its children are replaced.
        """
        _, y, z, m = explanation
        if do_m0 is True:
            m = tf.zeros_like(m)
        elif do_m0:
            kept = np.ones(self.dim_m, np.float32)
            kept[self.mechanism.coordinates(do_m0)] = 0.0
            m = m * kept
        return self._mean(x, y, z, m)

    def interpolate(
        self, x: tf.Tensor, explanation: Explanation, steps: Sequence[float]
    ) -> dict[str, tf.Tensor]:
        """Means of p(x | y, z, m) along each parameter of the mechanism, y, z and the rest held.

        Args:
          x: [B, *shape].
          explanation: of x.
          steps: see `m_along`.

        Returns:
          [steps, B, *shape] by parameter, of those that one coordinate of m alone decides.
        """
        places = self.mechanism.coordinates_of_parameters()
        if not places:
            return {}
        _, y, z, m = explanation
        reached, found = tf.unstack(self.m_along(steps)), {}
        for name, place in places.items():
            along = tf.one_hot(place, self.dim_m)
            rest = m * (1.0 - along)
            found[name] = tf.stack([self._mean(x, y, z, rest + at * along) for at in reached])
        return found

    def m_along(self, steps: Sequence[float]) -> tf.Tensor:
        """Every coordinate of m so many standard deviations of p(m) from its mean, [steps, M]."""
        loc, scale = self.moments_of_m()
        return loc + tf.constant(steps, tf.float32)[:, None] * scale

    def simulate(self, m: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
        """What clean inputs [B, *shape] would become under do(m), m [B, M]."""
        return self.mechanism.simulate(m, x)

    def manipulation(self, x: tf.Tensor, *, seed: random.Seed) -> tf.Tensor:
        """What the model thinks was done to each input, [B, P]: the mechanism's `parameters`.

        Read off the m that stands for the prediction, exactly 0 where it takes the input for
        untouched.
        """
        return self.mechanism.values(self.log_scores_and_m(x, seed=seed)[1])

    # --- variables -----------------------------------------------------------------------------

    @property
    @abc.abstractmethod
    def _sums(self) -> tuple[SumDense, ...]:
        """The layers that read features of m beside others."""

    def adopt(self, other: CamaBase) -> None:
        """Takes over what does not depend on what is different here, the mechanism or p(m).

        What was trained under do(m = 0) alone does not depend on the mechanism: everything but the
        M-networks. Of a model with the same mechanism and another p(m), everything but p(m).

        Args:
          other: of the same family and sizes.
        """
        if self.config.mechanism == other.config.mechanism:
            pairs = zip(self._all_but_prior(), other._all_but_prior(), strict=True)
            for variable, value in pairs:
                variable.assign(value)
            return
        ours, theirs = self.variable_groups(), other.variable_groups()
        own = {id(v) for layer in self._sums for v in layer.trainable_variables}
        foreign = {id(v) for layer in other._sums for v in layer.trainable_variables}
        for name in ours.keys() - {"p_m", "q_m"}:
            pairs = zip(
                [v for v in ours[name] if id(v) not in own],
                [v for v in theirs[name] if id(v) not in foreign],
                strict=True,
            )
            for variable, value in pairs:
                variable.assign(value)
        for layer, source in zip(self._sums, other._sums, strict=True):
            layer.adopt(source)

    def _all_but_prior(self) -> list[keras.Variable]:
        prior = {id(variable) for variable in self.prior_m.trainable_variables}
        groups = self.variable_groups().values()
        return [v for variables in groups for v in variables if id(v) not in prior]
