"""A trained run as a fast, batched, seeded function of arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from scipy import special, stats

from tfcama import random
from tfcama.errors import InputError
from tfcama.progress import tracked
from tfcama.types import Classifier

_BATCH = 250
_GROUPS = 20


def prediction_noise(root: int, *, draw: int = 0) -> np.ndarray:
    """The seed, int32 [2], of a run's predictions; exports and explanations share draw 0.

    Args:
      root: the run's seed.
      draw: number of the draw.
    """
    return random.fold_in(tf.constant(random.stream(root, "prediction")), draw).numpy()


class Predictor:
    """Scores arrays of inputs with a classifier, compiled once.

    Args:
      classifier: anything with the Classifier contract.
      seed: of the noise; the same seed gives the same scores, whatever the batch.
      batch_size: inputs at a time.
    """

    def __init__(self, classifier: Classifier, *, seed: int, batch_size: int = _BATCH):
        self.classifier = classifier
        self._root = seed
        self._batch_size = batch_size
        self._log_scores = tf.function(
            lambda x, seed: classifier.log_scores(x, seed=seed),
            reduce_retracing=True,
            autograph=False,  # its conversion takes seconds; nothing here decides by tensors
        )

    def log_scores(self, x: np.ndarray, *, draw: int = 0) -> np.ndarray:
        """[N, C] unnormalised log p(x, y = c), under the noise of that draw.

        Raises:
          InputError: inputs of the wrong shape, range or with NaN.
        """
        x = self.classifier.spec.check(x)
        seed = tf.constant(prediction_noise(self._root, draw=draw))
        starts = range(0, len(x), self._batch_size)
        scores = [
            self._log_scores(tf.constant(x[start : start + self._batch_size]), seed).numpy()
            for start in tracked(starts, "scored inputs", unit=self._batch_size, total=len(x))
        ]
        return np.concatenate(scores) if scores else np.zeros([0, self.classifier.num_classes])

    def labels(self, x: np.ndarray, *, draw: int = 0) -> np.ndarray:
        """[N] predicted classes."""
        return self.log_scores(x, draw=draw).argmax(axis=1)

    def hits(self, x: np.ndarray, y: np.ndarray, *, draws: int = 1, first: int = 0) -> np.ndarray:
        """[draws, N] bool, whether each input was classified right; one draw if deterministic.

        They are draws number `first` and on. See hits_of.
        """
        draws = draws if self.classifier.stochastic else 1
        scores = np.stack([self.log_scores(x, draw=first + draw) for draw in range(draws)])
        return hits_of(scores, y)


def hits_of(log_scores: np.ndarray, y: np.ndarray) -> np.ndarray:
    """[..., N] bool, whether inputs of these scores [..., N, C] were classified right.

    Scores of which none is the largest, for NaN or infinity, are of no class and no hit.
    """
    return (log_scores.argmax(axis=-1) == y) & np.isfinite(log_scores.max(axis=-1))


def scores_by_group(predictor: Predictor, x: np.ndarray) -> list[np.ndarray]:
    """Log p(x, y = c) of up to twenty groups of inputs, each under a draw of its own, [n, C] each.

    All rows of a draw share its noise, whose error in Eq. 6 no number of them averages out: what is
    to be the mean over rows, with its standard error, needs several.

    Args:
      predictor: of a generative classifier.
      x: [N, *shape], N > 1.
    """
    groups = np.array_split(x, min(_GROUPS, len(x)))
    return [predictor.log_scores(group, draw=draw) for draw, group in enumerate(groups)]


def mean_log_px(scores: Sequence[np.ndarray]) -> float:
    """Mean log p(x) of inputs, nats, of their scores [n, C], in one or several groups."""
    return float(special.logsumexp(np.concatenate(scores), axis=1).mean())


def gain(scores: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> tuple[float, float]:
    """How far log p(x) is above another model's, in the mean over rows, and the standard error.

    Both models share each group's draw; the standard error is that of the groups' means, which
    holds the spread of rows and of draws.

    Args:
      scores: of the one for some inputs, see scores_by_group.
      others: of the other for the same ones.
    """
    differences = [
        special.logsumexp(one, axis=1) - special.logsumexp(other, axis=1)
        for one, other in zip(scores, others, strict=True)
    ]
    means = [each.mean() for each in differences]
    return float(np.concatenate(differences).mean()), float(stats.sem(means))


def not_finite(what: str) -> InputError:
    """The error for a row whose scores name no class."""
    return InputError(
        f"{what}: log p(x, y) is not finite, because a value is too far from the training rows; "
        "check its units."
    )
