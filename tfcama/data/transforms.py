"""TRANSFORMS: what may happen to a training image without its label, or its cause, changing.

The usual augmentation of natural images, `crop:pixels=4+flip`. A transformed row stands in for the
clean one: it is clean data, of p(x|y, z, do(m=0)), where a manipulated copy (`augment`, deep CAMA's
Eq. 5) is a further row of D'.
"""

from __future__ import annotations

import abc
import dataclasses
from typing import NamedTuple

import tensorflow as tf

from tfcama import random, specs
from tfcama.config import check_at_least
from tfcama.errors import InputError
from tfcama.registry import Registry
from tfcama.types import InputSpec


class Transform(abc.ABC):
    """Changes each image of a batch by its own draw."""

    def check(self, spec: InputSpec) -> None:
        """Raises InputError where inputs of this spec cannot be transformed."""
        if spec.kind != "image":
            raise InputError(f"transform={type(self).__name__.lower()} is for images, not tables.")

    @abc.abstractmethod
    def __call__(self, x: tf.Tensor, *, seed: random.Seed) -> tf.Tensor:
        """Images [B, H, W, C], of the same shape after it.

        Args:
          x: the images.
          seed: int32 [2].
        """


@dataclasses.dataclass(frozen=True)
class Crop(Transform):
    """The image moved by up to so many pixels each way; what comes in from outside is zero.

    In other words a window of the image's size at a uniform place in the image with a zero border
    (He et al., 2016, section 4.2).

    Attributes:
      pixels: width of the border.
    """

    pixels: int = 4

    def __post_init__(self):
        check_at_least(self, pixels=1)

    def check(self, spec: InputSpec) -> None:
        super().check(spec)
        if self.pixels >= min(spec.shape[:2]):
            raise InputError(
                f"transform=crop:pixels={self.pixels} was given; images are {list(spec.shape)}, "
                f"pixels may be 1 to {min(spec.shape[:2]) - 1}."
            )

    def __call__(self, x: tf.Tensor, *, seed: random.Seed) -> tf.Tensor:
        border = [self.pixels, self.pixels]
        places = 2 * self.pixels + 1
        corner = tf.cast(random.uniform([tf.shape(x)[0], 2], seed, high=places), tf.int32)
        x = tf.pad(x, [[0, 0], border, border, [0, 0]])
        for axis in (1, 2):
            length = tf.shape(x)[axis] - 2 * self.pixels
            x = tf.gather(x, corner[:, axis - 1, None] + tf.range(length), axis=axis, batch_dims=1)
        return x


@dataclasses.dataclass(frozen=True)
class Flip(Transform):
    """Left and right exchanged in half of the images."""

    def __call__(self, x: tf.Tensor, *, seed: random.Seed) -> tf.Tensor:
        flipped = random.uniform([tf.shape(x)[0], 1, 1, 1], seed) < 0.5
        return tf.where(flipped, x[:, :, ::-1], x)


TRANSFORMS: Registry[type[Transform]] = Registry("transform", {"crop": Crop, "flip": Flip})


class Transforms(NamedTuple):
    """Several, first one first."""

    parts: tuple[Transform, ...]

    def check(self, spec: InputSpec) -> None:
        """Raises InputError where inputs of this spec cannot be transformed."""
        for part in self.parts:
            part.check(spec)

    def __call__(self, x: tf.Tensor, *, seed: random.Seed) -> tf.Tensor:
        """See Transform; every part has draws of its own."""
        for place, part in enumerate(self.parts):
            x = part(x, seed=random.fold_in(seed, place))
        return x


def parse(text: str) -> Transforms:
    """`name[:key=value…]` of TRANSFORMS, joined by `+`.

    Raises:
      InputError: an unknown name or option, or a value out of range.

    Example:
      >>> parse("crop:pixels=2+flip").parts
      (Crop(pixels=2), Flip())
    """
    return Transforms(tuple(specs.make(part, TRANSFORMS) for part in text.split("+")))
