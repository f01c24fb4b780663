"""Why a row of a table got its class, and what it would have been: deep CAMA's counterfactuals.

    p(y | a, x, c) = p(y | a) p(x | y, c) / sum_y p(y | a) p(x | y, c)                     (11)

of "A Causal View on Robustness of Neural Networks" (NeurIPS 2020), section 3.2. Below it, Pearl's
three steps answer what the children x would have been under do(m = 0), or under another class:

1. Abduction: the predicted class y, samples of m ~ q(m|x) and z ~ q(z|x,y,m,a,c), and what each of
   them leaves over of every numeric child, e = (x - mean(y, z, m, c)) / sd(m).
2. Action: m = 0, and another class y' where that is asked.
3. Prediction: x' = mean(y', z, 0, c) + sd(0) e. Parents a and co-parents c stay as they are.

Means, probabilities and counterfactuals are averages over the samples. The posterior means of m and
z would not do: NNpM is nearly homogeneous in m, so a fine-tuned model can say a shift by the length
of m while q(m|x) stays around zero (measured: at the mean of m, all of a shift stays unexplained).

mean(.) and sd(.) are those of p(x | y, c, z, m): an M that stretches a column stretches what is
left over of it. A missing child has no residual, e = 0. A categorical child
has no residual that could be added. Its counterfactual is the most probable category given the
observed one o, when as much probability as possible stays where it was: o is kept with probability
min(1, p'_o / p_o), and otherwise leaves for the categories that gained. So do(m = 0) gives back the
observed row where m has no effect, for such children, too; of a missing one the most probable
category is taken.

Before fine-tuning a gated M has no effect: all movements are 0. What was tampered with then shows
in `surprise` alone, and less clearly, since z has seen the tampered row and explains part of it.
After it, movements are what M makes of a row, whether anybody touched it or not: fine-tuning with
clean data under do(m = 0) never shows q(m|x) an untouched row. Where `log_px_do_m0` is above
`log_px`, the row is likelier as it is, without any movement.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
import tensorflow as tf

from tfcama import random
from tfcama.data import tables
from tfcama.errors import InputError, unknown_name
from tfcama.evaluation.predict import Predictor, not_finite, prediction_noise
from tfcama.models.measurement_cama import MeasurementCama
from tfcama.types import CHILD, Classifier, Column, InputSpec

_SAMPLES = 256  # of z and m
MOVED_SD = 2.0  # a numeric child has moved if M shifts its mean by more of p(x|.)'s sd at m = 0
NO_EFFECT = (
    "M has no effect on this row, as before any fine-tuning: all movements are 0, and "
    "surprise is what tells which children are unusual."
)

Row: TypeAlias = "dict[str, float | str | None]"
"""A row in the user's units: numbers, categories, None where missing."""


@dataclasses.dataclass(frozen=True)
class NumericChild:
    """What the model makes of a numeric column, in the user's units.

    Attributes:
      name: of the column.
      loc, scale: mean and standard deviation of its training rows.
      observed: None if missing.
      expected: under the explanation, mean(y, z, m, c).
      expected_do_m0: had nobody manipulated it, mean(y, z, 0, c).
      sd: standard deviation of p(x | y, c, z, 0).
    """

    name: str
    loc: float
    scale: float
    observed: float | None
    expected: float
    expected_do_m0: float
    sd: float

    @property
    def movement(self) -> float:
        """What M did to the column: mean(y, z, m, c) - mean(y, z, 0, c)."""
        return self.expected - self.expected_do_m0

    @property
    def movement_sd(self) -> float:
        """The movement in standard deviations of p(x|.) under do(m = 0)."""
        return self.movement / self.sd

    @property
    def surprise(self) -> float | None:
        """(observed - mean(y, z, 0, c)) / sd; None if missing."""
        return None if self.observed is None else (self.observed - self.expected_do_m0) / self.sd

    @property
    def moved(self) -> bool:
        """Whether M moves the mean by more than MOVED_SD."""
        return abs(self.movement_sd) > MOVED_SD

    def to_json(self) -> dict[str, Any]:
        """In the user's units, rounded to 1e-5 of the column's standard deviation, and in sd."""

        def rounded(value: float | None) -> float | None:
            return None if value is None else _rounded(value, self.scale)

        return {
            "name": self.name,
            "kind": "numeric",
            "observed": rounded(self.observed),
            "expected": rounded(self.expected),
            "expected_do_m0": rounded(self.expected_do_m0),
            "sd": self.sd,
            "movement": rounded(self.movement),
            "movement_sd": self.movement_sd,
            "moved": self.moved,
            "surprise": self.surprise,
        }


@dataclasses.dataclass(frozen=True)
class CategoricalChild:
    """What the model makes of a categorical column.

    Attributes:
      name: of the column.
      observed: its category, None if missing.
      probabilities: of every category under the explanation, p(x | y, c, z, m).
      probabilities_do_m0: had nobody manipulated it, p(x | y, c, z, 0).
    """

    name: str
    observed: str | None
    probabilities: dict[str, float]
    probabilities_do_m0: dict[str, float]

    @property
    def expected(self) -> str:
        """The most probable category under the explanation."""
        return max(self.probabilities, key=self.probabilities.__getitem__)

    @property
    def expected_do_m0(self) -> str:
        """The most probable category under do(m = 0)."""
        return max(self.probabilities_do_m0, key=self.probabilities_do_m0.__getitem__)

    @property
    def shown(self) -> str:
        """The observed category; if it is missing the most probable one under do(m = 0)."""
        return self.expected_do_m0 if self.observed is None else self.observed

    @property
    def moved(self) -> bool:
        """Whether M makes another category the most probable one."""
        return self.expected != self.expected_do_m0

    @property
    def movement(self) -> float:
        """How much probability M moves from category to category, in [0, 1]."""
        change = (p - self.probabilities_do_m0[k] for k, p in self.probabilities.items())
        return sum(max(0.0, difference) for difference in change)

    def to_json(self) -> dict[str, Any]:
        seen = self.observed is not None
        return {
            "name": self.name,
            "kind": "categorical",
            "observed": self.observed,
            "expected": self.expected,
            "expected_do_m0": self.expected_do_m0,
            "probability_of_observed": self.probabilities[self.shown] if seen else None,
            "probability_of_observed_do_m0": self.probabilities_do_m0[self.shown] if seen else None,
            "probabilities": self.probabilities,
            "probabilities_do_m0": self.probabilities_do_m0,
            "movement": self.movement,
            "moved": self.moved,
        }


@dataclasses.dataclass(frozen=True)
class Explanation:
    """A row's class, its children with and without M, and two counterfactual rows.

    Attributes:
      target: name of the column that is predicted.
      posterior: p(y | a, x, c) of every class, Eq. 11 with the K samples of Eq. 6.
      predicted: the most probable class.
      log_px: log p(x | a, c) in nats, of the children that are there.
      log_px_do_m0: the same under do(m = 0).
      children: one a child column, in the order of the spec.
      row: the row that is explained.
      do_m0: what it would be under do(m = 0), with the predicted class.
      other: another class.
      other_class: what the row would be under do(m = 0), had its class been `other`.
    """

    target: str
    posterior: dict[str, float]
    predicted: str
    log_px: float
    log_px_do_m0: float
    children: tuple[NumericChild | CategoricalChild, ...]
    row: Row
    do_m0: Row
    other: str
    other_class: Row

    @property
    def numeric(self) -> tuple[NumericChild, ...]:
        """The numeric children."""
        return tuple(c for c in self.children if isinstance(c, NumericChild))

    @property
    def categorical(self) -> tuple[CategoricalChild, ...]:
        """The categorical children."""
        return tuple(c for c in self.children if isinstance(c, CategoricalChild))

    @property
    def m_acts(self) -> bool:
        """Whether M moves any child of this row at all."""
        return any(child.movement != 0.0 for child in self.children)

    @property
    def moved(self) -> tuple[str, ...]:
        """Children that M moved: numeric ones, the farthest first, then categorical ones."""
        numbers = sorted(self.numeric, key=lambda child: -abs(child.movement_sd))
        categories = sorted(self.categorical, key=lambda child: -child.movement)
        return (
            *(child.name for child in numbers if child.moved),
            *(child.name for child in categories if child.moved),
        )

    @property
    def note(self) -> str:
        """What to bear in mind when reading the movements; "" for nothing."""
        if not self.m_acts:
            return NO_EFFECT
        if self.log_px_do_m0 > self.log_px:
            return (
                f"without M the row is likelier, log p(x|a,c) {self.log_px_do_m0:.2f} nats under "
                "do(m=0): perhaps nothing was moved."
            )
        return ""

    def to_json(self) -> dict[str, Any]:
        """All of it, without NaN; see the attributes of the parts for units."""
        return {
            "target": self.target,
            "class": self.predicted,
            "probability": self.posterior[self.predicted],
            "posterior": self.posterior,
            "log_px_given_a_c": self.log_px,
            "log_px_given_a_c_do_m0": self.log_px_do_m0,
            "moved": list(self.moved),
            "moved_if": (
                f"numeric: |movement| > {MOVED_SD:g} standard deviations of "
                "p(x|y,c,z,do(m=0)); "
                "categorical: M makes another category the most probable one"
            ),
            "note": self.note,
            "children": [child.to_json() for child in self.children],
            "row": self.row,
            "counterfactuals": [
                {"do": {"m": 0}, "class": self.predicted, "row": self.do_m0},
                {"do": {"m": 0, self.target: self.other}, "class": self.other}
                | {"row": self.other_class},
            ],
        }

    def summary(self) -> list[str]:
        """A few lines for people: the class, and which children M moved."""
        lines = [
            f"{self.target}: {self.predicted}, probability {self.posterior[self.predicted]:.3f}; "
            f"log p(x|a,c) {self.log_px:.2f} nats"
        ]
        if self.note:
            lines.append(self.note)
        if self.m_acts and not self.moved:
            lines.append(f"M moved no child by more than {MOVED_SD:g} standard deviations.")
        by_name = {child.name: child for child in self.children}
        for name in self.moved:
            child = by_name[name]
            values = f"{_text(child.observed)}, {_text(self.do_m0[name])} under do(m=0)"
            by = ""
            if isinstance(child, NumericChild):
                by = f", moved by {child.movement:+.4g} ({child.movement_sd:+.1f} sd)"
            lines.append(f"  {name}: {values}{by}")
        return lines


def explain(
    classifier: MeasurementCama,
    x: np.ndarray,
    *,
    seed: int,
    other: int | None = None,
    imputed: Sequence[str] = (),
) -> Explanation:
    """Explains one row; the three steps are on top of this file.

    The posterior is that of `log_scores`, with the configuration's K samples; m is what `m_at_test`
    says, so that under "do_m0" nothing moves.

    Args:
      classifier: see MeasurementCama.
      x: the row's features [D], NaN where a child is missing.
      seed: of the prediction; the run's own gives the class that an evaluation gives.
      other: the class of the second counterfactual; None takes the second most probable.
      imputed: columns that are missing though the features do not say so, see tables.imputed.

    Raises:
      InputError: no valid row; one so far from the training rows that log p(x, y) is not finite;
        `other` is no class or the predicted one.
    """
    spec = classifier.spec
    x = spec.check(np.asarray(x)[None], what="the row to explain")  # [1, D]
    scores = Predictor(classifier, seed=seed).log_scores(x)[0].astype(np.float64)  # [C]
    if not np.isfinite(scores).all():
        raise not_finite("the row to explain")
    log_px = float(np.logaddexp.reduce(scores))
    order = np.argsort(-scores, kind="stable")
    label = int(order[0])
    changed = _other_class(spec, other, label=label, second=int(order[1]))

    found = _abducted(classifier, x, label, changed, seed=seed)
    return Explanation(
        target=spec.target,
        posterior=dict(zip(spec.class_names, np.exp(scores - log_px).tolist(), strict=True)),
        predicted=spec.class_names[label],
        log_px=log_px,
        log_px_do_m0=_log_px_do_m0(classifier, x, seed=seed),
        children=_children(spec, x, found),
        row=_row(spec, x, imputed),
        do_m0=_row(spec, _counterfactual(spec, x, found, found.mean_do_m0), imputed),
        other=spec.class_names[changed],
        other_class=_row(spec, _counterfactual(spec, x, found, found.mean_other), imputed),
    )


def explainable(classifier: Classifier) -> MeasurementCama:
    """The classifier, if its rows can be explained.

    Raises:
      InputError: it is of images, or of tables but discriminative.
    """
    if isinstance(classifier, MeasurementCama):
        return classifier
    what = f"a classifier of {classifier.spec.kind}s without a causal graph"
    raise InputError(f"only rows of a measurement_cama can be explained; this run is {what}.")


def class_of(spec: InputSpec, name: str) -> int:
    """The class of that name.

    Raises:
      InputError: there is none.
    """
    if name not in spec.class_names:
        raise unknown_name("class", name, spec.class_names)
    return spec.class_names.index(name)


def check_number(number: int, size: int, *, what: str) -> int:
    """The place of a row that people count from 1.

    Raises:
      InputError: there is no such row.
    """
    if not 1 <= number <= size:
        raise InputError(f"row {number} of {what} was asked for; it has rows 1 to {size}.")
    return number - 1


def _other_class(spec: InputSpec, other: int | None, *, label: int, second: int) -> int:
    if other is None:
        return second
    if not 0 <= other < spec.num_classes:
        raise InputError(f"other={other} was given; classes are 0 to {spec.num_classes - 1}.")
    if other == label:
        raise InputError(
            f"other={other}, '{spec.class_names[label]}', is the predicted class; name another one "
            "for the counterfactual."
        )
    return int(other)


class _Abducted(NamedTuple):
    """What samples of m and z say of the children, in the mean.

    Attributes:
      mean: mean(y, z, m, c), [children] features.
      mean_do_m0: mean(y, z, 0, c).
      mean_other: mean(y', z, 0, c).
      sd_do_m0: sd(0) of the numeric ones, [numeric children].
      residual: sd(0) e, [children] features: NaN where one is missing, 0 of categories.
    """

    mean: np.ndarray
    mean_do_m0: np.ndarray
    mean_other: np.ndarray
    sd_do_m0: np.ndarray
    residual: np.ndarray


def _abducted(
    classifier: MeasurementCama, x: np.ndarray, label: int, other: int, *, seed: int
) -> _Abducted:
    """Abduction, and what the prediction needs of it.

    Args:
      classifier: see explain.
      x: [1, D].
      label: the predicted class, of which z is.
      other: another class.
      seed: of the samples.
    """
    numeric = [part.start for column, _, part in _places(classifier.spec) if column.numeric]
    names = ("m", "z", "untouched", "manipulated")
    draws = [tf.constant(random.stream(seed, "explanation", name)) for name in names]
    rows = tf.constant(np.repeat(x, _SAMPLES, axis=0))  # [K, D]
    posterior = classifier.config.m_at_test == "posterior"
    noise = random.normal([_SAMPLES, classifier.dim_m], draws[0])
    untouched = tf.exp(classifier.log_p_untouched(tf.constant(x), seed=draws[2]))  # [1]
    m, _ = classifier.sample_m(
        rows,
        y=tf.eye(classifier.num_classes)[None],
        noise=noise if posterior else tf.zeros_like(noise),
        manipulated=random.uniform([_SAMPLES], draws[3]) >= untouched,
    )
    y, changed = (tf.one_hot([[c]], classifier.num_classes) for c in (label, other))  # [1, 1, C]
    q_z = classifier.posterior_z(rows, y, m)
    noise = random.normal([1, _SAMPLES, 1, classifier.dim_z], draws[1])
    z = q_z.mean() + q_z.stddev() * noise  # [1, K, 1, Z]
    c = classifier.coparents(rows)
    do_m0 = tf.zeros_like(m)
    factual, untouched_p, other_p = (
        classifier.p(y, z, m, c),
        classifier.p(y, z, do_m0, c),
        classifier.p(changed, z, do_m0, c),
    )
    mean, mean_do_m0, mean_other = (
        p.mean().numpy()[0, :, 0].astype(np.float64) for p in (factual, untouched_p, other_p)
    )  # [K, children]
    sd, sd_do_m0 = (
        # [numeric], or [K, 1, numeric] where m stretches
        _by_sample(p.stddev_of_numeric().numpy(), len(numeric))
        for p in (factual, untouched_p)
    )
    observed = classifier.effects(rows[:1]).numpy()[0, numeric].astype(np.float64)
    residual = np.zeros_like(mean)
    residual[:, numeric] = (observed - mean[:, numeric]) * sd_do_m0 / sd
    return _Abducted(
        *(each.mean(axis=0) for each in (mean, mean_do_m0, mean_other, sd_do_m0, residual))
    )


def _by_sample(stddev: np.ndarray, numeric: int) -> np.ndarray:
    """[K or 1, numeric] of [numeric], or of [K, 1, numeric]; of no numeric children [1, 0]."""
    samples = stddev.size // numeric if numeric else 1
    return stddev.astype(np.float64).reshape(samples, numeric)


def _log_px_do_m0(classifier: MeasurementCama, x: np.ndarray, *, seed: int) -> float:
    """Log p(x | a, c) under do(m = 0), in nats, with the noise that the prediction takes."""
    draw = tf.constant(prediction_noise(seed))
    noise = classifier.shared_noise(draw, num_samples=classifier.config.num_samples)
    weights = classifier.log_weights(tf.constant(x), noise=noise, manipulated=False)
    total = weights.total().numpy().astype(np.float64)  # [K, 1, C]
    return float(np.logaddexp.reduce(total, axis=None) - np.log(len(total)))


def _places(spec: InputSpec) -> list[tuple[Column, np.ndarray, slice]]:
    """Every child with its features' places in a row and among the children."""
    found, start = [], 0
    for column in spec.with_role(CHILD):
        found.append((column, spec.places(column.name), slice(start, start + column.width)))
        start += column.width
    return found


def _children(
    spec: InputSpec, x: np.ndarray, abducted: _Abducted
) -> tuple[NumericChild | CategoricalChild, ...]:
    """Every child of a row [1, D]."""
    mean, mean_do_m0 = abducted.mean, abducted.mean_do_m0
    remaining = iter(abducted.sd_do_m0.tolist())
    found: list[NumericChild | CategoricalChild] = []
    for column, places, part in _places(spec):
        value = x[0, places].astype(np.float64)
        missing = bool(np.isnan(value).any())
        if column.numeric:
            observed, expected, expected_do_m0 = (
                float(feature[0]) * column.scale + column.loc
                for feature in (value, mean[part], mean_do_m0[part])
            )
            child = NumericChild(
                name=column.name,
                loc=column.loc,
                scale=column.scale,
                observed=None if missing else observed,
                expected=expected,
                expected_do_m0=expected_do_m0,
                sd=next(remaining) * column.scale,
            )
            found.append(child)
        else:
            name = None if missing else column.categories[value.argmax()]
            with_m, without_m = (
                dict(zip(column.categories, m[part].tolist(), strict=True))
                for m in (mean, mean_do_m0)
            )
            found.append(CategoricalChild(column.name, name, with_m, without_m))
    return tuple(found)


def _counterfactual(
    spec: InputSpec, x: np.ndarray, abducted: _Abducted, mean_after: np.ndarray
) -> np.ndarray:
    """The row [1, D] float64 after an action that took the children's means to `mean_after`."""
    changed = x.astype(np.float64)
    for column, places, part in _places(spec):
        before, after = abducted.mean[part], mean_after[part]
        missing = bool(np.isnan(x[0, places]).any())
        if not column.numeric:
            # The one-hot of the most probable category given the observed one.
            likely = after if missing else _moved_least(x[0, places].argmax(), before, after)
            changed[0, places] = np.eye(len(likely))[likely.argmax()]
        elif missing:
            changed[0, places] = after
        else:
            changed[0, places] = after + abducted.residual[part]
    return changed


def _moved_least(observed: np.intp, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Probabilities of a category's counterfactual given the observed one, [categories].

    The joint distribution of factual and counterfactual category that has both as marginals and
    makes a change as rare as possible (the maximal coupling).
    """
    gained = np.maximum(after - before, 0.0)
    stays = 1.0
    if before[observed] > after[observed]:
        stays = after[observed] / before[observed]
    found = np.zeros_like(after)
    if gained.sum() > 0.0:
        found = (1.0 - stays) * gained / gained.sum()
    found[observed] = stays
    return found


def _row(spec: InputSpec, x: np.ndarray, imputed: Sequence[str]) -> Row:
    """Features [1, D] as the user's row."""
    row: Row = {}
    (record,) = tables.decode(spec, x).to_dict("records")
    for column in spec.columns:
        value = record[column.name]
        if pd.isna(value) or column.name in imputed:
            row[column.name] = None
        else:
            row[column.name] = _rounded(value, column.scale) if column.numeric else value
    return row


def _rounded(value: float, scale: float) -> float:
    """To 1e-5 of a standard deviation, since float32 features know little more."""
    return round(float(value), 5 - int(np.floor(np.log10(scale)))) + 0.0  # no -0.0


def _text(value: float | str | None) -> str:
    if value is None:
        return "missing"
    return value if isinstance(value, str) else f"{value:.6g}"
