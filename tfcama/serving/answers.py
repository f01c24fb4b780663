"""What the signatures share: a classifier's answers to features, in blocks of bounded size."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tfcama import random
from tfcama.models.base import ClassifierModel
from tfcama.models.cama_base import CamaBase
from tfcama.serving.inputs import inputs_of
from tfcama.types import Explaining, Generative


class Answers:
    """A classifier as functions of features [B, *shape], whose memory does not grow with B.

    Args:
      classifier: a trained model that computes in float32.
      seed: int32 [2], of the noise.

    Attributes:
      classifier: see above.
      inputs: what its clients send.
    """

    def __init__(self, classifier: ClassifierModel, *, seed: np.ndarray):
        self.classifier = classifier
        self.inputs = inputs_of(classifier.spec)
        self._seed = tuple(int(part) for part in seed)

    @property
    def seed(self) -> tf.Tensor:
        """Int32 [2], a constant of the graph that asks for it."""
        return tf.constant(self._seed, tf.int32)

    @property
    def rows_at_once(self) -> int:
        """How many rows are encoded, or decoded as one class and sample, together at most."""
        rows = self.inputs.rows_at_once
        if isinstance(self.classifier, CamaBase):
            return min(rows, self.classifier.config.max_decoder_rows)
        return rows

    @functools.cached_property
    def scores(self) -> Callable[[Any], tf.Tensor]:
        """Log p(x, y = c), [B, C] nats, from features; traced once, whoever calls it."""
        return self._traced(self.classifier.log_scores, self._scores_spec)

    @functools.cached_property
    def _scores_and_m(self) -> Callable[[Any], tuple[tf.Tensor, tf.Tensor]]:
        """As `scores`, of an Explaining classifier, with the m [B, M] that stands for them."""
        model = self._explaining
        m_spec = tf.TensorSpec([None, model.dim_m], tf.float32)
        return self._traced(model.log_scores_and_m, (self._scores_spec, m_spec))

    @property
    def _scores_spec(self) -> tf.TensorSpec:
        return tf.TensorSpec([None, self.classifier.num_classes], tf.float32)

    @property
    def row_by_row(self) -> bool:
        """Whether inputs are scored one at a time: stochastic classifiers of images.

        Log p(x) of an image is hundreds of nats, of which float32 keeps 6e-5. Kernels that round
        otherwise for another number of rows then move a probability by 3e-5; one row at a time is
        bit-equal in any batch. Decoding K * C rows for it keeps a core busy (measured, one thread,
        MNIST's nets: K = 10 9.3 ms a row against 10.0 in blocks, K = 1 2.1 against 1.3).
        """
        return self.classifier.stochastic and self.classifier.spec.kind == "image"

    def _traced(self, predict: Callable[..., Any], signature: Any) -> Any:
        """A function of features and `seed`, as one graph that bounds its memory."""
        rows = 1 if self.row_by_row else self.rows_at_once
        return traced(
            lambda x: in_blocks(
                lambda x: predict(x, seed=self.seed), (x,), rows=rows, signature=signature
            ),
            (tf.TensorSpec([None, *self.classifier.spec.shape]),),
        )

    def seeded_scores(self, x: tf.Tensor, seeds: tf.Tensor) -> tf.Tensor:
        """As `scores`, with noise of every row's own: a function of its seed [B] int32 alone."""
        return in_blocks(
            lambda x, seeds: self.classifier.log_scores(
                x, seed=random.fold_in(self.seed, seeds[0])
            ),
            (x, seeds),
            rows=1,
            signature=self._scores_spec,
        )

    def prediction(self, log_scores: tf.Tensor) -> dict[str, tf.Tensor]:
        """What serving_default answers, from scores [B, C]."""
        log_p = tf.nn.log_softmax(log_scores, axis=-1)
        probabilities = tf.exp(log_p)
        answer = {
            "probabilities": probabilities,
            "label": tf.argmax(log_scores, axis=-1, output_type=tf.int32),
            "entropy": -tf.reduce_sum(tf.math.multiply_no_nan(log_p, probabilities), axis=-1),
        }
        if isinstance(self.classifier, Generative):
            answer["log_px"] = self.log_px(log_scores)
        return answer

    def log_px(self, log_scores: tf.Tensor) -> tf.Tensor:
        """Log p(x), [B] nats, from scores [B, C] of a generative classifier."""
        return tf.reduce_logsumexp(log_scores, axis=-1)

    def imagined(self, x: tf.Tensor, labels: tf.Tensor | None) -> dict[str, tf.Tensor]:
        """Means of p(x | y, z, m) of an Explaining classifier, at z and m of the prediction.

        Args:
          x: [B, *shape].
          labels: classes y to decode with, [B] int32; None: the predicted ones.

        Returns:
          `mean` and `mean_do_m0`, under do(m = 0), [B, *shape of what Y causes]; `m`, [B, M], the
          mean of q(m|x); and `manipulation`, [B, P], the mechanism's parameters at the m of the
          prediction, in their units.
        """
        scores, m = self._scores_and_m(x)
        predicted = tf.argmax(scores, axis=-1, output_type=tf.int32)
        effects = self.inputs.effects(x).shape[1:]
        decoded = tf.TensorSpec([None, *effects], tf.float32)
        return in_blocks(
            self._imagine,
            (x, m, predicted, predicted if labels is None else labels),
            rows=self.rows_at_once,
            signature={
                "mean": decoded,
                "mean_do_m0": decoded,
                "m": tf.TensorSpec([None, self._explaining.dim_m], tf.float32),
                "manipulation": tf.TensorSpec([None, len(self.parameters)], tf.float32),
            },
        )

    @property
    def parameters(self) -> tuple[Any, ...]:
        """The numbers by which people name what was done to an input; () where there are none."""
        if not isinstance(self.classifier, Explaining):
            return ()
        return self.classifier.mechanism.parameters

    @property
    def _explaining(self) -> Explaining:
        if not isinstance(self.classifier, Explaining):
            raise TypeError(f"{self.classifier.name} does not explain its inputs.")
        return self.classifier

    def _imagine(
        self, x: tf.Tensor, m: tf.Tensor, predicted: tf.Tensor, labels: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        model = self._explaining
        _, z = model.latents_of(x, predicted, m)
        y = tf.one_hot(labels, self.classifier.num_classes)[:, None]  # [B, 1, C]
        c = model.coparents(x)
        with_m, without_m = (
            model.p(y, z, held, c).mean()[0, :, 0] for held in (m, tf.zeros_like(m))
        )
        return {
            "mean": with_m,
            "mean_do_m0": without_m,
            "m": model.posterior_m(x).mean(),
            "manipulation": model.mechanism.values(m),
        }


def traced(function: Callable[..., Any], signature: tuple[tf.TensorSpec, ...]) -> Any:
    """A function as one graph.

    A tf.function would be traced anew by its first call after it was saved. Without AutoGraph,
    which takes seconds: a model's Python decides nothing by tensors.
    """
    return tf.function(function, input_signature=signature, autograph=False).get_concrete_function()


def in_blocks(
    function: Callable[..., Any], tensors: tuple[tf.Tensor, ...], *, rows: int, signature: Any
) -> Any:
    """A function of rows, applied to at most so many at a time, one block after the other.

    Args:
      function: of a block of every tensor, [b, ...]; returns what `signature` says.
      tensors: [B, ...] each.
      rows: b is at most this; blocks are even, and zeros fill the last. With 1, b is known.
      signature: TensorSpecs [None, ...], nested as what `function` returns.

    Returns:
      The same nest of [B, ...].
    """
    size = tf.shape(tensors[0])[0]
    number = tf.maximum(1, -(-size // rows))
    length = 1 if rows == 1 else tf.maximum(1, -(-size // number))
    known = 1 if rows == 1 else None

    def cut(tensor: tf.Tensor) -> tf.Tensor:
        rest = tensor.shape[1:]
        filled = tf.concat([tensor, tf.zeros([number * length - size, *rest], tensor.dtype)], 0)
        return tf.ensure_shape(tf.reshape(filled, [number, length, *rest]), [None, known, *rest])

    answers = tf.map_fn(
        lambda blocks: function(*blocks),
        tuple(cut(tensor) for tensor in tensors),
        fn_output_signature=signature,
        parallel_iterations=1,
    )
    return tf.nest.map_structure(
        lambda answer: tf.reshape(answer, [number * length, *answer.shape[2:]])[:size], answers
    )
