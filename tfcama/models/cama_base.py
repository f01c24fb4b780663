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
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf
import tensorflow_probability as tfp
from tensorflow_probability import distributions as tfd

from tfcama import random
from tfcama.errors import InputError, unknown_name
from tfcama.models.base import ClassifierModel
from tfcama.models.mechanisms.base import Mechanism
from tfcama.types import InputSpec, LogWeights


@dataclasses.dataclass(frozen=True)
class CamaBaseConfig:
    """What every deep CAMA chooses.

    Attributes:
      dim_z: size of the style z; 0 takes the papers'.
      dim_m: size of the manipulation m; 0 takes the papers'.
      mechanism: a key of MECHANISMS, how m acts on x.
      gated: m has no effect, and q(m|x) is p(m), until the M-networks learn otherwise; False is
        the papers' literal form.
      m_at_test: what prediction does with m: "posterior" samples q(m|x) as Eq. 6, "mean" takes
        its mean, "do_m0" intervenes with m = 0.
      num_samples: K of Eq. 6 at prediction.
      kernel_initializer: of every kernel.
      max_decoder_rows: prediction decodes at most so many of its B * C * K rows at once.
    """

    dim_z: int = 0
    dim_m: int = 0
    mechanism: str = "additive"
    gated: bool = True
    m_at_test: str = "posterior"
    num_samples: int = 10
    kernel_initializer: str = "he_normal"
    max_decoder_rows: int = 2048

    def __post_init__(self):
        for name in ("dim_z", "dim_m"):
            if getattr(self, name) < 0:
                raise InputError(f"{name}={getattr(self, name)} was given; it must be at least 0.")
        for name in ("num_samples", "max_decoder_rows"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)} was given; it must be at least 1.")
        if self.m_at_test not in _M_AT_TEST:
            raise unknown_name("m_at_test", self.m_at_test, _M_AT_TEST)


_M_AT_TEST = ("posterior", "mean", "do_m0")


class Noise(NamedTuple):
    """N(0, 1) draws behind the samples of m and z.

    Attributes:
      m: [B or 1, M].
      z: [K, B or 1, C or 1, Z].
    """

    m: tf.Tensor
    z: tf.Tensor


class CamaBase(ClassifierModel, abc.ABC):
    """A deep CAMA; a family creates its networks and fills in the densities that are theirs.

    Args:
      spec: of the data set.
      config: see CamaBaseConfig.
      dim_z, dim_m: sizes of z and m.
      mechanism: how m acts on x.
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
        mechanism: Mechanism,
        name: str,
    ):
        super().__init__(spec, name=name)
        self.config = config
        self.dim_z = dim_z
        self.dim_m = dim_m
        self.mechanism = mechanism

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

    def prior_m(self) -> tfd.Distribution:
        """p(m) = N(0, I), event shape [M]."""
        return tfd.Independent(tfd.Normal(tf.zeros([self.dim_m]), 1.0), 1)

    def prior_z(self) -> tfd.Distribution:
        """p(z) = N(0, I), event shape [Z]."""
        return tfd.Independent(tfd.Normal(tf.zeros([self.dim_z]), 1.0), 1)

    # --- posterior samples and their weights -------------------------------------------------

    def shared_noise(
        self, seed: random.Seed, *, num_samples: int, classes: int | None = None
    ) -> Noise:
        """One table for every example, so that no answer depends on the batch around it.

        Args:
          seed: int32 [2].
          num_samples: K.
          classes: 1 where labels are given; None for all classes.
        """
        seed_m, seed_z = random.split(seed)
        return Noise(
            m=random.normal([1, self.dim_m], seed_m),
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
        manipulated: tf.Tensor | bool = True,
        m_do: tf.Tensor | None = None,
        analytic: bool = False,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """M = where(manipulated, m ~ q(m|x), m_do) and its log-ratio, 0 where m was set.

        Args:
          x: [B, *shape].
          noise: [B or 1, M].
          manipulated: [B] bool, or one for all rows; a plain False does not run q(m|x).
          m_do: [B, M]; None: zeros.
          analytic: the log-ratio is -KL(q(m|x) || p(m)), its expectation, in place of the sample's.

        Returns:
          m [B, M], and log p(m) - log q(m|x) [B].
        """
        size = tf.shape(x)[0]
        set_to = tf.zeros([size, self.dim_m]) if m_do is None else m_do
        if manipulated is False:
            return set_to, tf.zeros([size])
        q_m = self.posterior_m(x)
        m = q_m.mean() + q_m.stddev() * noise
        if analytic:
            log_ratio = -q_m.kl_divergence(self.prior_m())
        else:
            log_ratio = self.prior_m().log_prob(m) - q_m.log_prob(m)
        if manipulated is True:
            return m, log_ratio
        return tf.where(manipulated[:, None], m, set_to), tf.where(manipulated, log_ratio, 0.0)

    def log_weights(
        self,
        x: tf.Tensor,
        *,
        noise: Noise,
        labels: tf.Tensor | None = None,
        manipulated: tf.Tensor | bool = True,
        m_do: tf.Tensor | None = None,
        analytic: bool = False,
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

        Returns:
          LogWeights, [K, B] with labels, [K, B, C] without (or broadcasting to that).
        """
        m, log_ratio_m = self.sample_m(
            x, noise=noise.m, manipulated=manipulated, m_do=m_do, analytic=analytic
        )
        y = self._one_hots(labels)
        q_z = self.posterior_z(x, y, m)
        weights = self._weigh(x, y=y, m=m, q_z=q_z, noise_z=noise.z, analytic=analytic)
        weights = weights._replace(log_ratio_m=log_ratio_m[None, :, None])
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
        """Log p(x, y = c) by Eq. 6: the log of the mean of K importance weights, [B, C] nats.

        One m a row and K samples of z a class and row, as in the papers; the noise is one table
        for all rows. Decoding runs in chunks of at most `max_decoder_rows`.

        Args:
          x: [B, *shape].
          seed: int32 [2].
          num_samples: K, in place of the configuration's.
        """
        noise = self.shared_noise(seed, num_samples=num_samples or self.config.num_samples)
        m, log_ratio_m = self._m_at_test(x, noise.m)
        y = self._one_hots(None)
        q_z = self.posterior_z(x, y, m)
        log_weights = _in_chunks(
            lambda x, m, loc, scale, noise_z: self._weigh(
                x,
                y=y,
                m=m,
                q_z=tfd.Independent(tfd.Normal(loc, scale), 1),
                noise_z=noise_z,
                analytic=False,
            ).total(),
            (x, m, q_z.mean(), q_z.stddev()),
            noise.z,
            max_rows=self.config.max_decoder_rows,
        )  # [K, B, C]
        return tfp.math.reduce_logmeanexp(log_weights, axis=0) + log_ratio_m[:, None]

    def _m_at_test(self, x: tf.Tensor, noise: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """M [B, M] and its log-ratio [B], as the configuration's m_at_test says."""
        at_test = self.config.m_at_test
        return self.sample_m(
            x,
            noise=noise if at_test == "posterior" else tf.zeros_like(noise),
            manipulated=at_test != "do_m0",
        )

    # --- the Generative contract -------------------------------------------------------------

    def log_px(self, x: tf.Tensor, *, seed: random.Seed) -> tf.Tensor:
        """Log p(x) = log sum_c p(x, y = c), [B] nats."""
        return tf.reduce_logsumexp(self.log_scores(x, seed=seed), axis=-1)

    def latents_of(
        self, x: tf.Tensor, labels: tf.Tensor, *, seed: random.Seed
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """What made x if its class is `labels`, at the m of a prediction with this seed.

        Not at the mean of m: NNpM is nearly homogeneous, so a fine-tuned model can say a shift by
        the length of m while q(m|x) stays around zero.

        Returns:
          One-hots y [B, 1, C], the posterior mean of z [1, B, 1, Z], and m [B, M].
        """
        y = self._one_hots(labels)
        noise = self.shared_noise(seed, num_samples=self.config.num_samples)
        m, _ = self._m_at_test(x, noise.m)
        return y, self.posterior_z(x, y, m).mean()[None], m


def _in_chunks(
    function: Callable[..., tf.Tensor],
    per_example: tuple[tf.Tensor, ...],
    noise_z: tf.Tensor,
    *,
    max_rows: int,
) -> tf.Tensor:
    """Function over chunks of examples and of samples, so that B * C * K rows never live at once.

    Args:
      function: (*per_example chunks [b, ...], noise [k, 1, C, Z]) -> [k, b, C].
      per_example: tensors [B, ...].
      noise_z: [K, 1, C, Z].
      max_rows: b * C * k is at most this, unless C alone is more.

    Returns:
      [K, B, C].
    """
    num_samples, classes = noise_z.shape[0], noise_z.shape[2]
    affordable = max(1, max_rows // classes)
    samples = max(k for k in range(1, min(num_samples, affordable) + 1) if num_samples % k == 0)
    examples = max(1, affordable // samples)

    def all_samples(*chunk: tf.Tensor) -> tf.Tensor:
        if samples == num_samples:
            return function(*chunk, noise_z)  # [K, b, C]
        parts = tf.reshape(noise_z, [-1, samples, *noise_z.shape[1:]])
        weights = tf.map_fn(lambda part: function(*chunk, part), parts, parallel_iterations=1)
        return tf.reshape(weights, [num_samples, -1, classes])

    static_size = per_example[0].shape[0]
    if static_size is not None and static_size <= examples:
        return all_samples(*per_example)
    size = tf.shape(per_example[0])[0]
    number = tf.maximum(1, -(-size // examples))
    length = tf.maximum(1, -(-size // number))  # even chunks: little padding

    def pad(tensor: tf.Tensor) -> tf.Tensor:
        padding = tf.zeros([1, tf.rank(tensor) - 1], tf.int32)
        padding = tf.concat([[number * length - size], padding[0]], axis=0)
        padded = tf.pad(tensor, tf.stack([tf.zeros_like(padding), padding], axis=1))
        return tf.reshape(padded, tf.concat([[number, length], tf.shape(tensor)[1:]], axis=0))

    chunks = tuple(tf.ensure_shape(pad(t), [None, None, *t.shape[1:]]) for t in per_example)
    weights = tf.map_fn(
        lambda chunk: all_samples(*chunk),
        chunks,
        fn_output_signature=tf.TensorSpec([num_samples, None, classes], tf.float32),
        parallel_iterations=1,
    )  # [number, K, length, C]
    flat = tf.reshape(tf.transpose(weights, [1, 0, 2, 3]), [num_samples, -1, classes])
    return flat[:, :size]
