"""Exports that the tests of serving share: making one takes seconds."""

from __future__ import annotations

from pathlib import Path

import pytest
import tensorflow as tf

from tfcama import random
from tfcama.models.registry import MODELS
from tfcama.serving.publish import publish
from tfcama.training import checkpoints, run
from tfcama.training.config import RunConfig, TrainingConfig


def untrained(model, spec, where, **architecture):
    """A run as `run.load` returns it, of an untrained model; its run directory is `where`."""
    random.seed_everything(0)
    config = RunConfig(
        model=model,
        dataset="digits",
        seed=0,
        architecture=MODELS[model].config_class(**architecture),
        training=TrainingConfig(),
        input_spec=spec,
    )
    checkpoint = checkpoints.Checkpoint(
        Path(where) / "checkpoints" / "00001", 1, (0.5, 0.0), {"val_loss": 1.0}
    )
    return run.LoadedRun(config, run.build(config), checkpoint)


@pytest.fixture(scope="session")
def loaded(spec, tmp_path_factory) -> run.LoadedRun:
    """A CAMA of three classes whose K * C = 9 decoder rows an image come in chunks of 30.

    Its M has an effect (`gated=False`), so that do(m = 0) changes something.
    """
    where = tmp_path_factory.mktemp("run")
    return untrained("cama", spec, where, num_samples=3, max_decoder_rows=30, gated=False)


@pytest.fixture(scope="session")
def export(loaded, bars, tmp_path_factory) -> Path:
    """The base path `.../cama`, whose version 1 has every signature. Not to be written to."""
    base = tmp_path_factory.mktemp("models") / "cama"
    publish(loaded, base, clean=bars.train)
    return base


@pytest.fixture(scope="session")
def served(export):
    """Version 1 of `export`, loaded."""
    return tf.saved_model.load(str(export / "1"))
