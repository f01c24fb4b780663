"""`vib`: Deep Variational Information Bottleneck (Alemi et al., ICLR 2017)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import keras
import tensorflow as tf
import tensorflow_probability as tfp
from tensorflow_probability import distributions as tfd

from tfcama import random
from tfcama.config import check_at_least, check_positive
from tfcama.models.backbone_classifier import BackboneConfig
from tfcama.models.base import ClassifierModel
from tfcama.networks.heads import SCALES, MeanAndScaleHead
from tfcama.networks.rows import over_rows
from tfcama.registry import Registry
from tfcama.types import InputSpec, VariableGroups


def mean_logits(logits: tf.Tensor) -> tf.Tensor:
    """[K, B, C] -> [B, C], the mean over samples: the CausalIB authors' prediction."""
    return tf.reduce_mean(logits, axis=0)


def mean_probability(logits: tf.Tensor) -> tf.Tensor:
    """[K, B, C] -> [B, C], log of the mean over samples of q(y | z): Alemi et al.'s prediction."""
    return tfp.math.reduce_logmeanexp(tf.nn.log_softmax(logits, axis=-1), axis=0)


POOLINGS: Registry[Callable[[tf.Tensor], tf.Tensor]] = Registry(
    "pooling", {"mean_logits": mean_logits, "mean_probability": mean_probability}
)


@dataclasses.dataclass(frozen=True)
class VibConfig(BackboneConfig):
    """VIB's choices; the defaults are those of the CausalIB authors, but for `scale` and `unit`.

    Theirs are a scale that no function keeps positive, and bits.

    Attributes:
      dim_z: size of the code Z.
      head_hidden: units of the layer between features and q(z|x)'s mean, and another for its
        scale; 0 for none.
      scale: how a network's output becomes q(z|x)'s scale, a key of SCALES.
      scale_floor: added to the scale. KL to N(0, 1) pulls scales towards 1, so only a dimension
        that carries more than log(1 / floor) nats feels it.
      num_samples: K, of z, in training and in prediction.
      alpha: weight of I(Z; X).
      unit: of both bounds on information, a key of UNITS: "nats", or the authors' "bits". It
        scales them alike, so that it decides nothing here, and in CausalIB what beta weighs.
      pooling: how K answers become one, a key of POOLINGS.
    """

    dim_z: int = 256
    head_hidden: int = 512
    scale: str = "softplus"
    scale_floor: float = 1e-3
    num_samples: int = 12
    alpha: float = 0.01
    unit: str = "nats"
    pooling: str = "mean_logits"

    def __post_init__(self):
        super().__post_init__()
        check_at_least(self, dim_z=1, head_hidden=0, num_samples=1, alpha=0)
        check_positive(self, "scale_floor")
        SCALES[self.scale], POOLINGS[self.pooling]


class Vib(ClassifierModel):
    """x -> q(z|x) = N(loc, diag(scale^2)) -> q(y|z), linear; r(z) = N(0, I).

    Args:
      spec: of the data set.
      config: the model's choices.

    Raises:
      InputError: the backbone does not fit the inputs.
    """

    stochastic = True

    def __init__(self, spec: InputSpec, config: VibConfig):
        super().__init__(spec, name="vib")
        self.config = config
        self._backbone = config.make_backbone(spec)
        self._q_z = MeanAndScaleHead(
            config.dim_z,
            hidden=config.head_hidden,
            scale=config.scale,
            floor=config.scale_floor,
            kernel_initializer=config.kernel_initializer,
        )
        self._decoder = keras.layers.Dense(spec.num_classes)
        self._create_variables()

    def q_z(self, x: tf.Tensor, *, learning: bool = False) -> tfd.Independent:
        """q(z|x), batch shape [B], event shape [Z].

        Args:
          x: [B, *shape].
          learning: batch norms take the statistics of the batch, and theirs follow.
        """
        return self._q_z(self._backbone(x, batch=learning, update=learning))

    def q_y(self, z: tf.Tensor) -> tf.Tensor:
        """Logits of q(y|z), [..., C] float32, of codes [..., Z]."""
        return tf.cast(over_rows(self._decoder, z), tf.float32)

    def shared_noise(self, seed: tf.Tensor) -> tf.Tensor:
        """N(0, 1) for K samples of z, the same for every row: [K, 1, Z]."""
        return random.normal([self.config.num_samples, 1, self.config.dim_z], seed)

    def row_noise(self, draws: random.RowDraws) -> tf.Tensor:
        """N(0, 1) for K samples of every row's z: [K, B, Z]."""
        return tf.transpose(draws.normal(self.config.num_samples, self.config.dim_z), [1, 0, 2])

    def log_scores(self, x: tf.Tensor, *, seed: tf.Tensor) -> tf.Tensor:
        """The K samples' answers, pooled, [B, C], up to a constant a row.

        The log of the mean of their probabilities, or, as the authors pool them (mean_logits), of
        the geometric mean.
        """
        return POOLINGS[self.config.pooling](self.log_scores_by_sample(x, seed=seed))

    def log_scores_by_sample(self, x: tf.Tensor, *, seed: tf.Tensor) -> tf.Tensor:
        """Logits of q(y|z) of the K samples of z, [K, B, C]."""
        return self.q_y(codes(self.q_z(x), self.shared_noise(seed)))

    def variable_groups(self) -> VariableGroups:
        return {
            "backbone": self._backbone.trainable_variables,
            "q_z": self._q_z.trainable_variables,
            "q_y": self._decoder.trainable_variables,
        }


def codes(q_z: tfd.Independent, noise: tf.Tensor) -> tf.Tensor:
    """Samples of q(z|x), [K, B, Z], from N(0, 1) noise [K, B or 1, Z], differentiable in both."""
    return q_z.mean() + q_z.stddev() * noise
