"""Deep CAMA for images: Y, Z and M cause X.

    p(x, y, z, m) = p(m) p(z) p(y) p(x | y, z, m)                                           (1)
    q(z, m | x, y) = q(z | x, y, m) q(m | x)                                                (2)

Networks as in appendix C of "A Causal View on Robustness of Neural Networks" (Zhang, Zhang, Li;
ICLR 2020 submission and NeurIPS 2020). Classification is Bayes' rule over samples (Eq. 6). The
class index, the sample index and the batch are broadcast, never looped over: x is encoded once,
NNpY runs on the C one-hots once, NNpM once per m, and `SumDense` adds their parts.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import keras
import tensorflow as tf
import tensorflow_probability as tfp
from tensorflow_probability import distributions as tfd

from tfcama import random
from tfcama.errors import InputError, unknown_name
from tfcama.models.base import ClassifierModel
from tfcama.models.mechanisms.base import Mechanism
from tfcama.models.mechanisms.registry import MECHANISMS
from tfcama.networks.heads import NormalHead
from tfcama.networks.likelihoods import LIKELIHOODS, Likelihood
from tfcama.networks.sum_dense import SumDense
from tfcama.networks.towers import ConvTower, DeconvTower, Mlp
from tfcama.types import InputSpec, LogWeights, VariableGroups

_MERGE_SIZE = 4  # pixels: the projection's height and width
_MERGE_CHANNELS = 64
_CONV_CHANNELS = (64, 64, 64)


@dataclasses.dataclass(frozen=True)
class CamaConfig:
    """Deep CAMA's choices.

    Attributes:
      dim_z: size of the style z; 0 takes the papers' (64 for MNIST, 128 for CIFAR-binary).
      dim_m: size of the manipulation m; 0 takes the papers' (32, 64).
      likelihood: a key of LIKELIHOODS.
      likelihood_scale: standard deviation of `gaussian`.
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
    likelihood: str = "bernoulli"
    likelihood_scale: float = 0.1
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


@dataclasses.dataclass(frozen=True)
class _Sizes:
    """Layer sizes of appendix C for one image size."""

    dim_z: int
    dim_m: int
    p_hidden: tuple[int, ...]  # NNpY and NNpZ
    p_m_hidden: tuple[int, ...]
    deconvolutions: tuple[int, ...]  # heights
    q_m_hidden: tuple[int, ...]
    q_z_features: tuple[int, ...]  # of x alone
    q_z_hidden: tuple[int, ...]  # of (x, y, m)
    q_z_kernel: int  # 0: shares NNqM's convolutions


# CIFAR's text asks for four deconvolutions of stride 2 after (4, 4, 64), which would end at 64x64;
# the fourth has stride 1 here. NNqZ "re-uses" NNqM's convolutions there; they are the group q_x,
# which fine-tuning leaves alone, since moving them would move q(z|x, y, m) as well.
_SIZES = {
    28: _Sizes(
        dim_z=64,
        dim_m=32,
        p_hidden=(500, 500),
        p_m_hidden=(500, 500, 500, 500),
        deconvolutions=(7, 14, 28),
        q_m_hidden=(500,),
        q_z_features=(500,),
        q_z_hidden=(500,),
        q_z_kernel=5,
    ),
    32: _Sizes(
        dim_z=128,
        dim_m=64,
        p_hidden=(1000, 1000),
        p_m_hidden=(1000, 1000, 1000),
        deconvolutions=(8, 16, 32, 32),
        q_m_hidden=(1000, 1000),
        q_z_features=(),
        q_z_hidden=(1000, 1000),
        q_z_kernel=0,
    ),
}


class Noise(NamedTuple):
    """N(0, 1) draws behind the samples of m and z.

    Attributes:
      m: [B or 1, M].
      z: [K, B or 1, C or 1, Z].
    """

    m: tf.Tensor
    z: tf.Tensor


class DecoderP(keras.layers.Layer):
    """p(x | y, z, m) before the mechanism acts: NNpY, NNpZ, NNpmerge. Returns logits."""

    def __init__(self, sizes: _Sizes, *, mechanism: Mechanism, config: CamaConfig, spec: InputSpec):
        super().__init__(name="p_x")
        init = config.kernel_initializer
        self.p_y = Mlp(sizes.p_hidden, kernel_initializer=init, name="p_y")  # NNpY
        self.p_z = Mlp(sizes.p_hidden, kernel_initializer=init, name="p_z")  # NNpZ
        parts = (sizes.p_hidden[-1], mechanism.feature_size, sizes.p_hidden[-1])
        self._projection = SumDense(
            _MERGE_SIZE * _MERGE_SIZE * _MERGE_CHANNELS,
            sizes=tuple(size for size in parts if size),
            kernel_initializer=init,
        )
        layers = len(sizes.deconvolutions)
        self._deconvolutions = DeconvTower(
            sizes.deconvolutions,
            channels=(_MERGE_CHANNELS,) * (layers - 1) + (spec.shape[-1],),
            start=_MERGE_SIZE,
            kernel_initializer=init,
        )
        self._image_shape = spec.shape

    @property
    def merge_variables(self):
        return self._projection.trainable_variables + self._deconvolutions.trainable_variables

    def call(self, h_y: tf.Tensor, h_m: tf.Tensor | None, h_z: tf.Tensor) -> tf.Tensor:
        """Logits [K, B, C, H, W, channels].

        Args:
          h_y: [B|1, C|1, .].
          h_m: [B, 1, .], or None where the mechanism adds no features.
          h_z: [K, B, C|1, .].
        """
        parts = (h_y, h_z) if h_m is None else (h_y, h_m, h_z)
        merged = tf.nn.relu(self._projection(parts))  # [K, B, C, 1024]
        lead = tf.shape(merged)[:-1]
        images = tf.reshape(merged, [-1, _MERGE_SIZE, _MERGE_SIZE, _MERGE_CHANNELS])
        logits = self._deconvolutions(images)
        return tf.reshape(logits, tf.concat([lead, self._image_shape], axis=0))


class EncoderM(keras.layers.Layer):
    """q(m | x) = N(m; NNqM(x))."""

    def __init__(self, sizes: _Sizes, *, dim_m: int, config: CamaConfig):
        super().__init__(name="q_m")
        init = config.kernel_initializer
        self._convolutions = (
            ConvTower(_CONV_CHANNELS, kernel_initializer=init) if sizes.q_z_kernel else None
        )
        self._hidden = Mlp(sizes.q_m_hidden, kernel_initializer=init)
        # A zero head makes q(m|x) = N(0, I) = p(m) until it learns: no KL to pay for an m that
        # does nothing (a random one costs 20 nats in log p(x) on MNIST).
        self._head = NormalHead(dim_m, kernel_initializer="zeros" if config.gated else init)

    def call(self, x: tf.Tensor) -> tfd.Distribution:
        """Batch shape [B], event shape [M], from images or from q_x's features of them."""
        features = x if self._convolutions is None else self._convolutions(x)
        return self._head(self._hidden(features))


class EncoderZ(keras.layers.Layer):
    """q(z | x, y, m) = N(z; NNqZ(x, y, m)); x is encoded once, y and m are added after."""

    def __init__(
        self,
        sizes: _Sizes,
        *,
        dim_z: int,
        mechanism: Mechanism,
        config: CamaConfig,
        spec: InputSpec,
    ):
        super().__init__(name="q_z")
        init = config.kernel_initializer
        self._convolutions = None
        if sizes.q_z_kernel:
            self._convolutions = ConvTower(
                _CONV_CHANNELS, kernel_size=sizes.q_z_kernel, kernel_initializer=init
            )
        self._features = Mlp(sizes.q_z_features, kernel_initializer=init)
        encoded = (*[_MERGE_SIZE * _MERGE_SIZE * _CONV_CHANNELS[-1]], *sizes.q_z_features)[-1]
        parts = (encoded, mechanism.code_size, spec.num_classes)
        self._combined = SumDense(
            sizes.q_z_hidden[0],
            sizes=tuple(size for size in parts if size),
            kernel_initializer=init,
        )
        self._hidden = Mlp(sizes.q_z_hidden[1:], kernel_initializer=init)
        self._head = NormalHead(dim_z, kernel_initializer=init)

    def encode(self, x: tf.Tensor) -> tf.Tensor:
        """Features of x alone, [B, .], from images or from q_x's features of them."""
        features = x if self._convolutions is None else self._convolutions(x)
        return self._features(features)

    def call(self, features: tf.Tensor, code: tf.Tensor | None, y: tf.Tensor) -> tfd.Distribution:
        """Batch shape [B, C|1], event shape [Z].

        Args:
          features: `encode(x)`, [B, .].
          code: of m, [B, .], or None.
          y: one-hots, [B, 1, C] or [1, C, C].
        """
        parts = [features[:, None]] + ([] if code is None else [code[:, None]]) + [y]
        return self._head(self._hidden(tf.nn.relu(self._combined(tuple(parts)))))


class Cama(ClassifierModel):
    """Deep CAMA on images of 28x28 (the papers' MNIST nets) or 32x32 (their CIFAR-binary nets).

    Args:
      spec: of the data set.
      config: see CamaConfig.

    Raises:
      InputError: the images are neither 28x28 nor 32x32, or a name in the config is unknown.
    """

    stochastic = True

    def __init__(self, spec: InputSpec, config: CamaConfig):
        super().__init__(spec, name="cama")
        shape = spec.shape
        if len(shape) != 3 or shape[0] != shape[1] or shape[0] not in _SIZES:
            allowed = " or ".join(f"[{size}, {size}, channels]" for size in _SIZES)
            raise InputError(f"cama takes images {allowed}; inputs are {list(shape)}.")
        sizes = _SIZES[shape[0]]
        self.config = config
        self.dim_z = config.dim_z or sizes.dim_z
        self.dim_m = config.dim_m or sizes.dim_m
        self.mechanism = MECHANISMS[config.mechanism](
            self.dim_m,
            hidden=sizes.p_m_hidden,
            gated=config.gated,
            kernel_initializer=config.kernel_initializer,
        )
        self.likelihood: Likelihood = LIKELIHOODS[config.likelihood](scale=config.likelihood_scale)
        self.p_x = DecoderP(sizes, mechanism=self.mechanism, config=config, spec=spec)
        self.q_x = None
        if not sizes.q_z_kernel:
            self.q_x = ConvTower(_CONV_CHANNELS, kernel_initializer=config.kernel_initializer)
        self.q_m = EncoderM(sizes, dim_m=self.dim_m, config=config)
        self.q_z = EncoderZ(
            sizes, dim_z=self.dim_z, mechanism=self.mechanism, config=config, spec=spec
        )
        self.posterior_m(tf.zeros([1, *shape]))  # m_at_test="do_m0" would not build it
        self._create_variables()

    # --- the densities -----------------------------------------------------------------------

    def prior_m(self) -> tfd.Distribution:
        """p(m) = N(0, I), event shape [M]."""
        return tfd.Independent(tfd.Normal(tf.zeros([self.dim_m]), 1.0), 1)

    def prior_z(self) -> tfd.Distribution:
        """p(z) = N(0, I), event shape [Z]."""
        return tfd.Independent(tfd.Normal(tf.zeros([self.dim_z]), 1.0), 1)

    def posterior_m(self, x: tf.Tensor) -> tfd.Distribution:
        """q(m | x), batch shape [B]."""
        return self.q_m(x if self.q_x is None else self.q_x(x))

    def posterior_z(self, x: tf.Tensor, y: tf.Tensor, m: tf.Tensor) -> tfd.Distribution:
        """q(z | x, y, m), batch shape [B, C|1], for one-hots y [B, 1, C] or [1, C, C]."""
        x = self.mechanism.invert(m, x)
        features = self.q_z.encode(x if self.q_x is None else self.q_x(x))
        return self.q_z(features, self.mechanism.code(m), y)

    def p(self, y: tf.Tensor, z: tf.Tensor, m: tf.Tensor) -> tfd.Distribution:
        """The likelihood of x given its causes, batch shape [K, B, C|1].

        Args:
          y: one-hots, [B, 1, C] or [1, C, C].
          z: [K, B, C|1, Z].
          m: [B, M].
        """
        h_m = self.mechanism.features(m)
        logits = self.p_x(self.p_x.p_y(y), None if h_m is None else h_m[:, None], self.p_x.p_z(z))
        return self.likelihood(self.mechanism.apply(m, logits))

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
        log_px = self.p(y, z, m).log_prob(x[:, None])  # [K, B, C]
        if analytic:
            log_ratio_z = -q_z.kl_divergence(self.prior_z())[None]
        else:
            log_ratio_z = self.prior_z().log_prob(z) - q_z.log_prob(z)
        log_py = tf.fill([1, 1, 1], -math.log(self.num_classes))  # p(y) is uniform
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
        at_test = self.config.m_at_test
        m, log_ratio_m = self.sample_m(
            x,
            noise=noise.m if at_test == "posterior" else tf.zeros_like(noise.m),
            manipulated=at_test != "do_m0",
        )
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

    def variable_groups(self) -> VariableGroups:
        groups = {
            "p_y": self.p_x.p_y.trainable_variables,
            "p_z": self.p_x.p_z.trainable_variables,
            "p_m": self.mechanism.trainable_variables,
            "p_merge": self.p_x.merge_variables,
            "q_m": self.q_m.trainable_variables,
            "q_z": self.q_z.trainable_variables,
        }
        if self.q_x is not None:
            groups["q_x"] = self.q_x.trainable_variables
        return groups

    # --- the Generative contract -------------------------------------------------------------

    def log_px(self, x: tf.Tensor, *, seed: random.Seed) -> tf.Tensor:
        """Log p(x) = log sum_c p(x, y = c), [B] nats."""
        return tf.reduce_logsumexp(self.log_scores(x, seed=seed), axis=-1)

    def reconstruct(self, x: tf.Tensor, *, seed: random.Seed, do_m0: bool) -> tf.Tensor:
        """Mean of p(x | y, z, m) at the predicted class and the posterior means of z and m.

        Args:
          x: [B, *shape].
          seed: of the prediction.
          do_m0: decode under do(m = 0): what the input would be, had nobody manipulated it
            (the papers' Figure 9).
        """
        labels = tf.argmax(self.log_scores(x, seed=seed), axis=-1)
        y = self._one_hots(labels)
        m = self.posterior_m(x).mean()
        z = self.posterior_z(x, y, m).mean()[None]
        if do_m0:
            m = tf.zeros_like(m)
        return self.p(y, z, m).mean()[0, :, 0]

    def sample(self, y: tf.Tensor, *, seed: random.Seed) -> tf.Tensor:
        """Mean of p(x | y, z, do(m = 0)) at z ~ p(z), [B, *shape], for labels y [B]."""
        size = tf.shape(y)[0]
        z = random.normal([1, size, 1, self.dim_z], seed)
        return self.p(self._one_hots(y), z, tf.zeros([size, self.dim_m])).mean()[0, :, 0]


def _in_chunks(function, per_example, noise_z: tf.Tensor, *, max_rows: int) -> tf.Tensor:
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
