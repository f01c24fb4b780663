"""SIGNATURES: everything that an exported classifier may be asked, by name."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import tensorflow as tf

from tfcama.registry import Registry
from tfcama.serving import png
from tfcama.serving.answers import Answers, traced
from tfcama.serving.detector import Detector
from tfcama.serving.inputs import CLASSIFIER, EXAMPLES, LABEL, SEED
from tfcama.types import Explaining, Generative

PREDICT = "tensorflow/serving/predict"
CLASSIFY = "tensorflow/serving/classify"


@dataclasses.dataclass(frozen=True)
class Signature:
    """One question to an exported classifier.

    Attributes:
      name: its key in the SavedModel.
      inputs: shape, type and name of every input.
      answer: from values in the order of `inputs` to a dictionary of outputs [B, ...].
      examples: (generator, B) -> valid values in the order of `inputs`.
      method: as TF-Serving calls it.
    """

    name: str
    inputs: tuple[tf.TensorSpec, ...]
    answer: Callable[..., dict[str, tf.Tensor]]
    examples: Callable[[np.random.Generator, int], tuple[np.ndarray, ...]]
    method: str = PREDICT

    @property
    def names(self) -> tuple[str, ...]:
        """The inputs' names."""
        return tuple(tensor.name for tensor in self.inputs)

    @functools.cached_property
    def function(self) -> Any:
        """`answer` as a graph, traced once for export and for every call here."""
        return traced(self.answer, self.inputs)


def signatures_of(answers: Answers, detector: Detector | None) -> dict[str, Signature]:
    """The signatures of a classifier, by name: all of SIGNATURES that it can answer."""
    made = {name: make(name, answers, detector) for name, make in SIGNATURES.items()}
    return {name: signature for name, signature in made.items() if signature is not None}


def _serving_default(name: str, answers: Answers, detector: Detector | None) -> Signature:
    del detector
    return _of_inputs(name, answers, lambda x: answers.prediction(answers.scores(x)))


def _predict_seeded(name: str, answers: Answers, detector: Detector | None) -> Signature | None:
    del detector
    if not answers.classifier.stochastic:
        return None
    return _of_inputs(
        name,
        answers,
        lambda x, seed: answers.prediction(answers.seeded_scores(x, seed)),
        extra=tf.TensorSpec([None], tf.int32, name=SEED),
        extra_examples=lambda generator, size: generator.integers(1 << 31, size=size),
    )


def _classify(name: str, answers: Answers, detector: Detector | None) -> Signature:
    del detector
    inputs = answers.inputs
    texts = tf.TensorSpec([None], tf.string, name=EXAMPLES)

    def classify(serialized: tf.Tensor) -> dict[str, tf.Tensor]:
        x = inputs.features(inputs.parse(serialized))
        scores = answers.prediction(answers.scores(x))["probabilities"]
        class_names = tf.constant(answers.classifier.spec.class_names)
        return {"classes": tf.tile(class_names[None], [tf.shape(scores)[0], 1]), "scores": scores}

    return Signature(
        name,
        (texts,),
        classify,
        lambda generator, size: (inputs.serialize(inputs.examples(generator, size).values),),
        CLASSIFY,
    )


def _predict_png(name: str, answers: Answers, detector: Detector | None) -> Signature | None:
    del detector
    spec = answers.classifier.spec
    if not png.decodable(spec):
        return None
    files = tf.TensorSpec([None], tf.string, name=png.IMAGE_BYTES)

    def predict_png(contents: tf.Tensor) -> dict[str, tf.Tensor]:
        x = answers.inputs.features((png.decode(contents, spec),))
        return answers.prediction(answers.scores(x))

    def examples(generator: np.random.Generator, size: int) -> tuple[np.ndarray, ...]:
        pixels = generator.integers(256, size=(size, *spec.shape)).astype(np.uint8)
        return (np.array([tf.io.encode_png(image).numpy() for image in pixels], object),)

    return Signature(name, (files,), predict_png, examples)


def _detect(name: str, answers: Answers, detector: Detector | None) -> Signature | None:
    if detector is None or not isinstance(answers.classifier, Generative):
        return None

    def detect(x: tf.Tensor) -> dict[str, tf.Tensor]:
        log_px = answers.log_px(answers.scores(x))
        return {"log_px": log_px, **detector.answer(log_px)}

    return _of_inputs(name, answers, detect)


def _reconstruct(name: str, answers: Answers, detector: Detector | None) -> Signature | None:
    del detector
    if not isinstance(answers.classifier, Explaining):
        return None

    def reconstruct(x: tf.Tensor) -> dict[str, tf.Tensor]:
        found = answers.imagined(x, None)
        told = {**_told("reconstruction", found, answers), "m": found["m"]}
        return {**told, "manipulation": found["manipulation"]} if answers.parameters else told

    return _of_inputs(name, answers, reconstruct)


def _counterfactual(name: str, answers: Answers, detector: Detector | None) -> Signature | None:
    del detector
    if not isinstance(answers.classifier, Explaining):
        return None
    classes = answers.classifier.num_classes

    def counterfactual(x: tf.Tensor, label: tf.Tensor) -> dict[str, tf.Tensor]:
        sentence = f"{LABEL}: every value must be from 0 to {classes - 1}."
        valid = tf.reduce_all((label >= 0) & (label < classes))
        with tf.control_dependencies([tf.debugging.Assert(valid, [sentence])]):
            label = tf.identity(label)
        return _told("counterfactual", answers.imagined(x, label), answers)

    return _of_inputs(
        name,
        answers,
        counterfactual,
        extra=tf.TensorSpec([None], tf.int32, name=LABEL),
        extra_examples=lambda generator, size: generator.integers(classes, size=size),
    )


def _told(name: str, found: dict[str, tf.Tensor], answers: Answers) -> dict[str, tf.Tensor]:
    told = answers.inputs.told
    return {**told(name, found["mean"]), **told(f"{name}_do_m0", found["mean_do_m0"])}


def _of_inputs(
    name: str,
    answers: Answers,
    function: Callable[..., dict[str, tf.Tensor]],
    *,
    extra: tf.TensorSpec | None = None,
    extra_examples: Callable[[np.random.Generator, int], np.ndarray] | None = None,
) -> Signature:
    """A signature of the classifier's inputs and, perhaps, one int32 a row.

    Args:
      name: of the signature.
      answers: of the classifier.
      function: of features and, perhaps, that number.
      extra: the number's shape, type and name.
      extra_examples: (generator, B) -> values of it.
    """
    inputs = answers.inputs
    extras = () if extra is None else (extra,)
    columns = len(inputs.names)

    def serve(*values: tf.Tensor) -> dict[str, tf.Tensor]:
        x = inputs.features(values[:columns])
        told = zip(values[columns:], extras, strict=True)
        return function(x, *(_one_a_row(value, x, tensor.name) for value, tensor in told))

    def examples(generator: np.random.Generator, size: int) -> tuple[np.ndarray, ...]:
        values: Iterable[np.ndarray] = inputs.examples(generator, size).values
        if extra_examples is None:
            return tuple(values)
        return (*values, extra_examples(generator, size).astype(np.int32))

    return Signature(name, (*inputs.signature, *extras), serve, examples)


def _one_a_row(value: tf.Tensor, x: tf.Tensor, name: str) -> tf.Tensor:
    """The values [B], if they are as many as the rows of x."""
    value = tf.ensure_shape(value, [None])
    enough = tf.debugging.Assert(
        tf.shape(value)[0] == tf.shape(x)[0], [f"{name}: one value a row is needed."]
    )
    with tf.control_dependencies([enough]):
        return tf.identity(value)


SIGNATURES: Registry[Callable[[str, Answers, Detector | None], Signature | None]] = Registry(
    "signature",
    {
        "serving_default": _serving_default,
        "predict_seeded": _predict_seeded,
        CLASSIFIER: _classify,
        "predict_png": _predict_png,
        "detect": _detect,
        "reconstruct": _reconstruct,
        "counterfactual": _counterfactual,
    },
)
