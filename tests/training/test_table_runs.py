"""Whole runs on tables: freezing by value, adapting to a CSV, streaming, data that has changed."""

import dataclasses
import json

import keras
import numpy as np
import pytest

from tests.training.test_runs import KillAt, KilledError
from tfcama.data import breast_cancer, tables
from tfcama.data.csv_table import CsvConfig
from tfcama.data.measurement import MeasurementConfig
from tfcama.errors import InputError
from tfcama.evaluation.results import scored
from tfcama.evaluation.subject import load_subject
from tfcama.models.cama import CamaConfig
from tfcama.models.measurement_cama import MeasurementCamaConfig
from tfcama.report import labels
from tfcama.studies import steps
from tfcama.training import phases, run
from tfcama.training.config import (
    DREAMS,
    FinetuneConfig,
    RunConfig,
    StreamConfig,
    TrainingConfig,
    check_kept,
    default_finetuning,
    default_streaming,
)
from tfcama.training.finetune import (
    finetune,
    finetune_on_manipulation,
    finetune_on_table,
    is_finished,
)
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


@pytest.mark.long
@pytest.mark.usefixtures("no_rewriting")
def test_dreams_come_first_survive_a_kill_and_may_be_a_run_of_their_own(tmp_path, monkeypatch):
    """Killed in every phase: dreams, dreams of the fitted p(m), Eq. 8; in two runs as in one.

    Of tables: the same code as for images, in a tenth of the time.
    """
    monkeypatch.setattr(phases, "_DREAMS_PER_EPOCH", 2)
    monkeypatch.setattr(phases, "_STEPS_PER_EPOCH", 1)
    base = Workdir(tmp_path / "run")
    data = MeasurementConfig(train_rows=40, validation_rows=8, test_rows=20)
    run.train(configuration("measurement", data), base)
    config = FinetuneConfig(
        subject="children_shift:2",
        mechanism="location_scale",
        clean="elbo",
        dreams=1.0,
        prior_m="learned",
        warm_up=5,
        sleep=4,
        m_samples=3,
        steps=2,
        batch_size=8,
    )

    def adapt(base, name, config, *callbacks):
        loaded = finetune(
            base,
            Workdir(tmp_path / name),
            config,
            clean=dataset.train,
            unlabelled=dataset.test.x,
            extra_callbacks=callbacks,
        )
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        logs = [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]
        return values(loaded), logs

    dataset = load_subject(base, data_dir=None).dataset
    expected, logs = adapt(base, "at_once", config)
    assert ["elbo_x" in line for line in logs] == ["surprise" not in line for line in logs]
    assert ["elbo_x" in line for line in logs] == [False] * 5 + [True] * 2
    for left in (3, 3, 4):
        with pytest.raises(KilledError):
            adapt(base, "broken", config, KillAt(left))
        assert not is_finished(Workdir(tmp_path / "broken"), config)
    found, again = adapt(base, "broken", config)
    assert again == logs
    keras.tree.map_structure(np.testing.assert_array_equal, found, expected)
    prepared = steps.prepared(base, config, data_dir=None)
    assert prepared.root == base.root / "finetuned" / "dreams_location_scale_prior_learned_seed0"
    ready = load_subject(prepared, data_dir=None)
    assert ready.loaded.config.architecture.m_samples == 3
    assert ready.identity("manipulation")["finetuned_on"] == DREAMS
    row = scored(np.ones(20, bool), **ready.identity("manipulation"))
    assert labels.line_of(row).label.endswith(", dreams alone")
    np.testing.assert_array_equal(ready.held_out, np.arange(20))
    np.testing.assert_array_equal(ready.loaded.classifier.prior_m.trainable_variables[0], 0.0)
    found, rest = adapt(prepared, "adapted", dataclasses.replace(config, warm_up=0))
    assert [line["elbo_x"] for line in rest[2:]] == [line["elbo_x"] for line in logs[5:]]
    keras.tree.map_structure(np.testing.assert_array_equal, found, expected)
    # Dreams alone have not seen p(m): it may still be chosen.
    shared = dataclasses.replace(config, prior_m="shared", sleep=0)
    ready = steps.prepared(base, shared, data_dir=None)
    found, _ = adapt(ready, "learned", dataclasses.replace(config, warm_up=0))
    keras.tree.map_structure(np.testing.assert_array_equal, found, expected)
    with pytest.raises(InputError, match=r"sleep=4 was given; it fits p\(m\), and prior_m is 's"):
        adapt(base, "unfitted", dataclasses.replace(config, prior_m="shared"))
    with pytest.raises(InputError, match=r"prior_m 'class' was asked for, but the model was fine-"):
        adapt(Workdir(tmp_path / "adapted"), "c", dataclasses.replace(shared, prior_m="class"))


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


def test_a_file_whose_categories_are_all_written_otherwise_is_refused(tmp_path):
    frame = breast_cancer.table()
    frame["size"] = np.where(frame.mean_radius > frame.mean_radius.median(), "large", "small")
    frame.to_csv(tmp_path / "t.csv", index=False)
    data = CsvConfig(csv=str(tmp_path / "t.csv"), target="diagnosis", children=("size",))
    base = Workdir(tmp_path / "run")
    run.train(configuration("csv", data), base)
    other = frame.assign(size=frame["size"].str.upper())
    other.to_csv(tmp_path / "new.csv", index=False)
    config = FinetuneConfig(subject="new.csv", fraction=1.0, steps=2, batch_size=8)
    with pytest.raises(InputError, match=r"no row has a category of size that training rows had"):
        finetune_on_table(base, Workdir(tmp_path / "ft"), str(tmp_path / "new.csv"), config)
    assert not (tmp_path / "ft").exists()


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
        with pytest.raises(InputError, match=r"'csv' is no longer what .* was trained on"):
            finetune_on_table(csv_run, Workdir(table.parent / "no"), str(table), FinetuneConfig())
        assert not (table.parent / "no").exists()
    finally:
        table.write_text(original)


def test_rows_that_changed_are_noticed_though_the_spec_is_the_same(table, tmp_path):
    path = tmp_path / "test.csv"
    frame = breast_cancer.table()[:100]
    frame.to_csv(path, index=False)
    data = CsvConfig(
        csv=str(table), test_csv=str(path), target="diagnosis", children=("mean_radius",)
    )
    config = configuration("csv", data)
    workdir = Workdir(tmp_path / "run")
    spec = run.train(config, workdir).config.input_spec
    frame[reversed(frame.columns)].to_csv(path, index=False, lineterminator="\r\n")
    assert load_subject(workdir, data_dir=None).dataset.spec == spec
    flipped = frame.replace({"diagnosis": {"benign": "malignant", "malignant": "benign"}})
    flipped.to_csv(path, index=False)
    longer = dataclasses.replace(config, training=dataclasses.replace(config.training, epochs=2))
    for asked in (config, longer):
        kept = workdir.config_file.read_text()
        sentence = "'csv' no longer has the rows" if asked is config else "epochs: 1 -> 2"
        with pytest.raises(InputError, match=sentence):
            run.train(asked, workdir)
        assert workdir.config_file.read_text() == kept
    with pytest.raises(InputError, match="Bring the file back, or train again"):
        load_subject(workdir, data_dir=None)
    # A run from before this was kept continues.
    known = json.loads(workdir.config_file.read_text())
    del known["rows_sha256"]
    workdir.config_file.write_text(json.dumps(known))
    frame.to_csv(path, index=False)
    assert run.train(config, workdir).checkpoint.epoch == 1


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
    assert structured.warm_up > 0 == default_finetuning(images).warm_up
    again = dataclasses.replace(
        images,
        architecture=CamaConfig(mechanism="rotation", prior_m="learned"),
        finetuned=structured,
    )
    assert default_finetuning(again) == dataclasses.replace(
        structured, mechanism="", prior_m="", warm_up=0
    )
    assert structured.sleep > 0 == structured.steps
    assert structured.z_steps > 0 == default_finetuning(images).z_steps
    wide = default_finetuning(images, mechanism="affine+photometric")
    assert (wide.z_steps, wide.m_samples) == (0, 2 * structured.m_samples)
    # A p(m) that was fine-tuned as N(0, I) is not fitted later.
    fixed = dataclasses.replace(again, architecture=CamaConfig(mechanism="rotation"))
    chosen = default_finetuning(fixed)
    assert (chosen.prior_m, chosen.sleep, chosen.steps) == ("", 0, 600)
    chosen = default_finetuning(table, mechanism="location_scale")
    assert (chosen.prior_m, chosen.sleep, chosen.steps) == ("learned", structured.sleep, 600)
    assert (chosen.z_steps, chosen.m_samples) == (0, structured.m_samples)
    stream, following = default_streaming(images, "clean@9", mechanism="rotation")
    assert (stream.by, following.prior_m, following.sleep) == ("rws", "", 0)
    assert default_streaming(images, "clean@9")[0] == StreamConfig("clean@9", by="eq8")
    assert default_streaming(table, "clean@9", mechanism="location_scale")[0].by == "eq8"


def test_what_dreams_have_set_is_not_asked_back_in_vain(csv_run):
    trained = RunConfig.from_json(csv_run.read_config())
    check_kept(trained, ["p_untouched=0", "learning_rate=0.1"])
    dreamt = dataclasses.replace(
        trained, architecture=dataclasses.replace(trained.architecture, p_untouched=0.5)
    )
    check_kept(dreamt, ["p_untouched=0.25", "m_samples=0"])
    with pytest.raises(InputError, match="p_untouched=0 was given; 0 keeps what the model has, 0"):
        check_kept(dreamt, ["p_untouched=0.25", "p_untouched=0"])
