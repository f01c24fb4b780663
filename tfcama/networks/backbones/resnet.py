"""`preact_resnet18`, `resnet34`, `wide_resnet`: pre-activation residual nets for small images.

He et al., "Identity Mappings in Deep Residual Networks" (2016); Zagoruyko and Komodakis, "Wide
Residual Networks" (2016). A 3x3 stem without pooling, as on CIFAR.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import keras
import tensorflow as tf

from tfcama.config import check_at_least
from tfcama.errors import InputError
from tfcama.networks.backbones.base import Backbone, check_images
from tfcama.networks.norms import NORMS
from tfcama.networks.self_building import SelfBuilding
from tfcama.types import InputSpec

_SMALLEST = 8  # pixels; three stages halve


def _convolution(channels: int, kernel: int, strides: int, kernel_initializer: str):
    return keras.layers.Conv2D(
        channels,
        kernel,
        strides=strides,
        padding="same",
        use_bias=False,
        kernel_initializer=kernel_initializer,
    )


class PreActBlock(SelfBuilding):
    """x + two times {norm, ReLU, 3x3 convolution}; a 1x1 convolution of the first ReLU in x's place
    where the shape changes.

    Args:
      channels: of the output.
      strides: of the first convolution.
      projects: whether the shape changes.
      norm: a key of NORMS.
      kernel_initializer: of every kernel.
    """  # noqa: D205

    def __init__(
        self, channels: int, *, strides: int, projects: bool, norm: str, kernel_initializer: str
    ):
        super().__init__()
        self._norms = [NORMS[norm](), NORMS[norm]()]
        self._convolutions = [
            _convolution(channels, 3, strides, kernel_initializer),
            _convolution(channels, 3, 1, kernel_initializer),
        ]
        self._projection = (
            _convolution(channels, 1, strides, kernel_initializer) if projects else None
        )

    def call(self, x: tf.Tensor, batch: bool = False, update: bool = False) -> tf.Tensor:
        """[B, H, W, channels before] -> [B, H / strides, W / strides, channels]."""
        first, second = self._norms
        active = tf.nn.relu(first(x, batch=batch, update=update))
        shortcut = x if self._projection is None else self._projection(active)
        x = self._convolutions[0](active)
        x = self._convolutions[1](tf.nn.relu(second(x, batch=batch, update=update)))
        return x + shortcut


class ResNet(Backbone):
    """Stem, stages of blocks, norm, ReLU, mean over places.

    Args:
      spec: of images.
      stem: channels of the first convolution.
      stages: (channels, blocks) each; all but the first halve height and width.
      norm: a key of NORMS.
      kernel_initializer: of every kernel.
      name: of the backbone.
    """

    def __init__(
        self,
        spec: InputSpec,
        *,
        stem: int,
        stages: tuple[tuple[int, int], ...],
        norm: str,
        kernel_initializer: str,
        name: str,
    ):
        super().__init__(spec, name=name)
        self._stem = _convolution(stem, 3, 1, kernel_initializer)
        self._blocks = []
        before = stem
        for stage, (channels, blocks) in enumerate(stages):
            for block in range(blocks):
                strides = 2 if stage > 0 and block == 0 else 1
                projects = strides > 1 or channels != before
                self._blocks.append(
                    PreActBlock(
                        channels,
                        strides=strides,
                        projects=projects,
                        norm=norm,
                        kernel_initializer=kernel_initializer,
                    )
                )
                before = channels
        self._norm = NORMS[norm]()

    def _features(self, x: tf.Tensor, *, batch: bool, update: bool) -> tf.Tensor:
        x = self._stem(x)
        for block in self._blocks:
            x = block(x, batch=batch, update=update)
        x = tf.nn.relu(self._norm(x, batch=batch, update=update))
        return tf.reduce_mean(x, axis=[1, 2])


@dataclasses.dataclass(frozen=True)
class PreActResNet18Options:
    """18 layers: four stages of two blocks, 512 features.

    Attributes:
      channels: of the first stage; each stage doubles them.
      norm: a key of NORMS.
    """

    channels: int = 64
    norm: str = "batch"

    name: ClassVar[str] = "preact_resnet18"
    blocks: ClassVar[tuple[int, ...]] = (2, 2, 2, 2)

    def __post_init__(self):
        check_at_least(self, channels=1)
        NORMS[self.norm]

    def build(self, spec: InputSpec, *, kernel_initializer: str) -> Backbone:
        check_images(spec, least=_SMALLEST, name=self.name)
        return ResNet(
            spec,
            stem=self.channels,
            stages=tuple((self.channels * 2**i, blocks) for i, blocks in enumerate(self.blocks)),
            norm=self.norm,
            kernel_initializer=kernel_initializer,
            name=self.name,
        )


@dataclasses.dataclass(frozen=True)
class ResNet34Options(PreActResNet18Options):
    """34 layers: stages of 3, 4, 6 and 3 blocks, pre-activation too."""

    name: ClassVar[str] = "resnet34"
    blocks: ClassVar[tuple[int, ...]] = (3, 4, 6, 3)


@dataclasses.dataclass(frozen=True)
class WideResNetOptions:
    """WideResNet-34-10 unless told otherwise: three stages, 640 features.

    Attributes:
      depth: 6 n + 4, n blocks a stage.
      width: times 16, 32 and 64 channels.
      norm: a key of NORMS.
    """

    depth: int = 34
    width: int = 10
    norm: str = "batch"

    def __post_init__(self):
        check_at_least(self, width=1)
        if self.depth < 10 or (self.depth - 4) % 6:
            raise InputError(
                f"depth={self.depth} was given; a wide_resnet has 10, 16, 22, 28, 34, ... layers."
            )
        NORMS[self.norm]

    def build(self, spec: InputSpec, *, kernel_initializer: str) -> Backbone:
        check_images(spec, least=_SMALLEST, name="wide_resnet")
        blocks = (self.depth - 4) // 6
        return ResNet(
            spec,
            stem=16,
            stages=tuple((channels * self.width, blocks) for channels in (16, 32, 64)),
            norm=self.norm,
            kernel_initializer=kernel_initializer,
            name="wide_resnet",
        )
