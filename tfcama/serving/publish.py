"""A version directory that appears whole, after its answers were checked, or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfcama.errors import InputError
from tfcama.report import provenance
from tfcama.serving.inputs import inputs_of
from tfcama.serving.module import ServingModule, serving_seed
from tfcama.training.run import LoadedRun
from tfcama.workdir import atomic_directory, is_disk_full, write_json

_TOLERANCE = 1e-5


def publish(loaded: LoadedRun, base: Path, *, version: int | None = None) -> Path:
    """Writes base/<version>/, a SavedModel with a serving_default signature.

    The module is saved beside its place, reloaded, and its answers compared with those of the
    classifier in this process; only then is it renamed. TF-Serving ignores the unfinished one,
    whose name is no number.

    Args:
      loaded: a finished run.
      base: the model's base path, whose children are versions.
      version: positive; None takes one more than the highest there.

    Returns:
      The version's directory.

    Raises:
      InputError: the version exists or is not positive, the columns of a table cannot be inputs,
        the disk is full, or the reloaded module answers something else.
    """
    version = _next_version(base) if version is None else version
    target = base / str(version)
    if version < 1:
        raise InputError(f"--version={version} was given; it must be at least 1.")
    if target.exists():
        raise InputError(f"{target} exists; versions are never overwritten. Take a higher one.")
    module = ServingModule(loaded.classifier, seed=serving_seed(loaded.config.seed))
    try:
        with atomic_directory(target) as temporary:
            tf.saved_model.save(
                module, str(temporary), signatures={"serving_default": module.serve}
            )
            _compare(module, temporary, loaded)
            write_json(temporary / "tfcama.json", _metadata(loaded, version))
    except (OSError, tf.errors.OpError) as error:
        if is_disk_full(error):
            raise InputError(f"the disk is full; {target} was not written.") from error
        raise
    return target


def _next_version(base: Path) -> int:
    found = [int(p.name) for p in base.glob("[0-9]*") if p.name.isdigit()] if base.exists() else []
    return max(found, default=0) + 1


def _compare(module: ServingModule, path: Path, loaded: LoadedRun) -> None:
    """Holds the reloaded module's answers to random inputs against this process's."""
    reloaded = tf.saved_model.load(str(path))  # held: its variables go when it goes
    serve = reloaded.signatures["serving_default"]
    inputs = inputs_of(loaded.classifier.spec)
    generator = np.random.default_rng(0)
    for size in inputs.batches:
        examples = inputs.examples(generator, size)
        values = tuple(tf.constant(value) for value in examples.values)
        if not np.allclose(
            inputs.features(values), examples.features, rtol=_TOLERANCE, equal_nan=True
        ):
            raise InputError(
                "the export makes other features of a row than the data set does; nothing was "
                "published."
            )
        here, there = module.serve(*values), serve(**dict(zip(inputs.names, values, strict=True)))
        for name, value in here.items():
            if not np.allclose(value, there[name], rtol=_TOLERANCE, atol=_TOLERANCE):
                raise InputError(
                    f"the reloaded export answers another '{name}' than the model it was made "
                    "from; nothing was published."
                )


def _metadata(loaded: LoadedRun, version: int) -> dict[str, Any]:
    return {
        "version": version,
        "commit": provenance.commit(),
        "versions": provenance.versions(),
        "config": loaded.config.to_json(),
        "epoch": loaded.checkpoint.epoch,
        "metrics": loaded.checkpoint.logs,
        "class_names": list(loaded.classifier.spec.class_names),
        **inputs_of(loaded.classifier.spec).metadata(),
    }
