"""The exported module: a classifier as plain TensorFlow ops with nothing else inside."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from tfcama import random
from tfcama.models.base import ClassifierModel
from tfcama.serving.inputs import inputs_of
from tfcama.types import Generative


class ServingModule(tf.Module):
    """One `serve` function over a dynamic batch: probabilities, label and, if known, log p(x).

    The model itself is hidden in a closure and only its variables are tracked: saving a Keras
    model, or a module that holds one, freezes the batch size or drags optimiser state along. The
    noise is one stateless table for all rows, so the same row gets the same answer, alone or in
    a batch, today and tomorrow. Inputs, see `inputs_of`, are checked in the graph; TF-Serving
    returns the sentence as INVALID_ARGUMENT.

    Args:
      classifier: a trained model that computes in float32.
      seed: int32 [2], of the noise.

    Raises:
      InputError: the columns of a table cannot be inputs, see TableInputs.
    """

    def __init__(self, classifier: ClassifierModel, *, seed: np.ndarray):
        super().__init__(name="tfcama")
        self.model_variables = [
            v.value if isinstance(v, keras.Variable) else v for v in classifier.variables
        ]
        inputs = inputs_of(classifier.spec)
        generative = isinstance(classifier, Generative)
        noise = tuple(int(part) for part in seed)

        @tf.function(input_signature=inputs.signature)
        def serve(*values: tf.Tensor) -> dict[str, tf.Tensor]:
            x = inputs.features(values)
            log_scores = classifier.log_scores(x, seed=tf.constant(noise, tf.int32))
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
