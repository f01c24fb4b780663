"""Towers: features in, features out. Every hidden layer is followed by a ReLU."""

from __future__ import annotations

import keras
import tensorflow as tf

from tfcama.networks.rows import over_rows
from tfcama.networks.self_building import SelfBuilding

KERNEL = 3


class Mlp(SelfBuilding):
    """A stack of Dense + ReLU over the last axis.

    Args:
      sizes: units of each layer.
      kernel_initializer: of every kernel.
    """

    def __init__(self, sizes: tuple[int, ...], *, kernel_initializer: str = "he_normal", **kwargs):
        super().__init__(**kwargs)
        self._layers_ = [
            keras.layers.Dense(size, activation="relu", kernel_initializer=kernel_initializer)
            for size in sizes
        ]

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """[..., features] -> [..., sizes[-1]]."""
        if x.shape[-1] == 0:  # oneDNN ends the process at a fused product over nothing
            x = tf.pad(x, [[0, 0]] * (x.shape.rank - 1) + [[0, 1]])
        return over_rows(self._through, x)

    def _through(self, x: tf.Tensor) -> tf.Tensor:
        for layer in self._layers_:
            x = layer(x)
        return x


class ConvTower(SelfBuilding):
    """Blocks of {convolution, ReLU, max-pool by 2}, SAME padding, then flattened.

    Args:
      channels: output channels of each block.
      kernel_size: filter height and width.
      kernel_initializer: of every kernel.
    """

    def __init__(
        self,
        channels: tuple[int, ...],
        *,
        kernel_size: int = KERNEL,
        kernel_initializer: str = "he_normal",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self._convolutions = [
            keras.layers.Conv2D(
                size,
                kernel_size,
                padding="same",
                activation="relu",
                kernel_initializer=kernel_initializer,
            )
            for size in channels
        ]
        self._pool = keras.layers.MaxPooling2D(2, padding="same")

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """[B, H, W, channels] -> [B, h * w * channels[-1]]."""
        for convolution in self._convolutions:
            x = self._pool(convolution(x))
        return tf.reshape(x, [tf.shape(x)[0], x.shape[1] * x.shape[2] * x.shape[3]])


class DeconvTower(SelfBuilding):
    """Transposed convolutions, SAME padding; ReLU after all but the last.

    Args:
      sizes: height (= width) after each layer: the one before (stride 1), its double, or one less
        than its double (both stride 2).
      channels: output channels of each layer.
      start: height (= width) of the input.
      kernel_initializer: of every kernel.
    """

    def __init__(
        self,
        sizes: tuple[int, ...],
        *,
        channels: tuple[int, ...],
        start: int,
        kernel_initializer: str = "he_normal",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self._deconvolutions = []
        before = start
        for place, (size, width) in enumerate(zip(sizes, channels, strict=True)):
            last = place == len(sizes) - 1
            grows = size != before
            self._deconvolutions.append(
                keras.layers.Conv2DTranspose(
                    width,
                    KERNEL,
                    strides=2 if grows else 1,
                    padding="same",
                    output_padding=size - (2 * before - 1) if grows else None,
                    activation=None if last else "relu",
                    kernel_initializer=kernel_initializer,
                )
            )
            before = size

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """[N, start, start, features] -> [N, sizes[-1], sizes[-1], channels[-1]]."""
        for deconvolution in self._deconvolutions:
            x = deconvolution(x)
        return x
