"""`classifier`: any backbone and a linear layer to the logits, the baseline without a defence."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import tensorflow as tf

from tfcama import random
from tfcama.config import check_at_least
from tfcama.models.discriminative import Discriminative, Stage
from tfcama.networks.backbones import registry
from tfcama.networks.backbones.base import Backbone
from tfcama.networks.initializers import check_initializer
from tfcama.types import InputSpec


@dataclasses.dataclass(frozen=True)
class BackboneConfig:
    """What every model on a backbone chooses.

    Attributes:
      backbone: `name[:key=value…]` of BACKBONES, e.g. "resnet34:norm=group".
      kernel_initializer: of every kernel in front of a ReLU.
    """

    backbone: str = "mlp"
    kernel_initializer: str = "he_normal"

    def __post_init__(self):
        registry.parse(self.backbone)
        check_initializer(self.kernel_initializer)

    def make_backbone(self, spec: InputSpec) -> Backbone:
        """The backbone.

        Raises:
          InputError: it does not fit the inputs.
        """
        made = registry.parse(self.backbone)
        return made.build(spec, kernel_initializer=self.kernel_initializer)


@dataclasses.dataclass(frozen=True)
class ClassifierConfig(BackboneConfig):
    """A plain classifier's choices.

    Attributes:
      hidden: units of a ReLU layer between features and logits, 256 in the CausalIB authors'
        baseline; 0 for none.
    """

    hidden: int = 0

    def __post_init__(self):
        super().__post_init__()
        check_at_least(self, hidden=0)


class BackboneClassifier(Discriminative):
    """Cross-entropy on logits that are linear in a backbone's features.

    Statistics of batch norms move in training and nowhere else.

    Args:
      spec: of the data set.
      config: the model's choices.

    Raises:
      InputError: the backbone does not fit the inputs.
    """

    def __init__(self, spec: InputSpec, config: ClassifierConfig):
        self.config = config
        stack: list[Stage] = [(config.make_backbone(spec), 0.0)]
        if config.hidden:
            hidden = keras.layers.Dense(
                config.hidden, activation="relu", kernel_initializer=config.kernel_initializer
            )
            stack.append((hidden, 0.0))
        super().__init__(spec, stack, name="classifier")

    def logits(self, x: tf.Tensor, *, draws: random.RowDraws | None = None) -> tf.Tensor:
        """[B, C] float32; with `draws`, in training, under the statistics of the batch."""
        learning = draws is not None
        return self._to_logits(self._through(x, draws=draws, batch=learning, update=learning))

    def _apply(self, layer: keras.layers.Layer, x: tf.Tensor, **how: Any) -> tf.Tensor:
        return layer(x, **how) if isinstance(layer, Backbone) else layer(x)
