"""The contract of a manipulation mechanism."""

from __future__ import annotations

import abc
from typing import Any, ClassVar, NamedTuple

import keras
import tensorflow as tf

from tfcama.errors import InputError, unknown_name
from tfcama.types import InputSpec


class Parameter(NamedTuple):
    """A number by which people name what a mechanism did.

    Attributes:
      name: e.g. "shift_y".
      unit: e.g. "pixels"; "" for a pure number.
      scale: standard deviation of its prior before anything was learned.
      limit: it stays inside (-limit, limit).
    """

    name: str
    unit: str
    scale: float
    limit: float


class Context(NamedTuple):
    """What a mechanism is built for.

    Attributes:
      spec: of the data set.
      dim_m: size of m that the user asked for; 0 where he left it open.
      default_dim_m: the papers' size of m, for mechanisms whose m has no size of its own.
      hidden: units of NNpM's layers, for mechanisms that have one.
      gated: see CamaBaseConfig.
      kernel_initializer: of kernels.
    """

    spec: InputSpec
    dim_m: int
    default_dim_m: int
    hidden: tuple[int, ...]
    gated: bool
    kernel_initializer: str


class Mechanism(keras.layers.Layer, abc.ABC):
    """Everything m does in a model; its variables are the group p_m.

    p(x | y, z, m) = T_m p(x | h_y, h_z, h_m), and q(z | x, y, m) = q(z | T_m^-1 x, y, code(m)).
    A mechanism says what h_m, T_m and code are. Under do(m = 0) of a fresh model all three leave
    the clean model as it is.

    Args:
      context: what it is built for.
      part: the name of this mechanism in `context`'s configuration.
      scale: factor of the prior's standard deviations; positive.

    Attributes:
      kinds: of inputs that it acts on, see InputSpec.kind.
      size: of m.
      feature_size: size of h_m, a part of the decoder's first layer; 0 for none.
      code_size: size of code(m), a part of q(z|.)'s first layer; 0 for none.
      hides: whether it may carry a part of the input out of sight, see `visible`.
      moves_together: whether what happens to inputs moves many of its parameters at once.
      versatile: whether it can do many things, of which few happen to one input; of a composition
        see registry.is_versatile.

    Raises:
      InputError: it does not act on inputs of this kind, or scale is not positive.
    """

    kinds: ClassVar[tuple[str, ...]] = ("image",)
    size: int
    feature_size: int = 0
    code_size: int = 0
    hides: bool = False
    moves_together: bool = False
    versatile: bool = False

    def __init__(self, context: Context, *, part: str, scale: float = 1.0, **kwargs: Any):
        super().__init__(name=part, **kwargs)
        if context.spec.kind not in self.kinds:
            raise InputError(
                f"mechanism '{part}' acts on {' and '.join(self.kinds)}s; "
                f"the inputs are {context.spec.kind}s."
            )
        if not scale > 0:
            raise InputError(
                f"'{part}:scale={scale:g}' was given; the scale of a prior must be positive."
            )

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """The numbers that `values` gives; () where m has no meaning for people."""
        return ()

    @property
    def parts(self) -> dict[str, slice]:
        """Where in m each part is: this mechanism, or those that it is composed of."""
        return {self.name: slice(0, self.size)}

    def coordinates(self, names: tuple[str, ...]) -> list[int]:
        """Which coordinates of m belong to parts or to parameters.

        Args:
          names: of parts ("rotation") or of parameters ("shift_y").

        Raises:
          InputError: neither.
        """
        of_parameters = self.coordinates_of_parameters()
        found: list[int] = []
        for name in names:
            if name in self.parts:
                found += range(self.size)[self.parts[name]]
            elif name in of_parameters:
                found.append(of_parameters[name])
            else:
                raise unknown_name("part of the mechanism", name, [*self.parts, *of_parameters])
        return found

    def coordinates_of_parameters(self) -> dict[str, int]:
        """The coordinate of m that alone decides a parameter, where there is one."""
        return {}

    def values(self, m: tf.Tensor) -> tf.Tensor:
        """`parameters` at m, [..., P] in their units, from m [..., M]."""
        return m[..., :0]

    def m_of(self, values: tf.Tensor) -> tf.Tensor:
        """An m, [..., M], at which `values` gives these [..., P]; 0 where m has no meaning."""
        return tf.zeros(tf.concat([tf.shape(values)[:-1], [self.size]], axis=0))

    def features(self, m: tf.Tensor) -> tf.Tensor | None:
        """h_m, [..., feature_size], from m [..., M]; None where feature_size is 0."""
        del m
        return None

    def code(self, m: tf.Tensor) -> tf.Tensor | None:
        """What q(z | x, y, m) is told of m, [..., code_size]; None where code_size is 0."""
        del m
        return None

    def apply(self, m: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
        """T_m on the decoder's outputs; the identity here.

        Args:
          m: [B, M].
          outputs: logits [K, B, C, H, W, channels] float32, or a table's children
            [K, B, C, children], see ChildrenDistribution.
        """
        del m
        return outputs

    def log_stretch(self, m: tf.Tensor) -> tf.Tensor | None:
        """Of a table's numeric children: log of the factor on their scale, [B, numeric].

        None where scales stay.
        """
        del m
        return None

    def simulate(self, m: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
        """T_m on inputs rather than on their distribution: what clean inputs would become.

        Args:
          m: [B, M].
          x: images [B, H, W, channels] in [0, 1], or a table's children [B, children].
        """
        x = tf.convert_to_tensor(x)
        if x.shape.rank == 2:
            return self.apply(m, x[None, :, None])[0, :, 0]
        inside = tf.clip_by_value(x, 1e-4, 1.0 - 1e-4)
        logits = tf.math.log(inside) - tf.math.log1p(-inside)
        return tf.sigmoid(self.apply(m, logits[None, :, None])[0, :, 0])

    def visible(self, m: tf.Tensor, shown: tf.Tensor) -> tf.Tensor:
        """How much of each pixel of T_m^-1 x was inside the frame, in [0, 1]; all here.

        Args:
          m: [B, M].
          shown: the same of x, [B, H, W, 1].
        """
        del m
        return shown

    def invert(self, m: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
        """T_m^-1 on inputs, m [B, M]; the identity here.

        Args:
          m: [B, M].
          x: images [B, H, W, channels], or a table's children [B, children].
        """
        del m
        return x
