"""`measurement`: the papers' structural causal model of measurements, with its interventions.

    A ~ N(0, I),  C ~ N(0, I)
    Y = argmax_k g(A)_k + noise_y e_Y,        g(A) = 0.2 A^2 - 0.8 A elementwise
    X = (f(Y, C) - loc) / scale + noise_x e_X,   e_Y, e_X ~ N(0, I)

ICLR 2020 appendix C ("Measurement data generation"): 5 parents, 5 co-parents, 10 children, 5
classes; 450, 50 and 500 rows. What the two texts leave open, and what was chosen here:

- They call the inputs 20-dimensional and count 10 children, 5 co-parents and 5 parents: the counts
  are taken.
- "f is quadratic, its parameters are sampled from a Gaussian": elementwise, as g is, each child a
  sum of terms p v^2 + q v over v = (Y, c1, ..., c5), p and q from N(0, 1). Y enters by its number 0
  to 4: of a one-hot the square would be the same again. Models get Y as a one-hot all the same.
- "Normalised before adding the noise": loc and scale are each child's mean and standard deviation
  in the observational distribution (10,000 draws), computed once. They are part of the structural
  equation: an intervention does not re-normalise.
- sigma_Y, sigma_X: 0.1 and 0.2. The Gaussian noise of Y is added before the argmax.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from tfcama import random
from tfcama.config import check_at_least, check_positive
from tfcama.data.base import (
    BLOCK_ROWS,
    DataConfig,
    GeneratedSplit,
    Request,
    Source,
    Split,
)
from tfcama.errors import InputError, unknown_name
from tfcama.types import CHILD, COPARENT, PARENT, ROLES, Column, InputSpec

NUM_PARENTS, NUM_COPARENTS, NUM_CHILDREN, NUM_CLASSES = 5, 5, 10, 5
_NORMALISED_BY = 10_000  # rows that loc and scale are computed from
_STREAMED_FROM = 16 * BLOCK_ROWS  # so many training rows are no longer held in memory
_IGNORED = "ignored"

_PARENTS = tuple(f"a{i + 1}" for i in range(NUM_PARENTS))
_COPARENTS = tuple(f"c{i + 1}" for i in range(NUM_COPARENTS))
_CHILDREN = tuple(f"x{i + 1}" for i in range(NUM_CHILDREN))
_TRUE_ROLES = {
    **dict.fromkeys(_PARENTS, (PARENT,)),
    **dict.fromkeys(_COPARENTS, (COPARENT,)),
    **dict.fromkeys(_CHILDREN, (CHILD,)),
}


@dataclasses.dataclass(frozen=True)
class MeasurementConfig(DataConfig):
    """The generated data's choices.

    Attributes:
      train_rows, validation_rows, test_rows: how many; beyond 65,536 training rows are generated
        while training, in blocks, and never held at once.
      scm_seed: of the structural equations' parameters; -1 takes the run's seed.
      noise_y, noise_x: standard deviations.
      declared: roles that a model is told in place of the true ones, `column:role` with role one
        of parent, coparent, child, ignored; the data stays what it is. For mis-specified graphs.
    """

    train_rows: int = 450
    validation_rows: int = 50
    test_rows: int = 500
    scm_seed: int = -1
    noise_y: float = 0.1
    noise_x: float = 0.2
    declared: tuple[str, ...] = ()

    def __post_init__(self):
        check_at_least(self, train_rows=1, validation_rows=1, test_rows=1)
        check_positive(self, "noise_y", "noise_x")
        self.roles()

    def roles(self) -> dict[str, tuple[str, ...]]:
        """Column -> the roles that models are told.

        Raises:
          InputError: `declared` names no column or no role, or leaves nothing to classify by.
        """
        roles: dict[str, tuple[str, ...]] = dict(_TRUE_ROLES)
        for text in self.declared:
            column, sign, role = text.partition(":")
            if not sign:
                raise InputError(f"declared takes column:role; '{text}' was given.")
            if column not in roles:
                raise unknown_name("column", column, roles)
            if role not in (*ROLES, _IGNORED):
                raise unknown_name("role", role, (*ROLES, _IGNORED))
            roles[column] = () if role == _IGNORED else (role,)
        if not any(roles.values()):
            raise InputError("declared leaves no column with a role; at least one is needed.")
        return roles

    @property
    def variant(self) -> str:
        return ", ".join(text.replace(":", " declared ") for text in self.declared)


class Rows(NamedTuple):
    """Rows with all that made them.

    Attributes:
      a: [B, 5] parents.
      c: [B, 5] co-parents.
      y: [B] int32.
      x: [B, 10] children.
      e_y: [B, 5] noise of Y before the argmax, N(0, 1).
      e_x: [B, 10] noise of X, N(0, 1).
    """

    a: tf.Tensor
    c: tf.Tensor
    y: tf.Tensor
    x: tf.Tensor
    e_y: tf.Tensor
    e_x: tf.Tensor

    @property
    def features(self) -> tf.Tensor:
        """The columns side by side, parents, co-parents, children: [B, 20]."""
        return tf.concat([self.a, self.c, self.x], axis=1)


class MeasurementScm:
    """The structural causal model: observes, intervenes, answers counterfactual questions.

    Args:
      seed: of f's coefficients.
      noise_y, noise_x: standard deviations.
    """

    def __init__(self, seed: int, *, noise_y: float = 0.1, noise_x: float = 0.2):
        generator = np.random.default_rng(random.stream(seed, "scm").view(np.uint32))

        def gaussian(*shape: int) -> tf.Tensor:
            return tf.constant(generator.normal(size=shape), tf.float32)

        self.noise_y, self.noise_x = noise_y, noise_x
        codes = tf.range(NUM_CLASSES, dtype=tf.float32)[:, None]
        self._by_class = tf.square(codes) * gaussian(NUM_CHILDREN) + codes * gaussian(NUM_CHILDREN)
        self._squares = gaussian(NUM_COPARENTS, NUM_CHILDREN)
        self._linear = gaussian(NUM_COPARENTS, NUM_CHILDREN)
        self._loc, self._scale = tf.zeros([NUM_CHILDREN]), tf.ones([NUM_CHILDREN])
        many = self.observe(_NORMALISED_BY, random.stream(seed, "scm", "normalise"))
        clean = many.x - self.noise_x * many.e_x
        self._loc = tf.reduce_mean(clean, axis=0)
        self._scale = tf.math.reduce_std(clean, axis=0)

    # --- structural equations ------------------------------------------------------------------

    def class_scores(self, a: tf.Tensor) -> tf.Tensor:
        """g(A) = 0.2 A^2 - 0.8 A, [B, 5]."""
        return 0.2 * tf.square(a) - 0.8 * a

    def children_loc(self, c: tf.Tensor) -> tf.Tensor:
        """Mean of X given C under every class, (f(y, C) - loc) / scale: [B, 5, 10]."""
        of_c = tf.matmul(tf.square(c), self._squares) + tf.matmul(c, self._linear)
        return (of_c[:, None] + self._by_class - self._loc) / self._scale

    def _children(self, y: tf.Tensor, c: tf.Tensor, e_x: tf.Tensor) -> tf.Tensor:
        loc = tf.gather(self.children_loc(c), y, axis=1, batch_dims=1)
        return loc + self.noise_x * e_x

    # --- observing, intervening ----------------------------------------------------------------

    def observe(self, size: int, seed: random.Seed) -> Rows:
        """`size` independent rows; the same seed gives the same rows."""
        seeds = random.split(seed, 4)
        a = random.normal([size, NUM_PARENTS], seeds[0])
        c = random.normal([size, NUM_COPARENTS], seeds[1])
        e_y = random.normal([size, NUM_CLASSES], seeds[2])
        e_x = random.normal([size, NUM_CHILDREN], seeds[3])
        scores = self.class_scores(a) + self.noise_y * e_y
        y = tf.argmax(scores, axis=1, output_type=tf.int32)
        return Rows(a, c, y, self._children(y, c, e_x), e_y, e_x)

    def abduct(self, features: tf.Tensor, y: tf.Tensor) -> Rows:
        """Rows that were only seen, with X's noise: it follows from (x, y, c). e_y stays unknown.

        Args:
          features: [B, 20], see Rows.features.
          y: [B] int32.
        """
        a, c, x = tf.split(features, [NUM_PARENTS, NUM_COPARENTS, NUM_CHILDREN], axis=1)
        e_x = (x - self._children(y, c, tf.zeros_like(x))) / self.noise_x
        return Rows(a, c, y, x, tf.fill(tf.shape(e_x[:, :NUM_CLASSES]), np.nan), e_x)

    def counterfactual(
        self,
        rows: Rows,
        *,
        y: tf.Tensor | None = None,
        shift_c: tf.Tensor | float = 0.0,
        shift_x: tf.Tensor | float = 0.0,
    ) -> Rows:
        """What the same rows, with the same noise, would have been under an intervention.

        Args:
          rows: observed or abducted.
          y: do(Y := y), [B] int32; None leaves Y as it is. X follows.
          shift_c: do(C := C + shift_c), broadcast to [B, 5]; X follows, Y does not (C is no cause
            of Y).
          shift_x: do(X := X + shift_x), broadcast to [B, 10]; X alone moves.
        """
        y = rows.y if y is None else y
        c = rows.c + shift_c
        x = self._children(y, c, rows.e_x) + shift_x
        return rows._replace(c=c, y=y, x=x)

    # --- World ---------------------------------------------------------------------------------

    def shifted(self, x: tf.Tensor, y: tf.Tensor, delta: tf.Tensor) -> tf.Tensor:
        """See data.base.World; parents are not to be shifted, they decide Y."""
        _, shift_c, shift_x = tf.split(delta, [NUM_PARENTS, NUM_COPARENTS, NUM_CHILDREN], axis=1)
        moved = self.counterfactual(self.abduct(x, y), shift_c=shift_c, shift_x=shift_x)
        return moved.features

    def roles(self) -> dict[str, tuple[str, ...]]:
        """The true role of every column."""
        return dict(_TRUE_ROLES)

    def log_posterior(self, x: tf.Tensor, *, points: int = 32) -> tf.Tensor:
        """Log p(y | a, c, x) by Eq. 11 with the true p(y|a) and p(x|y,c): the Bayes classifier.

        p(Y = k | a) = E_e prod_{j != k} Phi((g_k - g_j) / noise_y + e), e ~ N(0, 1), by
        Gauss-Hermite quadrature.

        Args:
          x: features, [B, 20].
          points: of the quadrature.

        Returns:
          [B, 5] nats, normalised.
        """
        a, c, children = tf.split(x, [NUM_PARENTS, NUM_COPARENTS, NUM_CHILDREN], axis=1)
        nodes, weights = np.polynomial.hermite_e.hermegauss(points)
        scores = self.class_scores(a) / self.noise_y
        gaps = scores[:, :, None] - scores[:, None]  # [B, k, j]
        normal = tfd.Normal(0.0, 1.0).log_cdf(gaps[..., None] + tf.constant(nodes, tf.float32))
        others = 1.0 - tf.eye(NUM_CLASSES)[None, :, :, None]
        log_py = tf.reduce_logsumexp(
            tf.reduce_sum(others * normal, axis=2)
            + tf.constant(np.log(weights / weights.sum()), tf.float32),
            axis=-1,
        )  # [B, k]
        residual = (children[:, None] - self.children_loc(c)) / self.noise_x
        return tf.nn.log_softmax(log_py - 0.5 * tf.reduce_sum(tf.square(residual), axis=-1))


def load(config: MeasurementConfig, request: Request) -> Source:
    """Rows of the structural causal model; every run seed is a world of its own."""
    seed = request.seed if config.scm_seed < 0 else config.scm_seed
    scm = MeasurementScm(seed, noise_y=config.noise_y, noise_x=config.noise_x)

    def split(name: str, size: int) -> Split:
        rows = scm.observe(size, random.stream(request.seed, "measurement", name))
        return Split(rows.features.numpy(), rows.y.numpy())

    train_seed = tf.constant(random.stream(request.seed, "measurement", "train"))

    def block(number: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        rows = scm.observe(BLOCK_ROWS, random.fold_in(train_seed, number))
        return rows.features, rows.y

    streamed = config.train_rows > _STREAMED_FROM
    columns = tuple(Column(name, roles) for name, roles in config.roles().items())
    return Source(
        spec=InputSpec(
            shape=(len(columns),),
            class_names=tuple(f"y{k + 1}" for k in range(NUM_CLASSES)),
            bounds=None,
            columns=columns,
            target="y",
        ),
        train=GeneratedSplit(config.train_rows, block)
        if streamed
        else split("train", config.train_rows),
        validation=split("validation", config.validation_rows),
        test=split("test", config.test_rows),
        world=scm,
    )
