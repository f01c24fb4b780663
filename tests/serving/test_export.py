import json

import numpy as np
import pytest
import tensorflow as tf

from tfcama import random
from tfcama.errors import InputError
from tfcama.models.cama import Cama, CamaConfig
from tfcama.serving import publish as publish_lib
from tfcama.serving.module import ServingModule, serving_seed
from tfcama.training import checkpoints, run
from tfcama.training.config import RunConfig, TrainingConfig


@pytest.fixture(scope="module")
def loaded(spec, tmp_path_factory):
    random.seed_everything(0)
    config = RunConfig(
        model="cama",
        dataset="digits",
        seed=0,
        architecture=CamaConfig(num_samples=3, max_decoder_rows=30),
        training=TrainingConfig(),
        input_spec=spec,
    )
    where = tmp_path_factory.mktemp("c")
    return run.LoadedRun(
        config, run.build(config), checkpoints.Checkpoint(where, 1, (0.5, 0.0), {"val_loss": 1.0})
    )


@pytest.fixture(scope="module")
def published(loaded, tmp_path_factory):
    base = tmp_path_factory.mktemp("export")
    publish_lib.publish(loaded, base)
    return base


@pytest.fixture(scope="module")
def served(published):
    return tf.saved_model.load(str(published / "1"))


def ask(served, x):
    return served.signatures["serving_default"](image=tf.constant(x))


def test_it_answers_as_the_model_does(loaded, served, images):
    answer = ask(served, images)
    scores = loaded.classifier.log_scores(images, seed=tf.constant(serving_seed(0)))
    np.testing.assert_allclose(answer["probabilities"], tf.nn.softmax(scores), atol=1e-5)
    np.testing.assert_array_equal(answer["label"], tf.argmax(scores, axis=-1))
    np.testing.assert_allclose(answer["log_px"], tf.reduce_logsumexp(scores, axis=-1), rtol=1e-5)


def test_the_same_image_gets_the_same_answer_alone_and_in_any_batch(served, images):
    many = np.concatenate([images] * 4)[:25]
    together = ask(served, many)
    for row in range(len(images)):
        alone = ask(served, images[row : row + 1])
        np.testing.assert_allclose(alone["log_px"][0], together["log_px"][row], rtol=1e-5)
        np.testing.assert_allclose(
            alone["probabilities"][0], together["probabilities"][row], atol=1e-4
        )
    again = ask(served, many)
    for name, value in together.items():
        np.testing.assert_array_equal(value, again[name])


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (2.0, r"image: every value must be in \[0, 1\]"),
        (np.nan, "image: every value must be finite"),
        (np.inf, "image: every value must be finite"),
    ],
)
def test_invalid_inputs_reach_the_client_as_a_sentence(served, images, value, sentence):
    bad = images[:2].copy()
    bad[1, 3, 3, 0] = value
    with pytest.raises(tf.errors.InvalidArgumentError, match=sentence):
        ask(served, bad)


def test_nothing_but_the_model_is_inside(loaded, published, served):
    size = sum(np.prod(v.shape) for v in loaded.classifier.variables)
    stored = tf.train.list_variables(str(published / "1" / "variables" / "variables"))
    arrays = [shape for name, shape in stored if name.startswith("model_variables")]
    assert sum(np.prod(shape) for shape in arrays) == size
    assert not any("optimizer" in name or "adam" in name for name, _ in stored)
    graph = served.signatures["serving_default"].graph.as_graph_def()
    ops = {node.op for f in graph.library.function for node in f.node_def}
    assert not {op for op in ops if "PyFunc" in op}


def test_versions_count_up_and_are_never_overwritten(loaded, published):
    with pytest.raises(InputError, match="1 exists; versions are never overwritten"):
        publish_lib.publish(loaded, published, version=1)
    with pytest.raises(InputError, match="--version=0 was given"):
        publish_lib.publish(loaded, published, version=0)
    assert publish_lib.publish(loaded, published).name == "2"
    assert publish_lib.publish(loaded, published, version=9).name == "9"
    assert publish_lib.publish(loaded, published).name == "10"


def test_an_export_that_answers_otherwise_is_not_published(loaded, tmp_path, monkeypatch):
    real = tf.saved_model.save

    def corrupted(module, path, signatures):
        real(module, path, signatures=signatures)
        variable = module.model_variables[0]
        before = variable.numpy()
        variable.assign_add(tf.ones_like(variable))
        undo.append((variable, before))

    undo = []
    monkeypatch.setattr(tf.saved_model, "save", corrupted)
    try:
        with pytest.raises(InputError, match="the reloaded export answers another"):
            publish_lib.publish(loaded, tmp_path / "export")
    finally:
        for variable, before in undo:
            variable.assign(before)
    assert list((tmp_path / "export").iterdir()) == []


def test_metadata_says_what_was_exported(published):
    metadata = json.loads((published / "1" / "tfcama.json").read_text())
    assert metadata["config"]["model"] == "cama"
    assert metadata["metrics"] == {"val_loss": 1.0}
    assert metadata["version"] == 1


def test_a_module_serves_any_batch_size_in_a_bounded_graph(spec):
    module = ServingModule(Cama(spec, CamaConfig(num_samples=2)), seed=serving_seed(0))
    for size in (1, 2, 300):
        assert module.serve(tf.zeros([size, *spec.shape]))["label"].shape == (size,)
