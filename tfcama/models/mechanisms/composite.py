"""Several mechanisms one after another, each with its own part of m."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import tensorflow as tf

from tfcama.errors import InputError
from tfcama.models.mechanisms.base import Context, Mechanism


class CompositeMechanism(Mechanism):
    """T_m = T_k ... T_1, M = (M_1, ..., M_k) with independent priors; the first named acts first.

    do(m_i = 0) on one part leaves the others as they are: the identity in its place.

    Args:
      context: what it is built for.
      part: its name, those of its parts joined by "+".
      makers: a mechanism's maker a part, in the order in which they act.

    Raises:
      InputError: `dim_m` was given, a part that adds features to the decoder is not the first, or
        two parts have a parameter of the same name.
    """

    kinds = ("image", "table")

    def __init__(
        self, context: Context, *, part: str, makers: Sequence[Callable[[Context], Mechanism]]
    ):
        super().__init__(context, part=part)
        if context.dim_m:
            raise InputError(
                f"dim_m={context.dim_m} was given; the size of m of '{part}' is the sum of its "
                "parts'. Leave dim_m out."
            )
        self.mechanisms = [make(context) for make in makers]
        for mechanism in self.mechanisms[1:]:
            if mechanism.feature_size:
                raise InputError(
                    f"'{part}' has no inverse: '{mechanism.name}' acts inside the decoder and "
                    f"cannot be undone after '{self.mechanisms[0].name}'; name it first."
                )
        names = [parameter.name for parameter in self.parameters]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise InputError(
                f"'{part}' has {', '.join(twice)} twice; leave out one of the parts that have it."
            )
        self.size = sum(mechanism.size for mechanism in self.mechanisms)
        self.feature_size = self.mechanisms[0].feature_size
        self.code_size = self.mechanisms[0].code_size
        self.hides = any(mechanism.hides for mechanism in self.mechanisms)
        self.moves_together = any(mechanism.moves_together for mechanism in self.mechanisms)

    @property
    def parameters(self):
        return tuple(p for mechanism in self.mechanisms for p in mechanism.parameters)

    @property
    def parts(self):
        found, start = {}, 0
        for mechanism in self.mechanisms:
            found[mechanism.name] = slice(start, start + mechanism.size)
            start += mechanism.size
        return found

    def coordinates_of_parameters(self):
        return {
            name: part.start + place
            for mechanism, part in zip(self.mechanisms, self.parts.values(), strict=True)
            for name, place in mechanism.coordinates_of_parameters().items()
        }

    def _with_parts(self, m: tf.Tensor) -> list[tuple[Mechanism, tf.Tensor]]:
        parts = self.parts.values()
        return [(mech, m[..., part]) for mech, part in zip(self.mechanisms, parts, strict=True)]

    def values(self, m):
        return tf.concat([mech.values(part) for mech, part in self._with_parts(m)], axis=-1)

    def m_of(self, values):
        sizes = [len(mechanism.parameters) for mechanism in self.mechanisms]
        given = tf.split(values, sizes, axis=-1)
        parts = [mech.m_of(part) for mech, part in zip(self.mechanisms, given, strict=True)]
        return tf.concat(parts, axis=-1)

    def features(self, m):
        return self.mechanisms[0].features(m[..., : self.mechanisms[0].size])

    def code(self, m):
        return self.mechanisms[0].code(m[..., : self.mechanisms[0].size])

    def apply(self, m, outputs):
        for mechanism, part in self._with_parts(m):
            outputs = mechanism.apply(part, outputs)
        return outputs

    def simulate(self, m, x):
        for mechanism, part in self._with_parts(m):
            x = mechanism.simulate(part, x)
        return x

    def log_stretch(self, m):
        stretches = [mechanism.log_stretch(part) for mechanism, part in self._with_parts(m)]
        found = [stretch for stretch in stretches if stretch is not None]
        return functools.reduce(tf.add, found) if found else None

    def visible(self, m, shown):
        for mechanism, part in reversed(self._with_parts(m)):
            shown = mechanism.visible(part, shown)
        return shown

    def invert(self, m, x):
        for mechanism, part in reversed(self._with_parts(m)):
            x = mechanism.invert(part, x)
        return x
