import json

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from tfcama import random
from tfcama.data import tables
from tfcama.errors import InputError
from tfcama.models.discriminative import DiscriminativeConfig, measurement_dnn
from tfcama.models.measurement_cama import MeasurementCama, MeasurementCamaConfig
from tfcama.serving import publish as publish_lib
from tfcama.serving.inputs import TableInputs, input_name, inputs_of
from tfcama.serving.module import ServingModule, serving_seed
from tfcama.training import checkpoints, run
from tfcama.training.config import RunConfig, TrainingConfig
from tfcama.types import CHILD, COPARENT, PARENT, Column, InputSpec

COLUMNS = (
    Column("blood pressure", (PARENT,), loc=120.0, scale=15.0, indicator=True),
    Column("Sex", (PARENT,), categories=("f", "m"), indicator=True),
    Column("dose", (COPARENT,), loc=0.5, scale=0.25),
    Column("1st", (COPARENT,), categories=("no", "yes", "größer")),
    Column("age", (PARENT, COPARENT), loc=50.0, scale=10.0),
    Column("pulse", (CHILD,), loc=-70.0, scale=8.0),
    Column("grade", (CHILD,), categories=("1", "2", "3")),
    Column("unused", (), loc=1.0, scale=2.0),
)
NAMES = ("blood_pressure", "Sex", "dose", "column_1st", "age", "pulse", "grade", "unused")
# Present, missing and unseen values; "2.0" is the category "2" wherever it comes from.
ROWS = {
    "blood pressure": [110.0, np.nan, 150.5, 121.0, 99.0, np.nan],
    "Sex": ["f", "m", None, "x", "m", None],
    "dose": [0.1, 0.75, np.nan, 0.5, 1e-30, np.nan],
    "1st": ["no", "größer", "yes", None, "maybe", None],
    "age": [20.0, 30.0, np.nan, 1e4, -33.3, np.nan],
    "pulse": [-80.0, np.nan, -60.5, -70.0, 0.0, np.nan],
    "grade": ["1", "2.0", "4", None, "3", None],
    "unused": [0.0, np.nan, 1.0, 5.0, 2.0, np.nan],
}
SIZE = 6


def table_spec(columns=COLUMNS):
    width = sum(column.width for column in columns)
    return InputSpec((width,), ("ill", "well"), None, columns, "health")


def loaded_run(classifier, model, where):
    config = RunConfig(
        model=model,
        dataset="csv",
        seed=0,
        architecture=MeasurementCamaConfig(),
        training=TrainingConfig(),
        input_spec=classifier.spec,
    )
    checkpoint = checkpoints.Checkpoint(where, 1, (0.5, 0.0), {"val_loss": 1.0})
    return run.LoadedRun(config, classifier, checkpoint)


def cama(spec):
    random.seed_everything(0)
    return MeasurementCama(spec, MeasurementCamaConfig(hidden=16, num_samples=2))


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return loaded_run(cama(table_spec()), "measurement_cama", tmp_path_factory.mktemp("c"))


@pytest.fixture(scope="module")
def published(loaded, tmp_path_factory):
    return publish_lib.publish(loaded, tmp_path_factory.mktemp("export"))


@pytest.fixture(scope="module")
def served(published):
    return tf.saved_model.load(str(published))


def sent(**changed):
    """ROWS as a client sends them, some inputs changed."""
    values = {}
    for column, name in zip(COLUMNS, NAMES, strict=True):
        rows = ROWS[column.name]
        if column.numeric:
            values[name] = np.array(rows, np.float32)
        else:
            values[name] = np.array(["" if value is None else value for value in rows], object)
    return values | changed


def ask(served, values):
    serve = served.signatures["serving_default"]
    return serve(**{name: tf.constant(value) for name, value in values.items()})


def offline(loaded, frame):
    x = tf.constant(tables.encode(loaded.classifier.spec, frame))
    return loaded.classifier.log_scores(x, seed=tf.constant(serving_seed(0)))


def test_columns_by_name_answer_as_the_offline_path_does(loaded, served):
    answer = ask(served, sent())
    scores = offline(loaded, pd.DataFrame(ROWS))
    np.testing.assert_allclose(answer["probabilities"], tf.nn.softmax(scores), atol=1e-5)
    np.testing.assert_allclose(answer["log_px"], tf.reduce_logsumexp(scores, axis=-1), rtol=1e-5)
    np.testing.assert_array_equal(answer["label"], tf.argmax(scores, axis=-1))
    # The rows differ, so that the comparison says something.
    assert len(np.unique(np.round(answer["log_px"], 4))) == SIZE


def test_the_graph_makes_the_features_that_encode_makes():
    spec = table_spec((*COLUMNS, Column("told", (CHILD,), scale=3.0, indicator=True)))
    values = (*sent().values(), np.array([0, np.nan, 1, np.nan, 2, 3], np.float32))
    features = TableInputs(spec).features(tuple(tf.constant(value) for value in values))
    frame = pd.DataFrame({**ROWS, "told": values[-1]})
    expected = tables.encode(spec, frame)
    np.testing.assert_allclose(features, expected, rtol=1e-6, atol=1e-7)
    assert features.dtype == tf.float32
    assert np.isnan(expected).any()


@pytest.mark.parametrize("name", ["Sex", "column_1st", "grade"])
def test_a_category_that_training_never_saw_is_missing(served, name):
    texts = sent()[name].copy()
    texts[:] = ""
    missing = ask(served, sent(**{name: texts}))
    texts[:] = "never seen"
    unseen = ask(served, sent(**{name: texts}))
    for output in missing:
        np.testing.assert_array_equal(missing[output], unseen[output])
    assert not np.array_equal(ask(served, sent())["log_px"], missing["log_px"])


@pytest.mark.parametrize("name", NAMES[:-1])
def test_every_column_with_a_role_matters(served, name):
    values = sent()
    other = values[name][::-1].copy()
    assert not np.array_equal(
        ask(served, values)["log_px"], ask(served, sent(**{name: other}))["log_px"]
    )


def test_a_batch_answers_as_its_rows_do_alone(served):
    together = ask(served, sent())
    for row in range(SIZE):
        alone = ask(served, {name: value[row : row + 1] for name, value in sent().items()})
        np.testing.assert_allclose(alone["log_px"][0], together["log_px"][row], rtol=1e-5)
        np.testing.assert_allclose(
            alone["probabilities"][0], together["probabilities"][row], atol=1e-5
        )


def test_another_batch_size_than_was_checked_is_served(served):
    answer = ask(served, {name: np.tile(value, 50) for name, value in sent().items()})
    assert answer["probabilities"].shape == (SIZE * 50, 2)
    assert answer["label"].shape == answer["log_px"].shape == (SIZE * 50,)


def test_an_empty_batch_is_refused(served):
    with pytest.raises(tf.errors.InvalidArgumentError, match="at least one row is needed"):
        ask(served, {name: value[:0] for name, value in sent().items()})


@pytest.mark.parametrize("value", [np.inf, -np.inf])
@pytest.mark.parametrize("name", ["blood_pressure", "dose", "pulse", "unused"])
def test_infinity_reaches_the_client_as_a_sentence_that_names_the_column(served, name, value):
    numbers = sent()[name].copy()
    numbers[2] = value
    column = COLUMNS[NAMES.index(name)].name
    with pytest.raises(
        tf.errors.InvalidArgumentError,
        match=f"column {column}: a value is infinite or too large; finite numbers are needed",
    ):
        ask(served, sent(**{name: numbers}))


def test_a_number_whose_feature_would_overflow_is_refused(served):
    numbers = sent()["dose"].copy()
    numbers[0] = 3e38  # a quarter is a unit
    with pytest.raises(tf.errors.InvalidArgumentError, match="dose: a value is infinite or too"):
        ask(served, sent(dose=numbers))


@pytest.mark.parametrize("name", ["Sex", "pulse"])
def test_columns_of_different_lengths_are_refused_by_name(served, name):
    with pytest.raises(
        tf.errors.InvalidArgumentError,
        match=f"column {name}: as many values as of column blood pressure are needed",
    ):
        ask(served, sent(**{name: sent()[name][:-1]}))


def test_nothing_but_the_model_is_inside(loaded, published, served):
    size = sum(np.prod(v.shape) for v in loaded.classifier.variables)
    stored = tf.train.list_variables(str(published / "variables" / "variables"))
    arrays = [shape for name, shape in stored if name.startswith("model_variables")]
    assert sum(np.prod(shape) for shape in arrays) == size
    graph = served.signatures["serving_default"].graph.as_graph_def()
    ops = {node.op for f in graph.library.function for node in f.node_def}
    assert "RegexReplace" in ops or "StaticRegexReplace" in ops  # the columns are in there
    assert not {op for op in ops if "PyFunc" in op}


def test_the_signature_is_one_vector_a_column(served):
    _, named = served.signatures["serving_default"].structured_input_signature
    assert {name: (spec.shape.as_list(), spec.dtype) for name, spec in named.items()} == {
        name: ([None], tf.float32 if column.numeric else tf.string)
        for name, column in zip(NAMES, COLUMNS, strict=True)
    }


def test_metadata_tells_which_input_a_column_is(published):
    metadata = json.loads((published / "tfcama.json").read_text())
    assert metadata["input"]["target"] == "health"
    assert [column["input"] for column in metadata["input"]["columns"]] == list(NAMES)
    assert metadata["input"]["columns"][3] == {
        "name": "1st",
        "input": "column_1st",
        "kind": "categorical",
        "roles": ["coparent"],
        "categories": ["no", "yes", "größer"],
    }
    assert metadata["input"]["columns"][4]["kind"] == "numeric"
    assert metadata["input"]["columns"][4]["roles"] == ["parent", "coparent"]


def test_a_discriminative_export_has_no_density(tmp_path):
    random.seed_everything(0)
    classifier = measurement_dnn(table_spec(), DiscriminativeConfig())
    version = publish_lib.publish(loaded_run(classifier, "measurement_dnn", tmp_path), tmp_path)
    reloaded = tf.saved_model.load(str(version))
    answer = ask(reloaded, sent())
    assert set(answer) == {"probabilities", "label", "entropy"}
    x = tf.constant(tables.encode(classifier.spec, pd.DataFrame(ROWS)))
    np.testing.assert_allclose(answer["probabilities"], classifier(x), atol=1e-5)


@pytest.mark.parametrize(
    "names",
    [
        ("self", "class", "None", "_x", "x:0", "a/b", "a.c", "", "年齢", "性別"),
        (
            "label",
            "log_px",
            "age",
            "age_1",
            "age_2",
            "args",
            "kwargs",
            "name",
            "inputs",
            "training",
        ),
    ],
)
def test_any_column_names_can_be_exported(names, tmp_path):
    classifier = cama(table_spec(tuple(Column(name, (CHILD,)) for name in names)))
    module = ServingModule(classifier, seed=serving_seed(0))
    tf.saved_model.save(module, str(tmp_path), signatures={"serving_default": module.serve})
    reloaded = tf.saved_model.load(str(tmp_path))
    values = {input_name(name): np.float32([i]) for i, name in enumerate(names)}
    assert len(values) == len(names)
    here = module.serve(*(tf.constant(value) for value in values.values()))
    np.testing.assert_allclose(ask(reloaded, values)["log_px"], here["log_px"], rtol=1e-5)


@pytest.mark.parametrize("names", [("a b", "a-b"), ("Age", "age"), ("class", "class_")])
def test_columns_that_would_be_one_input_are_refused(names, tmp_path):
    classifier = cama(table_spec(tuple(Column(name, (CHILD,)) for name in names)))
    with pytest.raises(
        InputError, match=f"columns '{names[0]}' and '{names[1]}' would both be the input"
    ):
        publish_lib.publish(loaded_run(classifier, "measurement_cama", tmp_path), tmp_path / "e")
    assert not (tmp_path / "e").exists()


@pytest.mark.parametrize(("loc", "scale"), [(1.7e9, 3.0), (1e39, 1e38)])
def test_a_column_that_float32_would_blur_is_refused(loc, scale):
    with pytest.raises(InputError, match=r"column 'time' has values around .* cannot tell apart"):
        inputs_of(table_spec((Column("time", (CHILD,), loc=loc, scale=scale),)))


def test_an_export_that_encodes_otherwise_is_not_published(loaded, tmp_path, monkeypatch):
    real = tables.encode
    monkeypatch.setattr(tables, "encode", lambda spec, frame: real(spec, frame) + np.float32(0.01))
    with pytest.raises(InputError, match="makes other features of a row than the data set does"):
        publish_lib.publish(loaded, tmp_path / "export")
    assert list((tmp_path / "export").iterdir()) == []


def test_examples_are_rows_that_training_could_have_seen():
    inputs = TableInputs(table_spec())
    values, features = inputs.examples(np.random.default_rng(0), 1000)
    assert features.shape == (1000, *inputs.spec.shape)
    for column, value in zip(COLUMNS, values, strict=True):
        if column.numeric:
            assert 0.1 < np.isnan(value).mean() < 0.3
            assert np.nanmean(value) == pytest.approx(column.loc, abs=0.2 * column.scale)
        else:
            assert set(value) == {"", *column.categories}
