"""Adaptation by batch normalisation, as functions and as runs."""

import dataclasses
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfcama import random
from tfcama.data import manipulations
from tfcama.errors import InputError
from tfcama.evaluation import curves
from tfcama.evaluation.subject import load_subject
from tfcama.models.batch_norm_classifier import cnn_bn
from tfcama.models.discriminative import DiscriminativeConfig
from tfcama.models.registry import MODELS
from tfcama.objectives.classification import entropy
from tfcama.studies import steps
from tfcama.training import checkpoints, methods, run
from tfcama.training import finetune as finetune_module
from tfcama.training.adaptation import (
    TargetStatistics,
    Tent,
    TentTrainer,
    mean_entropy,
    renew_statistics,
)
from tfcama.training.config import FinetuneConfig, RunConfig, TrainingConfig
from tfcama.training.finetune import FINETUNERS, finetune, finetune_on_manipulation
from tfcama.workdir import Workdir

pytestmark = pytest.mark.usefixtures("bars_everywhere")


def configuration(model="cnn_bn"):
    return RunConfig(
        model=model,
        dataset="digits",
        seed=0,
        architecture=MODELS[model].config_class(),
        training=TrainingConfig(epochs=2, batch_size=16),
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory, bars):
    workdir = Workdir(tmp_path_factory.mktemp("cnn_bn"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "load_data", lambda config, *, data_dir: bars)
        run.train(configuration(), workdir)
    return workdir


@pytest.fixture
def model(spec):
    random.seed_everything(0)
    return cnn_bn(spec, DiscriminativeConfig())


def values(groups):
    return {name: [v.numpy() for v in variables] for name, variables in groups.items()}


def test_entropy_is_that_of_the_probabilities():
    scores = np.log(np.array([[0.5, 0.25, 0.25], [1 / 3] * 3, [0.9, 0.05, 0.05]], np.float32))
    p = np.exp(scores)
    np.testing.assert_allclose(entropy(scores + 3.0), -(p * np.log(p)).sum(axis=1), rtol=1e-5)
    certain = entropy(tf.constant([[0.0, -1e4, -2e4]]))
    np.testing.assert_array_equal(certain, [0.0])  # not NaN


def test_statistics_are_those_of_all_inputs_as_one_batch(model, bars):
    """Layer by layer with NumPy, more rows than a part of the computation holds."""
    x = np.concatenate([bars.test.x] * 9)[:260]
    renew_statistics(model, x)
    features = x
    for layer in model.stack:
        if layer in model.norms().values():
            flat = np.asarray(features, np.float64).reshape(-1, features.shape[-1])
            np.testing.assert_allclose(layer.mean, flat.mean(axis=0), atol=1e-4)
            np.testing.assert_allclose(layer.variance, flat.var(axis=0), rtol=1e-3, atol=1e-5)
            normal = (features - flat.mean(axis=0)) / np.sqrt(flat.var(axis=0) + 1e-3)
            features = tf.constant(normal, tf.float32)  # a new norm scales by 1 and shifts by 0
        else:
            features = layer(features)


def test_prediction_with_renewed_statistics_is_the_whole_batch_in_training_mode(model, bars):
    x = tf.constant(bars.test.x)
    before = model.logits(x).numpy()
    expected = model.logits(x, batch_statistics=True)
    renew_statistics(model, bars.test.x)
    np.testing.assert_allclose(model.logits(x), expected, rtol=1e-3, atol=1e-3)
    assert not np.allclose(model.logits(x), before, atol=1e-2)


def test_source_rows_weigh_what_training_left(model, bars):
    (place, norm), *_ = model.norms().items()
    norm.mean.assign(tf.fill([32], 7.0))
    entering = model.entering(place, tf.constant(bars.test.x)).numpy()
    renew_statistics(model, bars.test.x, source_rows=10.0)  # against 30 inputs
    expected = 0.25 * 7.0 + 0.75 * entering.mean(axis=(0, 1, 2))
    np.testing.assert_allclose(norm.mean, expected, rtol=1e-4)
    np.testing.assert_allclose(
        norm.variance, 0.25 * 1.0 + 0.75 * entering.var(axis=(0, 1, 2)), rtol=1e-3
    )


def test_tent_moves_scale_and_shift_alone_and_lowers_the_entropy(trained, bars):
    renewed = run.load(trained).classifier
    renew_statistics(renewed, bars.test.x)
    before = values(renewed.variable_groups())
    adapted = run.load(trained).classifier
    Tent(epochs=3, batch_size=10).adapt(adapted, bars.test.x, seed=0)
    after = values(adapted.variable_groups())
    assert all(map(np.array_equal, after["network"], before["network"]))
    assert not any(map(np.array_equal, after["scale_shift"], before["scale_shift"]))
    assert mean_entropy(adapted, bars.test.x) < mean_entropy(renewed, bars.test.x)


@pytest.mark.parametrize(("size", "steps"), [(5, 1), (8, 1), (11, 2), (16, 2)])
def test_an_epoch_of_tent_leaves_no_row_out(trained, bars, size, steps, monkeypatch):
    asked = []
    monkeypatch.setattr(
        TentTrainer, "fit", lambda self, stream, **how: asked.append(how["steps_per_epoch"])
    )
    Tent(epochs=1, batch_size=8).adapt(run.load(trained).classifier, bars.test.x[:size], seed=0)
    assert asked == [steps]


@pytest.mark.usefixtures("no_rewriting")
def test_the_seed_decides_what_tent_finds(trained, bars):
    found = []
    for seed in (0, 0, 1):
        classifier = run.load(trained).classifier
        Tent(epochs=1, batch_size=8).adapt(classifier, bars.test.x, seed=seed)
        found.append(classifier.variable_groups()["scale_shift"][0].numpy())
    np.testing.assert_array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])


@pytest.mark.parametrize("method", ["tent:epochs=2:batch_size=8", "batch_norm"])
def test_an_adapted_model_is_a_run_of_its_own(tmp_path, trained, bars, method):
    config = FinetuneConfig(subject="rotation:60", method=method)
    before = run.load(trained).classifier
    target = steps.finetuned_workdir(Workdir(tmp_path), config)
    adapted = finetune_on_manipulation(trained, target, "rotation:60", config, data_dir=None)
    assert method.split(":")[0] in target.root.name
    for ours, theirs in zip(before.variables, run.load(trained).classifier.variables, strict=True):
        np.testing.assert_array_equal(ours, theirs)

    # An answer does not depend on its batch, and the run holds what was adapted.
    x, again = tf.constant(bars.test.x), run.load(target).classifier
    scores = adapted.classifier.logits(x).numpy()
    np.testing.assert_array_equal(again.logits(x), scores)
    np.testing.assert_allclose(again.logits(x[3:4]), scores[3:4], rtol=1e-4, atol=1e-4)
    assert not np.allclose(before.logits(x), scores, atol=1e-3)
    assert set(adapted.checkpoint.logs) == {"entropy_before", "entropy"}

    # Scored like any fine-tuned model.
    subject = load_subject(target, data_dir=None)
    rows = curves.manipulation_curve(subject, "rotation", [60.0])
    assert [row.experiment for row in rows] == ["manipulation", "manipulation_held_out"]
    assert {(row.finetuned_on, row.variant) for row in rows} == {("rotation:60", method)}
    assert rows[1].n == len(bars.test) // 2

    # It is not adapted twice.
    saved = checkpoints.newest(target.checkpoints).path.stat().st_mtime_ns
    finetune_on_manipulation(trained, target, "rotation:60", config, data_dir=None)
    assert checkpoints.newest(target.checkpoints).path.stat().st_mtime_ns == saved


@pytest.mark.usefixtures("no_rewriting")
def test_a_killed_adaptation_begins_again(tmp_path, trained, bars):
    class Kill(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            raise KeyboardInterrupt

    config = FinetuneConfig(subject="given", method="tent:batch_size=8")
    given = {"clean": bars.train, "unlabelled": bars.test.x}
    target = Workdir(tmp_path / "broken")
    with pytest.raises(KeyboardInterrupt):
        finetune(trained, target, config, **given, extra_callbacks=(Kill(),))
    assert checkpoints.listed(target.checkpoints) == []
    unbroken = finetune(trained, Workdir(tmp_path / "unbroken"), config, **given)
    resumed = finetune(trained, target, config, **given)
    for ours, theirs in zip(
        resumed.classifier.variables, unbroken.classifier.variables, strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_every_method_has_who_runs_it():
    assert {method.family for method in methods.METHODS.values()} == set(FINETUNERS)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"steps": 3}, "steps=3 was given, which is for 'eq8'"),
        ({"mechanism": "rotation"}, "mechanism=rotation was given, which is for 'eq8'"),
    ],
)
def test_choices_that_tent_would_not_heed_are_refused(tmp_path, trained, bars, changes, sentence):
    config = dataclasses.replace(FinetuneConfig(method="tent"), **changes)
    with pytest.raises(InputError, match=sentence):
        finetune(trained, Workdir(tmp_path / "a"), config, clean=bars.train, unlabelled=bars.test.x)
    assert not (tmp_path / "a").exists()


def test_what_does_not_fit_is_one_clear_sentence(tmp_path, trained, bars):
    target = Workdir(tmp_path / "adapted")

    def adapt(base, x=bars.test.x, method="tent", strategy="none"):
        finetune(
            base,
            target,
            FinetuneConfig(method=method),
            clean=bars.train,
            unlabelled=x,
            devices=run.Devices(strategy=strategy),
        )

    run.train(configuration("dnn"), Workdir(tmp_path / "dnn"))
    with pytest.raises(InputError, match="holds a 'dnn', which has no batch normalisation"):
        adapt(Workdir(tmp_path / "dnn"))
    with pytest.raises(InputError, match="holds a 'cnn_bn', which has no M-networks"):
        adapt(trained, method="eq8")
    with pytest.raises(InputError, match="at least one manipulated input"):
        adapt(trained, x=bars.test.x[:0])
    with pytest.raises(InputError, match="'tent' runs on one device"):
        adapt(trained, strategy="mirrored_cpu:2")
    assert not target.root.exists()


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: FinetuneConfig(method="tnt"), "did you mean 'tent'"),
        (lambda: FinetuneConfig(method="tent:epoch=3"), "did you mean 'epochs'"),
        (lambda: FinetuneConfig(method="eq8:epochs=3"), "unknown option of eq8 'epochs'"),
        (lambda: FinetuneConfig(method="tent:5"), "tent takes options alone, as key=value"),
        (lambda: Tent(epochs=0), "epochs=0 was given; it must be at least 1"),
        (lambda: Tent(batch_size=1), "batch_size=1 was given; it must be at least 2"),
        (lambda: Tent(learning_rate=0.0), "learning_rate=0 was given; it must be positive"),
        (lambda: TargetStatistics(source_rows=-1.0), "source_rows=-1 was given"),
    ],
)
def test_bad_choices_are_one_clear_sentence(make, sentence):
    with pytest.raises(InputError, match=sentence):
        make()


def test_fine_tuning_sees_its_share_of_the_manipulated_test_inputs_alone(bars, monkeypatch):
    monkeypatch.setattr(
        finetune_module, "_trained_on", lambda *args, **how: (SimpleNamespace(seed=3), bars)
    )
    monkeypatch.setattr(finetune_module, "finetune", lambda *args, **how: how)
    config, move = FinetuneConfig(fraction=0.3), "vertical_shift:0.3"
    nowhere = Workdir("nowhere")
    found = finetune_on_manipulation(nowhere, nowhere, move, config, data_dir=None)
    moved = manipulations.manipulate(bars.test, manipulations.parse(move), seed=3)
    expected = moved.x[finetune_module.adapted_rows(30, config)]
    assert len(expected) == 9
    np.testing.assert_array_equal(found["unlabelled"], expected)
    assert found["clean"] is bars.train
