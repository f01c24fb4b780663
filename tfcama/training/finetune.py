"""Test-time fine-tuning on unlabelled manipulated inputs: deep CAMA's and its rivals'.

A CAMA dreams, wakes, sleeps and takes steps of Eq. 8, whichever of these there are to do.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import keras
import numpy as np

from tfcama import random
from tfcama.data import manipulations, tables
from tfcama.data.base import Dataset, GeneratedSplit, Split
from tfcama.errors import InputError
from tfcama.models.cama_base import CamaBase
from tfcama.registry import Registry
from tfcama.training import checkpoints, methods, run, strategy
from tfcama.training.adapt import adapt
from tfcama.training.config import DREAMS, KEPT_AT_ZERO, FinetuneConfig, RunConfig, claimed
from tfcama.training.phases import last_epoch, load_finished, make_trainer, phases_of
from tfcama.workdir import Workdir


def adapted_rows(size: int, config: FinetuneConfig) -> np.ndarray:
    """Which of `size` test images fine-tuning sees (never their labels), in ascending order."""
    seen = max(1, round(config.fraction * size)) if config.fraction else 0
    return np.sort(row_order(size, config)[:seen])


def row_order(size: int, config: FinetuneConfig) -> np.ndarray:
    """The seeded permutation of test images from whose front `adapted_rows` takes its share."""
    return random.shuffled(size, random.stream(config.seed, "finetune", "rows")).numpy()


def seen_rows(size: int, config: RunConfig) -> np.ndarray:
    """Which of `size` test images any adaptation of a run has seen, in ascending order.

    One to all of them, or to all rows of some file, leaves none that nobody saw for sure.
    """
    seen = [adapted_rows(size, adaptation) for adaptation in config.adaptations]
    return np.unique(np.concatenate(seen)) if seen else np.zeros([0], np.int64)


def finetune_on_manipulation(
    base: Workdir,
    target: Workdir,
    manipulation: str,
    config: FinetuneConfig,
    *,
    data_dir: str | None,
    devices: run.Devices = run.Devices(),
) -> run.LoadedRun:
    """`finetune` on a share of the run's own test images, manipulated; labels are not touched.

    Args:
      base: a finished run.
      target: where the adapted model goes.
      manipulation: `name:level[:key=value...]`.
      config: how; its subject becomes the manipulation.
      data_dir: of tensorflow-datasets.
      devices: where it runs.
    """
    moved = manipulations.parse(manipulation)
    base_config, dataset = _trained_on(base, data_dir=data_dir, devices=devices)
    split = manipulations.manipulate(dataset.test, moved.fit(dataset), seed=base_config.seed)
    return finetune(
        base,
        target,
        dataclasses.replace(config, subject=manipulation),
        clean=dataset.train,
        unlabelled=split.x[adapted_rows(len(split), config)],
        devices=devices,
    )


def dream(
    base: Workdir,
    target: Workdir,
    config: FinetuneConfig,
    *,
    data_dir: str | None,
    devices: run.Devices = run.Devices(),
) -> run.LoadedRun:
    """`finetune` before there is anything to fine-tune on: q(m|x) learns from dreams alone.

    Args:
      base: a finished run.
      target: where the prepared model goes; it can be adapted without a warm-up.
      config: how, with steps=0 and sleep=0; its subject becomes DREAMS.
      data_dir: of tensorflow-datasets.
      devices: where it runs.
    """
    _, dataset = _trained_on(base, data_dir=data_dir, devices=devices)
    return finetune(
        base,
        target,
        dataclasses.replace(config, subject=DREAMS),
        clean=dataset.train,
        unlabelled=dataset.test.x[:0],
        devices=devices,
    )


def finetune_on_table(
    base: Workdir,
    target: Workdir,
    path: str,
    config: FinetuneConfig,
    *,
    devices: run.Devices = run.Devices(),
) -> run.LoadedRun:
    """`finetune` on all rows of a CSV file; a target column in it is not read.

    Args:
      base: a finished run on a table.
      target: where the adapted model goes.
      path: of the file, with the columns of the training table.
      config: how.
      devices: where it runs.

    Raises:
      InputError: the run's inputs are no table, or the file does not fit it.
    """
    _, dataset = _trained_on(base, data_dir=None, devices=devices)
    if dataset.spec.kind != "table":
        raise InputError(f"{base.root} was trained on {dataset.name}, which is no table.")
    return finetune(
        base,
        target,
        config,
        clean=dataset.train,
        unlabelled=tables.unlabelled_csv(dataset.spec, path),
        devices=devices,
    )


def _trained_on(
    base: Workdir, *, data_dir: str | None, devices: run.Devices
) -> tuple[RunConfig, Dataset]:
    """A finished run's configuration and data."""
    strategy.make(devices.strategy)  # before TensorFlow computes anything
    config = RunConfig.from_json(base.read_config())
    return config, run.load_data(config, data_dir=data_dir)


def finetune(
    base: Workdir,
    target: Workdir,
    config: FinetuneConfig,
    *,
    clean: Split | GeneratedSplit,
    unlabelled: np.ndarray,
    devices: run.Devices = run.Devices(),
    extra_callbacks: tuple[keras.callbacks.Callback, ...] = (),
) -> run.LoadedRun:
    """Adapts a trained model; `target` becomes a run of its own and `base` stays as it is.

    Args:
      base: a finished run of what the method is for.
      target: where the adapted model goes; a killed fine-tuning continues there.
      config: how.
      clean: labelled clean rows, the training split.
      unlabelled: [N, *shape] manipulated inputs; N may be 0 where there is only a warm-up.
      devices: where it runs.
      extra_callbacks: appended to the run's own.

    Raises:
      InputError: the method is not for base's model, the inputs do not fit it, or target is another
        run's.
    """
    finetuner = FINETUNERS[methods.parse(config.method).family]
    return finetuner(
        base,
        target,
        config,
        clean=clean,
        unlabelled=unlabelled,
        devices=devices,
        extra_callbacks=extra_callbacks,
    )


def _eq8(
    base: Workdir,
    target: Workdir,
    config: FinetuneConfig,
    *,
    clean: Split | GeneratedSplit,
    unlabelled: np.ndarray,
    devices: run.Devices,
    extra_callbacks: tuple[keras.callbacks.Callback, ...],
) -> run.LoadedRun:
    chosen = strategy.make(devices.strategy)
    strategy.check_rows(chosen, batch_size=config.batch_size)
    trained = load_base(base)
    run_config = adapted_config(trained, config)
    if config.fraction:
        unlabelled = trained.classifier.spec.check(unlabelled, what="inputs to fine-tune on")
        if not len(unlabelled):
            raise InputError("fine-tuning needs at least one manipulated input; none was given.")
        # Nobody knows their labels, and what FinetuneTrainer shows of them needs none.
        shown = Split(unlabelled, np.zeros(len(unlabelled), np.int32))
    else:
        shown = clean.sample() if isinstance(clean, GeneratedSplit) else clean
    with chosen.scope():
        chief = strategy.is_chief()
        trainer = make_trainer(trained, run_config, devices=devices)
        phases = phases_of(trainer, config, clean=clean, unlabelled=unlabelled, devices=devices)
    with claimed(target, run_config, writes=chief):
        with chosen.scope():
            done = checkpoints.epochs_done(target.checkpoints)
            if done:
                checkpoint = checkpoints.newest(target.checkpoints)
                at_work = next(phase for phase in phases if done <= phase.end)
                checkpoints.restore(
                    checkpoint,
                    classifier=trainer.classifier,
                    optimizer=at_work.trainer.optimizer,
                )
        for phase in phases:
            if done >= phase.end:
                continue
            if done == phase.begin:
                with chosen.scope():
                    phase.before()
            run.fit(
                phase.trainer,
                phase.stream((done - phase.begin) * phase.steps),
                title=phase.title,
                epochs=phase.end,
                done=done,
                steps_per_epoch=phase.steps,
                validation=None,
                callbacks=(
                    *(run.run_callbacks(target, shown, done, devices) if chief else ()),
                    *extra_callbacks,
                ),
            )
            done = phase.end
        if not chief:
            run.await_checkpoint(target, epoch=done)
    return run.load(target)


def is_finished(target: Workdir, config: FinetuneConfig) -> bool:
    """Whether `finetune` would find nothing left to do; says so without reading data or weights."""
    if not target.config_file.exists():
        return False
    found = RunConfig.from_json(target.read_config())
    done = checkpoints.epochs_done(target.checkpoints)
    return found.finetuned == config and done >= last_epoch(found)


def load_base(base: Workdir, *, at_test: Sequence[str] = ()) -> run.LoadedRun:
    """The finished run of a CAMA that is to be adapted.

    Args:
      base: its workdir.
      at_test: see run.load.

    Raises:
      InputError: the model has no M-networks, or its training has not ended.
    """
    trained = load_finished(base, before="adapted", at_test=at_test)
    check_has_m(trained, base)
    return trained


def check_has_m(trained: run.LoadedRun, base: Workdir) -> None:
    """Raises InputError unless the run in this workdir is of a CAMA, which can be adapted."""
    if not isinstance(trained.classifier, CamaBase):
        raise InputError(
            f"{base.root} holds a '{trained.config.model}', which has no M-networks to fine-tune; "
            "name the workdir of a 'cama' or 'measurement_cama'."
        )


def adapted_config(trained: run.LoadedRun, config: FinetuneConfig) -> RunConfig:
    """The adapted run's configuration, with the mechanism and priors that its fine-tuning names.

    Raises:
      InputError: the trained model can no longer change them.
    """
    before = trained.config.architecture
    asked = {"mechanism": config.mechanism, "prior_m": config.prior_m}
    changed: dict[str, str | float] = {
        key: v for key, v in asked.items() if v not in ("", getattr(before, key))
    }
    # Dreams alone have not seen p(m).
    earlier = [e for e in trained.config.adaptations if e.fraction or "mechanism" in changed]
    if changed and (trained.config.training.augment or earlier):
        done = "trained on manipulated rows" if trained.config.training.augment else "fine-tuned"
        key, value = next(iter(changed.items()))
        raise InputError(
            f"{key} '{value}' was asked for, but the model was {done} with "
            f"'{getattr(before, key)}'; only a model that was trained on clean data alone can "
            "change it."
        )
    dim_m = 0 if "mechanism" in changed else before.dim_m
    for key in KEPT_AT_ZERO:
        if getattr(config, key):
            changed[key] = getattr(config, key)
    architecture = dataclasses.replace(before, dim_m=dim_m, **changed)
    return dataclasses.replace(trained.config.adapted(config), architecture=architecture)


FINETUNERS: Registry[Callable[..., run.LoadedRun]] = Registry(
    "family of fine-tuning methods", {"eq8": _eq8, "adaptation": adapt}
)
