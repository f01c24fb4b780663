"""NORMS: ways to normalise features inside a backbone."""

from __future__ import annotations

import math
from collections.abc import Callable

import keras
import tensorflow as tf

from tfcama.networks.batch_norm import BatchNorm
from tfcama.registry import Registry

_GROUPS = 32


class GroupNorm(keras.layers.GroupNormalization):
    """Each example by itself, over groups of channels (Wu and He, 2018).

    32 groups, or the largest common divisor of 32 and the channels. It is called as BatchNorm is;
    batch and update change nothing.
    """

    def build(self, input_shape) -> None:
        self.groups = math.gcd(_GROUPS, input_shape[-1])
        super().build(input_shape)

    def call(self, x: tf.Tensor, batch: bool = False, update: bool = False) -> tf.Tensor:
        """[B, ..., F] -> the same."""
        del batch, update
        return super().call(x)


NORMS: Registry[Callable[[], keras.layers.Layer]] = Registry(
    "norm", {"batch": BatchNorm, "group": GroupNorm}
)
