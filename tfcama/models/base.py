"""What every model family shares of the Classifier contract."""

from __future__ import annotations

import abc

import keras
import numpy as np
import tensorflow as tf

from tfcama.types import CHILD, COPARENT, PARENT, Bounds, InputSpec, VariableGroups


class ClassifierModel(keras.Model, abc.ABC):
    """A Keras model that satisfies the Classifier contract.

    It holds networks and nothing else: no optimiser, no metrics, no seed. Training wraps it,
    serving exports it.

    Args:
      spec: of the data set.
    """

    stochastic: bool = False

    def __init__(self, spec: InputSpec, **kwargs):
        super().__init__(autocast=False, **kwargs)  # its layers cast; densities stay float32
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
    def fits_xla(self) -> bool:
        """Whether XLA can compile its scores: all shapes are known beforehand."""
        return True

    @property
    def keeps_to_bounds(self) -> bool:
        """Whether its loss is made for inputs within their bounds alone."""
        return False

    @property
    def attack_mask(self) -> tf.Tensor | None:
        """None for images; [D] for tables: 1 where a valid intervention may act, see below.

        That is on numeric children and co-parents. What causes Y may not move: the true class would
        (deep CAMA, section 2). Nor may one-hots and indicators, which have no values in between.
        """
        if not self.spec.columns:
            return None
        mask = np.zeros(self.spec.shape, np.float32)
        for column in self.spec.columns:
            movable = CHILD in column.roles or COPARENT in column.roles
            if column.numeric and movable and PARENT not in column.roles:
                mask[self.spec.places(column.name)[0]] = 1.0
        return tf.constant(mask)

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
