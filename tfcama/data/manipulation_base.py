"""The contract of a manipulation: what the world does to an input that nobody labelled anew."""

from __future__ import annotations

import abc
import dataclasses
from typing import Any, ClassVar, NamedTuple

import tensorflow as tf

from tfcama import random
from tfcama.data.base import Dataset
from tfcama.errors import InputError, unknown_name


class Manipulated(NamedTuple):
    """A manipulated batch.

    Attributes:
      x: [B, *shape] float32; images in [0, 1].
      code: [B, P] float32; what was done to each input, in the manipulation's units. With
        do(m = m0) it says which m0 a known manipulation is (deep CAMA, section 3.1).
    """

    x: tf.Tensor
    code: tf.Tensor


@dataclasses.dataclass(frozen=True)
class Manipulation(abc.ABC):
    """A family of manipulations at one level.

    Attributes:
      level: how strong; 0 changes nothing.
    """

    level: float

    kind: ClassVar[str] = "image"  # of InputSpec
    unit: ClassVar[str]
    max_level: ClassVar[float]
    code_size: ClassVar[int] = 1
    example: ClassVar[float | None] = None  # of a level; None takes half of the largest

    def __post_init__(self):
        if not 0.0 <= self.level <= self.max_level:
            raise InputError(
                f"level {self.level:g} was given; {type(self).__name__} takes "
                f"0 to {self.max_level:g} ({self.unit})."
            )
        for field in dataclasses.fields(self):
            allowed = field.metadata.get("allowed")
            if allowed is not None and getattr(self, field.name) not in allowed:
                raise unknown_name(field.name, str(getattr(self, field.name)), allowed)

    def fit(self, dataset: Dataset) -> Manipulation:
        """The same manipulation, having seen what it is for.

        Raises:
          InputError: it is not for inputs of this kind.
        """
        spec = dataset.spec
        if spec.kind != self.kind:
            given = "tables" if spec.kind == "table" else "images"
            raise InputError(
                f"{type(self).__name__} manipulates {self.kind}s; {dataset.name} holds {given}."
            )
        return self

    def parameters(self, code: tf.Tensor, shape: tuple[int, ...]) -> dict[str, tf.Tensor]:
        """What was done to each input, by the names and units of mechanisms' parameters, [B] each.

        Args:
          code: see Manipulated.
          shape: of one input.

        Returns:
          {} where no mechanism has a parameter for it.
        """
        del code, shape
        return {}

    @abc.abstractmethod
    def __call__(
        self, x: tf.Tensor, *, seed: random.Seed, y: tf.Tensor | None = None
    ) -> Manipulated:
        """Manipulates each input by its own draw.

        Args:
          x: [B, *shape].
          seed: int32 [2].
          y: [B] int32; needed where a manipulation of a cause of x changes x by a structural
            equation in y, unused elsewhere.
        """


def choice(default: str, *allowed: str) -> Any:
    """A dataclass field for one of a few words."""
    return dataclasses.field(default=default, metadata={"allowed": allowed})
