"""Deep CAMA without its networks: densities, posterior samples and Bayes' rule over them.

    p(x, y, z, m | a, c) = p(m) p(z) p(y | a) p(x | y, z, m, c)                        (1), (9)
    q(z, m | x, y, a, c) = q(z | x, y, m, a, c) q(m | x)                              (2), (10)

Equations of "A Causal View on Robustness of Neural Networks" (Zhang, Zhang, Li; ICLR 2020
submission and NeurIPS 2020). Images have neither parents a nor co-parents c. A family adds its
networks; objectives, prediction, training and fine-tuning are shared.

The class index, the sample index and the batch are broadcast, never looped over: x is encoded once,
NNpY runs on the C one-hots once, NNpM once per m, and `SumDense` adds their parts.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from tensorflow_probability import distributions as tfd

from tfcama import random
from tfcama.errors import InputError, unknown_name
from tfcama.models.base import ClassifierModel
from tfcama.models.mechanisms.base import Context
from tfcama.models.mechanisms.registry import check_mechanism, make_mechanism
from tfcama.networks.heads import moments, normal
from tfcama.networks.sum_dense import SumDense
from tfcama.types import InputSpec, LogWeights

AT_TEST = {"at_test": True}  # decides predictions and no variable: may be set after training


@dataclasses.dataclass(frozen=True)
class CamaBaseConfig:
    """What every deep CAMA chooses.

    Attributes:
      dim_z: size of the style z; 0 takes the papers'.
      dim_m: size of the manipulation m; 0 takes the papers'.
      mechanism: how m acts on x, see make_mechanism: "additive", the papers', "affine", or
        several, "rotation+translation".
      prior_m: "shared" is p(m) = N(0, I); "class" is p(m|y) with a learned mean and scale a class,
        for manipulations that depend on what they meet. It shares the papers' limits: where clean
        data lack a manipulated class, Y and M cannot be told apart.
      gated: m has no effect, and q(m|x) is p(m), until the M-networks learn otherwise; False is
        the papers' literal form.
      m_samples: samples of m a row at prediction, each with K of z; all are weighted by Eq. 6.
      m_starts: draws from twice the prior that compete with q(m|x)'s mean to be the centre of the
        proposal for m at prediction; 0 keeps q(m|x).
      m_steps: of gradient ascent from the best of them, on log p(x, m) at the mean of z.
      p_untouched: how likely an input is that nothing manipulated. Prediction then goes by
        p(m) = p_untouched delta(m) + (1 - p_untouched) N(0, I), a spike and a slab (Mitchell &
        Beauchamp, 1988), so that no q(m|x), however it was adapted, takes what is known of clean
        inputs away. 0 is the papers' p(m).
      m_at_test: what prediction does with m: "posterior" samples q(m|x) as Eq. 6, "mean" takes
        its mean, "do_m0" intervenes with m = 0.
      num_samples: K of Eq. 6 at prediction.
      class_margin: in nats. Prediction takes one sample of z for every class and m; what that puts
        behind the best by more than this keeps that estimate (of a probability below e^-margin),
        the rest gets its K samples. 0 gives K samples to all.
      kernel_initializer: of every kernel.
      max_decoder_rows: prediction decodes at most so many of its B * C * K rows at once.
    """

    dim_z: int = 0
    dim_m: int = 0
    mechanism: str = "additive"
    prior_m: str = "shared"
    gated: bool = True
    m_samples: int = dataclasses.field(default=1, metadata=AT_TEST)
    m_starts: int = dataclasses.field(default=0, metadata=AT_TEST)
    m_steps: int = dataclasses.field(default=0, metadata=AT_TEST)
    p_untouched: float = dataclasses.field(default=0.0, metadata=AT_TEST)
    m_at_test: str = dataclasses.field(default="posterior", metadata=AT_TEST)
    num_samples: int = dataclasses.field(default=10, metadata=AT_TEST)
    class_margin: float = dataclasses.field(default=30.0, metadata=AT_TEST)
    kernel_initializer: str = "he_normal"
    max_decoder_rows: int = dataclasses.field(default=2048, metadata=AT_TEST)

    def __post_init__(self):
        for minimum, names in (
            (0, ("dim_z", "dim_m", "m_starts", "m_steps", "class_margin")),
            (1, ("num_samples", "m_samples", "max_decoder_rows")),
        ):
            for name in names:
                given = getattr(self, name)
                if given < minimum:
                    raise InputError(f"{name}={given:g} was given; it must be at least {minimum}.")
        if not 0.0 <= self.p_untouched < 1.0:
            raise InputError(f"p_untouched={self.p_untouched:g} was given; it must be in [0, 1).")
        for name, allowed in (("m_at_test", _M_AT_TEST), ("prior_m", PRIORS)):
            if getattr(self, name) not in allowed:
                raise unknown_name(name, getattr(self, name), allowed)
        check_mechanism(self.mechanism)


_M_AT_TEST = ("posterior", "mean", "do_m0")
PRIORS = ("shared", "class")
_START_SPREAD = 2.0  # standard deviations of the prior
_STARTS_SEED = (0, 1)  # the same starts for every prediction
_LOC_UNIT, _LOG_SCALE_UNIT = 30.0, 3.0  # of p(m|y)'s variables
_MAY_IMPROVE = 1.5  # margins: a second round brings nats, too
_ENCODED = 10  # rows that may be decoded in the memory that it takes to encode one
_STEP = 0.3  # of the ascent, in standard deviations of the prior; falls to a tenth


class Noise(NamedTuple):
    """N(0, 1) draws behind the samples of m and z.

    Attributes:
      m: [B or 1, M]; for prediction [samples of m, M].
      z: [K, B or 1, C or 1, Z].
    """

    m: tf.Tensor
    z: tf.Tensor


class PriorM(keras.layers.Layer):
    """p(m) = N(0, I), or p(m | y) = N(mu_y, diag(s_y^2)), which starts as the former.

    The variables count in thirty standard deviations and in log s = 3: a class may have to go
    several deviations, and a few hundred steps of Adam move a variable by less than a half.

    Args:
      dim_m: size of m.
      num_classes: C; 0 for p(m).
    """

    def __init__(self, dim_m: int, num_classes: int):
        super().__init__(name="prior_m", dtype="float32")
        self._dim_m = dim_m
        self._by_class = [
            self.add_weight(shape=(num_classes, dim_m), initializer="zeros", name=name)
            for name in (("loc", "log_scale") if num_classes else ())
        ]

    def call(self, y: tf.Tensor | None) -> tfd.Distribution:
        """Event shape [M], batch shape [B|1, C|1] for one-hots y; [1, 1] and N(0, I) without."""
        if not self._by_class or y is None:
            return tfd.Independent(tfd.Normal(tf.zeros([1, 1, self._dim_m]), 1.0), 1)
        loc, log_scale = (tf.tensordot(y, tf.convert_to_tensor(v), axes=1) for v in self._by_class)
        return tfd.Independent(tfd.Normal(_LOC_UNIT * loc, tf.exp(_LOG_SCALE_UNIT * log_scale)), 1)


class CamaBase(ClassifierModel, abc.ABC):
    """A deep CAMA; a family creates its networks and fills in the densities that are theirs.

    Args:
      spec: of the data set.
      config: see CamaBaseConfig.
      dim_z, dim_m: the papers' sizes of z and m, where the configuration leaves them open.
      p_m_hidden: units of NNpM's layers.
      name: of the model.
    """

    stochastic = True

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
        self.prior_m = PriorM(self.dim_m, spec.num_classes if config.prior_m == "class" else 0)

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

    # --- the Classifier contract -------------------------------------------------------------

    def log_scores(
        self, x: tf.Tensor, *, seed: random.Seed, num_samples: int | None = None
    ) -> tf.Tensor:
        """Log p(x, y = c) by Eq. 6: the log of the mean of the importance weights, [B, C] nats.

        K samples of z for a class, a row and a sample of m, of which there is one, as in the
        papers, unless the configuration says otherwise; the noise is one table for all rows.
        Decoding runs in chunks of at most `max_decoder_rows`.

        Args:
          x: [B, *shape].
          seed: int32 [2].
          num_samples: K, in place of the configuration's.
        """
        return tf.reduce_logsumexp(self._scores_by_m(x, seed=seed, num_samples=num_samples)[1], 0)

    def _scores_by_m(
        self, x: tf.Tensor, *, seed: random.Seed, num_samples: int | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """What every m of a prediction adds to it.

        Returns:
          m [S, B, M], the last one zero where an input may be untouched, and the logarithms
          [S, B, C] of the parts whose sum over S is p(x, y = c).
        """
        noise = self._noise_at_test(seed, num_samples)
        m, log_ratio_m = self._m_at_test(x, noise.m, self._one_hots(None))  # [S, B, M], [S, B, C|1]
        log_weight_m = log_ratio_m - math.log(m.shape[0])
        p_untouched = self.config.p_untouched
        if p_untouched and self.config.m_at_test != "do_m0":
            zero = tf.zeros_like(m[:1])
            of_zero = tf.fill(tf.shape(log_weight_m[:1]), math.log(p_untouched))
            m = tf.concat([m, zero], axis=0)
            log_weight_m = tf.concat([log_weight_m + math.log1p(-p_untouched), of_zero], axis=0)
        return m, self._scores_at(x, m, log_weight_m, noise.z)

    def _scores_at(
        self, x: tf.Tensor, m: tf.Tensor, log_weight_m: tf.Tensor, noise_z: tf.Tensor
    ) -> tf.Tensor:
        """log_weight_m + log p(x, y = c | m), the mean over samples of z, [S, B, C].

        Every (m, input, class) is a case: a row and a class. All get one round of a better proposal
        for z, where the family has one, and one sample; further rounds and K samples are for those
        that are then close enough to the best to matter, see class_margin.

        Args:
          x: [B, *shape].
          m: [S, B, M].
          log_weight_m: [S, B, C|1].
          noise_z: [K, 1, C, Z].
        """
        samples, classes = m.shape[0], self.num_classes
        margin = self.config.class_margin or math.inf
        x = tf.tile(x, [samples, *([1] * len(self.spec.shape))])
        m = tf.reshape(m, [-1, self.dim_m])
        q_z = self.posterior_z(x, self._one_hots(None), m)
        proposal = moments(q_z)  # [S * B, C, 2, Z]
        weight = tf.ones([1, 1, classes]) * log_weight_m

        def of(cases: tf.Tensor) -> tuple[tf.Tensor, ...]:
            rows, labels = cases[:, 0], cases[:, 1]
            moments_z = tf.gather_nd(proposal, cases)[:, None]  # [N, 1, 2, Z]
            return tf.gather(x, rows), tf.gather(m, rows), moments_z, labels

        def rescored(scores: tf.Tensor, cases: tf.Tensor, noise_z: tf.Tensor) -> tf.Tensor:
            found = self._estimates(noise_z, *of(cases))[:, 0]
            found += tf.gather_nd(tf.reshape(weight, [-1, classes]), cases)
            flat = tf.tensor_scatter_nd_update(tf.reshape(scores, [-1, classes]), cases, found)
            return tf.reshape(flat, tf.shape(scores))

        if self._rounds:
            proposal = self._improved_moments(x, m, proposal)
        scores = self._estimates(noise_z[:1], x, m, proposal)  # [S * B, C]
        scores = tf.reshape(scores, [samples, -1, classes]) + weight
        for _ in range(self._rounds - 1):
            cases = _within(scores, _MAY_IMPROVE * margin)
            better = self._improved_moments(*of(cases))[:, 0]
            proposal = tf.tensor_scatter_nd_update(proposal, cases, better)
            scores = rescored(scores, cases, noise_z[:1])
        if noise_z.shape[0] > 1:
            scores = rescored(scores, _within(scores, margin), noise_z)
        return scores

    def _estimates(
        self,
        noise_z: tf.Tensor,
        x: tf.Tensor,
        m: tf.Tensor,
        proposal: tf.Tensor,
        labels: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Log p(x, y | m) by samples of z, decoded in chunks of at most max_decoder_rows.

        Args:
          noise_z: [K, 1, C, Z].
          x: [R, *shape].
          m: [R, M].
          proposal: moments of q(z|.), [R, C|1, 2, Z].
          labels: [R]; None enumerates all classes.

        Returns:
          [R, 1] with labels, [R, C] without.
        """
        num_samples, width = noise_z.shape[0], 1 if labels is not None else self.num_classes
        affordable = max(1, self.config.max_decoder_rows // width)
        at_once = max(k for k in range(1, min(num_samples, affordable) + 1) if num_samples % k == 0)

        def log_weights(
            noise_z: tf.Tensor,
            x: tf.Tensor,
            m: tf.Tensor,
            proposal: tf.Tensor,
            labels: tf.Tensor | None = None,
        ) -> tf.Tensor:
            if labels is not None:
                noise_z = tf.gather(noise_z[:, 0], labels, axis=1)[:, :, None]  # [k, r, 1, Z]
            y, q_z = self._one_hots(labels), normal(proposal)
            return self._weigh(x, y=y, m=m, q_z=q_z, noise_z=noise_z, analytic=False).total()

        def estimate(*rows: tf.Tensor) -> tf.Tensor:
            if at_once == num_samples:
                weights = log_weights(noise_z, *rows)  # [K, r, C|1]
            else:
                parts = tf.reshape(noise_z, [-1, at_once, *noise_z.shape[1:]])
                weights = tf.map_fn(
                    lambda part: log_weights(part, *rows), parts, parallel_iterations=1
                )
                weights = tf.reshape(weights, [num_samples, -1, width])
            return tfp.math.reduce_logmeanexp(weights, axis=0)

        rows = (x, m, proposal) if labels is None else (x, m, proposal, labels)
        return _in_chunks(estimate, rows, length=affordable // at_once, shape=(width,))

    def _improved_moments(
        self, x: tf.Tensor, m: tf.Tensor, proposal: tf.Tensor, labels: tf.Tensor | None = None
    ) -> tf.Tensor:
        """The moments, [R, C|1, 2, Z], of `_improved`, in chunks; arguments as in `_estimates`."""
        width = proposal.shape[1]

        def improve(
            x: tf.Tensor, m: tf.Tensor, proposal: tf.Tensor, labels: tf.Tensor | None = None
        ) -> tf.Tensor:
            return moments(self._improved(normal(proposal), x, self._one_hots(labels), m))

        return _in_chunks(
            improve,
            (x, m, proposal) if labels is None else (x, m, proposal, labels),
            length=max(1, self.config.max_decoder_rows // (_ENCODED * width)),
            shape=(width, 2, self.dim_z),
        )

    def log_scores_and_m(self, x: tf.Tensor, *, seed: random.Seed) -> tuple[tf.Tensor, tf.Tensor]:
        """What `log_scores` gives, [B, C] nats, and the m that stands for it, [B, M].

        That m is the prediction's first sample; where an input may be untouched, whichever of the
        prediction's explains it best, which may be m = 0.
        """
        m, parts = self._scores_by_m(x, seed=seed)
        scores = tf.reduce_logsumexp(parts, axis=0)
        if not self.config.p_untouched:
            return scores, m[0]
        best = tf.argmax(tf.reduce_logsumexp(parts, axis=-1), axis=0)  # [B]
        return scores, tf.gather(tf.transpose(m, [1, 0, 2]), best, batch_dims=1)

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

    def _noise_at_test(self, seed: random.Seed, num_samples: int | None = None) -> Noise:
        posterior = self.config.m_at_test == "posterior"
        return self.shared_noise(
            seed,
            num_samples=num_samples or self.config.num_samples,
            m_samples=self.config.m_samples if posterior else 1,
        )

    def _m_at_test(
        self, x: tf.Tensor, noise: tf.Tensor, y: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Samples of m as the configuration's m_at_test says, and their log-ratios.

        Args:
          x: [B, *shape].
          noise: [S, M].
          y: one-hots of all classes.

        Returns:
          m [S, B, M] and [S, B, C|1], S = 1 but for "posterior".
        """
        at_test = self.config.m_at_test
        if at_test == "do_m0":
            size = tf.shape(x)[0]
            return tf.zeros([1, size, self.dim_m]), tf.zeros([1, size, 1])
        q_m = self.posterior_m(x)
        if self.config.m_starts or self.config.m_steps:
            q_m = self._sharpened(x, q_m)
        if at_test == "mean":
            noise = tf.zeros_like(noise)
        m = q_m.mean() + q_m.stddev() * noise[:, None]  # [S, B, M]
        log_ratio = self.prior_m(y).log_prob(m[:, :, None]) - q_m.log_prob(m)[..., None]
        return m, log_ratio

    def _sharpened(self, x: tf.Tensor, q_m: tfd.Distribution) -> tfd.Distribution:
        """A proposal for m around a mode of p(m | x) that was searched for, row by row.

        Any proposal makes Eq. 6 a valid estimate; this one costs about m_starts + 3 m_steps
        predictions with one sample. It is held fixed under differentiation: an attack on the
        scores sees its m as a constant.
        """
        y, x = self._one_hots(None), tf.stop_gradient(x)

        def log_joint(m: tf.Tensor) -> tf.Tensor:  # log p(x, m) from below, at z's mean, [B]
            q_z = self.posterior_z(x, y, m)
            noise = tf.zeros([1, 1, self.num_classes, self.dim_z])
            bound = self._weigh(x, y=y, m=m, q_z=q_z, noise_z=noise, analytic=True).total()[0]
            return tf.reduce_logsumexp(bound + self.prior_m(y).log_prob(m[:, None]), axis=-1)

        best = q_m.mean()
        best_value = log_joint(best)
        starts = _START_SPREAD * random.normal(
            [self.config.m_starts, self.dim_m], tf.constant(_STARTS_SEED)
        )

        def start(place, best, best_value):
            other = tf.broadcast_to(starts[place], tf.shape(best))
            return place + 1, *_better(best, best_value, other, log_joint)

        def ascend(step, m, speed, best, best_value):
            with tf.GradientTape() as tape:
                tape.watch(m)
                value = log_joint(m)
            gradient = tape.gradient(value, m)
            # The direction alone: far from a mode gradients are hundreds of nats steep.
            norm = tf.sqrt(tf.reduce_sum(tf.square(gradient), axis=1, keepdims=True) + 1e-12)
            speed = 0.5 * speed + gradient / norm
            share = tf.cast(step, tf.float32) / max(1, self.config.m_steps - 1)
            m = m + _STEP * (1.0 - 0.9 * share) * speed
            return step + 1, m, speed, *_better(best, best_value, m, log_joint)

        _, best, best_value = _repeat(start, self.config.m_starts, best, best_value)
        *_, best, best_value = _repeat(
            ascend, self.config.m_steps, best, tf.zeros_like(best), best, best_value
        )
        return tfd.Independent(tfd.Normal(tf.stop_gradient(best), q_m.stddev()), 1)

    # --- the Generative contract -------------------------------------------------------------

    def log_px(self, x: tf.Tensor, *, seed: random.Seed) -> tf.Tensor:
        """Log p(x) = log sum_c p(x, y = c), [B] nats."""
        return tf.reduce_logsumexp(self.log_scores(x, seed=seed), axis=-1)

    def latents_of(
        self, x: tf.Tensor, labels: tf.Tensor, m: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """What made x besides m if its class is `labels`.

        Args:
          x: [B, *shape].
          labels: [B] int.
          m: of the prediction (`log_scores_and_m`), [B, M]. Not the mean of q(m|x): NNpM is nearly
            homogeneous, so a fine-tuned model can say a shift by the length of m while q(m|x)
            stays around zero.

        Returns:
          One-hots y [B, 1, C], and the posterior mean of z [1, B, 1, Z].
        """
        y = self._one_hots(labels)
        return y, self._best_posterior_z(x, y, m).mean()[None]

    def log_p_untouched(self, x: tf.Tensor, *, seed: random.Seed) -> tf.Tensor:
        """Log p(untouched | x), that nothing manipulated each input, [B] nats.

        -inf where the prior p_untouched is 0, 0 where prediction intervenes with do(m = 0).
        """
        if self.config.m_at_test == "do_m0":
            return tf.zeros([tf.shape(x)[0]])
        if not self.config.p_untouched:
            return tf.fill([tf.shape(x)[0]], -math.inf)
        parts = tf.reduce_logsumexp(self._scores_by_m(x, seed=seed)[1], axis=-1)  # [S, B]
        return parts[-1] - tf.reduce_logsumexp(parts, axis=0)

    @abc.abstractmethod
    def _mean(self, x: tf.Tensor, y: tf.Tensor, z: tf.Tensor, m: tf.Tensor) -> tf.Tensor:
        """Inputs whose effects are the mean of p(x | y, z, m), [B, *shape]."""

    def reconstruct(
        self, x: tf.Tensor, *, seed: random.Seed, do_m0: bool | tuple[str, ...]
    ) -> tf.Tensor:
        """Mean of p(x | y, z, m) at the predicted class, its m and the posterior mean of z.

        Args:
          x: [B, *shape].
          seed: of the prediction.
          do_m0: True decodes under do(m = 0): what the input would be, had nobody manipulated it
            (the papers' Figure 9); names of parts or parameters of the mechanism intervene on
            those alone: do(m_rotation = 0) keeps the shift.

        Returns:
          [B, *shape]; of a table, its children are replaced.
        """
        scores, m = self.log_scores_and_m(x, seed=seed)
        y, z = self.latents_of(x, tf.argmax(scores, axis=-1), m)
        if do_m0 is True:
            m = tf.zeros_like(m)
        elif do_m0:
            kept = np.ones(self.dim_m, np.float32)
            kept[self.mechanism.coordinates(do_m0)] = 0.0
            m = m * kept
        return self._mean(x, y, z, m)

    def interpolate(
        self, x: tf.Tensor, steps: Sequence[float], *, seed: random.Seed
    ) -> dict[str, tf.Tensor]:
        """Means of p(x | y, z, m) along each parameter of the mechanism, y, z and the rest held.

        Args:
          x: [B, *shape].
          steps: what a parameter's coordinate is set to, in standard deviations of p(m).
          seed: of the prediction.

        Returns:
          [steps, B, *shape] by parameter, of those that one coordinate of m alone decides.
        """
        places = self.mechanism.coordinates_of_parameters()
        if not places:
            return {}
        scores, m = self.log_scores_and_m(x, seed=seed)
        y, z = self.latents_of(x, tf.argmax(scores, axis=-1), m)
        found = {}
        for name, place in places.items():
            along = tf.one_hot(place, self.dim_m)
            rest = m * (1.0 - along)
            found[name] = tf.stack([self._mean(x, y, z, rest + step * along) for step in steps])
        return found

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
        """Takes over everything but the M-networks from a model with another mechanism.

        What was trained under do(m = 0) alone does not depend on the mechanism.

        Args:
          other: of the same family and sizes.
        """
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


def _repeat(
    body: Callable[..., tuple[tf.Tensor, ...]], number: int, *state: tf.Tensor
) -> tuple[tf.Tensor, ...]:
    """What `body`, of its turn and the state, makes of both in so many turns; one graph for all."""
    return tf.while_loop(
        lambda turn, *rest: turn < number, body, (tf.constant(0), *state), parallel_iterations=1
    )


def _better(
    best: tf.Tensor,
    best_value: tf.Tensor,
    other: tf.Tensor,
    function: Callable[[tf.Tensor], tf.Tensor],
) -> tuple[tf.Tensor, tf.Tensor]:
    """Row by row, whichever of two points has the larger value."""
    value = function(other)
    improved = value > best_value
    return tf.where(improved[:, None], other, best), tf.where(improved, value, best_value)


def _within(scores: tf.Tensor, margin: float) -> tf.Tensor:
    """Rows (s, b) and classes [N, 2] of scores [S, B, C] that are so close to the best of b."""
    best = tf.reduce_max(scores, axis=[0, 2])[:, None]  # [B, 1]
    far = scores < best - margin  # NaN is not
    return tf.where(tf.reshape(~far, [-1, scores.shape[-1]]))


def _in_chunks(
    function: Callable[..., tf.Tensor],
    tensors: tuple[tf.Tensor, ...],
    *,
    length: int,
    shape: tuple[int, ...],
) -> tf.Tensor:
    """Function over chunks of rows, so that not all of them live at once.

    Args:
      function: chunks [r, ...] -> float32 [r, *shape].
      tensors: [R, ...].
      length: r is at most this.
      shape: see function.

    Returns:
      [R, *shape].
    """
    static_size = tensors[0].shape[0]
    if static_size is not None and static_size <= length:
        return function(*tensors)
    size = tf.shape(tensors[0])[0]
    number = tf.maximum(1, -(-size // length))
    even = tf.maximum(1, -(-size // number))  # even chunks: little to fill up

    def cut(tensor: tf.Tensor) -> tf.Tensor:
        fill = tf.concat(
            [[[0, number * even - size]], tf.zeros([tensor.shape.rank - 1, 2], tf.int32)], 0
        )
        filled = tf.pad(tensor, fill, constant_values=1)  # a standard deviation may not be 0
        return tf.reshape(filled, tf.concat([[number, even], tf.shape(tensor)[1:]], axis=0))

    results = tf.map_fn(
        lambda chunk: function(*chunk),
        tuple(tf.ensure_shape(cut(t), [None, None, *t.shape[1:]]) for t in tensors),
        fn_output_signature=tf.TensorSpec([None, *shape], tf.float32),
        parallel_iterations=1,
    )  # [number, even, *shape]
    return tf.reshape(results, [-1, *shape])[:size]
