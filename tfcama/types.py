"""The contracts between the stages.

Shape legend, used everywhere: B batch, C classes, K posterior samples, Z and M latent sizes,
D features; images are [H, W, channels]. Densities are natural logarithms (nats), float32.
Rows of a table are its features side by side, [D]: see Column.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import tensorflow as tf

from tfcama.errors import InputError, unknown_name


class Bounds(NamedTuple):
    """Where valid inputs live: low <= x <= high."""

    low: float
    high: float


PARENT, COPARENT, CHILD = "parent", "coparent", "child"
ROLES = (PARENT, COPARENT, CHILD)


FARTHEST = 1e12
"""Standard deviations from its training mean beyond which no value of a numeric column is taken:
what is squared in a density, and divided by its variance, must stay a float32."""


class Column(NamedTuple):
    """A measured column of a table, its place in the causal graph, and how it becomes features.

    A numeric column is one feature, (value - loc) / scale; a categorical one is a one-hot. A
    missing value of a child is NaN in its features, and models sum over it; of a parent or
    co-parent it is zero in its features (the mean), and `indicator` adds one that is 1 there.

    Attributes:
      name: of the column.
      roles: of ROLES, how it relates to the target Y: A causes Y, Y causes X, C also causes X.
        Usually one; a parent that also causes children is a co-parent besides; () is not used by
        models that know the graph.
      loc, scale: mean and standard deviation of a numeric column's training rows.
      categories: of a categorical column, as text; () makes it numeric.
      indicator: whether a further feature tells that the value was missing.
    """

    name: str
    roles: tuple[str, ...]
    loc: float = 0.0
    scale: float = 1.0
    categories: tuple[str, ...] = ()
    indicator: bool = False

    @property
    def numeric(self) -> bool:
        return not self.categories

    @property
    def width(self) -> int:
        """Number of features."""
        return (len(self.categories) or 1) + self.indicator


class InputSpec(NamedTuple):
    """What a data set promises of its inputs; it travels in config.json and in the export.

    Attributes:
      shape: of one input, e.g. (28, 28, 1), or (20,) for a table of 20 features.
      class_names: one a class; the label c means class_names[c].
      bounds: where inputs live; None where unbounded.
      columns: of a table, in the order of their features; () for images.
      target: name of the column that is predicted; "" for images.
    """

    shape: tuple[int, ...]
    class_names: tuple[str, ...]
    bounds: Bounds | None
    columns: tuple[Column, ...] = ()
    target: str = ""

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def kind(self) -> str:
        """What inputs are: `table` or `image`."""
        return "table" if self.columns else "image"

    def places(self, column: str) -> np.ndarray:
        """Which features of a row belong to a column, int [width]."""
        start = 0
        for candidate in self.columns:
            if candidate.name == column:
                return np.arange(start, start + candidate.width)
            start += candidate.width
        raise unknown_name("column", column, [c.name for c in self.columns])

    def with_role(self, role: str) -> tuple[Column, ...]:
        """The columns that have a role."""
        return tuple(column for column in self.columns if role in column.roles)

    def features(self, role: str) -> np.ndarray:
        """Which features of a row belong to columns of a role, int [.]."""
        found = [self.places(column.name) for column in self.with_role(role)]
        return np.concatenate(found) if found else np.zeros([0], np.int64)

    def check(self, x: np.ndarray, *, what: str = "inputs") -> np.ndarray:
        """X as float32 [B, *shape]; the features of a table's children may be NaN, for missing.

        Raises:
          InputError: wrong shape, NaN or infinity, or outside the bounds.
        """
        x = np.asarray(x)
        if x.dtype == object or not np.issubdtype(x.dtype, np.number):
            raise InputError(f"{what}: numbers are needed, dtype {x.dtype} was given.")
        if x.shape[1:] != tuple(self.shape) or x.ndim != len(self.shape) + 1:
            raise InputError(
                f"{what}: shape {list(x.shape)} was given, "
                f"[batch, {', '.join(map(str, self.shape))}] is needed."
            )
        x = x.astype(np.float32)
        valid = np.isfinite(x)
        if self.columns:
            children = self.features(CHILD)
            valid[:, children] |= np.isnan(x[:, children])
        if not valid.all():
            row = int(np.argwhere(~valid)[0][0])
            raise InputError(
                f"{what}: row {row} holds NaN or infinity; every value must be finite."
            )
        if self.bounds is not None and x.size:
            low, high = float(x.min()), float(x.max())
            if low < self.bounds.low or high > self.bounds.high:
                raise InputError(
                    f"{what}: values from {low:g} to {high:g} were given, "
                    f"[{self.bounds.low:g}, {self.bounds.high:g}] is allowed."
                )
        return x

    def to_json(self) -> dict[str, Any]:
        return {
            "shape": list(self.shape),
            "class_names": list(self.class_names),
            "bounds": list(self.bounds) if self.bounds is not None else None,
            "columns": [column._asdict() for column in self.columns],
            "target": self.target,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> InputSpec:
        bounds = value["bounds"]
        columns = (
            Column(**{**c, "roles": tuple(c["roles"]), "categories": tuple(c["categories"])})
            for c in value["columns"]
        )
        return cls(
            shape=tuple(value["shape"]),
            class_names=tuple(value["class_names"]),
            bounds=None if bounds is None else Bounds(*bounds),
            columns=tuple(columns),
            target=value["target"],
        )


class Batch(NamedTuple):
    """One global batch of training rows, as tf.data yields it.

    Attributes:
      x: [B, *shape] float32.
      y: [B] int32 labels.
      manipulated: [B] bool; False means clean, so that do(m = 0) holds.
      m_known: [B, P] float32; what the manipulation did, in units of its own prior (its
        `Manipulated.code`); zero on clean rows, P = 0 where nothing is known.
      weight: [B] float32; sums to B over the global batch.
      row: [B] int32; place in the *global* batch. Noise is drawn for the global batch and picked by
        row, so that an example's draw does not depend on how replicas share the batch.
    """

    x: tf.Tensor
    y: tf.Tensor
    manipulated: tf.Tensor
    m_known: tf.Tensor
    weight: tf.Tensor
    row: tf.Tensor


class LogWeights(NamedTuple):
    """The terms of log p(x, y, z, m) / q(z, m | x, y), one a posterior sample, in nats.

    Every term is [K, B] where labels were given and [K, B, C] where all classes were enumerated,
    or broadcasts to that.

    Attributes:
      log_px: log p(x | y, z, m).
      log_py: log p(y).
      log_ratio_z: log p(z) - log q(z | x, y, m).
      log_ratio_m: log p(m) - log q(m | x); 0 under do(m).
    """

    log_px: tf.Tensor
    log_py: tf.Tensor
    log_ratio_z: tf.Tensor
    log_ratio_m: tf.Tensor

    def total(self) -> tf.Tensor:
        """Log p(x, y, z, m) - log q(z, m | x, y), [K, B] or [K, B, C]."""
        return self.log_px + self.log_py + self.log_ratio_z + self.log_ratio_m


VariableGroups = dict[str, list[Any]]
"""A model's variables by part, e.g. {"p_y": [...], "q_m": [...]}; every trainable one is in one."""


@runtime_checkable
class Classifier(Protocol):
    """All that attacks, evaluation, report and serving know of a model."""

    spec: InputSpec
    stochastic: bool  # True: log_scores depends on the seed, so attacks average over seeds

    @property
    def num_classes(self) -> int: ...

    @property
    def input_shape(self) -> tuple[int, ...]: ...

    @property
    def bounds(self) -> Bounds | None: ...

    @property
    def attack_mask(self) -> tf.Tensor | None: ...

    def log_scores(self, x: tf.Tensor, *, seed: tf.Tensor) -> tf.Tensor:
        """Unnormalised log p(x, y = c), [B, C], differentiable in x.

        It is traced without AutoGraph: its Python may not branch or loop on values of tensors.
        """
        ...


@runtime_checkable
class Sampled(Protocol):
    """A classifier whose answer pools the answers of several samples."""

    def log_scores_by_sample(self, x: tf.Tensor, *, seed: tf.Tensor) -> tf.Tensor:
        """What every sample would answer by itself, [K, B, C], as `log_scores` without a pool."""
        ...


@runtime_checkable
class Generative(Protocol):
    """A classifier that also knows how its input came about."""

    def log_px(self, x: tf.Tensor, *, seed: tf.Tensor) -> tf.Tensor:
        """Estimate of log p(x), [B] nats; of a table, of its children given the rest."""
        ...

    def reconstruct(self, x: tf.Tensor, *, seed: tf.Tensor, do_m0: bool) -> tf.Tensor:
        """Mean of p(x | y, z, m) at the predicted class, [B, *shape]; under do(m = 0) if asked."""
        ...


@runtime_checkable
class Sampler(Protocol):
    """A generative classifier that makes inputs of a class out of nothing."""

    def sample(self, y: tf.Tensor, *, seed: tf.Tensor) -> tf.Tensor:
        """Mean of p(x | y, z, do(m = 0)) at z ~ p(z), [B, *shape]."""
        ...


@runtime_checkable
class Explaining(Protocol):
    """A generative classifier with latents that can be held while a cause is changed.

    Attributes:
      dim_m: size of m.
      mechanism: how m acts; its `parameters` have names and units, and `values(m)` gives them.
    """

    dim_m: int
    mechanism: Any

    def posterior_m(self, x: tf.Tensor) -> Any:
        """q(m | x), a distribution of batch shape [B] and event shape [M]."""
        ...

    def coparents(self, x: tf.Tensor) -> tf.Tensor | None:
        """The part of the input that causes x besides Y; None where there is none."""
        ...

    def log_scores_and_m(self, x: tf.Tensor, *, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """What `log_scores` gives, [B, C] nats, and the m that stands for it, [B, M]."""
        ...

    def latents_of(
        self, x: tf.Tensor, labels: tf.Tensor, m: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """One-hots y [B, 1, C] and z [1, B, 1, Z] behind x of those classes, given m [B, M]."""
        ...

    def p(self, y: tf.Tensor, z: tf.Tensor, m: tf.Tensor, c: tf.Tensor | None = None) -> Any:
        """The density of x given its causes, of batch shape [K, B, C|1]."""
        ...
