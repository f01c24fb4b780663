import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from scipy import special
from tensorflow.core.protobuf import saved_model_pb2

from tests.doubles import ROW
from tests.serving.conftest import untrained
from tfcama.data.base import Split
from tfcama.errors import InputError
from tfcama.evaluation.predict import Predictor, prediction_noise
from tfcama.evaluation.results import scored
from tfcama.serving import ops, warmup
from tfcama.serving import publish as publish_lib
from tfcama.serving.publish import fingerprint, publish
from tfcama.workdir import write_json

ALL = {
    *("serving_default", "predict_seeded", "classify", "predict_png"),
    *("detect", "reconstruct", "counterfactual"),
}


@pytest.fixture(scope="module")
def small(spec, tmp_path_factory):
    """The run that is exported in the least time."""
    return untrained("dnn", spec, tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def metadata(export):
    return json.loads((export / "1" / "tfcama.json").read_text())


def test_nothing_but_the_model_is_inside(loaded, export, served):
    size = sum(np.prod(v.shape) for v in loaded.classifier.variables)
    stored = tf.train.list_variables(str(export / "1" / "variables" / "variables"))
    arrays = [shape for name, shape in stored if name.startswith("model_variables")]
    assert sum(np.prod(shape) for shape in arrays) == size
    assert not any("optimizer" in name or "adam" in name for name, _ in stored)
    assert {path.name for path in (export / "1").iterdir()} == {
        *("saved_model.pb", "variables", "assets", "assets.extra"),
        *("batching_params.pbtxt", "tfcama.json"),
    } - ({"assets"} if not (export / "1" / "assets").exists() else set())


def test_an_export_answers_what_the_run_does(loaded, served, bars):
    """The same noise, so that no label differs between an evaluation and the server."""
    scores = Predictor(loaded.classifier, seed=0).log_scores(bars.train.x)
    answer = served.signatures["serving_default"](image=tf.constant(bars.train.x))
    np.testing.assert_array_equal(answer["label"], scores.argmax(axis=1))
    np.testing.assert_allclose(answer["probabilities"], special.softmax(scores, axis=1), atol=1e-4)


def test_versions_count_up_and_are_never_overwritten(small, tmp_path):
    assert publish(small, tmp_path).name == "1"
    before = (tmp_path / "1" / "tfcama.json").read_bytes()
    with pytest.raises(InputError, match="1 exists; versions are never overwritten"):
        publish(small, tmp_path, version=1)
    with pytest.raises(InputError, match="--version=0 was given"):
        publish(small, tmp_path, version=0)
    with pytest.raises(InputError, match=r"at least 1 and below 2\^63"):
        publish(small, tmp_path, version=2**63)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file is no directory"):
        publish(small, tmp_path / "file")
    with pytest.raises(InputError, match="cannot be written: Not a directory"):
        publish(small, tmp_path / "file" / "cama")
    (tmp_path / "file").unlink()
    assert publish(small, tmp_path, version=9).name == "9"
    for name in ("0077", "٧٧"):  # int() reads both
        (tmp_path / name).mkdir()
    assert publish(small, tmp_path).name == "10"
    assert (tmp_path / "1" / "tfcama.json").read_bytes() == before


def test_what_killed_publishes_of_other_versions_left_goes_in_time(small, tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    old, young, running, other = (
        tmp_path / name
        for name in (f".2-{ended.pid}", f".3-{ended.pid}", f".4-{os.getppid()}", f".x-{ended.pid}")
    )
    for directory in (old, young, running, other):
        directory.mkdir()
        (directory / "saved_model.pb").touch()
    for directory in (old, running, other):
        os.utime(directory, (0, 0))
    publish(small, tmp_path, version=5)
    assert set(tmp_path.iterdir()) == {young, running, other, tmp_path / "5"}


def test_of_two_that_publish_one_version_at_once_the_first_wins(small, tmp_path, monkeypatch):
    target = tmp_path / "3"

    def meanwhile(*arguments):
        target.mkdir()
        (target / "theirs").touch()

    monkeypatch.setattr(publish_lib, "_compare", meanwhile)
    with pytest.raises(InputError, match="3 exists; versions are never overwritten"):
        publish(small, tmp_path, version=3)
    assert [path.name for path in tmp_path.rglob("*")] == ["3", "theirs"]


def corrupting(monkeypatch, change):
    """Lets the SavedModel be written, then changes a variable of the model in this process."""
    real, undo = tf.saved_model.save, []

    def save(module, path, signatures):
        real(module, path, signatures=signatures)
        variable = module.model_variables[0]
        undo.append((variable, variable.numpy()))
        variable.assign(change(variable))

    monkeypatch.setattr(tf.saved_model, "save", save)
    return undo


def test_an_export_that_answers_otherwise_is_not_published(small, tmp_path, monkeypatch):
    undo = corrupting(monkeypatch, lambda variable: variable + 1.0)
    try:
        with pytest.raises(InputError, match="the reloaded export answers another"):
            publish(small, tmp_path / "export")
    finally:
        for variable, before in undo:
            variable.assign(before)
    assert list((tmp_path / "export").iterdir()) == []


def test_a_model_that_answers_nan_is_not_published(spec, tmp_path):
    broken = untrained("dnn", spec, tmp_path)
    variable = broken.classifier.trainable_variables[-1].value
    variable.assign(np.nan * tf.ones_like(variable))
    with pytest.raises(InputError, match=r"serving_default answers with .* not finite"):
        publish(broken, tmp_path / "export")
    assert list((tmp_path / "export").iterdir()) == []


def test_a_graph_that_was_damaged_on_its_way_to_the_disk_is_not_published(
    small, tmp_path, monkeypatch
):
    def damaging(path, value):
        write_json(path, value)
        file = path.parent / "saved_model.pb"
        file.write_bytes(file.read_bytes() + b"\n")

    monkeypatch.setattr(publish_lib, "write_json", damaging)
    with pytest.raises(InputError, match="is not the file that was published"):
        publish(small, tmp_path / "export")
    assert list((tmp_path / "export").iterdir()) == []


def test_warm_up_requests_that_fail_are_not_published(small, tmp_path, monkeypatch):
    real = warmup.records

    def with_one_bad(*arguments, **options):
        logs = real(*arguments, **options)
        bad = next(log for log in logs if log.HasField("predict_log"))
        image = bad.predict_log.request.inputs["image"]
        image.CopyFrom(tf.make_tensor_proto(2.0 * np.ones([1, 28, 28, 1], np.float32)))
        return logs

    monkeypatch.setattr(warmup, "records", with_one_bad)
    with pytest.raises(tf.errors.InvalidArgumentError, match="image: every value must be in"):
        publish(small, tmp_path / "export")
    assert list((tmp_path / "export").iterdir()) == []


def test_what_a_classifier_offers_follows_from_what_it_can_do(small, metadata, tmp_path):
    assert set(metadata["signatures"]) == ALL
    version = publish(small, tmp_path)
    offered = json.loads((version / "tfcama.json").read_text())["signatures"]
    assert set(offered) == {"serving_default", "classify", "predict_png"}
    assert set(offered["serving_default"]["outputs"]) == {"probabilities", "label", "entropy"}


def test_metadata_says_what_was_exported(export, loaded, metadata, bars):
    assert (metadata["name"], metadata["version"]) == ("cama", 1)
    assert metadata["config"]["model"] == metadata["model"] == "cama"
    assert metadata["metrics"] == {"val_loss": 1.0}
    assert metadata["class_names"] == ["a", "b", "c"]
    assert metadata["input"] == {"kind": "image", "shape": [28, 28, 1], "bounds": [0.0, 1.0]}
    assert (metadata["seed"], metadata["num_samples"], metadata["stochastic"]) == (0, 3, True)
    assert metadata["noise_seed"] == prediction_noise(0).tolist()
    scores = loaded.classifier.log_scores(
        tf.constant(bars.train.x), seed=tf.constant(prediction_noise(0))
    ).numpy()
    assert metadata["clean"] == {
        "rows": len(bars.train),
        "accuracy": float((scores.argmax(axis=1) == bars.train.y).mean()),
        "log_px": pytest.approx(np.logaddexp.reduce(scores, axis=1).mean(), rel=1e-5),
    }
    assert metadata["detector"]["rows"] == len(bars.train)
    content = (export / "1" / "saved_model.pb").read_bytes()
    assert metadata["saved_model_sha256"] == hashlib.sha256(content).hexdigest()
    assert metadata["manipulation"] == []  # the additive m means nothing to people
    classify = metadata["signatures"]["classify"]
    assert classify["method"] == "tensorflow/serving/classify"
    assert classify["inputs"] == {"inputs": {"dtype": "string", "shape": [None]}}
    assert classify["outputs"]["scores"] == {"dtype": "float32", "shape": [None, 3]}
    for signature in metadata["signatures"].values():  # TF-Serving batches and splits all of them
        for tensor in (*signature["inputs"].values(), *signature["outputs"].values()):
            assert tensor["shape"][0] is None


def test_the_fingerprint_is_of_the_stored_variables(export, loaded, served, metadata):
    assert metadata["fingerprint"] == fingerprint(served.model_variables)
    changed = [tf.Variable(variable) for variable in served.model_variables]
    changed[-1].assign_add(tf.ones_like(changed[-1]) * 1e-6)
    assert metadata["fingerprint"] != fingerprint(changed)


def test_results_of_the_run_directory_travel_along(spec, tmp_path):
    evaluated = untrained("dnn", spec, tmp_path / "run")
    row = scored(np.array([True, False]), **ROW)
    write_json(tmp_path / "run" / "results" / "shift.rows.json", [row.__dict__])
    version = publish(evaluated, tmp_path / "export")
    assert json.loads((version / "tfcama.json").read_text())["results"] == [row.__dict__]


def test_few_clean_rows_make_no_detector(loaded, bars, tmp_path):
    with pytest.raises(InputError, match=r"30 clean inputs were given; detect needs 39 at false"):
        publish(loaded, tmp_path / "export", clean=bars.test)
    assert not (tmp_path / "export").exists()


@pytest.mark.parametrize("false_alarms", [0.05, 0.09])
def test_the_validation_split_is_the_reference_if_it_is_large_enough(
    loaded, small, bars_everywhere, false_alarms
):
    told = []
    options = {"data_dir": None, "false_alarms": false_alarms, "progress": told.append}
    found = publish_lib.held_out(loaded, **options)  # 24 rows
    if false_alarms == 0.09:
        assert found is bars_everywhere.validation
        assert told == []
    else:
        assert found is None
        (sentence,) = told
        assert "no `detect`: 24 rows are held out for validation, 39 are needed" in sentence
        rows = len(bars_everywhere.train) + 24
        share = float(sentence.rpartition("validation_fraction=")[2])
        assert 39 <= share * rows < 39 + 0.01 * rows
    assert publish_lib.held_out(small, **options) is bars_everywhere.validation


def test_of_many_clean_rows_some_are_compared_with(small, spec, tmp_path):
    x = np.zeros([2 * publish_lib.MAX_CLEAN + 5, *spec.shape], np.float32)
    version = publish(small, tmp_path, clean=Split(x, np.zeros(len(x), np.int32)))
    metadata = json.loads((version / "tfcama.json").read_text())
    assert metadata["clean"]["rows"] <= publish_lib.MAX_CLEAN
    assert metadata["detector"] is None


def test_only_ops_that_the_oldest_server_knows_are_inside(export, metadata):
    model = saved_model_pb2.SavedModel.FromString((export / "1" / "saved_model.pb").read_bytes())
    assert ops.ops_of(model) == set(metadata["ops"])
    ops.check(set(metadata["ops"]))
    assert {"Conv2D", "DecodePng", "ParseExampleV2"} <= set(metadata["ops"])  # functions are seen


@pytest.mark.parametrize(
    ("op", "sentence"),
    [
        ("EagerPyFunc", "uses 'EagerPyFunc', which tensorflow_model_server cannot run"),
        ("XlaDot", "uses 'XlaDot', which tensorflow_model_server cannot run"),
        ("_XlaMustCompile", "which tensorflow_model_server cannot run"),
        ("MyCustomOp", "uses 'MyCustomOp', which TensorFlow 2.16 does not know"),
    ],
)
def test_other_ops_are_refused(op, sentence):
    with pytest.raises(InputError, match=sentence):
        ops.check({"MatMul", op})


def test_python_and_compiled_functions_are_found(tmp_path):
    module = tf.Module()
    module.python = tf.function(
        lambda x: tf.numpy_function(lambda v: v, [x], tf.float32),
        input_signature=[tf.TensorSpec([None])],
    )
    module.compiled = tf.function(
        lambda x: 2.0 * x, input_signature=[tf.TensorSpec([None])], jit_compile=True
    )
    for name in ("python", "compiled"):
        tf.saved_model.save(
            module, str(tmp_path / name), signatures={"serving_default": getattr(module, name)}
        )
        content = (tmp_path / name / "saved_model.pb").read_bytes()
        with pytest.raises(InputError, match=r"PyFunc|_XlaMustCompile"):
            ops.check(ops.ops_of(saved_model_pb2.SavedModel.FromString(content)))


def test_every_signature_is_warmed_up(export, served, metadata):
    requests = list(warmup.read(export / "1" / warmup.FILE))
    assert {name for name, _ in requests} == ALL
    assert len(requests) == metadata["warmup_records"] <= warmup.MAX_RECORDS
    for name, values in requests:
        answer = served.signatures[name](**values)
        (rows,) = {len(value) for value in values.values()}
        assert {len(value) for value in answer.values()} == {rows}


def test_warm_up_requests_name_the_model(export):
    (record, *_) = tf.data.TFRecordDataset(str(export / "1" / warmup.FILE))
    log = warmup.prediction_log_pb2.PredictionLog.FromString(record.numpy())
    assert log.predict_log.request.model_spec.name == "cama"
