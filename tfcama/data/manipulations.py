"""MANIPULATIONS: what the world does to an input, as seeded, vectorised TensorFlow functions.

A manipulation is named with its level and its options, `name:level[:key=value…]`, and several are
joined, first one first, by `+`: `vertical_shift:0.5`, `horizontal_shift:0.2:fill=wrap`,
`rotation:60+gaussian_noise:0.1`, `children_shift:2:direction=down`.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from tfcama import random, specs
from tfcama.data.base import Dataset, Split
from tfcama.data.image_manipulations import (
    Brightness,
    ClassRotation,
    Contrast,
    GaussianNoise,
    HorizontalShift,
    Inversion,
    Rotation,
    Shift,
    VerticalShift,
    ZcaWhitening,
    Zoom,
)
from tfcama.data.manipulation_base import Manipulated, Manipulation
from tfcama.data.table_manipulations import ChildrenShift, CoparentsShift
from tfcama.errors import InputError
from tfcama.registry import Registry

MANIPULATIONS: Registry[type[Manipulation]] = Registry(
    "manipulation",
    {
        "vertical_shift": VerticalShift,
        "horizontal_shift": HorizontalShift,
        "shift": Shift,
        "rotation": Rotation,
        "class_rotation": ClassRotation,
        "zoom": Zoom,
        "gaussian_noise": GaussianNoise,
        "contrast": Contrast,
        "brightness": Brightness,
        "inversion": Inversion,
        "zca_whitening": ZcaWhitening,
        "children_shift": ChildrenShift,
        "coparents_shift": CoparentsShift,
    },
)


class Sequence(NamedTuple):
    """Manipulations applied one after another; the codes are put side by side."""

    parts: tuple[Manipulation, ...]

    @property
    def code_size(self) -> int:
        return sum(part.code_size for part in self.parts)

    def parameters(self, code: tf.Tensor, shape: tuple[int, ...]) -> dict[str, tf.Tensor]:
        """See Manipulation; of a parameter that several parts change, the last one's."""
        codes = tf.split(code, [part.code_size for part in self.parts], axis=1)
        found: dict[str, tf.Tensor] = {}
        for part, own in zip(self.parts, codes, strict=True):
            found |= part.parameters(own, shape)
        return found

    def fit(self, dataset: Dataset) -> Sequence:
        return Sequence(tuple(part.fit(dataset) for part in self.parts))

    def __call__(
        self, x: tf.Tensor, *, seed: random.Seed, y: tf.Tensor | None = None
    ) -> Manipulated:
        codes = []
        for place, part in enumerate(self.parts):
            x, code = part(x, y=y, seed=random.fold_in(seed, place))
            codes.append(code)
        return Manipulated(x, tf.concat(codes, axis=1))


def parse(text: str, *, level: float | None = None) -> Sequence:
    """The manipulation that a flag names.

    Args:
      text: `name:level[:key=value…]`, several joined by `+`.
      level: stands in for every level in the text, which may then be left out.

    Raises:
      InputError: unknown name or option, a level that is missing, no number or out of range, or
        a `+` with nothing beside it.

    Example:
      >>> parse("vertical_shift:0.5:fill=wrap").parts[0].fill
      'wrap'
      >>> parse("vertical_shft:0.5")
      Traceback (most recent call last):
      ...
      tfcama.errors.InputError: unknown manipulation 'vertical_shft'; did you mean \
'vertical_shift'? Valid names: brightness, children_shift, class_rotation, contrast, \
coparents_shift, gaussian_noise, horizontal_shift, inversion, rotation, shift, vertical_shift, \
zca_whitening, zoom
    """
    parts = text.split("+")
    if len(parts) > 1 and not all(part.strip() for part in parts):
        raise InputError(f"'{text}' has nothing beside a '+'; a '+' in a name is written %2B.")
    return Sequence(tuple(_parse_one(part, level) for part in parts))


def _parse_one(text: str, level: float | None) -> Manipulation:
    spec = specs.parse(text)
    family = MANIPULATIONS[spec.name]
    level = spec.number if level is None else level
    if level is None:
        example = family.max_level / 2 if family.example is None else family.example
        raise InputError(f"'{text}' has no level; give one, as in '{spec.name}:{example:g}'.")
    options = specs.typed_options(spec, family, reserved=("level", "fitted", "classes"))
    return family(level, **options)


def manipulate(split: Split, manipulation: Sequence, *, seed: int) -> Split:
    """The split with every input manipulated; the same seed gives the same inputs."""
    x, _ = manipulation(
        tf.constant(split.x), y=tf.constant(split.y), seed=random.stream(seed, "manipulation")
    )
    return Split(x.numpy(), split.y)
