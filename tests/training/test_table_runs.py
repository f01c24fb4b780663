"""Whole runs on tables: freezing by value, adapting to a CSV, streaming, data that has changed."""

import dataclasses

import numpy as np
import pytest

from tfcama.data import breast_cancer, tables
from tfcama.data.csv_table import CsvConfig
from tfcama.data.measurement import MeasurementConfig
from tfcama.errors import InputError
from tfcama.evaluation.subject import load_subject
from tfcama.models.cama import CamaConfig
from tfcama.models.measurement_cama import MeasurementCamaConfig
from tfcama.training import run
from tfcama.training.config import FinetuneConfig, RunConfig, TrainingConfig, default_finetuning
from tfcama.training.finetune import finetune_on_manipulation, finetune_on_table
from tfcama.workdir import Workdir

SMALL = MeasurementCamaConfig(hidden=16, dim_z=4, dim_m=3, num_samples=2)


def configuration(dataset, data, **training):
    return RunConfig(
        model="measurement_cama",
        dataset=dataset,
        seed=0,
        architecture=SMALL,
        training=TrainingConfig(
            **{"epochs": 1, "steps_per_epoch": 3, "batch_size": 16, **training}
        ),
        data=data,
    )


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "cells.csv"
    breast_cancer.table().to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def csv_run(table, tmp_path_factory):
    data = CsvConfig(csv=str(table), target="diagnosis", children=("mean_radius", "mean_texture"))
    workdir = Workdir(tmp_path_factory.mktemp("run"))
    run.train(configuration("csv", data), workdir)
    return workdir


def values(loaded):
    groups = loaded.classifier.variable_groups()
    return {name: [v.numpy() for v in group] for name, group in groups.items()}


def test_fine_tuning_moves_the_m_networks_and_nothing_else(tmp_path):
    workdir = Workdir(tmp_path / "run")
    data = MeasurementConfig(train_rows=40, validation_rows=8, test_rows=20)
    before = values(run.train(configuration("measurement", data), workdir))
    config = FinetuneConfig(clean="elbo", steps=3, batch_size=8)
    adapted = finetune_on_manipulation(
        workdir, Workdir(tmp_path / "ft"), "children_shift:2", config, data_dir=None
    )
    for name, after in values(adapted).items():
        moved = [not np.array_equal(a, b) for a, b in zip(after, before[name], strict=True)]
        if name in ("p_m", "q_m"):
            assert any(moved), name
        else:
            assert not any(moved), name


def test_a_run_adapts_to_all_rows_of_a_file_without_their_target(csv_run, tmp_path):
    frame = breast_cancer.table().drop(columns="diagnosis")[:30]
    frame.to_csv(tmp_path / "new.csv", index=False)
    config = FinetuneConfig(subject="new.csv", fraction=1.0, steps=2, batch_size=8)
    adapted = finetune_on_table(
        csv_run, Workdir(tmp_path / "ft"), str(tmp_path / "new.csv"), config
    )
    assert adapted.config.finetuned.subject == "new.csv"
    subject = load_subject(Workdir(tmp_path / "ft"), data_dir=None)
    assert subject.held_out is None
    assert np.isfinite(subject.predictor.log_scores(subject.test.x)).all()


def test_more_rows_than_memory_should_hold_are_streamed_through_a_run(tmp_path):
    config = configuration("measurement", MeasurementConfig(train_rows=1_000_000))
    loaded = run.train(config, Workdir(tmp_path))
    assert loaded.checkpoint.epoch == 1
    one_pass = dataclasses.replace(config.training, steps_per_epoch=0)
    assert round(1_000_000 / one_pass.batch_size) == 62_500


def test_the_spec_travels_in_the_run_and_a_changed_table_is_noticed(csv_run, table):
    loaded = run.load(csv_run)
    again = tables.encode(loaded.config.input_spec, breast_cancer.table())
    assert again.shape == (569, 2)
    assert load_subject(csv_run, data_dir=None).dataset.spec == loaded.config.input_spec
    original = table.read_text()
    frame = breast_cancer.table()
    frame["mean_radius"] += 1.0
    frame.to_csv(table, index=False)
    try:
        with pytest.raises(InputError, match=r"'csv' is no longer what .* was trained on"):
            load_subject(csv_run, data_dir=None)
    finally:
        table.write_text(original)


def test_how_a_model_differs_from_its_defaults_is_its_variant():
    config = configuration("measurement", MeasurementConfig(declared=("x1:coparent",)))
    assert config.variant == ("dim_z=4, dim_m=3, num_samples=2, hidden=16, x1 declared coparent")
    usual = dataclasses.replace(
        config, architecture=MeasurementCamaConfig(), data=MeasurementConfig()
    )
    assert usual.variant == ""


def test_tables_and_parameters_infer_m_of_clean_rows_and_the_papers_images_set_it(csv_run, spec):
    table = RunConfig.from_json(csv_run.read_config())
    images = dataclasses.replace(
        table, model="cama", dataset="digits", architecture=CamaConfig(), input_spec=spec
    )
    assert default_finetuning(table).clean == "elbo"
    assert default_finetuning(images).clean == "do_m0"
    assert default_finetuning(images).dreams == default_finetuning(images).p_untouched == 0.0
    structured = default_finetuning(images, mechanism="rotation")
    assert (structured.clean, structured.dreams, structured.mechanism) == ("elbo", 1.0, "rotation")
    assert structured.p_untouched == 0.5
