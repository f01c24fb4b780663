"""What classifiers share that answer with the mean of another's probabilities."""

from __future__ import annotations

import abc

import tensorflow as tf

from tfcama.errors import InputError
from tfcama.types import Bounds, Classifier, InputSpec


class Averaged(abc.ABC):
    """A classifier of images that asks another one about several copies of its input.

    Args:
      classifier: whose answers are averaged.
      what: for sentences, such as "test-time augmentation".

    Raises:
      InputError: the inputs are a table's.
    """

    stochastic = True

    def __init__(self, classifier: Classifier, *, what: str):
        if classifier.spec.kind != "image":
            raise InputError(f"{what} is for images; the inputs are a table's.")
        self.classifier = classifier
        self.spec: InputSpec = classifier.spec

    @property
    def num_classes(self) -> int:
        return self.classifier.num_classes

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self.classifier.input_shape

    @property
    def bounds(self) -> Bounds | None:
        return self.classifier.bounds

    @property
    def attack_mask(self) -> tf.Tensor | None:
        return self.classifier.attack_mask

    @abc.abstractmethod
    def log_scores(self, x: tf.Tensor, *, seed: tf.Tensor) -> tf.Tensor:
        """Log of the mean over copies of p(y = c | copy), [B, C] nats, differentiable in x."""
