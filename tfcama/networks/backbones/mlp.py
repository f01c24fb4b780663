"""`mlp`: dense layers, the CausalIB authors' net for MNIST."""

from __future__ import annotations

import dataclasses

import keras
import tensorflow as tf

from tfcama.config import check_at_least
from tfcama.networks.backbones.base import Backbone
from tfcama.networks.towers import Mlp
from tfcama.types import InputSpec


class MlpBackbone(Backbone):
    """Flattens, then Dense + ReLU of the given sizes."""

    def __init__(self, spec: InputSpec, sizes: tuple[int, ...], *, kernel_initializer: str):
        super().__init__(spec, name="mlp")
        self._flatten = keras.layers.Flatten()
        self._tower = Mlp(sizes, kernel_initializer=kernel_initializer)

    def _features(self, x: tf.Tensor, *, batch: bool, update: bool) -> tf.Tensor:
        return self._tower(self._flatten(x))


@dataclasses.dataclass(frozen=True)
class MlpOptions:
    """784-1024-1024 on MNIST.

    Attributes:
      units: of each layer.
      layers: how many.
    """

    units: int = 1024
    layers: int = 2

    def __post_init__(self):
        check_at_least(self, units=1, layers=1)

    def build(self, spec: InputSpec, *, kernel_initializer: str) -> Backbone:
        return MlpBackbone(spec, (self.units,) * self.layers, kernel_initializer=kernel_initializer)
