"""`cnn_bn`: the CNN with batch normalisation, what test-time adaptation is usually done to."""

from __future__ import annotations

import keras
import tensorflow as tf

from tfcama import random
from tfcama.models.discriminative import (
    Discriminative,
    DiscriminativeConfig,
    Stage,
    check_images,
    cnn_stack,
    conv,
)
from tfcama.networks.batch_norm import BatchNorm
from tfcama.types import InputSpec, VariableGroups


class BatchNormClassifier(Discriminative):
    """A stack with BatchNorm layers in it.

    Their running statistics move in training and nowhere else. Prediction takes them as they are,
    so that an example's answer does not depend on its batch.
    """

    def logits(
        self,
        x: tf.Tensor,
        *,
        draws: random.RowDraws | None = None,
        batch_statistics: bool = False,
    ) -> tf.Tensor:
        """[B, C] float32.

        Args:
          x: [B, *shape].
          draws: in training: dropout, and statistics of the batch that the running ones follow.
          batch_statistics: normalise by the statistics of x, and nothing else of training.
        """
        training = draws is not None
        x = self._through(x, draws=draws, batch=training or batch_statistics, update=training)
        return self._to_logits(x)

    def norms(self) -> dict[int, BatchNorm]:
        """The normalising layers by their place in the stack, from input to logits."""
        return {p: layer for p, layer in enumerate(self.stack) if isinstance(layer, BatchNorm)}

    def entering(self, place: int, x: tf.Tensor) -> tf.Tensor:
        """What prediction feeds into the stack's layer `place`, [B, ..., F]."""
        return self._through(x, stop=place)

    def variable_groups(self) -> VariableGroups:
        moved = [v for norm in self.norms().values() for v in norm.trainable_variables]
        known = {id(v) for v in moved}
        network = [v for v in self.trainable_variables if id(v) not in known]
        return {"network": network, "scale_shift": moved}

    def _apply(
        self,
        layer: keras.layers.Layer,
        x: tf.Tensor,
        *,
        batch: bool = False,
        update: bool = False,
    ) -> tf.Tensor:
        if isinstance(layer, BatchNorm):
            return layer(x, batch=batch, update=update)
        return layer(x)


def _convolution(
    channels: int, config: DiscriminativeConfig, *, padding: str = "same"
) -> list[Stage]:
    """Convolution, batch norm (whose shift is the bias), ReLU."""
    return [
        (conv(channels, config, padding=padding, activation=None, use_bias=False), 0.0),
        (BatchNorm(), 0.0),
        (keras.layers.ReLU(), 0.0),
    ]


def cnn_bn(spec: InputSpec, config: DiscriminativeConfig) -> BatchNormClassifier:
    """`cnn` with batch normalisation between every convolution and its ReLU.

    Raises:
      InputError: the inputs are no images.
    """
    check_images(spec, "cnn_bn")
    return BatchNormClassifier(spec, cnn_stack(config, block=_convolution), name="cnn_bn")
