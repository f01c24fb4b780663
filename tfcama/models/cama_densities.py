"""Deep CAMA without its networks: densities, posterior samples and their weights.

    p(x, y, z, m | a, c) = p(m) p(z) p(y | a) p(x | y, z, m, c)                        (1), (9)
    q(z, m | x, y, a, c) = q(z | x, y, m, a, c) q(m | x)                              (2), (10)

Equations of "A Causal View on Robustness of Neural Networks" (Zhang, Zhang, Li; ICLR 2020
submission and NeurIPS 2020). Images have neither parents a nor co-parents c.

The class index, the sample index and the batch are broadcast, never looped over: x is encoded once,
NNpY runs on the C one-hots once, NNpM once per m, and `SumDense` adds their parts.
"""

from __future__ import annotations

import abc
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from tfcama import random
from tfcama.models.base import ClassifierModel
from tfcama.models.cama_config import BY_CLASS, LEARNED, STANDARD, CamaBaseConfig
from tfcama.models.mechanisms.base import Context
from tfcama.models.mechanisms.registry import make_mechanism
from tfcama.networks.rows import product
from tfcama.types import InputSpec, LogWeights

_LOC_UNIT, _LOG_SCALE_UNIT = 30.0, 3.0  # of a learned prior's variables


class Noise(NamedTuple):
    """N(0, 1) draws behind the samples of m and z.

    Attributes:
      m: [B or 1, M]; for prediction [samples of m, M].
      z: [K, B or 1, C or 1, Z].
    """

    m: tf.Tensor
    z: tf.Tensor


class PriorM(keras.layers.Layer):
    """p(m) = N(0, I); or N(mu, diag(s^2)) with a learned mu and s, one for all or one a class.

    Both start as N(0, I). The variables count in thirty standard deviations and in log s = 3: m may
    have to go several deviations, and a few hundred steps of Adam move a variable by less than a
    half.

    Args:
      dim_m: size of m.
      kind: of PRIORS.
      num_classes: C.
    """

    def __init__(self, dim_m: int, kind: str, num_classes: int):
        super().__init__(name="prior_m", dtype="float32")
        self._dim_m = dim_m
        self.by_class = kind == BY_CLASS
        self._number = {STANDARD: 0, LEARNED: 1, BY_CLASS: num_classes}[kind]
        self._variables = [
            self.add_weight(shape=(self._number, dim_m), initializer="zeros", name=name)
            for name in (("loc", "log_scale") if self._number else ())
        ]

    @property
    def is_learned(self) -> bool:
        """Whether there is something to fit."""
        return bool(self._variables)

    def set_moments(self, loc: np.ndarray, scale: np.ndarray) -> None:
        """Sets mu and s, [M] for all inputs or [C, M] by class."""
        for variable, value in zip(
            self._variables, (loc / _LOC_UNIT, np.log(scale) / _LOG_SCALE_UNIT), strict=True
        ):
            variable.assign(np.reshape(value, variable.shape))

    def call(self, y: tf.Tensor | None) -> tfd.Distribution:
        """Event shape [M], batch shape [B|1, C|1] for one-hots y; N(0, I), [1, 1], without."""
        if not self._variables or y is None:
            return tfd.Independent(tfd.Normal(tf.zeros([1, 1, self._dim_m]), 1.0), 1)
        which = tf.ones([1, 1, 1]) if self._number == 1 else y
        loc, log_scale = (product(which, tf.convert_to_tensor(v)) for v in self._variables)
        return tfd.Independent(tfd.Normal(_LOC_UNIT * loc, tf.exp(_LOG_SCALE_UNIT * log_scale)), 1)


class CamaDensities(ClassifierModel, abc.ABC):
    """What a deep CAMA is before it answers; a family creates its networks and its own densities.

    Args:
      spec: of the data set.
      config: see CamaBaseConfig.
      dim_z, dim_m: the papers' sizes of z and m, where the configuration leaves them open.
      p_m_hidden: units of NNpM's layers.
      name: of the model.
    """

    def __init__(
        self,
        spec: InputSpec,
        config: CamaBaseConfig,
        *,
        dim_z: int,
        dim_m: int,
        p_m_hidden: tuple[int, ...],
        name: str,
    ):
        super().__init__(spec, name=name)
        self.config = config
        self.dim_z = config.dim_z or dim_z
        self.mechanism = make_mechanism(
            config.mechanism,
            Context(
                spec,
                dim_m=config.dim_m,
                default_dim_m=dim_m,
                hidden=p_m_hidden,
                gated=config.gated,
                kernel_initializer=config.kernel_initializer,
            ),
        )
        self.dim_m = self.mechanism.size
        self.prior_m = PriorM(self.dim_m, config.prior_m, spec.num_classes)

    # --- a family's own densities --------------------------------------------------------------

    @abc.abstractmethod
    def posterior_m(self, x: tf.Tensor) -> tfd.Distribution:
        """q(m | x), batch shape [B]."""

    @abc.abstractmethod
    def posterior_z(self, x: tf.Tensor, y: tf.Tensor, m: tf.Tensor) -> tfd.Distribution:
        """q(z | x, y, m), batch shape [B, C|1], for one-hots y [B, 1, C] or [1, C, C]."""

    @abc.abstractmethod
    def p(
        self, y: tf.Tensor, z: tf.Tensor, m: tf.Tensor, c: tf.Tensor | None = None
    ) -> tfd.Distribution:
        """The likelihood of x given its causes, batch shape [K, B, C|1].

        Args:
          y: one-hots, [B, 1, C] or [1, C, C].
          z: [K, B, C|1, Z].
          m: [B, M].
          c: co-parents, [B, .]; None for families that have none.
        """

    @abc.abstractmethod
    def log_py(self, x: tf.Tensor) -> tf.Tensor:
        """Log p(y) or log p(y | a) of every class, [B or 1, C] nats."""

    def effects(self, x: tf.Tensor) -> tf.Tensor:
        """The part of the input that Y causes: what p(.) is a distribution over."""
        return x

    def coparents(self, x: tf.Tensor) -> tf.Tensor | None:
        """The part of the input that causes x besides Y, [B, .]; None where there is none."""
        del x
        return None

    def _create_variables(self) -> None:
        """By one sample of everything: a prediction is many of them, and has no other layers."""
        noise = self.shared_noise(tf.constant([0, 0]), num_samples=1)
        self.log_weights(tf.zeros([1, *self.spec.shape]), noise=noise)
        self.built = True

    # --- priors --------------------------------------------------------------------------------

    def prior_z(self) -> tfd.Distribution:
        """p(z) = N(0, I), event shape [Z]."""
        return tfd.Independent(tfd.Normal(tf.zeros([self.dim_z]), 1.0), 1)

    # --- posterior samples and their weights -------------------------------------------------

    def shared_noise(
        self,
        seed: random.Seed,
        *,
        num_samples: int,
        classes: int | None = None,
        m_samples: int = 1,
    ) -> Noise:
        """One table for every example, so that no answer depends on the batch around it.

        Args:
          seed: int32 [2].
          num_samples: K.
          classes: 1 where labels are given; None for all classes.
          m_samples: rows of the table of m.
        """
        seed_m, seed_z = random.split(seed)
        return Noise(
            m=random.normal([m_samples, self.dim_m], seed_m),
            z=random.normal([num_samples, 1, classes or self.num_classes, self.dim_z], seed_z),
        )

    def row_noise(
        self, draws: random.RowDraws, *, num_samples: int, classes: int | None = None
    ) -> Noise:
        """Its own draws for every row of a global batch, as training needs them; args as above."""
        z = draws.fold(1).normal(num_samples, classes or self.num_classes, self.dim_z)
        return Noise(m=draws.fold(0).normal(self.dim_m), z=tf.transpose(z, [1, 0, 2, 3]))

    def sample_m(
        self,
        x: tf.Tensor,
        *,
        noise: tf.Tensor,
        y: tf.Tensor | None,
        manipulated: tf.Tensor | bool = True,
        m_do: tf.Tensor | None = None,
        analytic: bool = False,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """M = where(manipulated, m ~ q(m|x), m_do) and its log-ratio, 0 where m was set.

        Args:
          x: [B, *shape].
          noise: [B or 1, M].
          y: one-hots, [B, 1, C] or [1, C, C], of p(m|y); None: p(m) = N(0, I).
          manipulated: [B] bool, or one for all rows; a plain False does not run q(m|x).
          m_do: [B, M]; None: zeros.
          analytic: the log-ratio is -KL(q(m|x) || p(m)), its expectation, in place of the sample's.

        Returns:
          m [B, M], and log p(m) - log q(m|x) [B, C|1].
        """
        size = tf.shape(x)[0]
        set_to = tf.zeros([size, self.dim_m]) if m_do is None else m_do
        if manipulated is False:
            return set_to, tf.zeros([size, 1])
        q_m = self.posterior_m(x)
        m = q_m.mean() + q_m.stddev() * noise
        log_ratio = self._log_ratio_m(q_m, m, y, analytic=analytic)
        if manipulated is True:
            return m, log_ratio
        mask = manipulated[:, None]
        return tf.where(mask, m, set_to), tf.where(mask, log_ratio, 0.0)

    def _log_ratio_m(
        self, q_m: tfd.Distribution, m: tf.Tensor, y: tf.Tensor | None, *, analytic: bool
    ) -> tf.Tensor:
        """Log p(m | y) - log q(m | x), or its expectation under q, [B, C|1]."""
        p_m = self.prior_m(y)
        if analytic:
            q_m = tfd.Independent(tfd.Normal(q_m.mean()[:, None], q_m.stddev()[:, None]), 1)
            return -q_m.kl_divergence(p_m)
        return p_m.log_prob(m[:, None]) - q_m.log_prob(m)[:, None]

    def log_weights(
        self,
        x: tf.Tensor,
        *,
        noise: Noise,
        labels: tf.Tensor | None = None,
        manipulated: tf.Tensor | bool = True,
        m_do: tf.Tensor | None = None,
        analytic: bool = False,
        improved: bool = False,
        untouched: bool = False,
    ) -> LogWeights:
        """The terms of K posterior samples, for given labels or for every class.

        Args:
          x: [B, *shape].
          noise: see Noise; its leading size of z is K.
          labels: [B] int32; None enumerates all classes.
          manipulated: [B] bool, or one for all rows, see sample_m.
          m_do: [B, M], see sample_m.
          analytic: the log-ratios are -KL, their expectations: less variance in an ELBO, and not
            to be used in an importance-weighted bound (Eq. 6).
          improved: takes z from the proposal that prediction takes it from.
          untouched: nothing manipulated these rows, and a p(m|y) is not theirs: m ~ N(0, I).

        Returns:
          LogWeights, [K, B] with labels, [K, B, C] without (or broadcasting to that).
        """
        y = self._one_hots(labels)
        m, log_ratio_m = self.sample_m(
            x,
            noise=noise.m,
            y=None if untouched else y,
            manipulated=manipulated,
            m_do=m_do,
            analytic=analytic,
        )
        q_z = (self._best_posterior_z if improved else self.posterior_z)(x, y, m)
        weights = self._weigh(x, y=y, m=m, q_z=q_z, noise_z=noise.z, analytic=analytic)
        weights = weights._replace(log_ratio_m=log_ratio_m[None])
        if labels is None:
            return weights
        return LogWeights(*(tf.squeeze(term, axis=-1) for term in weights))

    @property
    def _rounds(self) -> int:
        """How often prediction applies `_improved`; 0 for families that have nothing better."""
        return 0

    def _improved(
        self, q_z: tfd.Distribution, x: tf.Tensor, y: tf.Tensor, m: tf.Tensor
    ) -> tfd.Distribution:
        """A better proposal for z at prediction than this one, which is for x, y and m."""
        raise NotImplementedError(f"{self.name} has no better proposal.")

    def _best_posterior_z(self, x: tf.Tensor, y: tf.Tensor, m: tf.Tensor) -> tfd.Distribution:
        """q(z | x, y, m) after all rounds of `_improved`."""
        q_z = self.posterior_z(x, y, m)
        for _ in range(self._rounds):
            q_z = self._improved(q_z, x, y, m)
        return q_z

    def _one_hots(self, labels: tf.Tensor | None) -> tf.Tensor:
        if labels is None:
            return tf.eye(self.num_classes)[None]  # [1, C, C]
        return tf.one_hot(labels, self.num_classes)[:, None]  # [B, 1, C]

    def _weigh(
        self,
        x: tf.Tensor,
        *,
        y: tf.Tensor,
        m: tf.Tensor,
        q_z: tfd.Distribution,
        noise_z: tf.Tensor,
        analytic: bool,
    ) -> LogWeights:
        """Samples z and decodes it; every term is [K, B, C|1] or broadcasts to it."""
        z = q_z.mean() + q_z.stddev() * noise_z  # [K, B, C, Z]
        p_x = self.p(y, z, m, self.coparents(x))
        log_px = p_x.log_prob(self.effects(x)[:, None])  # [K, B, C]
        if analytic:
            log_ratio_z = -q_z.kl_divergence(self.prior_z())[None]
        else:
            log_ratio_z = self.prior_z().log_prob(z) - q_z.log_prob(z)
        log_py = tf.reduce_sum(self.log_py(x)[:, None] * y, axis=-1)[None]  # [1, B|1, C|1]
        return LogWeights(log_px, log_py, log_ratio_z, tf.zeros([1, 1, 1]))
