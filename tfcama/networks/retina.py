"""Retinotopic sampling, CiiV's instrument on the input (Tang et al., 2021)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf

_NOISE = 0.9  # of the uniform noise before the threshold, full scale 1
_THRESHOLD_SLOPE = 1e-5  # how soft the threshold is
_SHARPNESS = 0.3  # how fast the fovea's probability falls
_FLATNESS = 10.0  # pixels of 32; added to distances from the border
_KEPT_ABOVE = 0.9
_CENTRES = (5 / 32, 16 / 32, 27 / 32)  # of height and of width
NUM_CENTRES = len(_CENTRES) ** 2


class Noise(NamedTuple):
    """U(0, 1) for S samples of each of the nine gazes.

    Attributes:
      pixels: [B or 1, 9, S, H, W, channels].
      places: decides which pixels are kept, [B or 1, 9, S, H, W, 1].
    """

    pixels: tf.Tensor
    places: tf.Tensor


def fovea(height: int, width: int) -> np.ndarray:
    """How much each of nine gazes favours each pixel, [9, height, width, 1] float32 in [0, 1].

    ((d_max - d + 10)^0.3) scaled to a maximum of 1, d the distance to the centre of the gaze; sizes
    other than 32 are measured in 32nds.
    """
    rows = (np.arange(height) + 0.5) * 32 / height
    columns = (np.arange(width) + 0.5) * 32 / width
    maps = []
    for y in _CENTRES:
        for x in _CENTRES:
            d = np.hypot(rows[:, None] - 32 * y, columns[None, :] - 32 * x)
            near = (d.max() - d + _FLATNESS) ** _SHARPNESS
            maps.append(near / near.max())
    return np.stack(maps)[..., None].astype(np.float32)


def sample(x: tf.Tensor, maps: tf.Tensor, noise: Noise) -> tuple[tf.Tensor, tf.Tensor]:
    """What the nine gazes see of an image, each the mean of S samples.

    A sample is relu(x + 0.9 u), u ~ U(-1, 1), pressed to nearly 0 or 1 by v / (v + 1e-5), times a
    mask that keeps a pixel where fovea + U(0, 1) > 0.9. The press all but hides the gradient in x:
    attacks on it need the expectation over noise, and then some.

    Args:
      x: images in [0, 1], [B, H, W, channels].
      maps: see `fovea`.
      noise: of the samples.

    Returns:
      Views [B, 9, H, W, channels], and strengths [B or 1, 9], the share of pixels kept.
    """
    lit = tf.nn.relu(x[:, None, None] + _NOISE * (2.0 * noise.pixels - 1.0))
    lit = lit / (lit + _THRESHOLD_SLOPE)
    mask = tf.cast(maps[None, :, None] + noise.places > _KEPT_ABOVE, tf.float32)
    return tf.reduce_mean(lit * mask, axis=2), tf.reduce_mean(mask, axis=[2, 3, 4, 5])
