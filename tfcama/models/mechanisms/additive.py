"""`additive`: the papers' mechanism, a feature vector h_m beside h_y and h_z."""

from __future__ import annotations

import tensorflow as tf

from tfcama.models.mechanisms.base import Mechanism
from tfcama.networks.towers import Mlp


class AdditiveMechanism(Mechanism):
    """h_m = g_p * NNpM(m) and code(m) = g_q * m, with gates that start at zero.

    NNpM is that of the papers' appendix C. The gates are ours: on clean data, trained under
    do(m = 0), neither NNpM nor q(m|x) gets a gradient, so that sampling m from q(m|x) would only
    add noise to the prediction (measured: 97.5 % to 87.8 % on MNIST). With the gates at zero m has
    no effect until they have learned one. They sit behind NNpM and in front of q(z|.)'s m-part,
    where both sides are linear: a gate in front of NNpM would stand at the ReLU's kink and never
    move, and a zero-initialised m-part of the merge, which is frozen at test time, neither.

    Args:
      dim_m: size of m.
      hidden: units of NNpM's layers.
      gated: False for the papers' ungated form.
      kernel_initializer: of NNpM's kernels.
    """

    def __init__(
        self,
        dim_m: int,
        *,
        hidden: tuple[int, ...],
        gated: bool,
        kernel_initializer: str,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.feature_size = hidden[-1]
        self.code_size = dim_m
        self._network = Mlp(hidden, kernel_initializer=kernel_initializer)  # NNpM
        self._feature_gate = self._code_gate = None
        if gated:
            self._feature_gate = self.add_weight(
                shape=(self.feature_size,), initializer="zeros", name="feature_gate"
            )
            self._code_gate = self.add_weight(shape=(dim_m,), initializer="zeros", name="code_gate")

    def features(self, m):
        h_m = self._network(m)
        return h_m if self._feature_gate is None else h_m * tf.cast(self._feature_gate, h_m.dtype)

    def code(self, m):
        return m if self._code_gate is None else m * tf.cast(self._code_gate, m.dtype)
