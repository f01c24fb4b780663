"""Test-time augmentation of classifiers whose answers are known."""

import numpy as np
import pytest
import tensorflow as tf

from tests.doubles import Linear, subject_of
from tfcama import random
from tfcama.data import manipulations
from tfcama.data.base import Dataset, Split
from tfcama.errors import InputError
from tfcama.evaluation import curves
from tfcama.evaluation.augmented import Augmented, augmented
from tfcama.evaluation.predict import Predictor
from tfcama.studies import steps
from tfcama.types import Bounds, Classifier, Column, InputSpec

SEED = tf.constant(random.stream(0, "test"))


@pytest.fixture(scope="module")
def linear():
    kernel = np.random.default_rng(0).normal(size=(64, 3))
    return Linear(kernel, shape=(8, 8, 1))


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(1).uniform(size=(5, 8, 8, 1)).astype(np.float32)


def scores_of(classifier, text, x, *, seed=SEED, copies=16):
    model = Augmented(classifier, manipulations.parse(text), copies=copies)
    return model.log_scores(tf.constant(x), seed=seed).numpy()


def test_level_0_is_the_plain_prediction(linear, x):
    plain = tf.nn.log_softmax(linear.log_scores(tf.constant(x), seed=SEED))
    np.testing.assert_allclose(scores_of(linear, "rotation:0", x), plain, atol=1e-5)


def test_it_is_the_mean_of_the_probabilities_the_input_included(linear, x):
    """mode=fixed takes the luck out of it: 3 of 4 copies are shifted by a quarter."""
    moved, _ = manipulations.parse("vertical_shift:0.25:mode=fixed")(tf.constant(x), seed=SEED)
    p = tf.nn.softmax(linear.log_scores(tf.constant(x), seed=SEED)).numpy()
    q = tf.nn.softmax(linear.log_scores(moved, seed=SEED)).numpy()
    found = scores_of(linear, "vertical_shift:0.25:mode=fixed", x, copies=4)
    np.testing.assert_allclose(np.exp(found), (p + 3 * q) / 4, rtol=1e-4)


@pytest.mark.parametrize("text", ["rotation:60", "gaussian_noise:0.3"])
def test_an_answer_depends_on_its_seed_and_not_on_its_batch(linear, x, text):
    whole = scores_of(linear, text, x)
    np.testing.assert_array_equal(scores_of(linear, text, x), whole)
    alone = np.concatenate([scores_of(linear, text, row[None]) for row in x])
    np.testing.assert_allclose(alone, whole, atol=1e-5)
    other = scores_of(linear, text, x, seed=tf.constant(random.stream(1, "test")))
    assert not np.allclose(other, whole, atol=1e-3)
    copies = scores_of(linear, "rotation:60", x, copies=2)
    assert not np.allclose(copies, whole, atol=1e-3)


def test_it_keeps_the_contract_of_a_classifier(linear, x):
    model = Augmented(linear, manipulations.parse("rotation:60"))
    assert isinstance(model, Classifier)
    assert (model.num_classes, model.input_shape, model.bounds) == (3, (8, 8, 1), linear.bounds)
    assert model.attack_mask is None
    assert model.stochastic


def test_it_is_differentiable_in_the_input(linear, x):
    images = tf.constant(x)
    model = Augmented(linear, manipulations.parse("shift:0.3+contrast:0.2"))
    with tf.GradientTape() as tape:
        tape.watch(images)
        score = tf.reduce_sum(model.log_scores(images, seed=SEED)[:, 0])
    direction = np.random.default_rng(2).normal(size=x.shape).astype(np.float32)
    slope = (tape.gradient(score, images).numpy() * direction).sum()
    up, down = (
        scores_of(linear, "shift:0.3+contrast:0.2", x + step * direction)[:, 0].sum()
        for step in (1e-3, -1e-3)
    )
    assert slope == pytest.approx((up - down) / 2e-3, rel=2e-2)


def test_compiled_and_in_batches_it_is_the_same(linear, x):
    model = Augmented(linear, manipulations.parse("shift:0.4+rotation:30"))
    whole = Predictor(model, seed=0).log_scores(x)
    np.testing.assert_allclose(
        Predictor(model, seed=0, batch_size=2).log_scores(x), whole, atol=1e-5
    )


@pytest.fixture
def subject(linear, x, tmp_path):
    split = Split(x, np.array([0, 1, 2, 0, 1], np.int32))
    dataset = Dataset("tiny", linear.spec, split, split, split)
    return subject_of(linear, dataset, path=tmp_path)


def test_rows_say_what_they_are_means_over_and_stand_beside_the_plain_ones(subject):
    averaged = augmented(subject, "rotation:60", copies=8)
    plain = curves.manipulation_curve(subject, "rotation", [0.0])
    rows = curves.manipulation_curve(averaged, "rotation", [0.0])
    assert [row.variant for row in (*plain, *rows)] == ["", "mean over 8 of rotation:60"]
    assert averaged.loaded is subject.loaded
    assert isinstance(averaged.predictor.classifier, Augmented)
    for one in (subject, averaged):
        steps.evaluate(one, "rotation", [0.0, 30.0], progress=lambda text: None)
    names = sorted(path.name for path in subject.workdir.results.glob("*.rows.json"))
    assert names == [
        "manipulation_rotation.rows.json",
        "manipulation_rotation_mean-over-8-of-rotation-60.rows.json",
    ]


def test_what_does_not_fit_is_one_clear_sentence(linear, subject):
    with pytest.raises(InputError, match="1 copies were asked for"):
        augmented(subject, "rotation:60", copies=1)
    with pytest.raises(InputError, match="'rotation' has no level"):
        augmented(subject, "rotation")
    table = Linear(np.zeros([1, 2]), shape=(1,))
    table.spec = InputSpec((1,), ("a", "b"), Bounds(0.0, 1.0), columns=(Column("x", ("child",)),))
    with pytest.raises(InputError, match="is for images; the inputs are a table's"):
        Augmented(table, manipulations.parse("children_shift:1"))
