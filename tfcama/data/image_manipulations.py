"""What the world does to an image: float32 [B, H, W, channels] in [0, 1] before and after."""

from __future__ import annotations

import abc
import dataclasses
from typing import ClassVar

import numpy as np
import tensorflow as tf

from tfcama import random
from tfcama.config import check_positive
from tfcama.data.manipulation_base import Manipulated, Manipulation, choice
from tfcama.errors import InputError
from tfcama.warp import pixel_grid, sample_bilinear


@dataclasses.dataclass(frozen=True)
class _Drawn(Manipulation):
    """One number an image, uniform on [-level, level], or exactly level with mode=fixed."""

    mode: str = choice("uniform", "uniform", "fixed")

    def _draw(self, x: tf.Tensor, seed: random.Seed, size: int = 1) -> tf.Tensor:
        shape = [tf.shape(x)[0], size]
        if self.mode == "fixed":
            return tf.fill(shape, tf.constant(self.level, tf.float32))
        return random.uniform(shape, seed, -self.level, self.level)


@dataclasses.dataclass(frozen=True)
class _Warp(_Drawn):
    """A geometric manipulation: output pixel p shows input point A (p - c - t) + c, bilinear."""

    fill: str = choice("zero", "zero", "wrap", "nearest")

    @abc.abstractmethod
    def _geometry(self, code: tf.Tensor, height: int, width: int) -> tuple[tf.Tensor, tf.Tensor]:
        """The matrix A, [B, 2, 2] on (column, row), and the shift t, [B, 2] pixels."""

    def __call__(self, x, *, seed, y=None):
        code = self._draw(x, seed, self.code_size)
        matrix, shift = self._geometry(code, x.shape[1], x.shape[2])
        return Manipulated(warp(x, matrix, shift, fill=self.fill), code)


def warp(x: tf.Tensor, matrix: tf.Tensor, shift: tf.Tensor, *, fill: str) -> tf.Tensor:
    """Resamples images bilinearly; output pixel p shows input point A (p - c - t) + c.

    Args:
      x: [B, H, W, channels].
      matrix: A, [B, 2, 2], acting on (column, row).
      shift: t, [B, 2], pixels, (columns to the right, rows down).
      fill: what lies outside the frame: "zero", "wrap" or "nearest".

    Returns:
      [B, H, W, channels].
    """
    height, width = x.shape[1], x.shape[2]
    if fill == "wrap":
        return _wrapped(x, matrix, shift)
    centre = tf.constant([(width - 1) / 2, (height - 1) / 2], tf.float32)
    offset = centre - tf.linalg.matvec(matrix, centre + shift)  # [B, 2]
    rows = tf.concat([matrix, offset[..., None]], axis=-1)  # [B, 2, 3]
    transforms = tf.concat(
        [tf.reshape(rows, [-1, 6]), tf.zeros([tf.shape(x)[0], 2])], axis=1
    )  # [B, 8]
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=x,
        transforms=transforms,
        output_shape=[height, width],
        interpolation="BILINEAR",
        fill_mode={"zero": "CONSTANT", "nearest": "NEAREST"}[fill],
        fill_value=0.0,
    )


def _wrapped(x: tf.Tensor, matrix: tf.Tensor, shift: tf.Tensor) -> tf.Tensor:
    """`warp` of what repeats itself; TensorFlow's WRAP does not interpolate across its seam."""
    height, width = x.shape[1], x.shape[2]
    points = pixel_grid(height, width) - shift[:, None, None]  # [B, H, W, 2]
    points = tf.einsum("bij,bhwj->bhwi", matrix, points)
    corner = tf.constant([(width - 1) / 2, (height - 1) / 2], tf.float32)
    points = tf.math.floormod(points + corner, [width, height])
    x = tf.concat([x, x[:, :1]], axis=1)
    x = tf.concat([x, x[:, :, :1]], axis=2)
    return sample_bilinear(x, points - [width / 2, height / 2])


def _unmoved(batch_like: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    size = tf.shape(batch_like)[0]
    return tf.eye(2, batch_shape=[size]), tf.zeros([size, 2])


@dataclasses.dataclass(frozen=True)
class VerticalShift(_Warp):
    """Each image moves down by its own offset; the code is the fraction of the height."""

    unit: ClassVar[str] = "fraction of the height"
    max_level: ClassVar[float] = 1.0

    def _geometry(self, code, height, width):
        matrix, shift = _unmoved(code)
        return matrix, shift + code * [[0.0, height]]

    def parameters(self, code, shape):
        return {"shift_y": code[:, 0] * shape[0]}


@dataclasses.dataclass(frozen=True)
class HorizontalShift(_Warp):
    """Each image moves to the right by its own offset; the code is the fraction of the width."""

    unit: ClassVar[str] = "fraction of the width"
    max_level: ClassVar[float] = 1.0

    def _geometry(self, code, height, width):
        matrix, shift = _unmoved(code)
        return matrix, shift + code * [[width, 0.0]]

    def parameters(self, code, shape):
        return {"shift_x": code[:, 0] * shape[1]}


@dataclasses.dataclass(frozen=True)
class Shift(_Warp):
    """Both shifts at once, independent; the code is (fraction of width, fraction of height)."""

    unit: ClassVar[str] = "fraction of the width and of the height"
    max_level: ClassVar[float] = 1.0
    code_size: ClassVar[int] = 2

    def _geometry(self, code, height, width):
        matrix, _ = _unmoved(code)
        return matrix, code * [[width, height]]

    def parameters(self, code, shape):
        return {"shift_x": code[:, 0] * shape[1], "shift_y": code[:, 1] * shape[0]}


@dataclasses.dataclass(frozen=True)
class Rotation(_Warp):
    """Each image turns counter-clockwise about its centre; the level is in degrees.

    The code is in units of 90 degrees.
    """

    unit: ClassVar[str] = "degrees"
    max_level: ClassVar[float] = 180.0

    def _draw(self, x, seed, size=1):
        return super()._draw(x, seed, size) / 90.0

    def _geometry(self, code, height, width):
        angle = code[:, 0] * (np.pi / 2)
        cos, sin = tf.cos(angle), tf.sin(angle)
        matrix = tf.stack([tf.stack([cos, -sin], -1), tf.stack([sin, cos], -1)], axis=1)
        return matrix, _unmoved(code)[1]

    def parameters(self, code, shape):
        return {"rotation": code[:, 0] * 90.0}


@dataclasses.dataclass(frozen=True)
class ClassRotation(Rotation):
    """Every class turns by an angle of its own: the first by -level, the last by level degrees.

    The classes between them are evenly spaced, and each image is off its class's angle by its own
    draw, uniform on +-level / 10. M depends on Y here: what p(m | y) is for. At level 180 a 9 lies
    as a 6 does, and nothing but its label says which it is.
    """

    classes: int = dataclasses.field(default=0, repr=False)

    def fit(self, dataset):
        super().fit(dataset)
        return dataclasses.replace(self, classes=dataset.spec.num_classes)

    def __call__(self, x, *, seed, y=None):
        if y is None or not self.classes:
            raise InputError(
                "class_rotation turns every class by its own angle: it needs fit() before it and "
                "labels y, of which test-time augmentation has none."
            )
        own = 0.1 * self._draw(x, seed)
        place = 2.0 * tf.cast(y, tf.float32) / max(1, self.classes - 1) - 1.0  # -1 to 1
        code = self.level / 90.0 * place[:, None] + own
        matrix, shift = self._geometry(code, x.shape[1], x.shape[2])
        return Manipulated(warp(x, matrix, shift, fill=self.fill), code)


@dataclasses.dataclass(frozen=True)
class Zoom(_Warp):
    """Each image is scaled about its centre by 1 + u; the code is log(1 + u)."""

    unit: ClassVar[str] = "relative change of scale"
    max_level: ClassVar[float] = 0.95

    def _draw(self, x, seed, size=1):
        return tf.math.log1p(super()._draw(x, seed, size))

    def _geometry(self, code, height, width):
        matrix, shift = _unmoved(code)
        return matrix * tf.exp(-code)[..., None], shift

    def parameters(self, code, shape):
        return {"zoom": code[:, 0]}


@dataclasses.dataclass(frozen=True)
class GaussianNoise(Manipulation):
    """Independent Gaussian noise on every pixel, clipped to [0, 1]; the code is the level."""

    unit: ClassVar[str] = "standard deviation, full scale = 1"
    max_level: ClassVar[float] = 10.0

    def __call__(self, x, *, seed, y=None):
        noisy = x + self.level * random.normal(tf.shape(x), seed)
        return Manipulated(
            tf.clip_by_value(noisy, 0.0, 1.0), tf.fill([tf.shape(x)[0], 1], self.level)
        )


@dataclasses.dataclass(frozen=True)
class Contrast(_Drawn):
    """x' = 1/2 + (1 + u)(x - 1/2), clipped to [0, 1]; the code is u."""

    unit: ClassVar[str] = "relative change of contrast"
    max_level: ClassVar[float] = 1.0

    def __call__(self, x, *, seed, y=None):
        code = self._draw(x, seed)
        changed = 0.5 + (1.0 + code[:, None, None]) * (x - 0.5)
        return Manipulated(tf.clip_by_value(changed, 0.0, 1.0), code)

    def parameters(self, code, shape):
        return {"contrast": code[:, 0]}


@dataclasses.dataclass(frozen=True)
class Brightness(_Drawn):
    """x' = x + u, clipped to [0, 1]; the code is u."""

    unit: ClassVar[str] = "full scale = 1"
    max_level: ClassVar[float] = 1.0

    def __call__(self, x, *, seed, y=None):
        code = self._draw(x, seed)
        return Manipulated(tf.clip_by_value(x + code[:, None, None], 0.0, 1.0), code)

    def parameters(self, code, shape):
        return {"brightness": code[:, 0]}


@dataclasses.dataclass(frozen=True)
class Inversion(Manipulation):
    """x' = 1 - x for each image with probability `level`; the code is 1 where it happened."""

    unit: ClassVar[str] = "probability"
    max_level: ClassVar[float] = 1.0

    def __call__(self, x, *, seed, y=None):
        inverted = random.uniform([tf.shape(x)[0], 1], seed) < self.level
        return Manipulated(
            tf.where(inverted[:, None, None], 1.0 - x, x), tf.cast(inverted, tf.float32)
        )

    def parameters(self, code, shape):
        return {"contrast": -2.0 * code[:, 0]}


@dataclasses.dataclass(frozen=True)
class ZcaWhitening(Manipulation):
    """Blends each image with its ZCA-whitened form (ICLR appendix B, Figure 18); code = level.

    The whitening W = U (S + epsilon)^(-1/2) U' and the mean are those of the training images. A
    whitened image has no fixed range, so one affine map for the whole data set takes the 0.1 % and
    99.9 % quantiles of whitened training pixels to 0 and 1; what lies outside is clipped.
    """

    unit: ClassVar[str] = "share of the whitened image"
    max_level: ClassVar[float] = 1.0

    epsilon: float = 1e-2
    fitted: tuple[np.ndarray, np.ndarray, float, float] | None = dataclasses.field(
        default=None, repr=False, compare=False
    )

    def __post_init__(self):
        super().__post_init__()
        check_positive(self, "epsilon")

    def fit(self, dataset):
        super().fit(dataset)
        reference = dataset.reference.x
        flat = np.reshape(reference, [len(reference), -1]).astype(np.float64)
        mean = flat.mean(axis=0)
        covariance = np.cov(flat, rowvar=False)
        values, vectors = np.linalg.eigh(covariance)
        whiten = (vectors / np.sqrt(np.maximum(values, 0.0) + self.epsilon)) @ vectors.T
        seen = ((flat[:5000] - mean) @ whiten).ravel()
        low, high = np.quantile(seen, [0.001, 0.999])
        fitted = (mean.astype(np.float32), whiten.astype(np.float32), float(low), float(high))
        return dataclasses.replace(self, fitted=fitted)

    def __call__(self, x, *, seed, y=None):
        if self.fitted is None:
            raise InputError("zca_whitening has seen no training images; call fit() before it.")
        mean, whiten, low, high = self.fitted
        flat = tf.reshape(x, [tf.shape(x)[0], -1])
        white = tf.reshape(tf.matmul(flat - mean, whiten), tf.shape(x))
        white = tf.clip_by_value((white - low) / (high - low), 0.0, 1.0)
        blended = (1.0 - self.level) * x + self.level * white
        return Manipulated(blended, tf.fill([tf.shape(x)[0], 1], self.level))
