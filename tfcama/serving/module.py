"""The exported module: a classifier as plain TensorFlow ops with nothing else inside."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from tfcama import random
from tfcama.models.base import ClassifierModel
from tfcama.types import Generative

INPUT = "image"


class ServingModule(tf.Module):
    """One `serve` function over a dynamic batch: probabilities, label and, if known, log p(x).

    The model itself is hidden in a closure and only its variables are tracked: saving a Keras
    model, or a module that holds one, freezes the batch size or drags optimiser state along. The
    noise is one stateless table for all rows, so the same image gets the same answer, alone or in
    a batch, today and tomorrow. Inputs are checked in the graph; TF-Serving returns the sentence
    as INVALID_ARGUMENT.

    Args:
      classifier: a trained model that computes in float32.
      seed: int32 [2], of the noise.
    """

    def __init__(self, classifier: ClassifierModel, *, seed: np.ndarray):
        super().__init__(name="tfcama")
        self.model_variables = [
            v.value if isinstance(v, keras.Variable) else v for v in classifier.variables
        ]
        spec = classifier.spec
        generative = isinstance(classifier, Generative)
        noise = tuple(int(part) for part in seed)

        @tf.function(input_signature=[tf.TensorSpec([None, *spec.shape], tf.float32, name=INPUT)])
        def serve(image: tf.Tensor) -> dict[str, tf.Tensor]:
            checks = [
                tf.debugging.assert_all_finite(image, f"{INPUT}: every value must be finite.")
            ]
            if spec.bounds is not None:
                low, high = spec.bounds
                inside = tf.reduce_all((image >= low) & (image <= high))
                sentence = f"{INPUT}: every value must be in [{low:g}, {high:g}]."
                checks.append(tf.debugging.Assert(inside, [sentence]))
            with tf.control_dependencies(checks):
                image = tf.identity(image)
            log_scores = classifier.log_scores(image, seed=tf.constant(noise, tf.int32))
            answer = {
                "probabilities": tf.nn.softmax(log_scores, axis=-1),
                "label": tf.argmax(log_scores, axis=-1, output_type=tf.int32),
            }
            if generative:
                answer["log_px"] = tf.reduce_logsumexp(log_scores, axis=-1)
            return answer

        self.serve = serve


def serving_seed(root: int) -> np.ndarray:
    """The noise that a run's exports share."""
    return random.stream(root, "serving")
