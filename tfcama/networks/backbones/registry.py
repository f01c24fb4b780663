"""BACKBONES: every backbone by name."""

from __future__ import annotations

from tfcama import specs
from tfcama.networks.backbones.alexnet import AlexNetOptions
from tfcama.networks.backbones.base import Options
from tfcama.networks.backbones.mlp import MlpOptions
from tfcama.networks.backbones.resnet import (
    PreActResNet18Options,
    ResNet34Options,
    WideResNetOptions,
)
from tfcama.registry import Registry

BACKBONES: Registry[type[Options]] = Registry(
    "backbone",
    {
        "mlp": MlpOptions,
        "alexnet": AlexNetOptions,
        "preact_resnet18": PreActResNet18Options,
        "resnet34": ResNet34Options,
        "wide_resnet": WideResNetOptions,
    },
)


def parse(text: str) -> Options:
    """The backbone that a flag names: `name[:key=value…]`.

    Raises:
      InputError: an unknown name or option, or a value out of range.

    Example:
      >>> parse("wide_resnet:depth=28")
      WideResNetOptions(depth=28, width=10, norm='batch')
    """
    return specs.make(text, BACKBONES)
