"""Exports that the tests of serving share: making one takes seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.serving.rows import table_spec
from tfcama import random
from tfcama.data.base import Split
from tfcama.models.registry import MODELS
from tfcama.serving.inputs import inputs_of
from tfcama.serving.publish import publish
from tfcama.training import checkpoints, run
from tfcama.training.config import RunConfig, TrainingConfig


def untrained(model, spec, where, *, dataset="digits", **architecture):
    """A run as `run.load` returns it, of an untrained model; its run directory is `where`."""
    random.seed_everything(0)
    config = RunConfig(
        model=model,
        dataset=dataset,
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


@pytest.fixture(scope="session")
def table_loaded(tmp_path_factory) -> run.LoadedRun:
    """A measurement CAMA of `rows.COLUMNS`."""
    where = tmp_path_factory.mktemp("table_run")
    small = {"hidden": 16, "num_samples": 2, "gated": False}
    return untrained("measurement_cama", table_spec(), where, dataset="csv", **small)


@pytest.fixture(scope="session")
def table_export(table_loaded, tmp_path_factory) -> Path:
    """The base path `.../table`, whose version 1 has every signature but predict_png."""
    inputs = inputs_of(table_loaded.classifier.spec)
    clean = inputs.examples(np.random.default_rng(3), 60).features
    base = tmp_path_factory.mktemp("table_models") / "table"
    publish(table_loaded, base, clean=Split(clean, np.zeros(len(clean), np.int32)))
    return base
