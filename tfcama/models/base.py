"""What every model family shares of the Classifier contract."""

from __future__ import annotations

import abc

import keras
import tensorflow as tf

from tfcama.types import Bounds, InputSpec, VariableGroups


class ClassifierModel(keras.Model, abc.ABC):
    """A Keras model that satisfies the Classifier contract.

    It holds networks and nothing else: no optimiser, no metrics, no seed. Training wraps it,
    serving exports it.

    Args:
      spec: of the data set.
    """

    stochastic: bool = False

    def __init__(self, spec: InputSpec, **kwargs):
        super().__init__(**kwargs)
        self.spec = spec  # Keras has an input_spec of its own

    @property
    def num_classes(self) -> int:
        return self.spec.num_classes

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self.spec.shape

    @property
    def bounds(self) -> Bounds | None:
        return self.spec.bounds

    @property
    def attack_mask(self) -> tf.Tensor | None:
        return None

    @abc.abstractmethod
    def log_scores(self, x: tf.Tensor, *, seed: tf.Tensor) -> tf.Tensor:
        """Unnormalised log p(x, y = c), [B, C] nats, differentiable in x."""

    @abc.abstractmethod
    def variable_groups(self) -> VariableGroups:
        """Trainable variables by part; every one is in exactly one group."""

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Class probabilities under a fixed seed, [B, C]."""
        return tf.nn.softmax(self.log_scores(x, seed=tf.constant([0, 0])), axis=-1)

    def _create_variables(self) -> None:
        """Builds every layer once, so that checkpoints and optimisers find all variables."""
        x = tf.zeros([1, *self.spec.shape])
        self.log_scores(x, seed=tf.constant([0, 0]))
        self.built = True
