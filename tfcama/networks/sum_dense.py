"""A Dense over a concatenation, computed as a sum of Dense over its parts."""

from __future__ import annotations

import keras
import tensorflow as tf


class SumDense(keras.layers.Layer):
    """W [a, b, ...] + bias = W_a a + W_b b + ... + bias, each part at its own shape.

    With p(x | y, z, m) enumerated over C classes and K samples the parts have leading shapes
    [1, C], [B, 1] and [K, B, C]; only their small products are broadcast, and the y- and m-parts
    are not computed once a sample. Equal to `Dense(units)(concat(parts))` in values, gradients and
    initialisation (the fan-in is that of the concatenation).

    Args:
      units: size of the output.
      sizes: size of the last axis of each part.
      kernel_initializer: of the whole kernel [sum(sizes), units].
    """

    def __init__(
        self, units: int, *, sizes: tuple[int, ...], kernel_initializer: str = "he_normal", **kwargs
    ):
        super().__init__(**kwargs)
        self._sizes = tuple(sizes)
        self.kernel = self.add_weight(
            shape=(sum(sizes), units), initializer=kernel_initializer, name="kernel"
        )
        self.bias = self.add_weight(shape=(units,), initializer="zeros", name="bias")
        self.built = True

    def call(self, parts: tuple[tf.Tensor, ...]) -> tf.Tensor:
        """The sum, broadcast: [..., units].

        Args:
          parts: one tensor [..., size] for each of `sizes`; the leading shapes broadcast. Adding
            runs from the first to the last, so the part of the largest shape belongs at the end.
        """
        kernels = tf.split(tf.convert_to_tensor(self.kernel), self._sizes, axis=0)
        total = tf.convert_to_tensor(self.bias)
        for part, kernel in zip(parts, kernels, strict=True):
            total = total + tf.tensordot(part, kernel, axes=1)
        return total
