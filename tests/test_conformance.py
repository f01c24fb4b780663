"""Every model through its whole life; one that nobody put into the catalogue fails here.

Attacks, data sets, manipulations, mechanisms, likelihoods and defences have tests over their
registries in the folders that mirror theirs.
"""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf

from tests.conftest import TF_DATA_IS_COMPILED, eagerly
from tfcama import random
from tfcama.attacks.registry import parse as parse_attack
from tfcama.data import tables
from tfcama.data.base import Dataset, Split
from tfcama.models.registry import MODELS
from tfcama.networks.backbones.registry import BACKBONES
from tfcama.serving.publish import publish
from tfcama.training import run
from tfcama.training.config import RunConfig, TrainingConfig
from tfcama.training.registry import TRAINERS
from tfcama.types import (
    CHILD,
    COPARENT,
    PARENT,
    Bounds,
    Classifier,
    Column,
    Explaining,
    Generative,
    InputSpec,
    Sampled,
)
from tfcama.workdir import Workdir

GREY, COLOUR, TABLE = (28, 28, 1), (32, 32, 3), (6,)
GENERATIVE = ("cama", "measurement_cama")
COLUMNS = (
    Column("a1", (PARENT,)),
    Column("c1", (COPARENT,)),
    Column("x1", (CHILD,), loc=1.0, scale=2.0),
    Column("x2", (CHILD,)),
    Column("kind", (CHILD,), categories=("p", "q")),
)

# model -> the input shapes it is exercised on
MODEL_CATALOGUE = {
    "cama": (GREY, COLOUR),
    "dnn": (GREY,),
    "dnn_large": (GREY,),
    "cnn": (GREY, COLOUR),
    "cnn_binary": (COLOUR,),
    "cnn_bn": (GREY,),
    "stn_cnn": (GREY, COLOUR),
    "measurement_cama": (TABLE,),
    "measurement_dnn": (TABLE,),
    "classifier": (GREY, TABLE),
    "vib": (GREY,),
    "causal_ib": (GREY,),
    "ciiv": (GREY,),
}
SMALL = {"cama": {"num_samples": 2}, "measurement_cama": {"num_samples": 2}}
SMALL |= {key: {"backbone": "mlp:units=32"} for key in ("classifier", "vib", "causal_ib", "ciiv")}
# backbone -> the model and the input shape it is exercised on, and a small one of full depth
BACKBONE_CATALOGUE = {
    "mlp": ("classifier", GREY, "mlp:units=32"),
    "alexnet": ("classifier", COLOUR, "alexnet:width=4"),
    "preact_resnet18": ("classifier", GREY, "preact_resnet18:channels=4:norm=group"),
    "resnet34": ("causal_ib", COLOUR, "resnet34:channels=4"),
    "wide_resnet": ("vib", COLOUR, "wide_resnet:width=1"),
}
CASES = [
    pytest.param(
        *(name, shape, SMALL.get(name, {})), marks=pytest.mark.long if shape != shapes[0] else []
    )
    for name, shapes in MODEL_CATALOGUE.items()
    for shape in shapes
]
DEEP = [
    (model, shape, {"backbone": backbone})
    for name, (model, shape, backbone) in BACKBONE_CATALOGUE.items()
    if name != "mlp"  # with every model above
]


def test_the_catalogue_holds_every_entry():
    assert set(MODEL_CATALOGUE) == set(MODELS)
    assert set(BACKBONE_CATALOGUE) == set(BACKBONES)
    assert {entry.family for entry in MODELS.values()} == set(TRAINERS)


def tiny(shape):
    generator = np.random.default_rng(0)

    def split(size):
        x = generator.uniform(size=(size, *shape)).astype(np.float32)
        if shape == TABLE:
            x[:, 4:] = np.eye(2)[generator.integers(0, 2, size)]
            x[0, 2], x[1, 4:] = np.nan, np.nan  # missing children
        return Split(x, generator.integers(0, 2, size).astype(np.int32))

    spec = InputSpec(shape, ("a", "b"), Bounds(0.0, 1.0))
    if shape == TABLE:
        spec = InputSpec(shape, ("a", "b"), None, columns=COLUMNS, target="y")
    return Dataset("tiny", spec, split(8), split(4), split(5))


def configuration(name, architecture):
    entry = MODELS[name]
    return RunConfig(
        model=name,
        dataset="digits",
        seed=0,
        architecture=entry.config_class(**architecture),
        training=TrainingConfig(epochs=1, batch_size=8),
    )


def inputs_of(spec, x):
    """What a client would send for these features."""
    if spec.kind == "image":
        return {"image": x}
    frame = tables.decode(spec, x.numpy())
    return {
        column.name: tf.constant(frame[column.name], tf.float32)
        if column.numeric
        else tf.constant(frame[column.name].fillna("").tolist())
        for column in spec.columns
    }


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize(("name", "shapes"), MODEL_CATALOGUE.items())
def test_a_model_is_called_as_any_keras_model(name, shapes, precision):
    data = tiny(shapes[0])
    config = dataclasses.replace(configuration(name, SMALL.get(name, {})), input_spec=data.spec)
    probabilities = run.build(config, precision=precision)(tf.constant(data.test.x))
    assert probabilities.dtype == tf.float32
    np.testing.assert_allclose(tf.reduce_sum(probabilities, axis=1), 1.0, rtol=1e-5)


@pytest.mark.parametrize(("name", "shape", "architecture"), CASES)
def test_train_save_restore_score_attack_export(name, shape, architecture, tmp_path, monkeypatch):
    whole_life(name, shape, architecture, tmp_path, monkeypatch)


@pytest.mark.long
@TF_DATA_IS_COMPILED
@pytest.mark.parametrize(("name", "shape", "architecture"), DEEP)
def test_a_deep_backbone_lives_as_long(name, shape, architecture, tmp_path, monkeypatch):
    """Eagerly, but for the export: what compiles its model is that of a small backbone above."""
    with eagerly():
        whole_life(name, shape, architecture, tmp_path, monkeypatch)


def whole_life(name, shape, architecture, tmp_path, monkeypatch):
    """Trained, restored, scored, attacked, exported and served."""
    data = tiny(shape)
    monkeypatch.setattr(run, "load_data", lambda config, *, data_dir: data)
    workdir = Workdir(tmp_path / "run")
    loaded = run.train(configuration(name, architecture), workdir)
    model = loaded.classifier

    # The contract.
    assert isinstance(model, Classifier)
    assert (model.num_classes, model.input_shape, model.bounds) == (2, shape, data.spec.bounds)
    grouped = [id(v) for group in model.variable_groups().values() for v in group]
    assert sorted(grouped) == sorted({id(v) for v in model.trainable_variables})

    # Scores: finite, seeded, the same alone as in a batch.
    x, seed = tf.constant(data.test.x), tf.constant(random.stream(0, "conformance"))
    scores = model.log_scores(x, seed=seed).numpy()
    assert scores.shape == (5, 2)
    assert np.all(np.isfinite(scores))
    alone = [model.log_scores(x[i : i + 1], seed=seed).numpy()[0] for i in range(5)]
    np.testing.assert_allclose(scores, alone, rtol=1e-5, atol=1e-3)
    other = model.log_scores(x, seed=tf.constant(random.stream(1, "conformance"))).numpy()
    assert model.stochastic == (not np.array_equal(scores, other))
    np.testing.assert_allclose(tf.reduce_sum(model(x), axis=-1), np.ones(5), rtol=1e-5)
    if isinstance(model, Sampled):
        by_sample = model.log_scores_by_sample(x, seed=seed).numpy()
        assert by_sample.shape[1:] == (5, 2)
        assert np.all(np.isfinite(by_sample))
        assert not np.array_equal(by_sample[0], by_sample[1])

    # Saved and restored.
    again = run.load(workdir).classifier
    np.testing.assert_allclose(again.log_scores(x, seed=seed), scores, rtol=1e-6)

    # Attacked.
    found = parse_attack("fgsm", eps=0.05)(model, data.test.x, data.test.y, seed=0)
    assert found.linf.max() == pytest.approx(0.05, rel=1e-3)

    # Exported, and served at other batch sizes than it was checked at.
    clean = Split(np.tile(data.validation.x, [10, *[1] * len(shape)]), np.zeros(40, np.int32))
    version = publish(loaded, tmp_path / "export", clean=clean)
    serve = tf.saved_model.load(str(version))
    one, four = (
        serve.signatures["serving_default"](**inputs_of(data.spec, x[:size])) for size in (1, 4)
    )
    for output in four:
        np.testing.assert_allclose(one[output][0], four[output][0], rtol=1e-4, atol=1e-4)
    assert ("log_px" in four) == (name in GENERATIVE)
    metadata = json.loads((version / "tfcama.json").read_text())
    assert metadata["class_names"] == ["a", "b"]
    offered = set(metadata["signatures"])
    assert {"serving_default", "classify"} <= offered
    assert ("predict_seeded" in offered) == model.stochastic
    assert ("predict_png" in offered) == (shape != TABLE)
    assert ("detect" in offered) == isinstance(model, Generative) == (name in GENERATIVE)
    assert ("counterfactual" in offered) == isinstance(model, Explaining)
