"""`alexnet`: AlexNet in the form that is usual for 32x32 images."""

from __future__ import annotations

import dataclasses

import keras
import tensorflow as tf

from tfcama.config import check_at_least
from tfcama.networks.backbones.base import Backbone, check_images
from tfcama.types import InputSpec

_STEM_PADDING, _STEM_KERNEL, _STEM_STRIDE = 5, 11, 4
_SMALLEST = 29  # pixels; below, three poolings leave nothing


class AlexNet(Backbone):
    """Five convolutions, three max-poolings, one linear layer to come (Krizhevsky et al., 2012).

    Kernels, strides and channels are those of ImageNet's net without its two hidden dense layers:
    256 features at 32x32, 2.47 million parameters with a linear layer to ten classes.

    Args:
      spec: of images.
      width: channels of the first convolution; the others follow in AlexNet's proportions.
      kernel_initializer: of every kernel.
    """

    def __init__(self, spec: InputSpec, *, width: int, kernel_initializer: str):
        super().__init__(spec, name="alexnet")

        def convolution(channels: int, kernel: int, **how) -> keras.layers.Layer:
            how = {"padding": "same", "activation": "relu", **how}
            return keras.layers.Conv2D(
                channels, kernel, kernel_initializer=kernel_initializer, **how
            )

        pool = keras.layers.MaxPooling2D
        self._stages = [
            keras.layers.ZeroPadding2D(_STEM_PADDING),
            convolution(width, _STEM_KERNEL, strides=_STEM_STRIDE, padding="valid"),
            pool(2),
            convolution(3 * width, 5),
            pool(2),
            convolution(6 * width, 3),
            convolution(4 * width, 3),
            convolution(4 * width, 3),
            pool(2),
            keras.layers.Flatten(),
        ]

    def _features(self, x: tf.Tensor, *, batch: bool, update: bool) -> tf.Tensor:
        for stage in self._stages:
            x = stage(x)
        return x


@dataclasses.dataclass(frozen=True)
class AlexNetOptions:
    """AlexNet's.

    Attributes:
      width: channels of the first convolution.
    """

    width: int = 64

    def __post_init__(self):
        check_at_least(self, width=1)

    def build(self, spec: InputSpec, *, kernel_initializer: str) -> Backbone:
        check_images(spec, least=_SMALLEST, name="alexnet")
        return AlexNet(spec, width=self.width, kernel_initializer=kernel_initializer)
