"""A run that adapts a batch-normalised classifier to unlabelled inputs, see `adaptation`."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import keras
import numpy as np

from tfcama.data.base import GeneratedSplit, Split
from tfcama.errors import InputError
from tfcama.models.batch_norm_classifier import BatchNormClassifier
from tfcama.training import checkpoints, methods, run
from tfcama.training.adaptation import mean_entropy
from tfcama.training.config import FinetuneConfig, claimed
from tfcama.training.phases import load_finished
from tfcama.workdir import Workdir, write_text

_TAKEN = ("subject", "fraction", "seed", "method")


def adapt(
    base: Workdir,
    target: Workdir,
    config: FinetuneConfig,
    *,
    clean: Split | GeneratedSplit,
    unlabelled: np.ndarray,
    devices: run.Devices,
    extra_callbacks: tuple[keras.callbacks.Callback, ...],
) -> run.LoadedRun:
    """Fine-tuning's `finetune` for models with batch normalisation; clean rows are not used.

    It takes seconds: one checkpoint is written at the end, and what was killed before it is begun
    again.
    """
    del clean
    _check(config, devices)
    trained = load_finished(base, before="adapted")
    classifier = trained.classifier
    if not isinstance(classifier, BatchNormClassifier):
        raise InputError(
            f"{base.root} holds a '{trained.config.model}', which has no batch normalisation for "
            f"'{config.method}' to adapt; name the workdir of a 'cnn_bn'."
        )
    unlabelled = classifier.spec.check(unlabelled, what="inputs to fine-tune on")
    if not len(unlabelled):
        raise InputError("fine-tuning needs at least one manipulated input; none was given.")
    with claimed(target, trained.config.adapted(config)):
        if not checkpoints.listed(target.checkpoints):
            logs = {"entropy_before": mean_entropy(classifier, unlabelled)}
            method: Any = methods.parse(config.method)
            method.adapt(classifier, unlabelled, seed=config.seed, callbacks=extra_callbacks)
            logs["entropy"] = mean_entropy(classifier, unlabelled)
            write_text(target.metrics_file, json.dumps({"epoch": 1, **logs}) + "\n")
            checkpoints.save(
                target.checkpoints,
                classifier=classifier,
                optimizer=None,
                epoch=1,
                score=(1.0, 0.0),
                logs=logs,
            )
    return run.load(target)


def _check(config: FinetuneConfig, devices: run.Devices) -> None:
    """Refuses what would otherwise go unheeded."""
    if devices.strategy != "none":
        raise InputError(
            f"--strategy={devices.strategy} was given; '{config.method}' runs on one device."
        )
    default = FinetuneConfig()
    for field in dataclasses.fields(config):
        given = getattr(config, field.name)
        if field.name not in _TAKEN and given != getattr(default, field.name):
            raise InputError(
                f"{field.name}={given} was given, which is for '{default.method}'; options of "
                f"'{config.method}' are written behind it, as in --method=tent:epochs=5."
            )
