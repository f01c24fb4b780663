"""The papers' discriminative baselines: logits straight from x, no account of how x came about.

`dnn`, `dnn_large`, `cnn`, `cnn_binary` and, for tables, `measurement_dnn` of "A Causal View on
Robustness of Neural Networks", appendices B and C.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tfcama import random
from tfcama.errors import InputError
from tfcama.models.base import ClassifierModel
from tfcama.networks.dropout import dropout
from tfcama.networks.initializers import check_initializer
from tfcama.types import InputSpec, VariableGroups


@dataclasses.dataclass(frozen=True)
class DiscriminativeConfig:
    """A baseline's choices.

    Attributes:
      kernel_initializer: of every kernel.
    """

    kernel_initializer: str = "he_normal"

    def __post_init__(self):
        check_initializer(self.kernel_initializer)


Stage = tuple[keras.layers.Layer, float]
"""A layer and the dropout rate after it."""


class Discriminative(ClassifierModel):
    """A stack of layers, some followed by dropout, and a linear layer to the logits.

    Args:
      spec: of the data set.
      stack: (layer, dropout rate after it), from input to last hidden layer.
      name: of the model.
    """

    def __init__(
        self,
        spec: InputSpec,
        stack: list[Stage],
        *,
        name: str,
    ):
        super().__init__(spec, name=name)
        self.stack = [layer for layer, _ in stack]
        self._rates = tuple(rate for _, rate in stack)
        self._logits = keras.layers.Dense(spec.num_classes, kernel_initializer="glorot_uniform")
        self._create_variables()

    def logits(self, x: tf.Tensor, *, draws: random.RowDraws | None = None) -> tf.Tensor:
        """[B, C] float32; with `draws`, in training: under dropout."""
        return self._to_logits(self._through(x, draws=draws))

    def _through(
        self,
        x: tf.Tensor,
        *,
        draws: random.RowDraws | None = None,
        stop: int | None = None,
        **how: Any,
    ) -> tf.Tensor:
        """What comes out of the stack, or what enters its layer `stop`; `how` is for `_apply`."""
        stages = zip(self.stack[:stop], self._rates[:stop], strict=True)
        for place, (layer, rate) in enumerate(stages):
            x = self._apply(layer, x, **how)
            x = dropout(x, rate, draws.fold(place) if draws is not None else None)
        return x

    def _apply(self, layer: keras.layers.Layer, x: tf.Tensor) -> tf.Tensor:
        """A layer's output; for models with layers that have more than one way."""
        return layer(x)

    def _to_logits(self, x: tf.Tensor) -> tf.Tensor:
        return tf.cast(self._logits(x), tf.float32)

    def log_scores(self, x: tf.Tensor, *, seed: tf.Tensor) -> tf.Tensor:
        """The logits, [B, C]: log p(y = c | x) up to a constant a row. The seed changes nothing."""
        del seed
        return self.logits(x)

    def variable_groups(self) -> VariableGroups:
        return {"network": self.trainable_variables}


class ZeroMissing(keras.layers.Layer):
    """Features with zeros, their training mean, in place of missing values."""

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return tf.where(tf.math.is_nan(x), tf.zeros([], x.dtype), x)


def _dense(units: int, config: DiscriminativeConfig) -> keras.layers.Layer:
    return keras.layers.Dense(
        units, activation="relu", kernel_initializer=config.kernel_initializer
    )


def conv(
    channels: int,
    config: DiscriminativeConfig,
    *,
    padding: str = "same",
    activation: str | None = "relu",
    use_bias: bool = True,
) -> keras.layers.Layer:
    """A convolution of 3x3."""
    return keras.layers.Conv2D(
        channels,
        3,
        padding=padding,
        activation=activation,
        use_bias=use_bias,
        kernel_initializer=config.kernel_initializer,
    )


def _mlp(spec: InputSpec, config: DiscriminativeConfig, sizes: tuple[int, ...], name: str):
    rates = (*(0.25 for _ in sizes[1:]), 0.5)
    hidden = [(_dense(size, config), rate) for size, rate in zip(sizes, rates, strict=True)]
    first = ZeroMissing() if spec.columns else keras.layers.Flatten()
    return Discriminative(spec, [(first, 0.0), *hidden], name=name)


def dnn(spec: InputSpec, config: DiscriminativeConfig) -> Discriminative:
    """Dense 512-256-126-512, dropout 0.25, 0.25, 0.25, 0.5 (appendix C)."""
    return _mlp(spec, config, (512, 256, 126, 512), "dnn")


def dnn_large(spec: InputSpec, config: DiscriminativeConfig) -> Discriminative:
    """Dense 1024-512-512-1024, the same dropout (appendix B, Figure 17)."""
    return _mlp(spec, config, (1024, 512, 512, 1024), "dnn_large")


def measurement_dnn(spec: InputSpec, config: DiscriminativeConfig) -> Discriminative:
    """A, C and X side by side, Dense 64-16-32, dropout 0.25, 0.25, 0.5 (appendix C).

    Raises:
      InputError: the inputs are no table.
    """
    if not spec.columns:
        raise InputError(
            f"measurement_dnn takes tables; inputs are {list(spec.shape)}. Take dnn for images."
        )
    return _mlp(spec, config, (64, 16, 32), "measurement_dnn")


def convolution(
    channels: int, config: DiscriminativeConfig, *, padding: str = "same"
) -> list[Stage]:
    """Convolution, ReLU."""
    return [(conv(channels, config, padding=padding), 0.0)]


def cnn_stack(
    config: DiscriminativeConfig, *, block: Callable[..., list[Stage]] = convolution
) -> list[Stage]:
    """Keras' CIFAR-10 example net, each of its four convolutions made by `block`."""
    pool = keras.layers.MaxPooling2D
    return [
        *block(32, config),
        *block(32, config, padding="valid"),
        (pool(2), 0.25),
        *block(64, config),
        *block(64, config, padding="valid"),
        (pool(2), 0.25),
        (keras.layers.Flatten(), 0.0),
        (_dense(512, config), 0.5),
    ]


def check_images(spec: InputSpec, name: str) -> None:
    """Refuses tables for the model `name`."""
    if len(spec.shape) != 3:
        raise InputError(
            f"{name} takes images; inputs are {list(spec.shape)}. Take measurement_dnn for tables."
        )


def cnn(spec: InputSpec, config: DiscriminativeConfig) -> Discriminative:
    """Keras' CIFAR-10 example net: four convolutions (appendix B, Figure 16)."""
    check_images(spec, "cnn")
    return Discriminative(spec, cnn_stack(config), name="cnn")


def cnn_binary(spec: InputSpec, config: DiscriminativeConfig) -> Discriminative:
    """CIFAR-binary's CNN: three convolutions of 128 channels, Dense 1000-1000 (appendix C)."""
    check_images(spec, "cnn_binary")
    convolutions = [
        stage
        for _ in range(3)
        for stage in (
            (conv(128, config), 0.0),
            (keras.layers.MaxPooling2D(2, padding="same"), 0.0),
        )
    ]
    return Discriminative(
        spec,
        [
            *convolutions,
            (keras.layers.Flatten(), 0.0),
            (_dense(1000, config), 0.0),
            (_dense(1000, config), 0.0),
        ],
        name="cnn_binary",
    )
