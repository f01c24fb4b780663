"""Adaptation of discriminative models to unlabelled inputs by their batch normalisation.

What a user would do instead of fine-tuning a CAMA: recomputed statistics (Schneider et al., NeurIPS
2020; Nado et al., 2020) and entropy minimisation (Tent; Wang et al., ICLR 2021). Both see all
unlabelled inputs first and predict afterwards, with what they found kept fixed.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from typing import ClassVar

import keras
import numpy as np
import tensorflow as tf

from tfcama import random
from tfcama.config import check_at_least, check_positive
from tfcama.data import pipeline
from tfcama.models.batch_norm_classifier import BatchNormClassifier
from tfcama.objectives.classification import entropy
from tfcama.training import callbacks as callbacks_lib
from tfcama.training.optimizer import Adam
from tfcama.training.trainer import Trainer
from tfcama.types import Batch

_BATCH = 250


@dataclasses.dataclass(frozen=True)
class Adaptation(abc.ABC):
    """A way to adapt a BatchNormClassifier."""

    family: ClassVar[str] = "adaptation"

    @abc.abstractmethod
    def adapt(
        self,
        classifier: BatchNormClassifier,
        x: np.ndarray,
        *,
        seed: int,
        callbacks: tuple[keras.callbacks.Callback, ...] = (),
    ) -> None:
        """Changes the classifier in place.

        Args:
          classifier: trained.
          x: [N, *shape], N > 0, unlabelled.
          seed: of the order of rows.
          callbacks: of Model.fit, where the method trains.
        """


@dataclasses.dataclass(frozen=True)
class TargetStatistics(Adaptation):
    """Means and variances of the unlabelled inputs in place of the training data's.

    Attributes:
      source_rows: N of Schneider et al.: the training data's statistics count as much as so many
        unlabelled rows; 0 leaves them out.
    """

    source_rows: float = 0.0

    def __post_init__(self):
        check_at_least(self, source_rows=0)

    def adapt(self, classifier, x, *, seed, callbacks=()):
        del seed, callbacks
        renew_statistics(classifier, x, source_rows=self.source_rows)


@dataclasses.dataclass(frozen=True)
class Tent(Adaptation):
    """Scale and shift of every BatchNorm move until answers are sure of themselves.

    The paper's offline setting: Adam, statistics of the batch, nothing else moves. Its models have
    no dropout, so ours is off. At the end the statistics are those of all x, so that an answer does
    not depend on its batch.

    Attributes:
      epochs: passes over the unlabelled inputs.
      batch_size: rows a step; all of them where there are fewer.
      learning_rate: of Adam.
    """

    epochs: int = 1
    batch_size: int = 128
    learning_rate: float = 1e-3

    def __post_init__(self):
        check_at_least(self, epochs=1, batch_size=2)
        check_positive(self, "learning_rate")

    def adapt(self, classifier, x, *, seed, callbacks=()):
        rows = min(self.batch_size, len(x))
        steps = math.ceil(len(x) / rows)
        trainer = TentTrainer(
            classifier,
            num_rows=rows,
            seed=random.stream(seed, "tent", "noise"),
            groups=("scale_shift",),
        )
        trainer.compile(Adam(self.learning_rate))
        every = [
            callbacks_lib.Progress("tent", epochs=self.epochs, steps=self.epochs * steps),
            callbacks_lib.StopOnNonFinite(),
            *callbacks,
        ]
        order = random.stream(seed, "tent", "order")
        with callbacks_lib.ended(every):
            trainer.fit(
                pipeline.unlabelled_stream(x, batch_size=rows, seed=order),
                epochs=self.epochs,
                steps_per_epoch=steps,
                shuffle=False,
                verbose=0,
                callbacks=every,
            )
        renew_statistics(classifier, x)


class TentTrainer(Trainer):
    """Entropy of the answers, in nats, under the statistics of the batch (Tent, section 3.1)."""

    classifier: BatchNormClassifier

    def terms(self, batch: Batch, *, draws: random.RowDraws | None) -> dict[str, tf.Tensor]:
        del draws
        return {"loss": entropy(self.classifier.logits(batch.x, batch_statistics=True))}


def renew_statistics(
    classifier: BatchNormClassifier, x: np.ndarray, *, source_rows: float = 0.0
) -> None:
    """Every BatchNorm's statistics become those of x, as if x were one batch.

    With n rows of x and N = source_rows, mean = (N mean_before + n mean_x) / (N + n), and variances
    the same (Schneider et al., Eq. 2). From input to logits, since what enters a layer depends on
    the statistics of those before it: a pass over x for each.

    Args:
      classifier: changed in place.
      x: [n, *shape], n > 0.
      source_rows: N.
    """
    share = len(x) / (source_rows + len(x))
    for place, norm in classifier.norms().items():
        for running, seen in zip(
            (norm.mean, norm.variance), _moments(classifier, place, x), strict=True
        ):
            running.assign((1.0 - share) * running.numpy() + share * seen)


def mean_entropy(classifier: BatchNormClassifier, x: np.ndarray) -> float:
    """Of the answers to x, in nats."""
    return float(np.concatenate([entropy(classifier.logits(part)) for part in _parts(x)]).mean())


def _moments(
    classifier: BatchNormClassifier, place: int, x: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of each feature that enters the stack's layer `place`, float64 [F]."""
    entering = tf.function(
        lambda part: classifier.entering(place, part), reduce_retracing=True, autograph=False
    )
    count, total, squares = 0, np.float64(0.0), np.float64(0.0)
    for part in _parts(x):
        features = entering(part).numpy().astype(np.float64)
        features = features.reshape(-1, features.shape[-1])
        count += len(features)
        total = total + features.sum(axis=0)
        squares = squares + np.square(features).sum(axis=0)
    mean = total / count
    return mean, np.maximum(squares / count - np.square(mean), 0.0)


def _parts(x: np.ndarray) -> list[tf.Tensor]:
    return [tf.constant(x[start : start + _BATCH]) for start in range(0, len(x), _BATCH)]
