"""Spatial transformer: an image is resampled where a net says (Jaderberg et al., 2015)."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from tfcama.networks.self_building import SelfBuilding
from tfcama.warp import pixel_grid, sample_bilinear

_CHANNELS = (16, 32)
_UNITS = 32
_IDENTITY = np.array([1.0, 0.0, 0.0, 0.0, 1.0, 0.0], np.float32)


class SpatialTransformer(SelfBuilding):
    """Images seen through an affine map of their own, the identity at the start (section 3, Eq. 1).

    The output's pixel p shows the input at A p + t * h; p is (column, row) in pixels from the
    centre, h half the width and height. A localisation net of two convolutions gives
    theta = (A11, A12, t1, A21, A22, t2).

    Args:
      kernel_initializer: of the localisation net, but for its last layer, which starts at zero.
    """

    def __init__(self, *, kernel_initializer: str = "he_normal", **kwargs):
        super().__init__(**kwargs)
        self._localisation = [
            keras.layers.MaxPooling2D(2, padding="same"),
            *(
                layer
                for channels in _CHANNELS
                for layer in (
                    keras.layers.Conv2D(
                        channels,
                        5,
                        padding="same",
                        activation="relu",
                        kernel_initializer=kernel_initializer,
                    ),
                    keras.layers.MaxPooling2D(2, padding="same"),
                )
            ),
            keras.layers.Flatten(),
            keras.layers.Dense(_UNITS, activation="relu", kernel_initializer=kernel_initializer),
        ]
        self._move = keras.layers.Dense(len(_IDENTITY), kernel_initializer="zeros")

    def theta(self, x: tf.Tensor) -> tf.Tensor:
        """[B, 6] float32, where each image is looked at."""
        for layer in self._localisation:
            x = layer(x)
        # The identity is added here, not a bias: weight decay then pulls towards it.
        return _IDENTITY + tf.cast(self._move(x), tf.float32)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """[B, H, W, channels] -> the same."""
        return tf.cast(resampled(tf.cast(x, tf.float32), self.theta(x)), x.dtype)


def resampled(x: tf.Tensor, theta: tf.Tensor) -> tf.Tensor:
    """Images seen through affine maps, bilinear, zero outside the frame.

    Args:
      x: [B, H, W, channels] float32.
      theta: [B, 6], see SpatialTransformer.
    """
    height, width = x.shape[1], x.shape[2]
    rows = tf.reshape(theta, [-1, 2, 3])
    half = tf.constant([(width - 1) / 2, (height - 1) / 2], tf.float32)
    points = tf.einsum("bij,hwj->bhwi", rows[..., :2], pixel_grid(height, width))
    return sample_bilinear(x, points + (rows[..., 2] * half)[:, None, None])
