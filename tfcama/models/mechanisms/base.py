"""The contract of a manipulation mechanism."""

from __future__ import annotations

import abc

import keras
import tensorflow as tf


class Mechanism(keras.layers.Layer, abc.ABC):
    """Everything m does in a model; its variables are the group p_m.

    p(x | y, z, m) = T_m p(x | h_y, h_z, h_m), and q(z | x, y, m) = q(z | T_m^-1 x, y, code(m)).
    A mechanism says what h_m, T_m and code are. Under do(m = 0) of a fresh model all three leave
    the clean model as it is.

    Attributes:
      feature_size: size of h_m, a part of the decoder's first layer; 0 for none.
      code_size: size of code(m), a part of q(z|.)'s first layer; 0 for none.
    """

    feature_size: int = 0
    code_size: int = 0

    def features(self, m: tf.Tensor) -> tf.Tensor | None:
        """h_m, [..., feature_size], from m [..., M]; None where feature_size is 0."""
        del m
        return None

    def code(self, m: tf.Tensor) -> tf.Tensor | None:
        """What q(z | x, y, m) is told of m, [..., code_size]; None where code_size is 0."""
        del m
        return None

    def apply(self, m: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """T_m on the decoder's output [..., H, W, channels], m [..., M]; the identity here."""
        del m
        return logits

    def invert(self, m: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
        """T_m^-1 on inputs [B, H, W, channels], m [B, M]; the identity here."""
        del m
        return x
