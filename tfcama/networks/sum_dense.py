"""A Dense over a concatenation, computed as a sum of Dense over its parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import keras
import numpy as np
import tensorflow as tf

from tfcama.networks.rows import product


class SumDense(keras.layers.Layer):
    """W [a, b, ...] + bias = W_a a + W_b b + ... + bias, each part at its own shape.

    With p(x | y, z, m) enumerated over C classes and K samples the parts have leading shapes
    [1, C], [B, 1] and [K, B, C]; only their small products are broadcast, and the y- and m-parts
    are not computed once a sample. Equal to `Dense(units)(concat(parts))` in values, gradients and
    initialisation (the fan-in is that of the concatenation).

    Args:
      units: size of the output.
      sizes: name of each part -> size of its last axis; parts of size 0 are left out.
      kernel_initializer: of the whole kernel [sum(sizes), units].
    """

    def __init__(
        self,
        units: int,
        *,
        sizes: Mapping[str, int],
        kernel_initializer: str = "he_normal",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self._sizes = {name: size for name, size in sizes.items() if size}
        self.kernel = self.add_weight(
            shape=(sum(self._sizes.values()), units), initializer=kernel_initializer, name="kernel"
        )
        self.bias = self.add_weight(shape=(units,), initializer="zeros", name="bias")
        self.built = True

    def call(self, parts: tuple[tf.Tensor, ...]) -> tf.Tensor:
        """The sum, broadcast: [..., units].

        Args:
          parts: one tensor [..., size] for each of `sizes`; the leading shapes broadcast. Adding
            runs from the first to the last, so the part of the largest shape belongs at the end.
        """
        kernels = tf.split(tf.convert_to_tensor(self.kernel), list(self._sizes.values()), axis=0)
        total = tf.convert_to_tensor(self.bias)
        for part, kernel in zip(parts, kernels, strict=True):
            total = total + product(part, kernel)
        return total

    def adopt(self, other: SumDense) -> None:
        """Takes over the bias and the kernels of the parts that both have."""
        self.bias.assign(other.bias)
        kernel, theirs = np.array(self.kernel.numpy()), dict(other._kernels())
        start = 0
        for name, size in self._sizes.items():
            if name in theirs:
                kernel[start : start + size] = theirs[name]
            start += size
        self.kernel.assign(kernel)

    def _kernels(self) -> Iterator[tuple[str, np.ndarray]]:
        start, kernel = 0, self.kernel.numpy()
        for name, size in self._sizes.items():
            yield name, kernel[start : start + size]
            start += size
