"""`ciiv`: causal intervention by instrumental variable (Tang et al., 2021), CausalIB's source."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import keras
import tensorflow as tf

from tfcama import random
from tfcama.config import check_at_least
from tfcama.errors import InputError
from tfcama.models.backbone_classifier import BackboneConfig
from tfcama.models.base import ClassifierModel
from tfcama.networks import retina
from tfcama.types import InputSpec, VariableGroups


@dataclasses.dataclass(frozen=True)
class CiivConfig(BackboneConfig):
    """CiiV's choices.

    Attributes:
      num_samples: S, averaged in the view of each of the nine gazes.
      weight: of the causal regulariser. The authors start with 0.1 and multiply by 10 after every
        quarter of training; here it stays.
    """

    num_samples: int = 3
    weight: float = 0.1

    def __post_init__(self):
        super().__post_init__()
        check_at_least(self, num_samples=1, weight=0)


class Views(NamedTuple):
    """What nine gazes make of a batch.

    Attributes:
      features: [9, B, F].
      logits: [9, B, C].
      strength: share of pixels that each gaze kept, [9, B] or [9, 1].
    """

    features: tf.Tensor
    logits: tf.Tensor
    strength: tf.Tensor


class Ciiv(ClassifierModel):
    """Nine gazes at retinotopic samples of the image; one net for all; mean of logits / strength.

    Args:
      spec: of images.
      config: the model's choices.

    Raises:
      InputError: the inputs are no images in [0, 1], or the backbone does not fit them.
    """

    stochastic = True

    def __init__(self, spec: InputSpec, config: CiivConfig):
        super().__init__(spec, name="ciiv")
        if len(spec.shape) != 3 or spec.bounds is None or tuple(spec.bounds) != (0.0, 1.0):
            raise InputError(f"ciiv takes images in [0, 1]; inputs are {list(spec.shape)}.")
        self.config = config
        self._backbone = config.make_backbone(spec)
        self._logits = keras.layers.Dense(spec.num_classes)
        self._maps = retina.fovea(*spec.shape[:2])
        self._create_variables()

    def views(self, x: tf.Tensor, noise: retina.Noise, *, learning: bool = False) -> Views:
        """What each gaze makes of each image.

        Args:
          x: [B, H, W, channels].
          noise: see `shared_noise` and `row_noise`.
          learning: batch norms take the statistics of the batch, and theirs follow.
        """
        seen, strength = retina.sample(x, tf.constant(self._maps), noise)
        flat = tf.reshape(seen, [-1, *self.spec.shape])
        features = self._backbone(flat, batch=learning, update=learning)
        logits = tf.cast(self._logits(features), tf.float32)
        return Views(
            self._by_gaze(tf.cast(features, tf.float32)),
            self._by_gaze(logits),
            tf.transpose(strength),
        )

    def _by_gaze(self, values: tf.Tensor) -> tf.Tensor:
        """[B * 9, F] -> [9, B, F]."""
        rows = tf.reshape(values, [-1, retina.NUM_CENTRES, values.shape[-1]])
        return tf.transpose(rows, [1, 0, 2])

    def shared_noise(self, seed: tf.Tensor) -> retina.Noise:
        """The same for every row."""
        pixels, places = random.split(seed)
        return retina.Noise(
            random.uniform([1, *self._samples, *self.spec.shape], pixels),
            random.uniform([1, *self._samples, *self.spec.shape[:2], 1], places),
        )

    def row_noise(self, draws: random.RowDraws) -> retina.Noise:
        """Every row's own."""
        return retina.Noise(
            draws.fold(0).uniform(*self._samples, *self.spec.shape),
            draws.fold(1).uniform(*self._samples, *self.spec.shape[:2], 1),
        )

    @property
    def _samples(self) -> tuple[int, int]:
        return retina.NUM_CENTRES, self.config.num_samples

    def log_scores(self, x: tf.Tensor, *, seed: tf.Tensor) -> tf.Tensor:
        """The mean over gazes of logits / strength, [B, C]."""
        return tf.reduce_mean(self.log_scores_by_sample(x, seed=seed), axis=0)

    def log_scores_by_sample(self, x: tf.Tensor, *, seed: tf.Tensor) -> tf.Tensor:
        """Logits / strength of each of the nine gazes, [9, B, C]."""
        views = self.views(x, self.shared_noise(seed))
        return views.logits / views.strength[..., None]

    def variable_groups(self) -> VariableGroups:
        return {
            "backbone": self._backbone.trainable_variables,
            "logits": self._logits.trainable_variables,
        }
