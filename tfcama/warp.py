"""Resampling of images that is differentiable in the images and in the points."""

from __future__ import annotations

import numpy as np
import tensorflow as tf


def pixel_grid(height: int, width: int) -> np.ndarray:
    """The place (column, row) of every pixel, [H, W, 2] float32, in pixels from the centre."""
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    return np.stack([columns - (width - 1) / 2, rows - (height - 1) / 2], axis=-1)


def sample_bilinear(images: tf.Tensor, points: tf.Tensor) -> tf.Tensor:
    """What images show at points between their pixels; zero outside the frame.

    The derivative in a point is that of the bilinear interpolation, zero outside the frame (Spatial
    transformer networks, Jaderberg et al., 2015, Eqs. 5 to 7).

    Args:
      images: [B, H, W, F] float32.
      points: [B, h, w, 2], (column, row) in pixels from the centre of the frame.

    Returns:
      [B, h, w, F].
    """
    size, (height, width, features) = tf.shape(images)[0], images.shape[1:]
    features = tf.shape(images)[3] if features is None else features
    flat = tf.pad(images, [[0, 0], [1, 1], [1, 1], [0, 0]])  # a ring of zeros
    flat = tf.reshape(flat, [size, (height + 2) * (width + 2), features])
    column = tf.clip_by_value(points[..., 0] + (width + 1) / 2, 0.0, width + 1.0)
    row = tf.clip_by_value(points[..., 1] + (height + 1) / 2, 0.0, height + 1.0)
    left, top = tf.minimum(tf.floor(column), width), tf.minimum(tf.floor(row), height)
    right_share, bottom_share = (column - left)[..., None], (row - top)[..., None]
    place = tf.cast(top * (width + 2) + left, tf.int32)
    place = tf.clip_by_value(place, 0, height * (width + 2) + width)  # NaN is no place

    def at(offset: int) -> tf.Tensor:
        return tf.gather(flat, place + offset, batch_dims=1)

    upper = at(0) * (1.0 - right_share) + at(1) * right_share
    lower = at(width + 2) * (1.0 - right_share) + at(width + 3) * right_share
    return upper * (1.0 - bottom_share) + lower * bottom_share


def sample_upright(images: tf.Tensor, columns: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    """`sample_bilinear` at all crossings of columns and rows, as two products of matrices.

    Args:
      images: [..., B, N, H, W] float32.
      columns: [B, w], in pixels from the centre of the frame.
      rows: [B, h], likewise.

    Returns:
      [..., B, N, h, w].
    """
    height, width = images.shape[-2:]
    across = tf.matmul(images, _shares(columns, width)[:, None], transpose_b=True)
    return tf.matmul(_shares(rows, height)[:, None], across)


def _shares(points: tf.Tensor, size: int) -> tf.Tensor:
    """How much of each of `size` pixels a point [B, n] shows, [B, n, size]."""
    away = points[..., None] - (tf.range(size, dtype=tf.float32) - (size - 1) / 2)
    share = tf.where(away >= 0.0, 1.0 - away, 1.0 + away)
    return tf.where((away >= -1.0) & (away < 1.0), share, 0.0)
