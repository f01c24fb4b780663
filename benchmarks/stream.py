r"""Trains on generated rows that never fit into memory at once; prints rows a second and memory.

    python -m benchmarks.stream
    python -m benchmarks.stream --model=measurement_cama --rows=1000000 --batch_size=256

Rows come from the structural causal model of `measurement`, block by block. Resident memory stays
where it is after the first tenth, however many rows follow.
"""

from trainers import app  # isort: skip  (quiets TensorFlow before anything imports it)

import os
import time

import keras
from absl import flags
from rich.console import Console
from rich.table import Table

from tfcama import random
from tfcama.data import datasets, pipeline
from tfcama.data.measurement import MeasurementConfig
from tfcama.models.registry import MODELS
from tfcama.training.config import TrainingConfig
from tfcama.training.optimizer import Adam
from tfcama.training.registry import TRAINERS

_MODEL = flags.DEFINE_string("model", "measurement_dnn", "Example: --model=measurement_cama")
_ROWS = flags.DEFINE_integer("rows", 1_000_000, "To train on, once. Example: --rows=1000000")
_BATCH = flags.DEFINE_integer("batch_size", 64, "Rows a step. Example: --batch_size=256")
_PARTS = 10
_PAGE = os.sysconf("SC_PAGE_SIZE")


def _resident() -> float:
    """Resident memory of this process, MiB."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * _PAGE / 2**20


class _Watch(keras.callbacks.Callback):
    """Time and memory after every part."""

    def on_train_begin(self, logs=None):
        self.seen = [(time.perf_counter(), _resident())]

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append((time.perf_counter(), _resident()))


def main() -> None:
    config = MeasurementConfig(train_rows=_ROWS.value)
    dataset = datasets.load("measurement", config=config)
    entry = MODELS[_MODEL.value]
    seed = random.stream(0, "benchmark")
    model = entry.build(dataset.spec, entry.config_class())
    trainer = TRAINERS[entry.family](model, TrainingConfig(), _BATCH.value, seed)
    trainer.compile(Adam(1e-3))
    stream = pipeline.training_stream(dataset.train, batch_size=_BATCH.value, seed=seed)
    steps = max(1, _ROWS.value // _BATCH.value // _PARTS)
    watch = _Watch()
    trainer.fit(
        stream, epochs=_PARTS, steps_per_epoch=steps, shuffle=False, verbose=0, callbacks=[watch]
    )
    table = Table(title=f"{_MODEL.value}, batches of {_BATCH.value}", title_justify="left")
    for heading in ("rows", "rows/s", "resident MiB"):
        table.add_column(heading, justify="right")
    for part in range(1, _PARTS + 1):
        (before, _), (after, resident) = watch.seen[part - 1 : part + 1]
        rows = steps * _BATCH.value
        table.add_row(f"{part * rows:,}", f"{rows / (after - before):,.0f}", f"{resident:,.0f}")
    Console(width=80).print(table)


if __name__ == "__main__":
    app.run(main)
