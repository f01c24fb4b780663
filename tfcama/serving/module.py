"""The exported module: a classifier as plain TensorFlow ops with nothing else inside.

The interface, for servers and clients. Every input and output has the batch B in front; which
signatures a version has depends on what its model can do and is in its tfcama.json. `<inputs>` is
`image`, [B, H, W, channels] float32, or of a table one vector [B] a column, see `inputs`.

    signature        inputs                        outputs
    serving_default  <inputs>                      probabilities [B, C]; label [B] int32;
                                                   entropy [B] of the probabilities, nats;
                                                   log_px [B] nats, of generative models
    predict_seeded   <inputs>, seed [B] int32      the same, under noise of the row's own seed and
                                                   nothing else; of stochastic models
    classify         inputs [B], serialized        classes [B, C] text, in the order of the labels;
                     tf.Examples, method           scores [B, C], their probabilities
                     tensorflow/serving/classify
    predict_png      image_bytes [B], PNG files    as serving_default; of images in known bounds
    detect           <inputs>                      log_px [B]; percentile [B], % of clean held-out
                                                   inputs with at most this log_px; p_value [B] of
                                                   being clean; manipulated [B] bool; of generative
                                                   models, where clean inputs were given
    reconstruct      <inputs>                      reconstruction, reconstruction_do_m0 [B, *shape];
                                                   m [B, M], mean of q(m|x); of deep CAMAs.
                                                   manipulation [B, P], what was done to the input,
                                                   see `manipulation` below; of mechanisms whose
                                                   parameters have names
    counterfactual   <inputs>, label [B] int32     counterfactual, counterfactual_do_m0 [B, *shape]:
                                                   the input had its class been `label`, as it was
                                                   manipulated and under do(m = 0); of deep CAMAs

A tf.Example of an image holds the feature `image` of H * W * channels floats; of a row one feature
a column, float or bytes, under the column's input name; one that is left out is missing. Of a
table, reconstruct and counterfactual answer one vector [B] a child column, in its own units or as
its most probable category, under `reconstruction/<input>` and so on.

What is not allowed is refused in the graph with a sentence, which TF-Serving returns as
INVALID_ARGUMENT. The version directory:

    <base>/<version>/saved_model.pb  variables/
                     assets.extra/tf_serving_warmup_requests    PredictionLogs of every signature
                     batching_params.pbtxt    for --enable_per_model_batching_parameters
                     tfcama.json

tfcama.json:

    name, version          of the model (its base path's last part) and of this version
    model, dataset         registry names
    class_names            label c means class_names[c]
    input                  {"kind": "image", "shape": [H, W, channels], "bounds": [low, high]} or
                           {"kind": "table", "target": name, "columns": [{"name", "input", "kind",
                           "roles", "categories"}, ...]}
    signatures             {name: {"method", "inputs", "outputs"}}, the latter two
                           {key: {"dtype": "float32", "shape": [null, 28, 28, 1]}}
    manipulation           [{"name": "shift_y", "unit": "pixels"}, ...] of reconstruct's output
    stochastic, num_samples, seed, noise_seed
    limits                 {"rows_at_once" that are scored, "rows_together" that are worth batching,
                           "max_decoder_rows", "png_bytes" of a file}
    clean                  {"rows", "accuracy", "log_px": mean or null}: what this export answers on
                           clean held-out inputs; null where none were given
    detector               {"rows", "false_alarms", "log_px": {percentile: nats}}, or null
    metrics, results       of training, and rows of evaluation that the run directory holds
    epoch, config, commit, versions, oldest_tensorflow (that loads it), ops, fingerprint (sha256 of
    the variables), saved_model_sha256 (of saved_model.pb), warmup_records
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfcama.data.base import Split
from tfcama.models.base import ClassifierModel
from tfcama.serving.answers import Answers
from tfcama.serving.detector import FALSE_ALARMS, Detector
from tfcama.serving.signatures import Signature, signatures_of
from tfcama.types import Generative

_AT_ONCE = 250  # clean rows


class ServingModule(tf.Module):
    """The signatures of a classifier over a dynamic batch, see above.

    The model itself is hidden and only its variables are tracked: saving a Keras model, or a module
    that holds one, freezes the batch size or drags optimiser state along. The noise is one
    stateless table for all rows, so the same row gets the same answer, alone or in a batch, today
    and tomorrow.

    Args:
      classifier: a trained model that computes in float32.
      seed: int32 [2], of the noise.
      clean: held-out rows that nobody manipulated, which `detect` compares with; None: no `detect`.
      false_alarms: share of clean inputs that `detect` may take for manipulated ones.

    Attributes:
      model_variables: the model's.
      answers: what the signatures share.
      serve: serving_default.
      offered: the signatures by name.
      clean_scores: log p(x, y = c) of the clean rows, [N, C] nats, or None.
      detector: or None.

    Raises:
      InputError: the columns of a table cannot be inputs, see TableInputs, or there are fewer clean
        rows than the share of false alarms needs.
    """

    def __init__(
        self,
        classifier: ClassifierModel,
        *,
        seed: np.ndarray,
        clean: Split | None = None,
        false_alarms: float = FALSE_ALARMS,
    ):
        super().__init__(name="tfcama")
        self.model_variables = variables_of(classifier)
        self.answers = answers = Answers(classifier, seed=seed)
        self.clean_scores: np.ndarray | None = None
        self.detector: Detector | None = None
        if clean is not None:
            blocks = (clean.x[i : i + _AT_ONCE] for i in range(0, len(clean), _AT_ONCE))
            self.clean_scores = np.concatenate(
                [answers.scores(tf.constant(block)).numpy() for block in blocks]
            )
            if isinstance(classifier, Generative):
                log_px = np.logaddexp.reduce(self.clean_scores, axis=1)
                self.detector = Detector.fit(log_px, false_alarms=false_alarms)
        # A proxy, since tf.Module would wrap a dictionary and save it.
        self.offered: Mapping[str, Signature] = MappingProxyType(
            signatures_of(answers, self.detector)
        )
        self.serve = self.offered["serving_default"].function

    @property
    def functions(self) -> dict[str, Any]:
        """The signatures' functions by name, as tf.saved_model.save takes them."""
        return {name: signature.function for name, signature in self.offered.items()}


def variables_of(classifier: ClassifierModel) -> list[tf.Variable]:
    """A model's variables in its order: TensorFlow's, of Keras' own."""
    return [v.value if isinstance(v, keras.Variable) else v for v in classifier.variables]
