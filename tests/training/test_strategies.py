"""Several replicas and several machines give what one replica gives."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.training import worker
from tfcama import random
from tfcama.data import manipulations, pipeline
from tfcama.errors import InputError
from tfcama.models.batch_norm_classifier import cnn_bn
from tfcama.models.cama import Cama, CamaConfig
from tfcama.models.discriminative import DiscriminativeConfig, cnn, dnn
from tfcama.training import run, strategy
from tfcama.training.cama import CamaTrainer, FinetuneTrainer
from tfcama.training.discriminative import DiscriminativeTrainer
from tfcama.training.optimizer import Adam

SEED = random.stream(0, "test")
ROWS = 8


def clean(spec, bars):
    trainer = CamaTrainer(Cama(spec, CamaConfig(num_samples=1)), num_rows=ROWS, seed=SEED)
    return trainer, pipeline.training_stream(bars.train, batch_size=ROWS, seed=SEED)


def augmented(spec, bars):
    trainer = CamaTrainer(
        Cama(spec, CamaConfig(num_samples=1)), num_rows=2 * ROWS, seed=SEED, augmented=True
    )
    made = manipulations.parse("vertical_shift:0.5")
    return trainer, pipeline.training_stream(
        bars.train, batch_size=ROWS, seed=SEED, augment=made, augment_weight=0.3
    )


def finetuned(spec, bars, **options):
    trainer = FinetuneTrainer(
        Cama(spec, CamaConfig(num_samples=1)),
        num_rows=ROWS,
        seed=SEED,
        groups=("p_m", "q_m"),
        alpha=0.5,
        clean_do_m0=True,
        num_samples=1,
        **options,
    )
    return trainer, pipeline.finetuning_stream(bars.train, bars.test.x, batch_size=ROWS, seed=SEED)


def paced(spec, bars):
    """Whose turn it is depends on the global batch."""
    return finetuned(spec, bars, curriculum=4)


def convolutional(spec, bars):
    """Of 21 validation rows in tens the last batch has one, and a replica none of its own."""
    trainer = DiscriminativeTrainer(cnn(spec, DiscriminativeConfig()), num_rows=ROWS, seed=SEED)
    return trainer, pipeline.training_stream(bars.train, batch_size=ROWS, seed=SEED)


def discriminative(spec, bars):
    trainer = DiscriminativeTrainer(
        dnn(spec, DiscriminativeConfig()), num_rows=ROWS, seed=SEED
    )  # with dropout
    return trainer, pipeline.training_stream(bars.train, batch_size=ROWS, seed=SEED)


def batch_normalised(spec, bars):
    """Statistics of the global batch, so neither replica may take its own."""
    trainer = DiscriminativeTrainer(cnn_bn(spec, DiscriminativeConfig()), num_rows=ROWS, seed=SEED)
    return trainer, pipeline.training_stream(bars.train, batch_size=ROWS, seed=SEED)


def train(make, spec, bars, name):
    random.seed_everything(0)
    losses = []
    with strategy.make(name).scope():
        trainer, stream = make(spec, bars)
        trainer.compile(Adam(1e-3))
    keep = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: losses.append([logs["loss"], logs.get("val_loss", 0.0)])
    )
    replicas = trainer.distribute_strategy.num_replicas_in_sync
    validation = pipeline.evaluation_stream(
        bars.validation.take(slice(21)), batch_size=10, replicas=replicas
    )
    trainer.fit(
        stream,
        epochs=3,
        steps_per_epoch=1,
        shuffle=False,
        verbose=0,
        callbacks=[keep],
        validation_data=None if make in (finetuned, paced) else validation,
    )
    return losses, [np.asarray(v) for v in trainer.classifier.variables]


_ALIKE = [augmented, paced, discriminative, convolutional, batch_normalised]


@pytest.mark.parametrize(
    "make", [clean, finetuned, *(pytest.param(make, marks=pytest.mark.long) for make in _ALIKE)]
)
def test_two_replicas_give_the_losses_of_one_on_the_same_global_batch(make, spec, bars):
    one, weights_of_one = train(make, spec, bars, "none")
    two, weights_of_two = train(make, spec, bars, "mirrored_cpu:2")
    np.testing.assert_allclose(two, one, rtol=2e-5)
    # Adam divides by the gradient's size: rounding may turn one step of 1e-3, not more.
    for a, b in zip(weights_of_one, weights_of_two, strict=True):
        assert np.mean(np.abs(a - b)) < 1e-4


@pytest.mark.parametrize("name", ["miror", "mirrored_cpu", "mirrored_cpu:0", "none:2"])
def test_unknown_strategies_are_one_clear_sentence(name):
    with pytest.raises(InputError, match=f"unknown strategy '{name}'"):
        strategy.make(name)


def test_more_logical_devices_than_were_made_are_refused():
    tf.constant(0)
    with pytest.raises(InputError, match="in a process of its own"):
        strategy.make("mirrored_cpu:9")


def test_batches_that_leave_a_replica_without_rows_are_refused():
    class Four:
        num_replicas_in_sync = 4

    for rows in (4, 7, 8, 11):
        strategy.check_rows(Four(), batch_size=rows)
    for rows, enough in ((1, 4), (5, 8), (6, 8), (9, 12)):
        with pytest.raises(InputError, match=f"leaves one of 4 replicas .* take {enough}, or"):
            strategy.check_rows(Four(), batch_size=rows)
    strategy.check_rows(strategy.make("none"), batch_size=1)


@pytest.mark.long
def test_two_machines_train_to_the_same_weights(tmp_path, monkeypatch):
    """Two processes on this machine, as TF_CONFIG describes them, through `run.train`."""
    ports = []
    for _ in range(2):
        with socket.socket() as probe:
            probe.bind(("localhost", 0))
            ports.append(probe.getsockname()[1])
    cluster = {"worker": [f"localhost:{port}" for port in ports]}
    tasks = [{"cluster": cluster, "task": {"type": "worker", "index": i}} for i in range(2)]
    root = Path(__file__).resolve().parents[2]
    monkeypatch.delenv("TF_CONFIG", raising=False)
    monkeypatch.setattr(run, "load_data", run.load_data)  # put back what a worker replaces
    workers = [
        subprocess.Popen(
            [sys.executable, worker.__file__, str(tmp_path)],
            cwd=root,
            env={**os.environ, "PYTHONPATH": str(root), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for environment in ({"TF_CONFIG": json.dumps(task)} for task in tasks)
    ]
    try:
        worker.main(tmp_path)  # the only one
        output = [process.communicate(timeout=240)[0] for process in workers]
    finally:
        for process in workers:
            process.kill()
    assert [process.returncode for process in workers] == [0, 0], "\n".join(output)
    weights = [np.load(tmp_path / f"weights{index}.npz") for index in range(2)]
    for name in weights[0].files:
        np.testing.assert_array_equal(weights[0][name], weights[1][name])
    # Only the first machine writes the run, and its numbers are those of one replica.
    rows, alone = (
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("run", "alone")
    )
    assert len(rows) == 2
    for here, there in zip(rows, alone, strict=True):
        for name in ("loss", "kl_z", "val_loss", "val_accuracy"):
            assert here[name] == pytest.approx(there[name], rel=1e-4), name


@pytest.mark.parametrize(
    "text",
    ["{", '{"cluster": {"worker": ["localhost:1"]}, "task": {"type": "worker", "index": 3}}'],
)
def test_machines_that_are_none_are_one_clear_sentence(monkeypatch, text):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(InputError, match=r"TF_CONFIG='\{.* that is no list of machines"):
        strategy.make("multi_worker")
