"""What a client sends to an exported classifier, and how that becomes the classifier's features.

The features' way back, as far as Y causes them, is here, too.

An image classifier takes one tensor of images. A classifier of a table takes one vector a column,
in the user's own units, and standardises and encodes it in the graph as `data.tables.encode` does.
"""

from __future__ import annotations

import abc
import keyword
import re
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import tensorflow as tf

from tfcama.data import tables
from tfcama.errors import InputError
from tfcama.types import CHILD, FARTHEST, Column, InputSpec

IMAGE = "image"
SEED, LABEL = "seed", "label"  # inputs of some signatures beside the columns
CLASSIFIER = "classify"  # the signature that takes tf.Examples
EXAMPLES = "inputs"  # TF-Serving's own name for them
_NOT_NAMES = ("self", SEED, LABEL)  # the first is an argument of TensorFlow's own
_RESOLUTION = 0.01  # standard deviations that a float32 input must be able to tell apart
_WHOLE = r"^(-?\d+)\.0+$"  # as data.tables writes whole numbers: without decimals


class Examples(NamedTuple):
    """Inputs that a client could send.

    Attributes:
      values: one array an input, in the order of `signature`.
      features: what the classifier is to get for them, [B, *shape] float32.
    """

    values: tuple[np.ndarray, ...]
    features: np.ndarray


class Inputs(abc.ABC):
    """The inputs of `serving_default`.

    Args:
      spec: of the data set.

    Attributes:
      batches: sizes at which an export is to be checked.
      rows_at_once: how many are answered together at most; larger batches in blocks.
    """

    batches: tuple[int, ...] = (1, 3)
    rows_at_once: int = 128

    def __init__(self, spec: InputSpec):
        self.spec = spec

    @property
    @abc.abstractmethod
    def signature(self) -> tuple[tf.TensorSpec, ...]:
        """Shape, type and name of every input."""

    @property
    def names(self) -> tuple[str, ...]:
        """The inputs' names."""
        return tuple(tensor.name for tensor in self.signature)

    @abc.abstractmethod
    def features(self, values: tuple[tf.Tensor, ...]) -> tf.Tensor:
        """[B, *shape] float32, from values in the order of `signature`.

        Raises:
          InvalidArgumentError: in the graph, where a value is not allowed; a sentence names it.
        """

    @property
    @abc.abstractmethod
    def parsing(self) -> dict[str, tf.io.FixedLenFeature]:
        """How a tf.Example holds each input."""

    def parse(self, serialized: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """Values in the order of `signature` from tf.Examples, [B] text.

        Raises:
          InvalidArgumentError: in the graph, where one is no tf.Example or lacks what it needs.
        """
        parsed = tf.io.parse_example(serialized, self.parsing)
        return tuple(parsed[name] for name in self.names)

    def serialize(self, values: tuple[np.ndarray, ...]) -> np.ndarray:
        """Values in the order of `signature` as serialized tf.Examples, [B] bytes."""
        rows = []
        for row in zip(*values, strict=True):
            example = tf.train.Example()
            for name, value in zip(self.names, row, strict=True):
                feature = example.features.feature[name]
                if isinstance(value, str):
                    feature.bytes_list.value.append(value.encode())
                else:
                    feature.float_list.value.extend(np.ravel(value))
            rows.append(example.SerializeToString(deterministic=True))
        return np.array(rows, object)

    @abc.abstractmethod
    def effects(self, x: tf.Tensor) -> tf.Tensor:
        """The part of features [B, *shape] that Y causes, and that p(x|.) is a density of."""

    @abc.abstractmethod
    def told(self, name: str, effects: tf.Tensor) -> dict[str, tf.Tensor]:
        """Such features, [B, .], as outputs under `name`, in the units of the inputs."""

    @abc.abstractmethod
    def examples(self, generator: np.random.Generator, size: int) -> Examples:
        """`size` random inputs."""

    @abc.abstractmethod
    def metadata(self) -> dict[str, Any]:
        """What a client needs to know, for tfcama.json's `input`."""


def inputs_of(spec: InputSpec) -> Inputs:
    """The inputs that a data set's classifiers are served with.

    Raises:
      InputError: see TableInputs.
    """
    return TableInputs(spec) if spec.kind == "table" else ImageInputs(spec)


class ImageInputs(Inputs):
    """`image`, [B, H, W, channels] float32."""

    @property
    def signature(self) -> tuple[tf.TensorSpec, ...]:
        return (tf.TensorSpec([None, *self.spec.shape], tf.float32, name=IMAGE),)

    def features(self, values: tuple[tf.Tensor, ...]) -> tf.Tensor:
        (image,) = values
        # TF-Serving does not hold what it is sent against the signature: a shape that happens to
        # have as many values would be answered.
        image = tf.ensure_shape(image, [None, *self.spec.shape])
        some = tf.debugging.Assert(
            tf.shape(image)[0] > 0, [f"{IMAGE}: empty; at least one image is needed."]
        )
        with tf.control_dependencies([some]):
            image = tf.debugging.assert_all_finite(image, f"{IMAGE}: every value must be finite.")
        if self.spec.bounds is None:
            return image
        low, high = self.spec.bounds
        inside = tf.reduce_all((image >= low) & (image <= high))
        sentence = f"{IMAGE}: every value must be in [{low:g}, {high:g}]."
        with tf.control_dependencies([tf.debugging.Assert(inside, [sentence])]):
            return tf.identity(image)

    @property
    def parsing(self) -> dict[str, tf.io.FixedLenFeature]:
        return {IMAGE: tf.io.FixedLenFeature(self.spec.shape, tf.float32)}

    def effects(self, x: tf.Tensor) -> tf.Tensor:
        return x

    def told(self, name: str, effects: tf.Tensor) -> dict[str, tf.Tensor]:
        return {name: effects}

    def examples(self, generator: np.random.Generator, size: int) -> Examples:
        low, high = self.spec.bounds or (0.0, 1.0)
        image = generator.uniform(low, high, size=(size, *self.spec.shape)).astype(np.float32)
        return Examples((image,), image)

    def metadata(self) -> dict[str, Any]:
        bounds = self.spec.bounds
        return {
            "kind": self.spec.kind,
            "shape": list(self.spec.shape),
            "bounds": None if bounds is None else list(bounds),
        }


class TableInputs(Inputs):
    """One vector [B] a column: float32, NaN where missing, or text, "" where missing.

    A column is sent under its own name where that is a valid name of an input, and under
    `input_name` of it where it is not.

    Args:
      spec: of a table.

    Raises:
      InputError: two columns would be sent under one name, or a column's values lie so far from
        zero that float32 cannot tell them apart.
    """

    batches = (1, 3, 100)  # the last for categories and missing values
    rows_at_once = 1024

    def __init__(self, spec: InputSpec):
        super().__init__(spec)
        taken: dict[str, str] = {}
        for column in spec.columns:
            _check_resolution(column)
            key = input_name(column.name).lower()  # TensorFlow's names differ in more than capitals
            if key in taken:
                raise InputError(
                    f"columns '{taken[key]}' and '{column.name}' would both be the input '{key}' "
                    "of the export; rename one in the table and train again."
                )
            taken[key] = column.name

    @property
    def signature(self) -> tuple[tf.TensorSpec, ...]:
        return tuple(
            tf.TensorSpec(
                [None], tf.float32 if column.numeric else tf.string, name=input_name(column.name)
            )
            for column in self.spec.columns
        )

    def features(self, values: tuple[tf.Tensor, ...]) -> tf.Tensor:
        columns = self.spec.columns
        values = tuple(tf.ensure_shape(value, [None]) for value in values)
        size = tf.shape(values[0])[0]
        # Without quotes: Assert writes a backslash before each.
        checks = [
            tf.debugging.Assert(
                size > 0, [f"column {columns[0].name}: empty; at least one row is needed."]
            )
        ]
        checks += [
            tf.debugging.Assert(
                tf.shape(value)[0] == size,
                [
                    f"column {column.name}: as many values as of column {columns[0].name} are "
                    "needed, one a row."
                ],
            )
            for column, value in zip(columns[1:], values[1:], strict=True)
        ]
        with tf.control_dependencies(checks):
            values = tuple(tf.identity(value) for value in values)
        return tf.concat(
            [_features(column, value) for column, value in zip(columns, values, strict=True)],
            axis=1,
        )

    @property
    def parsing(self) -> dict[str, tf.io.FixedLenFeature]:
        return {
            input_name(column.name): tf.io.FixedLenFeature([], tf.float32, default_value=np.nan)
            if column.numeric
            else tf.io.FixedLenFeature([], tf.string, default_value="")
            for column in self.spec.columns
        }

    def effects(self, x: tf.Tensor) -> tf.Tensor:
        return tf.gather(x, self.spec.features(CHILD), axis=1)

    def told(self, name: str, effects: tf.Tensor) -> dict[str, tf.Tensor]:
        """One vector [B] a child: `name/<input>`, its mean or its most probable category."""
        answer = {}
        start = 0
        for column in self.spec.with_role(CHILD):
            part = effects[:, start : start + column.width]
            if column.numeric:
                value = part[:, 0] * np.float32(column.scale) + np.float32(column.loc)
            else:
                likely = tf.argmax(part[:, : len(column.categories)], axis=1)
                value = tf.gather(tf.constant(column.categories), likely)
            answer[f"{name}/{input_name(column.name)}"] = value
            start += column.width
        return answer

    def examples(self, generator: np.random.Generator, size: int) -> Examples:
        """Rows as the training rows were; a fifth of the values is missing."""
        values: list[np.ndarray] = []
        frame: dict[str, np.ndarray] = {}
        for column in self.spec.columns:
            missing = generator.uniform(size=size) < 0.2
            if column.numeric:
                number = column.loc + column.scale * generator.normal(size=size)
                value = np.where(missing, np.nan, number).astype(np.float32)
                frame[column.name] = value
            else:
                text = np.array(column.categories, object)[
                    generator.integers(len(column.categories), size=size)
                ]
                value = text.copy()
                value[missing] = ""
                frame[column.name] = text
                frame[column.name][missing] = None
            values.append(value)
        return Examples(tuple(values), tables.encode(self.spec, pd.DataFrame(frame)))

    def metadata(self) -> dict[str, Any]:
        columns = [
            {
                "name": column.name,
                "input": input_name(column.name),
                "kind": "numeric" if column.numeric else "categorical",
                "roles": list(column.roles),
                "categories": list(column.categories),
            }
            for column in self.spec.columns
        ]
        return {"kind": self.spec.kind, "target": self.spec.target, "columns": columns}


def input_name(column: str) -> str:
    """The name under which a column is sent: its own, if it is a valid name of an input.

    Valid are ASCII letters, digits and "_", with a letter in front, except Python's keywords and
    `seed` and `label`, which signatures have for themselves. Other ASCII characters become "_",
    characters beyond ASCII the "u" and number of their code point.

    Example:
      >>> [input_name(name) for name in ("age", "blood pressure", "1st", "class", "Größe")]
      ['age', 'blood_pressure', 'column_1st', 'class_', 'Gru00f6u00dfe']
    """
    name = re.sub(r"[^\x00-\x7f]", lambda found: f"u{ord(found.group()):04x}", column)
    name = re.sub(r"\W", "_", name, flags=re.ASCII)
    if not re.match("[A-Za-z]", name):
        name = f"column_{name}"
    return f"{name}_" if keyword.iskeyword(name) or name.lower() in _NOT_NAMES else name


def _check_resolution(column: Column) -> None:
    """Refuses columns that a float32 input would blur."""
    if not column.numeric:
        return
    with np.errstate(over="ignore", invalid="ignore"):
        step = float(np.spacing(np.float32(abs(column.loc))))  # NaN beyond float32's range
    if not step <= _RESOLUTION * column.scale:
        raise InputError(
            f"column '{column.name}' has values around {column.loc:g} with standard deviation "
            f"{column.scale:g}, which the export's float32 inputs cannot tell apart; subtract a "
            "constant in the table and train again."
        )


def _features(column: Column, value: tf.Tensor) -> tf.Tensor:
    """Features of a column, [B, width] float32, as `tables.encode` makes them.

    Args:
      column: which.
      value: [B], float32 or text.
    """
    if column.numeric:
        # In float64: a mean far from zero would otherwise cost what distinguishes the rows.
        standardised = (tf.cast(value, tf.float64) - column.loc) / column.scale
        missing = tf.math.is_nan(standardised)
        seen = tf.where(missing, tf.zeros([], tf.float64), standardised)
        check = tf.debugging.Assert(
            tf.reduce_all(tf.abs(seen) <= FARTHEST),
            [
                f"column {column.name}: a value is infinite or too large; finite numbers are "
                "needed, and NaN where one is missing."
            ],
        )
        with tf.control_dependencies([check]):
            features = tf.cast(seen, tf.float32)[:, None]
    else:
        text = tf.strings.regex_replace(value, _WHOLE, r"\1")
        features = tf.cast(tf.equal(text[:, None], list(column.categories)), tf.float32)
        missing = tf.reduce_all(features == 0.0, axis=1)  # "", and what no training row had
    if column.indicator:
        told = missing if CHILD not in column.roles else tf.zeros_like(missing)
        features = tf.concat([features, tf.cast(told, tf.float32)[:, None]], axis=1)
    if CHILD in column.roles:
        features = tf.where(missing[:, None], np.float32(np.nan), features)
    return features
