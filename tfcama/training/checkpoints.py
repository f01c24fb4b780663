"""Checkpoints that are whole or absent: one directory each, renamed into place.

    checkpoints/00007/{meta.json, state.index, state.data-*}

A directory's meta.json says what it holds; there are no pointers to keep in step. The newest is
kept to resume from, the best by validation to use.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from tfcama import provenance
from tfcama.errors import InputError
from tfcama.models.base import ClassifierModel
from tfcama.workdir import atomic_directory, is_disk_full, write_json

BEST, LAST = "best", "last"
KEPT = (BEST, LAST)
"""Which epoch's weights are used, see TrainingConfig."""
_STATE = "state"


class Checkpoint(NamedTuple):
    """One saved state.

    Attributes:
      path: its directory.
      epoch: epochs finished.
      score: what is compared, larger is better: validation accuracy, then the validation objective.
      logs: the epoch's metrics.
      commit: of the source that made it, see provenance; "" where it was not kept yet.
    """

    path: Path
    epoch: int
    score: tuple[float, float]
    logs: dict[str, float]
    commit: str = ""


def save(
    directory: Path,
    *,
    classifier: ClassifierModel,
    optimizer: keras.optimizers.Optimizer | None,
    epoch: int,
    score: tuple[float, float],
    logs: dict[str, float],
) -> None:
    """Writes one checkpoint and drops those that are neither the newest nor the best.

    Raises:
      InputError: the disk is full; what was saved before stays.
    """
    state = tf.train.Checkpoint(**_parts(classifier, optimizer))
    target = directory / f"{epoch:05d}"
    try:
        with atomic_directory(target) as temporary:
            state.write(str(temporary / _STATE))
            meta = {"epoch": epoch, "score": score, "logs": logs, "commit": provenance.commit()}
            write_json(temporary / "meta.json", meta)
    except (OSError, tf.errors.OpError) as error:
        if is_disk_full(error):
            raise InputError(
                f"the disk that holds {directory} is full; epoch {epoch} was not saved, earlier "
                "checkpoints are whole. Free some space and run the same command to continue."
            ) from error
        raise
    kept = {newest(directory).path, best(directory).path}
    for checkpoint in listed(directory):
        if checkpoint.path not in kept:
            # Renamed first: a kill between its files would leave a damaged checkpoint.
            os.replace(checkpoint.path, checkpoint.path.with_name(f".{checkpoint.path.name}-gone"))
    for left in directory.glob(".[0-9]*"):  # by the line above, or by a process that was killed
        shutil.rmtree(left)


def listed(directory: Path) -> list[Checkpoint]:
    """Every whole checkpoint, oldest first.

    Raises:
      InputError: a meta.json cannot be read.
    """
    found = []
    for path in sorted(path for path in directory.glob("[0-9]*") if path.is_dir()):
        try:
            meta = json.loads((path / "meta.json").read_text())
            commit = meta.get("commit", "")
            score = tuple(meta["score"])
            found.append(Checkpoint(path, meta["epoch"], score, meta["logs"], commit))
        except (OSError, ValueError, KeyError, TypeError) as error:
            if path.exists():  # else the run itself dropped it meanwhile
                raise _corrupt(path, error) from None
    return found


def epochs_done(directory: Path) -> int:
    """How many epochs its newest checkpoint has behind it; 0 where there is none."""
    return max((checkpoint.epoch for checkpoint in listed(directory)), default=0)


def newest(directory: Path) -> Checkpoint:
    """The checkpoint to resume from; InputError where there is none."""
    return _any(directory)[-1]


def best(directory: Path) -> Checkpoint:
    """The checkpoint to use: best score, the earliest of equals; InputError where there is none."""
    return max(_any(directory), key=lambda checkpoint: (checkpoint.score, -checkpoint.epoch))


def restore(
    checkpoint: Checkpoint,
    *,
    classifier: ClassifierModel,
    optimizer: keras.optimizers.Optimizer | None = None,
) -> None:
    """Reads a checkpoint into existing variables, all or none of them being found.

    Raises:
      InputError: the checkpoint is damaged, or of a model of other shapes.
    """
    state = tf.train.Checkpoint(**_parts(classifier, optimizer))
    try:
        status = state.read(str(checkpoint.path / _STATE))
        status.assert_existing_objects_matched()
        status.expect_partial()
    except Exception as error:  # TensorFlow's reader has no error of its own: it raises anything
        raise _corrupt(checkpoint.path, error) from error


def _parts(classifier: ClassifierModel, optimizer: Any) -> dict[str, Any]:
    """The variables themselves, by group and place.

    Not the Keras objects: tf.train.Checkpoint does not see layers that sit in a list attribute,
    saves nothing of them, and asserts on restore that all is well.
    """
    groups = classifier.variable_groups()
    parts: dict[str, Any] = {
        "groups": {name: _tf_variables(variables) for name, variables in groups.items()}
    }
    parts["statistics"] = _tf_variables(classifier.non_trainable_variables)
    if optimizer is not None:
        parts["optimizer"] = _tf_variables(optimizer.variables)
    return parts


def _tf_variables(variables: list[Any]) -> list[tf.Variable]:
    return [v.value if isinstance(v, keras.Variable) else v for v in variables]


def _any(directory: Path) -> list[Checkpoint]:
    found = listed(directory)
    if not found:
        raise InputError(
            f"{directory} holds no checkpoint; train first "
            "(`python -m trainers.train --workdir=...`)."
        )
    return found


def _corrupt(path: Path, error: BaseException) -> InputError:
    reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else ""
    return InputError(
        f"checkpoint {path} is damaged ({type(error).__name__}: {reason}); "
        "delete that directory and run the same command to continue from the one before, if any."
    )
