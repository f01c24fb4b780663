"""The phases of a CAMA's fine-tuning: warm-up, sleep and Eq. 8, each with its trainer."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfcama import random
from tfcama.data import pipeline, streams
from tfcama.data.base import GeneratedSplit, Split
from tfcama.errors import InputError
from tfcama.models.cama_base import CamaBase
from tfcama.training import checkpoints, run
from tfcama.training.cama import DreamTrainer, FinetuneTrainer, WakeTrainer
from tfcama.training.config import RWS, FinetuneConfig, RunConfig, same_variables
from tfcama.training.empirical_bayes import fit_prior
from tfcama.training.methods import EQ8
from tfcama.training.optimizer import Adam
from tfcama.training.trainer import Trainer
from tfcama.workdir import Workdir

_STEPS_PER_EPOCH = 50  # how often fine-tuning logs and checkpoints
_DREAMS_PER_EPOCH = 500  # the same of steps of dreams, which are faster


class Phase(NamedTuple):
    """A part of a fine-tuning.

    Attributes:
      title: of its progress bar.
      begin, end: how many epochs are done before and after it.
      steps: of an epoch.
      trainer: holds its optimiser.
      stream: of its batches, from a step on.
      before: what is done first.
    """

    title: str
    begin: int
    end: int
    steps: int
    trainer: Trainer
    stream: Callable[[int], tf.data.Dataset]
    before: Callable[[], None] = lambda: None


def phases_of(
    trainer: FinetuneTrainer | WakeTrainer,
    config: FinetuneConfig,
    *,
    clean: Split | GeneratedSplit,
    unlabelled: np.ndarray,
    devices: run.Devices,
) -> list[Phase]:
    """Dreams of what a mechanism can do, dreams of what it did, and Eq. 8: those that there are.

    Args:
      trainer: of Eq. 8, see make_trainer.
      config: how.
      clean: labelled clean rows.
      unlabelled: [N, *shape] manipulated inputs.
      devices: where it runs.

    Raises:
      InputError: there is a sleep, and p(m) is N(0, I) for good, or m no sample of q(m|x).
    """
    model = trainer.classifier
    seeing = f"on {config.subject}"

    def wake() -> None:
        seed = random.stream(config.seed, "finetune", "proposals")
        fit_prior(model, unlabelled, seed=seed, title=f"fit p(m) {seeing}")

    def dreams(steps: int, *, fitted: bool) -> tuple[Trainer, Callable[[int], tf.data.Dataset]]:
        dreamer = make_dreamer(model, config, steps=steps, fitted=fitted, devices=devices)
        return dreamer, lambda step: dreams_stream(clean, config, fitted=fitted, start_step=step)

    def eq8(step: int) -> tf.data.Dataset:
        return pipeline.finetuning_stream(
            clean,
            unlabelled,
            batch_size=config.batch_size,
            seed=random.stream(config.seed, "finetune", "order"),
            start_step=step,
        )

    if config.sleep and not model.prior_m.is_learned:
        raise InputError(
            f"sleep={config.sleep} was given; it fits p(m), and prior_m is "
            f"'{model.config.prior_m}'. Take learned or class, or sleep=0."
        )
    if config.sleep and model.config.m_at_test != "posterior":
        raise InputError(
            f"m_at_test='{model.config.m_at_test}' was given; p(m) is fitted to samples of q(m|x). "
            "Take posterior, or sleep=0."
        )
    ends = [0, *np.cumsum(epochs_by_phase(config)).tolist()]
    spans = [
        (begin, end, math.ceil(steps / max(1, end - begin)))
        for steps, (begin, end) in zip(
            (config.warm_up, config.sleep, config.steps), itertools.pairwise(ends), strict=True
        )
    ]  # first epoch, the one after the last, steps of each

    def dreaming(title: str, place: int, *before: Callable[[], None]) -> Phase:
        begin, end, steps = spans[place]
        how = dreams((end - begin) * steps, fitted=bool(before))
        return Phase(title, begin, end, steps, *how, *before)

    phases = []
    if config.warm_up:
        phases.append(dreaming("dream", 0))
    if config.sleep:
        phases.append(dreaming(f"dream of {config.subject}", 1, wake))
    if config.steps:
        phases.append(Phase(f"fine-tune {seeing}", *spans[2], trainer, eq8))
    return phases


def epochs_by_phase(config: FinetuneConfig) -> list[int]:
    """Of the warm-up, of sleep and of Eq. 8."""
    return [
        math.ceil(config.warm_up / _DREAMS_PER_EPOCH),
        math.ceil(config.sleep / _DREAMS_PER_EPOCH),
        math.ceil(config.steps / _STEPS_PER_EPOCH),
    ]


def last_epoch(config: RunConfig) -> int:
    """Of a run's last checkpoint: of a stream one a segment, of Eq. 8's rivals one."""
    if config.stream is not None:
        return len(streams.parse(config.stream.segments))
    if config.finetuned is None:
        return config.training.epochs
    return sum(epochs_by_phase(config.finetuned)) if config.finetuned.method == EQ8 else 1


def load_finished(workdir: Workdir, *, before: str, at_test: Sequence[str] = ()) -> run.LoadedRun:
    """A run as run.load gives it, whose training or adaptation has ended.

    Args:
      workdir: of the run.
      before: what is to become of it, in the error: "scored".
      at_test: see run.load.

    Raises:
      InputError: as run.load, or where the run has not ended.
    """
    loaded = run.load(workdir, at_test=at_test)
    done, epochs = checkpoints.epochs_done(workdir.checkpoints), last_epoch(loaded.config)
    if done < epochs:
        raise InputError(
            f"{workdir.root} has finished {done} of {epochs} epochs; give its command again before "
            f"it is {before}."
        )
    return loaded


def make_trainer(
    trained: run.LoadedRun,
    run_config: RunConfig,
    *,
    devices: run.Devices,
) -> FinetuneTrainer | WakeTrainer:
    """The compiled trainer of Eq. 8, or what a stream is followed by, its model as it was trained.

    Args:
      trained: see load_base.
      run_config: see adapted_config.
      devices: where it runs.

    Raises:
      InputError: see WakeTrainer.
    """
    config, stream = run_config.finetuned, run_config.stream
    if config is None:
        raise TypeError("the configuration of an adapted run is needed.")
    classifier = run.build(run_config)
    if same_variables(run_config.architecture, trained.config.architecture):
        checkpoints.restore(trained.checkpoint, classifier=classifier)
    else:
        classifier.adopt(trained.classifier)
    how: dict[str, Any] = {
        "num_rows": config.batch_size,
        "seed": random.stream(config.seed, "finetune", "noise"),
        "dreams": config.dreams,
    }
    trainer: FinetuneTrainer | WakeTrainer
    if stream is not None and stream.by == RWS:
        trainer = WakeTrainer(classifier, **how)
    else:
        trainer = FinetuneTrainer(
            classifier,
            groups=config.groups,
            alpha=config.alpha,
            clean_do_m0=config.clean == "do_m0",
            num_samples=config.num_samples,
            fitted=bool(config.sleep),
            curriculum=config.curriculum,
            **how,
        )
    trainer.compile(Adam(config.learning_rate), jit_compile=devices.jit_compile)
    return trainer


def make_dreamer(
    classifier: CamaBase,
    config: FinetuneConfig,
    *,
    steps: int,
    fitted: bool = False,
    devices: run.Devices,
) -> DreamTrainer:
    """The compiled trainer of dreams alone: its learning rate falls to zero along a cosine.

    Args:
      classifier: that of make_trainer.
      config: how.
      steps: so many.
      fitted: see DreamTrainer.
      devices: where it runs.
    """
    dreamer = DreamTrainer(
        classifier,
        num_rows=config.batch_size,
        seed=random.stream(config.seed, "finetune", "sleep" if fitted else "dreams"),
        fitted=fitted,
    )
    schedule = run.WarmUp(config.learning_rate, warmup_steps=0, steps=steps, cosine=True)
    dreamer.compile(Adam(schedule), jit_compile=devices.jit_compile)
    return dreamer


def dreams_stream(
    clean: Split | GeneratedSplit,
    config: FinetuneConfig,
    *,
    fitted: bool = False,
    start_step: int = 0,
) -> tf.data.Dataset:
    """Endless batches of the clean rows that make_dreamer's trainer dreams of."""
    return pipeline.training_stream(
        clean,
        batch_size=config.batch_size,
        seed=random.stream(config.seed, "finetune", "slept on" if fitted else "dreamt of"),
        start_step=start_step,
    )
