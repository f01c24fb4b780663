"""METHODS: every way to adapt a trained model to unlabelled inputs, by name."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from tfcama import specs
from tfcama.registry import Registry
from tfcama.training.adaptation import Adaptation, TargetStatistics, Tent

EQ8 = "eq8"


@dataclasses.dataclass(frozen=True)
class Eq8:
    """Deep CAMA's fine-tuning, Eq. 8; what it takes are fields of FinetuneConfig."""

    family: ClassVar[str] = "eq8"


METHODS: Registry[type[Eq8 | Adaptation]] = Registry(
    "fine-tuning method", {EQ8: Eq8, "tent": Tent, "batch_norm": TargetStatistics}
)
"""Their options; the `family` is a key of fine-tuning's FINETUNERS."""


def parse(text: str) -> Eq8 | Adaptation:
    """The method that a flag names: `name[:key=value…]`.

    Raises:
      InputError: an unknown name or option, or a value out of range.

    Example:
      >>> parse("tent:epochs=5").epochs
      5
    """
    return specs.make(text, METHODS)
