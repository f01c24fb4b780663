"""Small classifiers with known answers, as runs too, and a row of results."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tfcama import random
from tfcama.evaluation.subject import Subject
from tfcama.models.registry import MODELS
from tfcama.training import checkpoints, run
from tfcama.training.config import RunConfig, TrainingConfig
from tfcama.types import Bounds, InputSpec
from tfcama.workdir import Workdir

ROW = {
    "experiment": "manipulation",
    "model": "cama",
    "dataset": "digits",
    "trained_on": "clean",
    "finetuned_on": "",
    "manipulation": "vertical_shift",
    "level": 0.2,
    "attack": "",
    "eps": 0.0,
    "seed": 0,
}  # what a Row says besides its numbers


class Linear:
    """log_scores = x W + b, the best perturbation of which is known in closed form.

    Args:
      kernel: [D, C] for inputs of any shape with D values.
      shape: of an input.
      noise: standard deviation of a seeded shift of all scores' inputs; 0 is deterministic.
      mask: of the attack.
    """

    def __init__(self, kernel, *, shape, bounds=Bounds(0.0, 1.0), noise=0.0, mask=None, bias=0.0):
        names = tuple(f"class {i}" for i in range(kernel.shape[1]))
        self.kernel = tf.constant(kernel, tf.float32)
        self.spec = InputSpec(tuple(shape), names, bounds)
        self.stochastic = noise > 0
        self._noise = noise
        self._bias = bias
        self.attack_mask = mask

    @property
    def num_classes(self):
        return self.spec.num_classes

    @property
    def input_shape(self):
        return self.spec.shape

    @property
    def bounds(self):
        return self.spec.bounds

    def log_scores(self, x, *, seed):
        flat = tf.reshape(x, [tf.shape(x)[0], self.kernel.shape[0]])
        if self._noise:
            flat += self._noise * random.normal([1, self.kernel.shape[0]], seed)
        return tf.matmul(flat, self.kernel) + self._bias


class Masked(Linear):
    """A linear classifier that hides its gradient: an evaluation must notice."""

    def log_scores(self, x, *, seed):
        return super().log_scores(tf.stop_gradient(x) + 0.0 * x, seed=seed)


def binary(shape=(4, 4, 1), *, seed=0, **kwargs):
    """Two classes; the margin of class 1 is w x."""
    w = np.random.default_rng(seed).normal(size=int(np.prod(shape)))
    return Linear(np.stack([np.zeros_like(w), w], axis=1), shape=shape, **kwargs), w


def subject_of(
    classifier, dataset, *, model="dnn", architecture=None, seed=0, finetuned=None, path="unused"
):
    """A classifier as what a run holds, to be scored on the data set's test split."""
    config = RunConfig(
        model=model,
        dataset="digits",
        seed=seed,
        architecture=architecture or MODELS[model].config_class(),
        training=TrainingConfig(),
        input_spec=classifier.spec,
        finetuned=finetuned,
    )
    workdir = Workdir(path)
    checkpoint = checkpoints.Checkpoint(workdir.checkpoints / "00001", 1, (0.0, 0.0), {})
    loaded = run.LoadedRun(config, classifier, checkpoint)
    return Subject(workdir, loaded, dataset, dataset.test)
