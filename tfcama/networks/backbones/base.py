"""What every backbone shares."""

from __future__ import annotations

import abc
from typing import Protocol

import tensorflow as tf

from tfcama.errors import InputError
from tfcama.networks.self_building import SelfBuilding
from tfcama.types import InputSpec


class Backbone(SelfBuilding, abc.ABC):
    """Inputs to features.

    Args:
      spec: of the data set; inputs are scaled from its bounds to [-1, 1], and what is missing in a
        table reads as 0, its training mean.
    """

    def __init__(self, spec: InputSpec, **kwargs):
        super().__init__(**kwargs)
        self._bounds = spec.bounds

    def call(self, x: tf.Tensor, batch: bool = False, update: bool = False) -> tf.Tensor:
        """[B, *shape] -> [B, F].

        Args:
          x: inputs.
          batch: see BatchNorm; it changes nothing in backbones without one.
          update: the same.
        """
        if self._bounds is None:
            x = tf.where(tf.math.is_nan(x), tf.zeros([], x.dtype), x)
        else:
            low, high = self._bounds
            x = (x - low) * (2.0 / (high - low)) - 1.0
        return self._features(x, batch=batch, update=update)

    @abc.abstractmethod
    def _features(self, x: tf.Tensor, *, batch: bool, update: bool) -> tf.Tensor:
        """[B, *shape] in [-1, 1] -> [B, F]."""


class Options(Protocol):
    """A backbone's options, a frozen dataclass of numbers and strings."""

    def build(self, spec: InputSpec, *, kernel_initializer: str) -> Backbone:
        """The backbone.

        Raises:
          InputError: it does not fit the inputs.
        """
        ...


def check_images(spec: InputSpec, *, least: int, name: str) -> None:
    """Refuses inputs that are no images, or smaller than `least` pixels a side."""
    if len(spec.shape) != 3 or min(spec.shape[:2]) < least:
        raise InputError(
            f"backbone '{name}' takes images of {least}x{least} pixels or more; "
            f"inputs are {list(spec.shape)}. mlp takes any input."
        )
