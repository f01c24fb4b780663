"""One training run, from a configuration to a workdir that holds a trained classifier."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from typing import NamedTuple

import keras
import tensorflow as tf

from tfcama import random
from tfcama.data import datasets, manipulations, pipeline, transforms
from tfcama.data.base import Dataset, Split
from tfcama.errors import InputError
from tfcama.models.base import ClassifierModel
from tfcama.models.registry import MODELS
from tfcama.training import callbacks as callbacks_lib
from tfcama.training import checkpoints, defences, strategy
from tfcama.training.config import RunConfig, claimed, set_at_test
from tfcama.training.optimizer import Adam
from tfcama.training.registry import TRAINERS
from tfcama.training.trainer import Trainer
from tfcama.workdir import Workdir

_VALIDATION_BATCH = 200
_PICTURED = 100
_CHIEF_TIMEOUT = 60  # seconds


class Devices(NamedTuple):
    """What a run does not depend on: where and how fast it runs.

    Attributes:
      strategy: a name that `strategy.make` knows.
      jit_compile: XLA for the train step (slower on the CPUs that were measured).
      histograms: of every variable, in TensorBoard.
    """

    strategy: str = "none"
    jit_compile: bool = False
    histograms: bool = False


class LoadedRun(NamedTuple):
    """A finished run.

    Attributes:
      config: its configuration.
      classifier: with the best checkpoint's weights.
      checkpoint: that checkpoint.
    """

    config: RunConfig
    classifier: ClassifierModel
    checkpoint: checkpoints.Checkpoint


def build(config: RunConfig, *, precision: str | None = None) -> ClassifierModel:
    """The untrained classifier of a configuration, initialised by its seed.

    Args:
      config: with an input_spec.
      precision: in place of the configuration's; the variables are float32 in any case.
    """
    if config.input_spec is None:
        raise InputError("the configuration has no input_spec; load its data set first.")
    before = keras.config.dtype_policy()
    random.seed_everything(config.seed)
    keras.config.set_dtype_policy(precision or config.training.precision)
    try:
        return MODELS[config.model].build(config.input_spec, config.architecture)
    finally:
        keras.config.set_dtype_policy(before)


def answering_by(
    at_test: Sequence[str], config: RunConfig, classifier: ClassifierModel
) -> ClassifierModel:
    """A classifier of the same variables that answers in another way, in float32.

    Args:
      at_test: `key=value` assignments, see set_at_test.
      config: of the classifier.
      classifier: stays as it is.
    """
    other = build(set_at_test(config, at_test), precision="float32")
    for mine, theirs in zip(other.variables, classifier.variables, strict=True):
        mine.assign(theirs)
    return other


def load_data(config: RunConfig, *, data_dir: str | None) -> Dataset:
    """The data set of a configuration, split by its seed.

    Raises:
      InputError: it is not there, or no longer what a run was trained on, as when somebody changed
        the CSV file since.
    """
    dataset = datasets.load(
        config.dataset,
        config=config.data,
        data_dir=data_dir,
        seed=config.seed,
        validation_fraction=config.training.validation_fraction,
    )
    if config.input_spec is not None and dataset.spec != config.input_spec:
        raise InputError(
            f"'{dataset.name}' is no longer what the run was trained on (its columns, their "
            "training mean, scale or categories, or its classes differ). Bring the file back, or "
            "train again in another --workdir."
        )
    if config.rows_sha256 and dataset.rows_sha256 != config.rows_sha256:
        raise InputError(
            f"'{dataset.name}' no longer has the rows that the run was trained on: its file was "
            "changed. Bring the file back, or train again in another --workdir."
        )
    return dataset


def train(
    config: RunConfig,
    workdir: Workdir,
    *,
    data_dir: str | None = None,
    devices: Devices = Devices(),
    extra_callbacks: tuple[keras.callbacks.Callback, ...] = (),
) -> LoadedRun:
    """Trains, or continues a run that was killed, to the same numbers as an unbroken one.

    Every draw is a function of the seed and the step, and a checkpoint holds model, optimiser and
    epoch, so continuing redoes the epoch that was cut off and nothing else.

    Args:
      config: its input_spec and rows_sha256 are filled in here.
      workdir: of the run.
      data_dir: of tensorflow-datasets.
      devices: where it runs.
      extra_callbacks: appended to the run's own.

    Raises:
      InputError: the workdir belongs to another configuration, a checkpoint is damaged, data is
        missing, or the disk is full.
    """
    chosen = strategy.make(devices.strategy)  # before TensorFlow computes anything
    strategy.check_rows(chosen, batch_size=config.training.batch_size)
    dataset = load_data(_begun(workdir, config) or config, data_dir=data_dir)
    config = dataclasses.replace(config, input_spec=dataset.spec, rows_sha256=dataset.rows_sha256)
    training = config.training
    transform = transforms.parse(training.transform) if training.transform else None
    if transform is not None:
        transform.check(dataset.spec)
    augment = manipulations.parse(training.augment).fit(dataset) if training.augment else None
    one_pass = max(1, round(len(dataset.train) / training.batch_size))
    steps_per_epoch = training.steps_per_epoch or one_pass
    with chosen.scope():
        trainer = TRAINERS[MODELS[config.model].family](
            build(config),
            training,
            training.batch_size * (2 if training.augment else 1),
            random.stream(config.seed, "train", "noise"),
        )
        chief = strategy.is_chief()
    with claimed(workdir, config, writes=chief):  # no model, no run: after it was built
        with chosen.scope():
            steps = steps_per_epoch * training.epochs
            learning_rate = WarmUp(
                training.learning_rate,
                warmup_steps=min(training.warmup_steps, steps // 4),
                steps=steps,
                cosine=training.schedule == "cosine",
            )
            optimizer = Adam(learning_rate, weight_decay=training.weight_decay or None)
            trainer.compile(
                optimizer,
                jit_compile=devices.jit_compile,
                defence=defences.parse(training.defence) if training.defence else None,
            )
            done = 0
            if checkpoints.listed(workdir.checkpoints):
                checkpoint = checkpoints.newest(workdir.checkpoints)
                checkpoints.restore(checkpoint, classifier=trainer.classifier, optimizer=optimizer)
                done = checkpoint.epoch
        if done < training.epochs:
            stream = pipeline.training_stream(
                dataset.train,
                batch_size=training.batch_size,
                seed=random.stream(config.seed, "train", "rows"),
                transform=transform,
                augment=augment,
                augment_weight=training.augment_weight,
                start_step=done * steps_per_epoch,
            )
            own: tuple[keras.callbacks.Callback, ...] = ()
            if chief:
                own = run_callbacks(workdir, dataset.validation, done, devices, keep=training.keep)
            fit(
                trainer,
                stream,
                title=f"train {config.model} on {config.dataset}",
                epochs=training.epochs,
                done=done,
                steps_per_epoch=steps_per_epoch,
                validation=dataset.validation,
                callbacks=(*own, *extra_callbacks),
            )
        if not chief:
            await_checkpoint(workdir, epoch=training.epochs)
    return load(workdir)


def is_finished(workdir: Workdir, config: RunConfig) -> bool:
    """Whether `train` would find nothing left to do; says so without reading data or weights."""
    if _begun(workdir, config) is None:
        return False
    return checkpoints.epochs_done(workdir.checkpoints) >= config.training.epochs


def _begun(workdir: Workdir, config: RunConfig) -> RunConfig | None:
    """The same with what it knows of its data, if the directory is this run's already."""
    if not workdir.config_file.exists():
        return None
    found = RunConfig.from_json(workdir.read_config())
    asked = dataclasses.replace(found, input_spec=None, rows_sha256="")
    return found if asked == config else None


def await_checkpoint(workdir: Workdir, *, epoch: int) -> None:
    """Waits until the first of several machines has written the last checkpoint."""
    deadline = time.monotonic() + _CHIEF_TIMEOUT
    while not any(c.epoch == epoch for c in checkpoints.listed(workdir.checkpoints)):
        if time.monotonic() > deadline:
            raise InputError(
                f"{workdir.checkpoints} did not receive epoch {epoch} within {_CHIEF_TIMEOUT} s; "
                "with several machines the --workdir must be on storage that all of them share."
            )
        time.sleep(0.2)


class WarmUp(keras.optimizers.schedules.LearningRateSchedule):
    """A linear rise to `height`, then a cosine to zero at step `steps`, or the same for good.

    Args:
      height: the learning rate at the end of the rise.
      warmup_steps: of the rise.
      steps: of the whole run.
      cosine: whether it falls again.
    """

    def __init__(self, height: float, *, warmup_steps: int, steps: int, cosine: bool):
        self._height, self._warmup, self._steps, self._cosine = height, warmup_steps, steps, cosine

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        step = tf.cast(step, tf.float32)
        rise = tf.minimum(1.0, (step + 1.0) / max(1, self._warmup))
        if not self._cosine:
            return self._height * rise
        fallen = (step - self._warmup) / max(1, self._steps - self._warmup)
        fall = 0.5 * (1.0 + tf.cos(math.pi * tf.clip_by_value(fallen, 0.0, 1.0)))
        return self._height * rise * fall


def run_callbacks(
    workdir: Workdir,
    validation: Split,
    done: int,
    devices: Devices,
    *,
    keep: str = checkpoints.BEST,
) -> tuple[keras.callbacks.Callback, ...]:
    """What a run writes: metrics.jsonl, TensorBoard, checkpoints.

    Args:
      workdir: of the run.
      validation: rows for TensorBoard's pictures.
      done: epochs finished before.
      devices: whether histograms are wanted.
      keep: see TrainingConfig.
    """
    return (
        callbacks_lib.StopOnNonFinite(),
        callbacks_lib.MetricsLog(workdir.metrics_file, initial_epoch=done),
        callbacks_lib.TensorBoard(
            workdir.tensorboard,
            pictured=validation.take(slice(_PICTURED)),
            histograms=devices.histograms,
        ),
        # At the end: what a checkpoint claims has been written.
        callbacks_lib.Checkpoints(workdir, keep=keep),
    )


def fit(
    trainer: Trainer,
    stream: tf.data.Dataset,
    *,
    title: str,
    epochs: int,
    done: int,
    steps_per_epoch: int,
    validation: Split | None,
    callbacks: tuple[keras.callbacks.Callback, ...],
) -> None:
    """Model.fit with a bar for the whole run."""
    progress = callbacks_lib.Progress(
        title, epochs=epochs, steps=epochs * steps_per_epoch, done=done * steps_per_epoch
    )
    held_out = None
    if validation is not None:
        held_out = pipeline.evaluation_stream(
            validation,
            batch_size=_VALIDATION_BATCH,
            replicas=trainer.distribute_strategy.num_replicas_in_sync,
        )
    with callbacks_lib.ended([progress, *callbacks]):
        trainer.fit(
            stream,
            epochs=epochs,
            initial_epoch=done,
            steps_per_epoch=steps_per_epoch,
            validation_data=held_out,
            shuffle=False,
            verbose=0,
            callbacks=[progress, *callbacks],
        )


def load(workdir: Workdir, *, precision: str = "float32", at_test: Sequence[str] = ()) -> LoadedRun:
    """The trained classifier of a workdir: its best checkpoint, computing in float32.

    Args:
      workdir: of the run.
      precision: what it computes in.
      at_test: `key=value` assignments to how it predicts, see set_at_test.

    Raises:
      InputError: no run there, or its configuration or checkpoint cannot be read.
    """
    config = set_at_test(RunConfig.from_json(workdir.read_config()), at_test)
    checkpoint = checkpoints.best(workdir.checkpoints)
    classifier = build(config, precision=precision)
    checkpoints.restore(checkpoint, classifier=classifier)
    return LoadedRun(config, classifier, checkpoint)
