"""`square`: the gradient-free Square attack (Andriushchenko et al., 2020), max norm.

Sees scores only, so gradient masking does not stop it.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from tfcama import random
from tfcama.attacks.base import Attack
from tfcama.attacks.losses import margin
from tfcama.errors import InputError
from tfcama.types import Classifier

_HALVINGS = (10, 50, 200, 1000, 2000, 4000, 6000, 8000)  # of 10,000 queries, as published


@dataclasses.dataclass(frozen=True)
class Square(Attack):
    """Random search: a square of random place and sign, kept where the margin grows.

    Attributes:
      queries: of the classifier, an input.
      share: of the pixels that the first square covers.
    """

    queries: int = 200
    share: float = 0.8

    protocol: ClassVar[str] = "strong"

    def __post_init__(self):
        super().__post_init__()
        if self.queries < 1 or not 0.0 < self.share <= 1.0:
            raise InputError(
                f"queries={self.queries} and share={self.share:g} were given; "
                "at least 1 and a number in (0, 1] are needed."
            )

    def _prepare(self, classifier: Classifier) -> Any:
        if len(classifier.input_shape) != 3:
            raise InputError(
                "square attacks images [H, W, channels]; inputs are "
                f"{list(classifier.input_shape)}."
            )

        @tf.function(reduce_retracing=True)
        def query(x: tf.Tensor, y: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
            return margin(classifier.log_scores(x, seed=seed), y)

        return classifier, query

    def _perturb(self, prepared, x, y, *, seed):
        classifier, query = prepared
        generator = np.random.default_rng(np.asarray(seed, np.uint32))
        origin = x.numpy()
        count, height, width, channels = origin.shape
        # Vertical stripes to start with, as published.
        signs = generator.choice([-1.0, 1.0], size=(count, 1, width, channels))
        best = self._project(classifier, (origin + self.eps * signs).astype(np.float32), origin)
        best_margin = query(best, y, random.fold_in(seed, 0)).numpy()
        for number in range(1, self.queries):
            side = self._side(number, height, width)
            trial = best.copy()
            for row in range(count):
                top = generator.integers(0, height - side + 1)
                left = generator.integers(0, width - side + 1)
                window = (row, slice(top, top + side), slice(left, left + side))
                sign = generator.choice([-1.0, 1.0], size=(1, 1, channels))
                trial[window] = origin[window] + self.eps * sign
            trial = self._project(classifier, trial, origin)
            reached = query(trial, y, random.fold_in(seed, number)).numpy()
            better = reached > best_margin
            best[better] = trial[better]
            best_margin = np.maximum(best_margin, reached)
        return tf.constant(best)

    def _side(self, number: int, height: int, width: int) -> int:
        published = number * 10_000 / self.queries
        share = self.share / 2 ** sum(published > step for step in _HALVINGS)
        return max(1, min(height, width, round(np.sqrt(share * height * width))))
