"""Deep CAMA for images: Y, Z and M cause X.

    p(x, y, z, m) = p(m) p(z) p(y) p(x | y, z, m)                                           (1)
    q(z, m | x, y) = q(z | x, y, m) q(m | x)                                                (2)

Networks as in appendix C of "A Causal View on Robustness of Neural Networks" (Zhang, Zhang, Li;
ICLR 2020 submission and NeurIPS 2020). What does not depend on them is in `cama_base`.
"""

from __future__ import annotations

import dataclasses
import math

import tensorflow as tf
from tensorflow_probability import distributions as tfd

from tfcama import random
from tfcama.config import check_at_least
from tfcama.errors import InputError
from tfcama.models.cama_base import CamaBase
from tfcama.models.cama_config import AT_TEST, CamaBaseConfig
from tfcama.models.mechanisms.base import Mechanism
from tfcama.networks.heads import NormalHead, moments, normal
from tfcama.networks.likelihoods import LIKELIHOODS, BernoulliLikelihood, Likelihood
from tfcama.networks.self_building import SelfBuilding
from tfcama.networks.sum_dense import SumDense
from tfcama.networks.towers import ConvTower, DeconvTower, Mlp
from tfcama.types import InputSpec, VariableGroups

_MERGE_SIZE = 4  # pixels: the projection's height and width
_MERGE_CHANNELS = 64
_LOST = 0.02  # share of the frame: less than half a row of 28 pixels is not worth a completion
_CONV_CHANNELS = (64, 64, 64)


@dataclasses.dataclass(frozen=True)
class CamaConfig(CamaBaseConfig):
    """Deep CAMA's choices for images; the papers' sizes are 64 and 32 (MNIST), 128 and 64 (CIFAR).

    Attributes:
      likelihood: a key of LIKELIHOODS.
      likelihood_scale: standard deviation of `gaussian`.
      completions: how often, at prediction, what T_m carried out of the frame is filled in from
        p(x|y,z,do(m=0)) and z inferred anew, see Cama.
    """

    likelihood: str = "bernoulli"
    likelihood_scale: float = 0.1
    completions: int = dataclasses.field(default=2, metadata=AT_TEST)

    def __post_init__(self):
        super().__post_init__()
        check_at_least(self, completions=0)
        LIKELIHOODS[self.likelihood]


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


class DecoderP(SelfBuilding):
    """p(x | y, z, m) before the mechanism acts: NNpY, NNpZ, NNpmerge. Returns logits."""

    def __init__(self, sizes: _Sizes, *, mechanism: Mechanism, config: CamaConfig, spec: InputSpec):
        super().__init__(name="p_x")
        init = config.kernel_initializer
        self.p_y = Mlp(sizes.p_hidden, kernel_initializer=init, name="p_y")  # NNpY
        self.p_z = Mlp(sizes.p_hidden, kernel_initializer=init, name="p_z")  # NNpZ
        self.projection = SumDense(
            _MERGE_SIZE * _MERGE_SIZE * _MERGE_CHANNELS,
            sizes={
                "y": sizes.p_hidden[-1],
                "m": mechanism.feature_size,
                "z": sizes.p_hidden[-1],
            },
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
        return self.projection.trainable_variables + self._deconvolutions.trainable_variables

    def call(self, h_y: tf.Tensor, h_m: tf.Tensor | None, h_z: tf.Tensor) -> tf.Tensor:
        """Logits [K, B, C, H, W, channels].

        Args:
          h_y: [B|1, C|1, .].
          h_m: [B, 1, .], or None where the mechanism adds no features.
          h_z: [K, B, C|1, .].
        """
        parts = (h_y, h_z) if h_m is None else (h_y, h_m, h_z)
        merged = tf.nn.relu(self.projection(parts))  # [K, B, C, 1024]
        lead = tf.shape(merged)[:-1]
        images = tf.reshape(merged, [-1, _MERGE_SIZE, _MERGE_SIZE, _MERGE_CHANNELS])
        logits = self._deconvolutions(images)
        return tf.reshape(logits, tf.concat([lead, self._image_shape], axis=0))


class EncoderM(SelfBuilding):
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


class EncoderZ(SelfBuilding):
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
        self.combined = SumDense(
            sizes.q_z_hidden[0],
            sizes={"x": encoded, "m": mechanism.code_size, "y": spec.num_classes},
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
        return self._head(self._hidden(tf.nn.relu(self.combined(tuple(parts)))))


class Cama(CamaBase):
    """Deep CAMA on images of 28x28 (the papers' MNIST nets) or 32x32 (their CIFAR-binary nets).

    A mechanism may carry a part of the object out of the frame; q(z|x,y,m), which was trained on
    whole ones, then misreads what is left. At prediction the lost part of T_m^-1 x is filled in by
    the mean of p(x|y,z,do(m=0)), class by class, and z is inferred again, `completions` times: the
    imputation of Rezende, Mohamed and Wierstra (2014, appendix F). It changes the proposal of Eq. 6
    alone, which stays a valid estimate of log p(x, y), and costs nothing where nothing was lost.

    Args:
      spec: of the data set.
      config: see CamaConfig.

    Raises:
      InputError: the images are neither 28x28 nor 32x32, or a name in the config is unknown.
    """

    def __init__(self, spec: InputSpec, config: CamaConfig):
        shape = spec.shape
        if len(shape) != 3 or shape[0] != shape[1] or shape[0] not in _SIZES:
            allowed = " or ".join(f"[{size}, {size}, channels]" for size in _SIZES)
            hint = " Take measurement_cama for tables." if spec.columns else ""
            raise InputError(f"cama takes images {allowed}; inputs are {list(shape)}.{hint}")
        sizes = _SIZES[shape[0]]
        super().__init__(
            spec,
            config,
            dim_z=sizes.dim_z,
            dim_m=sizes.dim_m,
            p_m_hidden=sizes.p_m_hidden,
            name="cama",
        )
        self.completions = config.completions
        self.likelihood: Likelihood = LIKELIHOODS[config.likelihood](scale=config.likelihood_scale)
        self.p_x = DecoderP(sizes, mechanism=self.mechanism, config=config, spec=spec)
        self.q_x = None
        if not sizes.q_z_kernel:
            self.q_x = ConvTower(_CONV_CHANNELS, kernel_initializer=config.kernel_initializer)
        self.q_m = EncoderM(sizes, dim_m=self.dim_m, config=config)
        self.q_z = EncoderZ(
            sizes, dim_z=self.dim_z, mechanism=self.mechanism, config=config, spec=spec
        )
        self._create_variables()

    def posterior_m(self, x: tf.Tensor) -> tfd.Distribution:
        return self.q_m(x if self.q_x is None else self.q_x(x))

    def posterior_z(self, x: tf.Tensor, y: tf.Tensor, m: tf.Tensor) -> tfd.Distribution:
        x = self.mechanism.invert(m, x)
        features = self.q_z.encode(x if self.q_x is None else self.q_x(x))
        return self.q_z(features, self.mechanism.code(m), y)

    @property
    def fits_xla(self):
        return not self._rounds

    @property
    def keeps_to_bounds(self):
        return isinstance(self.likelihood, BernoulliLikelihood)

    @property
    def _rounds(self):
        return self.completions if self.mechanism.hides else 0

    def _improved(self, q_z, x, y, m):
        seen = self.mechanism.visible(m, tf.ones_like(x[..., :1]))
        rows = tf.where(tf.reduce_mean(1.0 - seen, axis=[1, 2, 3]) > _LOST)  # [b, 1]
        of_all = moments(q_z)  # [B, C|1, 2, Z]

        def completed() -> tf.Tensor:
            y_lost = y if y.shape[0] == 1 else tf.gather_nd(y, rows)
            x_lost, m_lost, seen_lost, lost = (
                tf.gather_nd(tensor, rows) for tensor in (x, m, seen, of_all)
            )
            found = self._completed(x_lost, y_lost, m_lost, seen=seen_lost, z=lost[:, :, 0])
            return tf.tensor_scatter_nd_update(of_all, rows, found)

        # Convolutions of no images fail.
        return normal(tf.cond(tf.size(rows) > 0, completed, lambda: of_all))

    def _completed(
        self, x: tf.Tensor, y: tf.Tensor, m: tf.Tensor, *, seen: tf.Tensor, z: tf.Tensor
    ) -> tf.Tensor:
        """Moments of q(z | x, y, m), [b, C|1, 2, Z], of inputs whose lost parts are filled in.

        Args:
          x: [b, H, W, channels].
          y: one-hots, [b, 1, C] or [1, C, C].
          m: [b, M].
          seen: what the frame shows of T_m^-1 x, [b, H, W, 1].
          z: what p(x|.) fills them in from, [b, C|1, Z].
        """
        size, classes = tf.shape(x)[0], z.shape[1]
        back, seen = self.mechanism.invert(m, x)[:, None], seen[:, None]
        y_each = tf.reshape(
            tf.broadcast_to(y, [size, classes, self.num_classes]), [-1, 1, self.num_classes]
        )
        code = self.mechanism.code(tf.repeat(m, classes, axis=0))
        mean = self.p(y, z[None], tf.zeros_like(m)).mean()[0]  # [b, C|1, H, W, channels]
        # What is resampled at the frame's edge is weighted by `seen` as it is.
        whole = tf.reshape(back + (1.0 - seen) * mean, [-1, *self.spec.shape])
        features = self.q_z.encode(whole if self.q_x is None else self.q_x(whole))
        q_z = self.q_z(features, code, y_each)
        return tf.stop_gradient(tf.reshape(moments(q_z), [-1, classes, 2, self.dim_z]))

    def p(
        self, y: tf.Tensor, z: tf.Tensor, m: tf.Tensor, c: tf.Tensor | None = None
    ) -> tfd.Distribution:
        del c
        h_m = self.mechanism.features(m)
        logits = self.p_x(self.p_x.p_y(y), None if h_m is None else h_m[:, None], self.p_x.p_z(z))
        return self.likelihood(self.mechanism.apply(m, tf.cast(logits, tf.float32)))

    def log_py(self, x: tf.Tensor) -> tf.Tensor:
        del x
        return tf.fill([1, self.num_classes], -math.log(self.num_classes))  # p(y) is uniform

    def variable_groups(self) -> VariableGroups:
        groups = {
            "p_y": self.p_x.p_y.trainable_variables,
            "p_z": self.p_x.p_z.trainable_variables,
            "p_m": self.mechanism.trainable_variables + self.prior_m.trainable_variables,
            "p_merge": self.p_x.merge_variables,
            "q_m": self.q_m.trainable_variables,
            "q_z": self.q_z.trainable_variables,
        }
        if self.q_x is not None:
            groups["q_x"] = self.q_x.trainable_variables
        return groups

    @property
    def _sums(self):
        return (self.p_x.projection, self.q_z.combined)

    def _mean(self, x, y, z, m):
        del x
        return self.p(y, z, m).mean()[0, :, 0]

    def sample(self, y: tf.Tensor, *, seed: random.Seed) -> tf.Tensor:
        """Mean of p(x | y, z, do(m = 0)) at z ~ p(z), [B, *shape], for labels y [B]."""
        size = tf.shape(y)[0]
        z = random.normal([1, size, 1, self.dim_z], seed)
        return self.p(self._one_hots(y), z, tf.zeros([size, self.dim_m])).mean()[0, :, 0]
