"""Does a mechanism find what was done? The parameters that a CAMA infers against the true ones."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfcama import random
from tfcama.data import manipulations
from tfcama.evaluation.subject import Subject
from tfcama.models.cama_base import CamaBase
from tfcama.models.mechanisms.base import Parameter

_BATCH = 100


class Recovered(NamedTuple):
    """One parameter of a mechanism over N inputs.

    Attributes:
      parameter: which.
      true: what was done, [N] in its unit; 0 where the manipulation has nothing to do with it.
      found: what the model infers, [N].
    """

    parameter: Parameter
    true: np.ndarray
    found: np.ndarray

    @property
    def median_error(self) -> float:
        """Median of |found - true|, in the parameter's unit."""
        return float(np.median(np.abs(self.found - self.true)))


def recover(subject: Subject, manipulation: str, level: float, *, limit: int) -> list[Recovered]:
    """Every parameter of the subject's mechanism, on test inputs that fine-tuning did not see.

    Args:
      subject: a finished run.
      manipulation: without its level.
      level: of it.
      limit: how many inputs.

    Returns:
      [] for models whose M has no meaning for people, and where fine-tuning saw all of the inputs.
    """
    model = subject.loaded.classifier
    if not isinstance(model, CamaBase) or not model.mechanism.parameters:
        return []
    rows = np.arange(len(subject.test)) if subject.held_out is None else subject.held_out
    if not len(rows):
        return []
    move = manipulations.parse(manipulation, level=level).fit(subject.dataset)
    # The draws of `manipulate`, which the accuracies of the same subject are of.
    seed = random.stream(subject.loaded.config.seed, "manipulation")
    moved = move(tf.constant(subject.test.x), y=tf.constant(subject.test.y), seed=seed)
    rows = rows[:limit]
    x, code = tf.gather(moved.x, rows), tf.gather(moved.code, rows)
    draw = tf.constant(random.stream(subject.loaded.config.seed, "recovered"))
    infer = tf.function(
        lambda x: model.manipulation(x, seed=draw), reduce_retracing=True, autograph=False
    )
    found = np.concatenate(
        [infer(x[start : start + _BATCH]).numpy() for start in range(0, len(rows), _BATCH)]
    )
    true = move.parameters(code, subject.dataset.spec.shape)
    return [
        Recovered(
            parameter,
            np.asarray(true.get(parameter.name, np.zeros(len(rows)))),
            found[:, place],
        )
        for place, parameter in enumerate(model.mechanism.parameters)
    ]
