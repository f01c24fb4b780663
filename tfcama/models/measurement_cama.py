"""Deep CAMA for tables: parents A cause Y; Y, co-parents C, style Z and manipulation M cause X.

    p(x, y, z, m | a, c) = p(m) p(z) p(y | a) p(x | y, c, z, m)                             (9)
    q(z, m | x, y, a, c) = q(z | x, y, m, a, c) q(m | x)                                   (10)
    p(y | a, x, c) = p(y | a) p(x | y, c) / sum_y p(y | a) p(x | y, c)                     (11)

Section 3.2 and appendix C of "A Causal View on Robustness of Neural Networks" (ICLR 2020
submission, NeurIPS 2020). A shift of C leaves p(x|y,c) as it is, so Eq. 11 survives it; a shift of
X is for M to explain. Which column plays which part is in the data set's spec; any may be empty.
"""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from tfcama.config import check_at_least, check_positive
from tfcama.errors import InputError, unknown_name
from tfcama.models.cama_base import CamaBase
from tfcama.models.cama_config import AT_TEST, CamaBaseConfig
from tfcama.models.mechanisms.base import Mechanism
from tfcama.networks.children import ChildrenDistribution
from tfcama.networks.heads import NormalHead
from tfcama.networks.rows import over_rows
from tfcama.networks.self_building import SelfBuilding
from tfcama.networks.sum_dense import SumDense
from tfcama.networks.towers import Mlp
from tfcama.types import CHILD, COPARENT, PARENT, InputSpec, VariableGroups

_DIM_Z, _DIM_M = 64, 32  # appendix C
_PRIOR_SPEED = 30.0  # Adam moves a variable by its learning rate: rare classes are logits away
_SCALES = ("learned", "fixed")
_COPARENT_FEATURES = ("mlp", "quadratic")


@dataclasses.dataclass(frozen=True)
class MeasurementCamaConfig(CamaBaseConfig):
    """Deep CAMA's choices for tables; the papers' sizes of z and m are 64 and 32.

    Attributes:
      hidden: units of every hidden layer.
      scale: standard deviation of p(x|.)'s numeric columns: "fixed", since the papers' network
        gives the mean alone, or "learned", one a column.
      initial_scale: where it stays or starts, in standard deviations of the column.
      coparent_features: what NNpmerge sees of C: "mlp", the papers' NNpC; or "quadratic", c_i and
        all products c_i c_j, which bend on where an MLP of ReLUs can only go straight.
    """

    hidden: int = 500
    scale: str = "fixed"
    initial_scale: float = 0.5
    coparent_features: str = "mlp"
    max_decoder_rows: int = dataclasses.field(default=50_000, metadata=AT_TEST)

    def __post_init__(self):
        super().__post_init__()
        check_at_least(self, hidden=1)
        check_positive(self, "initial_scale")
        for name, allowed in (("scale", _SCALES), ("coparent_features", _COPARENT_FEATURES)):
            if getattr(self, name) not in allowed:
                raise unknown_name(name, getattr(self, name), allowed)


class ParentsP(SelfBuilding):
    """p(y | a), logits [B, C]; without parents p(y), logits [1, C]: the classes' frequencies."""

    def __init__(self, spec: InputSpec, config: MeasurementCamaConfig):
        super().__init__(name="p_y_given_a")
        if spec.with_role(PARENT):
            self._hidden: Mlp | None = Mlp(
                (config.hidden,) * 2, kernel_initializer=config.kernel_initializer
            )
            self._logits = keras.layers.Dense(spec.num_classes)
        else:
            self._hidden = None
            self._logits = self.add_weight(
                shape=(spec.num_classes,), initializer="zeros", dtype="float32", autocast=False
            )

    def call(self, a: tf.Tensor) -> tf.Tensor:
        if self._hidden is None:
            logits = tf.cast(tf.convert_to_tensor(self._logits), tf.float32)
            return _PRIOR_SPEED * logits[None]
        return tf.cast(self._logits(self._hidden(a)), tf.float32)


class ChildrenP(SelfBuilding):
    """p(x | y, c, z, m) before the mechanism acts: NNpY, NNpC, NNpZ, NNpmerge."""

    def __init__(self, spec: InputSpec, *, mechanism: Mechanism, config: MeasurementCamaConfig):
        super().__init__(name="p_x")
        init, hidden = config.kernel_initializer, config.hidden
        self.p_y = Mlp((hidden,) * 2, kernel_initializer=init, name="p_y")  # NNpY
        self.p_z = Mlp((hidden,) * 2, kernel_initializer=init, name="p_z")  # NNpZ
        coparents = len(spec.features(COPARENT))
        children = len(spec.features(CHILD))
        of_coparents = coparents + coparents * (coparents + 1) // 2
        self.p_c: Mlp | None = None
        if coparents and config.coparent_features == "mlp":
            self.p_c = Mlp((hidden,) * 2, kernel_initializer=init, name="p_c")  # NNpC
            of_coparents = hidden
        self.merge = SumDense(
            hidden,
            sizes={"y": hidden, "c": of_coparents, "m": mechanism.feature_size, "z": hidden},
            kernel_initializer=init,
        )
        self._outputs = None
        if children:
            self._outputs = keras.layers.Dense(children, kernel_initializer=init)
        self.log_scale = self.add_weight(
            shape=(sum(column.numeric for column in spec.with_role(CHILD)),),
            initializer=keras.initializers.Constant(np.log(config.initial_scale)),
            trainable=config.scale == "learned",
            name="log_scale",
        )

    @property
    def merge_variables(self):
        found = list(self.merge.trainable_variables)
        if self._outputs is not None:
            found += self._outputs.trainable_variables
        return found + ([self.log_scale] if self.log_scale.trainable else [])

    def call(
        self, y: tf.Tensor, z: tf.Tensor, h_m: tf.Tensor | None, c: tf.Tensor | None
    ) -> tf.Tensor:
        """Outputs [K, B, C, children], see ChildrenDistribution.

        Args:
          y: one-hots, [B, 1, C] or [1, C, C].
          z: [K, B, C|1, Z].
          h_m: [B, .], or None where the mechanism adds no features.
          c: [B, .], or None without co-parents.
        """
        parts = [self.p_y(y)]
        if c is not None:
            parts.append((_quadratic(c) if self.p_c is None else self.p_c(c))[:, None])
        if h_m is not None:
            parts.append(h_m[:, None])
        parts.append(self.p_z(z))
        merged = tf.nn.relu(self.merge(tuple(parts)))
        if self._outputs is None:
            return tf.cast(merged[..., :0], tf.float32)
        return tf.cast(over_rows(self._outputs, merged), tf.float32)


def _quadratic(c: tf.Tensor) -> tf.Tensor:
    """[c_i] and [c_i c_j, i <= j], from c [B, D]: [B, D + D (D + 1) / 2]."""
    first, second = np.triu_indices(c.shape[-1])
    products = tf.gather(c, first, axis=1) * tf.gather(c, second, axis=1)
    return tf.concat([c, products], axis=1)


class EncoderZ(SelfBuilding):
    """q(z | x, y, m, a, c) = N(z; NNqZ(x, y, m, a, c))."""

    def __init__(
        self, spec: InputSpec, *, dim_z: int, mechanism: Mechanism, config: MeasurementCamaConfig
    ):
        super().__init__(name="q_z")
        init = config.kernel_initializer
        observed = sum(len(spec.features(role)) for role in (CHILD, PARENT, COPARENT))
        self.combined = SumDense(
            config.hidden,
            sizes={"observed": observed, "m": mechanism.code_size, "y": spec.num_classes},
            kernel_initializer=init,
        )
        self._hidden = Mlp((config.hidden,), kernel_initializer=init)
        self._head = NormalHead(dim_z, kernel_initializer=init)

    def call(self, observed: tf.Tensor, code: tf.Tensor | None, y: tf.Tensor) -> tfd.Distribution:
        """Batch shape [B, C|1], event shape [Z].

        Args:
          observed: children, parents and co-parents, [B, .].
          code: of m, [B, .], or None.
          y: one-hots, [B, 1, C] or [1, C, C].
        """
        parts = [observed[:, None]] + ([] if code is None else [code[:, None]]) + [y]
        return self._head(self._hidden(tf.nn.relu(self.combined(tuple(parts)))))


class EncoderM(SelfBuilding):
    """q(m | x) = N(m; NNqM(x)); q(m|x) = p(m) until it learns, where `gated`."""

    def __init__(self, *, dim_m: int, config: MeasurementCamaConfig):
        super().__init__(name="q_m")
        init = config.kernel_initializer
        self._hidden = Mlp((config.hidden,) * 2, kernel_initializer=init)
        self._head = NormalHead(dim_m, kernel_initializer="zeros" if config.gated else init)

    def call(self, x: tf.Tensor) -> tfd.Distribution:
        """Batch shape [B], event shape [M], from children [B, .]."""
        return self._head(self._hidden(x))


class MeasurementCama(CamaBase):
    """Deep CAMA on the features of a table, see types.Column.

    Missing children are summed over in p(x|.) and zero, their mean, where networks read them.

    Args:
      spec: of the data set, with columns and their roles.
      config: see MeasurementCamaConfig.

    Raises:
      InputError: the inputs are no table, or no column has a role.
    """

    def __init__(self, spec: InputSpec, config: MeasurementCamaConfig):
        if not spec.columns:
            raise InputError(
                f"measurement_cama takes tables; inputs are {list(spec.shape)}. "
                "Take cama for images."
            )
        if not any(column.roles for column in spec.columns):
            raise InputError("measurement_cama needs a parent, co-parent or child; none was given.")
        super().__init__(
            spec,
            config,
            dim_z=_DIM_Z,
            dim_m=_DIM_M,
            p_m_hidden=(config.hidden,) * 4,
            name="measurement_cama",
        )
        self._children, self._parents, self._coparents = (
            spec.features(role) for role in (CHILD, PARENT, COPARENT)
        )
        self.p_y_given_a = ParentsP(spec, config)
        self.p_x = ChildrenP(spec, mechanism=self.mechanism, config=config)
        self.q_m = EncoderM(dim_m=self.dim_m, config=config)
        self.q_z = EncoderZ(spec, dim_z=self.dim_z, mechanism=self.mechanism, config=config)
        self._create_variables()

    def effects(self, x: tf.Tensor) -> tf.Tensor:
        return tf.gather(x, self._children, axis=1)

    def coparents(self, x: tf.Tensor) -> tf.Tensor | None:
        return tf.gather(x, self._coparents, axis=1) if len(self._coparents) else None

    def log_py(self, x: tf.Tensor) -> tf.Tensor:
        return tf.nn.log_softmax(self.p_y_given_a(tf.gather(x, self._parents, axis=1)))

    def posterior_m(self, x: tf.Tensor) -> tfd.Distribution:
        return self.q_m(self._seen(x))

    def posterior_z(self, x: tf.Tensor, y: tf.Tensor, m: tf.Tensor) -> tfd.Distribution:
        missing = tf.math.is_nan(self.effects(x))  # zero behind T_m^-1, whatever m is
        children = tf.where(missing, 0.0, self.mechanism.invert(m, self._seen(x)))
        others = np.concatenate([self._parents, self._coparents])
        observed = tf.concat([children, tf.gather(x, others, axis=1)], axis=1)
        return self.q_z(observed, self.mechanism.code(m), y)

    def p(
        self, y: tf.Tensor, z: tf.Tensor, m: tf.Tensor, c: tf.Tensor | None = None
    ) -> ChildrenDistribution:
        outputs = self.p_x(y, z, self.mechanism.features(m), c)
        log_scale = tf.cast(tf.convert_to_tensor(self.p_x.log_scale), tf.float32)
        stretch = self.mechanism.log_stretch(m)
        return ChildrenDistribution(
            self.mechanism.apply(m, outputs),
            log_scale if stretch is None else log_scale + stretch[:, None],
            columns=self.spec.with_role(CHILD),
        )

    def _seen(self, x: tf.Tensor) -> tf.Tensor:
        """Children with zeros, their training mean, where they are missing."""
        children = self.effects(x)
        return tf.where(tf.math.is_nan(children), 0.0, children)

    def variable_groups(self) -> VariableGroups:
        groups = {
            "p_y_given_a": self.p_y_given_a.trainable_variables,
            "p_y": self.p_x.p_y.trainable_variables,
            "p_z": self.p_x.p_z.trainable_variables,
            "p_m": self.mechanism.trainable_variables + self.prior_m.trainable_variables,
            "p_merge": self.p_x.merge_variables,
            "q_m": self.q_m.trainable_variables,
            "q_z": self.q_z.trainable_variables,
        }
        if self.p_x.p_c is not None:
            groups["p_c"] = self.p_x.p_c.trainable_variables
        return groups

    @property
    def _sums(self):
        return (self.p_x.merge, self.q_z.combined)

    def _mean(self, x, y, z, m):
        return self.with_children(x, self.p(y, z, m, self.coparents(x)).mean()[0, :, 0])

    def simulate(self, m, x):
        return self.with_children(x, self.mechanism.simulate(m, self.effects(x)))

    def with_children(self, x: tf.Tensor, children: tf.Tensor) -> tf.Tensor:
        """The rows [B, D] with other children, [B, .]."""
        others = np.setdiff1d(np.arange(self.spec.shape[0]), self._children)
        order = np.argsort(np.concatenate([others, self._children]))
        joined = tf.concat([tf.gather(x, others, axis=1), children], axis=1)
        return tf.gather(joined, order, axis=1)
