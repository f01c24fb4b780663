"""What happens between epochs: progress, metrics.jsonl, TensorBoard, checkpoints."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import rich.progress
import tensorflow as tf
from rich.console import Console

from tfcama.data.base import Split
from tfcama.training import checkpoints
from tfcama.training.trainer import ROBUST_ACCURACY, Trainer
from tfcama.workdir import Workdir, write_text


@contextlib.contextmanager
def ended(callbacks: Sequence[keras.callbacks.Callback]) -> Iterator[None]:
    """Ends what callbacks began where the block fails, which Keras does not: bars, writers."""
    try:
        yield
    except BaseException:
        for callback in callbacks:
            callback.on_train_end()
        raise


class Progress(keras.callbacks.Callback):
    """One bar for the whole run with an estimate of what is left; one line an epoch off a terminal.

    Args:
      title: what is going on.
      epochs: of the whole run.
      steps: of the whole run.
      done: steps done before, when a run continues.
      console: where to print; standard error by default.
    """

    def __init__(
        self,
        title: str,
        *,
        epochs: int,
        steps: int,
        done: int = 0,
        console: Console | None = None,
    ):
        super().__init__()
        self._title, self._epochs, self._steps, self._done = title, epochs, steps, done
        self._console = console or Console(stderr=True)
        self._seen = done
        self._bar = rich.progress.Progress(
            rich.progress.TextColumn("[bold]{task.description}"),
            rich.progress.BarColumn(),
            rich.progress.MofNCompleteColumn(),
            rich.progress.TimeElapsedColumn(),
            rich.progress.TextColumn("left:"),
            rich.progress.TimeRemainingColumn(),
            rich.progress.TextColumn("{task.fields[numbers]}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task(
            self._title, total=self._steps, completed=self._done, numbers=""
        )

    def on_train_begin(self, logs: Any = None) -> None:
        self._started = time.monotonic()
        self._bar.start()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._seen += 1
        self._bar.update(self._task, completed=self._seen)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        numbers = _summary(logs or {})
        self._bar.update(self._task, numbers=numbers)
        if not self._console.is_terminal:
            rate = (time.monotonic() - self._started) / max(1, self._seen - self._done)
            left = rate * (self._steps - self._seen)
            self._console.print(
                f"{self._title}: {epoch + 1}/{self._epochs}  {numbers}  left: {left:.0f} s",
                soft_wrap=True,
            )

    def on_train_end(self, logs: Any = None) -> None:
        self._bar.stop()


def _summary(logs: dict[str, float]) -> str:
    shown = (
        "val_accuracy",
        f"val_{ROBUST_ACCURACY}",
        "accuracy",
        "val_elbo",
        "elbo",
        "elbo_x",
        "loss",
    )
    return "  ".join(f"{name} {logs[name]:.4g}" for name in shown if name in logs)


class MetricsLog(keras.callbacks.Callback):
    """Appends one JSON line an epoch to metrics.jsonl; a resumed run drops what it will redo.

    Args:
      path: the file.
      initial_epoch: epochs already finished.
    """

    def __init__(self, path: Path, *, initial_epoch: int):
        super().__init__()
        self._path = path
        lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
        kept = [line for line in lines if _epoch_of(line) <= initial_epoch]
        write_text(path, "".join(f"{line}\n" for line in kept))

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._started = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        row = {"epoch": epoch + 1, **_floats(logs or {})}
        row["seconds"] = round(time.monotonic() - self._started, 3)
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())


def _epoch_of(line: str) -> float:
    try:
        return float(json.loads(line)["epoch"])
    except (ValueError, KeyError, TypeError):
        return float("inf")  # the half line of a killed run


def _floats(logs: dict[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in logs.items()}


class TensorBoard(keras.callbacks.Callback):
    """Scalars and what the trainer can picture, every epoch; histograms on demand.

    Args:
      directory: for the event files.
      pictured: held-out rows for the pictures and the latent summary.
      histograms: also write every variable's histogram.
    """

    def __init__(self, directory: Path, *, pictured: Split, histograms: bool = False):
        super().__init__()
        self._pictured, self._histograms = pictured, histograms
        self._writer = tf.summary.create_file_writer(str(directory))

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        trainer: Trainer = self.model
        step = epoch + 1
        with self._writer.as_default(step=step):
            for name, value in _floats(logs or {}).items():
                held_out = name.startswith("val_")
                tag = name.removeprefix("val_")
                tf.summary.scalar(f"{tag}/{'validation' if held_out else 'train'}", value)
            for name, value in trainer.summary_scalars(self._pictured).items():
                tf.summary.scalar(name, value)
            for name, images in trainer.summary_images(self._pictured).items():
                tf.summary.image(name, images, max_outputs=1)
            if self._histograms:
                for group, variables in trainer.classifier.variable_groups().items():
                    for variable in variables:
                        tf.summary.histogram(f"{group}/{variable.path}", np.asarray(variable))
        self._writer.flush()

    def on_train_end(self, logs: Any = None) -> None:
        self._writer.close()


class Checkpoints(keras.callbacks.Callback):
    """Saves after every epoch; keeps the newest and the best by validation accuracy.

    By the accuracy under attack where training attacks: there the clean one may rise while a model
    forgets to resist. Where accuracies tie, as they do on small validation splits, the lower
    validation loss wins.

    Args:
      workdir: of the run.
      keep: see TrainingConfig; "last" makes the newest the best.
    """

    def __init__(self, workdir: Workdir, *, keep: str = checkpoints.BEST):
        super().__init__()
        self._directory = workdir.checkpoints
        self._by_validation = keep == checkpoints.BEST

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        trainer: Trainer = self.model
        numbers = _floats(logs or {})
        score = (float(epoch), 0.0)  # the latest is the best; also where nothing is held out
        if self._by_validation and "val_accuracy" in numbers:
            accuracy = numbers.get(f"val_{ROBUST_ACCURACY}", numbers["val_accuracy"])
            score = (accuracy, -numbers["val_loss"])
        checkpoints.save(
            self._directory,
            classifier=trainer.classifier,
            optimizer=trainer.optimizer,
            epoch=epoch + 1,
            score=score,
            logs=numbers,
        )


class StopOnNonFinite(keras.callbacks.Callback):
    """Ends a run whose loss is no longer a number, before a checkpoint keeps it."""

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        bad = [name for name, value in _floats(logs or {}).items() if not np.isfinite(value)]
        if bad:
            raise FloatingPointError(
                f"{', '.join(bad)} became NaN or infinite in epoch {epoch + 1}, which was not "
                "saved. A smaller learning_rate helps most often."
            )
