"""`square`: the gradient-free Square attack (Andriushchenko et al., 2020), max norm.

Sees scores only, so gradient masking does not stop it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from tfcama import random
from tfcama.attacks.base import Attack
from tfcama.attacks.losses import margin
from tfcama.ball import into_ball
from tfcama.errors import InputError
from tfcama.progress import tracked
from tfcama.types import Classifier

_REDRAWS = 20  # of a square that changes nothing
# Of 10,000 queries, as the paper has them; its authors' code halves at 500, too.
_HALVINGS = (10, 50, 200, 1000, 2000, 4000, 6000, 8000)


@dataclasses.dataclass(frozen=True)
class Square(Attack):
    """Random search: a square of random place and sign, kept where the margin grows.

    A row of a table is taken for an image of height 1, its squares for runs of columns, each column
    with its own sign. What changes nothing is drawn again.

    Attributes:
      queries: of the classifier, an input; of a stochastic one half of them ask about the best so
        far again, under the draw of the trial that is compared with it.
      share: of the pixels or columns that the first square covers.
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

    @property
    def _compiled_as(self) -> Hashable:
        return Square

    def _prepare(self, classifier: Classifier) -> Any:
        if len(classifier.input_shape) not in (1, 3):
            raise InputError(
                "square attacks images [H, W, channels] and rows [D]; inputs are "
                f"{list(classifier.input_shape)}."
            )

        @tf.function(reduce_retracing=True, autograph=False)
        def query(x: tf.Tensor, y: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
            return margin(classifier.log_scores(x, seed=seed), y)

        return classifier, query

    def _perturb(self, prepared, x, y, *, seed):
        classifier, query = prepared
        generator = np.random.default_rng(np.asarray(seed, np.uint32))
        table = len(x.shape) == 2
        origin = x.numpy()
        count = len(origin)
        shape = (count, 1, x.shape[1], 1) if table else origin.shape
        _, height, width, channels = shape
        lowest, highest = (
            into_ball(x + by, x, self.eps, classifier).numpy().reshape(shape)
            for by in (-self.eps, self.eps)
        )
        # Vertical stripes to start with, as published.
        signs = generator.choice([-1.0, 1.0], size=(count, 1, width, channels))
        best = np.where(signs > 0, highest, lowest).reshape(origin.shape)
        # Where answers are drawn, both sides of a comparison are under one draw: the best of many
        # draws is a lucky one, which nothing would ever beat.
        drawn = classifier.stochastic
        best_margin = None if drawn else query(best, y, seed).numpy()
        trials = self.queries // 2 if drawn else self.queries - 1
        for number in tracked(range(1, trials + 1), "queries of Square"):
            tall, wide = self._sides(number / trials, height, width)
            trial = best.copy()
            moved = trial.reshape(shape)  # a view
            for row in range(count):
                for _ in range(_REDRAWS):
                    top = generator.integers(0, height - tall + 1)
                    left = generator.integers(0, width - wide + 1)
                    window = (row, slice(top, top + tall), slice(left, left + wide))
                    sign = generator.choice([-1.0, 1.0], size=(1, wide if table else 1, channels))
                    tried = np.where(sign > 0, highest[window], lowest[window])
                    if not np.array_equal(tried, moved[window], equal_nan=True):
                        break
                moved[window] = tried
            draw = random.fold_in(seed, number)
            reached = query(trial, y, draw).numpy()
            known = query(best, y, draw).numpy() if drawn else best_margin
            better = reached > known
            best[better] = trial[better]
            best_margin = np.where(better, reached, known)
        return tf.constant(best)

    def _sides(self, done: float, height: int, width: int) -> tuple[int, int]:
        """Of the square after this share of the trials."""
        share = self.share / 2 ** sum(10_000 * done > step for step in _HALVINGS)
        if height == 1:
            return 1, max(1, round(share * width))
        side = max(1, min(height, width, round(np.sqrt(share * height * width))))
        return side, side
