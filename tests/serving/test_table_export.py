import json

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from tests.serving.rows import COLUMNS, NAMES, ROWS, SIZE, sent, table_spec
from tfcama import random
from tfcama.data import tables
from tfcama.errors import InputError
from tfcama.evaluation.predict import prediction_noise
from tfcama.models.discriminative import DiscriminativeConfig, measurement_dnn
from tfcama.models.measurement_cama import MeasurementCama, MeasurementCamaConfig
from tfcama.serving import publish as publish_lib
from tfcama.serving.inputs import TableInputs, input_name, inputs_of
from tfcama.serving.module import ServingModule
from tfcama.training import checkpoints, run
from tfcama.training.config import RunConfig, TrainingConfig
from tfcama.types import CHILD, Column


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
def loaded(table_loaded):
    return table_loaded


@pytest.fixture(scope="module")
def published(table_export):
    return table_export / "1"


@pytest.fixture(scope="module")
def served(published):
    return tf.saved_model.load(str(published))


def ask(served, values, signature="serving_default"):
    serve = served.signatures[signature]
    return serve(**{name: tf.constant(value) for name, value in values.items()})


def offline(loaded, frame):
    x = tf.constant(tables.encode(loaded.classifier.spec, frame))
    return loaded.classifier.log_scores(x, seed=tf.constant(prediction_noise(0)))


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
    module = ServingModule(classifier, seed=prediction_noise(0))
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


# --- the other signatures ---------------------------------------------------------------------


def test_a_table_has_every_signature_but_pictures(published):
    signatures = json.loads((published / "tfcama.json").read_text())["signatures"]
    assert set(signatures) == {
        *("serving_default", "predict_seeded", "classify", "detect"),
        *("reconstruct", "counterfactual"),
    }


@pytest.mark.parametrize("signature", ["detect", "reconstruct"])
def test_other_signatures_take_the_same_columns_row_by_row(served, signature):
    together = ask(served, sent(), signature)
    for row in range(SIZE):
        alone = ask(served, {k: v[row : row + 1] for k, v in sent().items()}, signature)
        for name, value in alone.items():
            if value.dtype in (tf.string, tf.bool):
                np.testing.assert_array_equal(value[0], together[name][row])
            else:
                np.testing.assert_allclose(value[0], together[name][row], rtol=1e-5, atol=1e-5)


def test_a_seed_of_a_row_is_its_own(loaded, served):
    rows = {name: np.repeat(value[:1], 3) for name, value in sent().items()}
    answer = ask(served, {**rows, "seed": np.int32([7, 8, 7])}, "predict_seeded")
    assert answer["log_px"][0] == answer["log_px"][2] != answer["log_px"][1]
    x = tf.constant(tables.encode(loaded.classifier.spec, pd.DataFrame(ROWS)))[:1]
    seed = random.fold_in(tf.constant(prediction_noise(0)), 8)
    expected = tf.reduce_logsumexp(loaded.classifier.log_scores(x, seed=seed))
    np.testing.assert_allclose(answer["log_px"][1], expected, rtol=1e-5)


def example(row):
    """A tf.Example of a row of `sent`; what is missing is left out."""
    features = tf.train.Example()
    for name, value in sent().items():
        if value.dtype == object and value[row]:
            features.features.feature[name].bytes_list.value.append(value[row].encode())
        elif value.dtype != object and not np.isnan(value[row]):
            features.features.feature[name].float_list.value.append(value[row])
    return features.SerializeToString()


def test_an_example_without_a_feature_is_a_row_where_it_is_missing(served):
    inputs = np.array([example(row) for row in range(SIZE)], object)
    answer = ask(served, {"inputs": inputs}, "classify")
    expected = ask(served, sent())["probabilities"]
    np.testing.assert_allclose(answer["scores"], expected, atol=1e-6)
    assert answer["classes"].numpy().tolist() == [[b"ill", b"well"]] * SIZE


def test_reconstructions_are_children_in_their_own_units(loaded, served):
    model = loaded.classifier
    x = tf.constant(tables.encode(model.spec, pd.DataFrame(ROWS)))
    answer = ask(served, sent(), "reconstruct")
    assert set(answer) == {
        "m",
        *(f"reconstruction{end}/{name}" for end in ("", "_do_m0") for name in ("pulse", "grade")),
    }
    for end, do_m0 in (("", False), ("_do_m0", True)):
        rows = model.reconstruct(x, seed=tf.constant(prediction_noise(0)), do_m0=do_m0)
        frame = tables.decode(model.spec, rows.numpy())
        np.testing.assert_allclose(answer[f"reconstruction{end}/pulse"], frame["pulse"], rtol=1e-5)
        grades = [grade.decode() for grade in answer[f"reconstruction{end}/grade"].numpy()]
        assert grades == frame["grade"].tolist()
    moved = answer["reconstruction/pulse"] - answer["reconstruction_do_m0/pulse"]
    assert np.abs(moved).max() > 1e-3


def test_a_counterfactual_of_the_predicted_class_is_the_reconstruction(served):
    label = ask(served, sent())["label"].numpy()
    same = ask(served, sent(label=label), "counterfactual")
    other = ask(served, sent(label=1 - label), "counterfactual")
    reconstructed = ask(served, sent(), "reconstruct")
    for end in ("", "_do_m0"):
        name = f"{end}/pulse"
        np.testing.assert_allclose(
            same[f"counterfactual{name}"], reconstructed[f"reconstruction{name}"], rtol=1e-5
        )
        assert np.abs(same[f"counterfactual{name}"] - other[f"counterfactual{name}"]).max() > 1e-3
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"label: .* must be from 0 to 1"):
        ask(served, sent(label=2 + label), "counterfactual")


def test_columns_give_way_to_the_signatures_own_inputs(tmp_path):
    columns = (Column("seed", (CHILD,)), Column("Label", (CHILD,)))
    module = ServingModule(cama(table_spec(columns)), seed=prediction_noise(0))
    own = ("predict_seeded", "counterfactual")
    functions = {name: module.offered[name].function for name in own}
    tf.saved_model.save(module, str(tmp_path), signatures=functions)
    reloaded = tf.saved_model.load(str(tmp_path))
    values = {"seed_": np.float32([1.0]), "Label_": np.float32([2.0])}
    ask(reloaded, {**values, "seed": np.int32([3])}, "predict_seeded")
    ask(reloaded, {**values, "label": np.int32([1])}, "counterfactual")
