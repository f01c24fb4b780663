"""Randomized smoothing: votes under Gaussian noise, and the radius in which they cannot change.

Cohen, Rosenfeld and Kolter, "Certified Adversarial Robustness via Randomized Smoothing" (2019).
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from scipy import stats

from tfcama import random
from tfcama.errors import InputError
from tfcama.evaluation.averaged import Averaged
from tfcama.evaluation.subject import Subject
from tfcama.training import defences
from tfcama.types import Classifier

COPIES = 32
ABSTAIN = -1
_BATCH = 250


class Smoothed(Averaged):
    """A classifier that answers with the mean of its probabilities over noisy copies of the input.

    Noise is drawn once and shared by all inputs, so that an answer does not depend on its batch;
    each row's certificate holds by itself, those of several rows are not independent.

    Args:
      classifier: the base classifier, trained with that noise.
      sigma: standard deviation of the noise, in units of the inputs.
      copies: of each input in `log_scores`.

    Raises:
      InputError: no noise, no copies, or the inputs are a table's.
    """

    def __init__(self, classifier: Classifier, *, sigma: float, copies: int = COPIES):
        if not sigma > 0 or copies < 1:
            raise InputError(
                f"sigma={sigma:g} and {copies} copies were given; smoothing needs noise above 0 "
                "and at least 1 copy."
            )
        super().__init__(classifier, what="randomized smoothing")
        self.sigma = sigma
        self._copies = copies

    def log_scores(self, x: tf.Tensor, *, seed: tf.Tensor) -> tf.Tensor:
        """Log of the mean over copies of p(y = c | copy), [B, C] nats, differentiable in x.

        Votes have no gradient; this soft form of them (Salman et al., 2019) is what attacks ascend.
        """
        answers = self._over_copies(
            lambda scores: tf.nn.log_softmax(scores, axis=-1), x, seed=seed, copies=self._copies
        )
        return tf.reduce_logsumexp(answers, axis=0) - np.float32(np.log(self._copies))

    def votes(self, x: np.ndarray, *, seed: np.ndarray, copies: int) -> np.ndarray:
        """How many noisy copies of each input got each class, int [N, C].

        Args:
          x: [N, *shape].
          seed: int32 [2], of the noise.
          copies: of each input.

        Raises:
          InputError: inputs that are not valid.
        """
        x = self.spec.check(x)

        @tf.function(reduce_retracing=True, autograph=False)
        def count(part: tf.Tensor) -> tf.Tensor:
            hard = self._over_copies(
                lambda scores: tf.one_hot(tf.argmax(scores, axis=-1), self.num_classes),
                part,
                seed=tf.constant(seed),
                copies=copies,
            )
            return tf.reduce_sum(hard, axis=0)

        counted = [
            count(tf.constant(x[start : start + _BATCH])).numpy()
            for start in range(0, len(x), _BATCH)
        ]
        return np.concatenate([np.zeros([0, self.num_classes]), *counted]).astype(np.int64)

    def _over_copies(self, answer, x: tf.Tensor, *, seed: tf.Tensor, copies: int) -> tf.Tensor:
        """The answers to every copy, [copies, B, C]; one copy at a time, to bound memory."""

        def of_copy(copy: tf.Tensor) -> tf.Tensor:
            own = random.fold_in(seed, copy)
            noise = self.sigma * random.normal(self.input_shape, own)
            return answer(self.classifier.log_scores(x + noise, seed=random.fold_in(own, 1)))

        return tf.map_fn(
            of_copy, tf.range(copies), fn_output_signature=tf.float32, parallel_iterations=1
        )


class Certificate(NamedTuple):
    """What smoothing guarantees of N inputs.

    Attributes:
      labels: [N] int, the smoothed class, ABSTAIN where the noise does not decide.
      radii: [N], in units of the inputs and the Euclidean norm: no perturbation below changes the
        label; 0 where it abstains.
    """

    labels: np.ndarray
    radii: np.ndarray

    def accuracy(self, y: np.ndarray, radius: float) -> float:
        """Share of inputs that are right, and certainly so within a radius, in [0, 1]."""
        return float(((self.labels == y) & (self.radii >= radius) & (self.labels >= 0)).mean())


def certify(
    smoothed: Smoothed,
    x: np.ndarray,
    *,
    seed: np.ndarray,
    selection: int = 100,
    estimation: int = 1000,
    failure: float = 0.001,
) -> Certificate:
    """Cohen et al.'s CERTIFY: sigma Phi^-1(p), p a lower bound on the share of the top class.

    The class is chosen by `selection` votes and its share bounded by other, `estimation`, votes
    (Clopper-Pearson, one-sided). No radius exceeds `largest_radius`.

    Args:
      smoothed: see Smoothed.
      x: [N, *shape].
      seed: int32 [2], of the noise.
      selection: votes that choose.
      estimation: votes that bound.
      failure: probability that a certificate is wrong.

    Raises:
      InputError: no votes, or a probability outside (0, 1).
    """
    _check(failure, selection, estimation)
    chosen = smoothed.votes(x, seed=_stage(seed, 0), copies=selection).argmax(axis=1)
    votes = smoothed.votes(x, seed=_stage(seed, 1), copies=estimation)
    share = lower_confidence(votes[np.arange(len(x)), chosen], estimation, failure=failure)
    sure = share > 0.5
    radii = np.where(sure, smoothed.sigma * stats.norm.ppf(np.where(sure, share, 0.5)), 0.0)
    return Certificate(np.where(sure, chosen, ABSTAIN), radii)


def largest_radius(sigma: float, *, estimation: int, failure: float) -> float:
    """Of an input that all votes agree on, sigma Phi^-1(failure^(1 / n)); 0 where too few vote."""
    return sigma * max(0.0, float(stats.norm.ppf(failure ** (1.0 / estimation))))


def predict(
    smoothed: Smoothed,
    x: np.ndarray,
    *,
    seed: np.ndarray,
    copies: int = 100,
    failure: float = 0.001,
) -> np.ndarray:
    """Cohen et al.'s PREDICT: the class with most votes, [N], ABSTAIN where it may not be the top.

    It abstains where a fair coin would favour the first over the second so much, in either
    direction, with a probability above `failure`.
    """
    _check(failure, copies)
    votes = smoothed.votes(x, seed=_stage(seed, 1), copies=copies)
    second, first = np.sort(votes, axis=1)[:, -2:].T
    chance = 2.0 * stats.binom.sf(first - 1, first + second, 0.5)
    return np.where(chance <= failure, votes.argmax(axis=1), ABSTAIN)


def lower_confidence(hits: np.ndarray, n: int, *, failure: float) -> np.ndarray:
    """Clopper and Pearson's one-sided lower bound on a share, [N] in [0, 1].

    Args:
      hits: [N], of n each.
      n: positive.
      failure: probability that the share is below the bound.

    Example:
      >>> lower_confidence(np.array([0, 100]), 100, failure=0.001).round(3)
      array([0.   , 0.933])
    """
    hits = np.asarray(hits)
    bound = stats.beta.ppf(failure, np.maximum(hits, 1), n - hits + 1)
    return np.where(hits == 0, 0.0, bound)


def smoothed(subject: Subject, *, copies: int = COPIES) -> Subject:
    """The run, smoothed with the noise that it was trained with; its rows say so in `variant`.

    Raises:
      InputError: it was not trained with noise, so that nothing is certain about it.
    """
    text = subject.loaded.config.training.defence
    noise = defences.parse(text) if text else None
    if not isinstance(noise, defences.GaussianNoise):
        raise InputError(
            f"{subject.workdir.root} was trained {f'with {text}' if text else 'without noise'}; "
            "a certified radius is for runs trained with --defence=noise:sigma=..."
        )
    return dataclasses.replace(
        subject,
        augmentation=f"smoothed over {copies}",
        scorer=Smoothed(subject.loaded.classifier, sigma=noise.sigma, copies=copies),
    )


def _stage(seed: np.ndarray, stage: int) -> np.ndarray:
    return random.fold_in(tf.constant(seed), stage).numpy()


def _check(failure: float, *counts: int) -> None:
    if not 0 < failure < 1 or min(counts) < 1:
        raise InputError(
            f"{' and '.join(map(str, counts))} votes and failure={failure:g} were given; at least "
            "1 vote and a probability inside (0, 1) are needed."
        )
