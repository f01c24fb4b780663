import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from tfcama import random
from tfcama.data import datasets, measurement
from tfcama.data.base import BLOCK_ROWS, GeneratedSplit
from tfcama.data.measurement import MeasurementConfig, MeasurementScm
from tfcama.errors import InputError
from tfcama.types import CHILD, COPARENT, PARENT

SEED = random.stream(0, "test")


@pytest.fixture(scope="module")
def scm():
    return MeasurementScm(0)


@pytest.fixture(scope="module")
def rows(scm):
    return scm.observe(2000, SEED)


def test_the_rows_obey_the_structural_equations(scm, rows):
    a, e_y = rows.a.numpy(), rows.e_y.numpy()
    np.testing.assert_array_equal(
        rows.y, np.argmax(0.2 * a**2 - 0.8 * a + scm.noise_y * e_y, axis=1)
    )
    loc = scm.children_loc(rows.c).numpy()[np.arange(2000), rows.y]
    np.testing.assert_allclose(rows.x, loc + 0.2 * rows.e_x.numpy(), atol=1e-5)
    # Normalised before the noise: unit variance, and the noise on top.
    np.testing.assert_allclose(rows.x.numpy().std(axis=0), np.sqrt(1 + 0.2**2), atol=0.08)
    np.testing.assert_allclose(rows.x.numpy().mean(axis=0), np.zeros(10), atol=0.1)
    assert rows.features.shape == (2000, 20)


def test_the_mean_of_the_children_is_quadratic_in_c_and_in_the_class(scm):
    line = np.linspace(-3, 3, 7, dtype=np.float32)
    direction = np.random.default_rng(0).normal(size=5).astype(np.float32)
    along = scm.children_loc(tf.constant(line[:, None] * direction)).numpy()
    third = np.diff(along, n=3, axis=0)
    np.testing.assert_allclose(third, np.zeros_like(third), atol=1e-4)
    assert np.abs(np.diff(along, n=2, axis=0)).max() > 0.1
    by_class = np.diff(along[0], n=3, axis=0)
    np.testing.assert_allclose(by_class, np.zeros_like(by_class), atol=1e-4)


def test_a_shift_of_c_moves_x_by_its_equation_and_never_y_or_a(scm, rows):
    moved = scm.counterfactual(rows, shift_c=1.5)
    np.testing.assert_array_equal(moved.y, rows.y)
    np.testing.assert_array_equal(moved.a, rows.a)
    np.testing.assert_allclose(moved.c, rows.c + 1.5)
    before, after = (scm.children_loc(r.c).numpy()[np.arange(2000), r.y] for r in (rows, moved))
    np.testing.assert_allclose(moved.x - rows.x, after - before, atol=1e-4)
    assert np.abs(moved.x - rows.x).max() > 1.0


def test_a_shift_of_x_moves_x_alone(scm, rows):
    one = np.zeros(10, np.float32)
    one[3] = -2.0
    moved = scm.counterfactual(rows, shift_x=tf.constant(one))
    np.testing.assert_allclose(moved.x - rows.x, np.broadcast_to(one, rows.x.shape), atol=1e-5)
    np.testing.assert_array_equal(moved.c, rows.c)


def test_a_counterfactual_of_what_was_seen_keeps_the_noise(scm, rows):
    seen = scm.abduct(rows.features, rows.y)
    np.testing.assert_allclose(seen.e_x, rows.e_x, atol=1e-3)
    np.testing.assert_allclose(scm.counterfactual(seen).features, rows.features, atol=1e-5)
    other = (rows.y + 1) % 5
    imagined = scm.counterfactual(seen, y=other)
    loc = scm.children_loc(rows.c).numpy()[np.arange(2000), other]
    np.testing.assert_allclose(imagined.x, loc + 0.2 * rows.e_x.numpy(), atol=1e-4)


def test_the_ideal_posterior_is_bayes_rule(scm, rows):
    x = rows.features[:4]
    found = np.exp(scm.log_posterior(x).numpy())
    draws = np.random.default_rng(0).normal(size=(200_000, 5))
    for row in range(4):
        scores = scm.class_scores(rows.a[row : row + 1]).numpy()[0] + scm.noise_y * draws
        p_y = np.bincount(scores.argmax(axis=1), minlength=5) / len(draws)
        loc = scm.children_loc(rows.c[row : row + 1]).numpy()[0]
        p_x = np.exp(stats.norm(loc, scm.noise_x).logpdf(rows.x[row].numpy()).sum(axis=1))
        np.testing.assert_allclose(found[row], p_y * p_x / (p_y * p_x).sum(), atol=5e-3)


def test_an_intervention_on_c_leaves_the_ideal_posterior_as_it_is(scm, rows):
    moved = scm.counterfactual(rows, shift_c=2.0)
    before, after = (scm.log_posterior(r.features).numpy() for r in (rows, moved))
    np.testing.assert_allclose(np.exp(after), np.exp(before), atol=1e-3)
    shifted = scm.counterfactual(rows, shift_x=1.0)  # while a shift of X does not
    assert np.abs(np.exp(scm.log_posterior(shifted.features)) - np.exp(before)).max() > 0.5


def test_every_parameter_is_seeded(scm, rows):
    again, other = MeasurementScm(0).observe(5, SEED), MeasurementScm(1).observe(5, SEED)
    fresh = scm.observe(5, SEED)
    np.testing.assert_array_equal(again.features, fresh.features)
    np.testing.assert_array_equal(other.a, fresh.a)
    assert not np.allclose(other.x, fresh.x)


def test_the_default_sizes_and_roles_are_the_papers(scm):
    data = datasets.load("measurement")
    assert [len(s) for s in (data.train, data.validation, data.test)] == [450, 50, 500]
    widths = [len(data.spec.features(role)) for role in (PARENT, COPARENT, CHILD)]
    assert widths == [5, 5, 10]
    assert data.spec.num_classes == 5
    assert data.spec.bounds is None


def test_a_wrong_graph_changes_what_models_are_told_and_not_the_rows():
    wrong = MeasurementConfig(declared=("x1:coparent", "a1:ignored", "x2:parent"))
    told = datasets.load("measurement", config=wrong)
    true = datasets.load("measurement")
    np.testing.assert_array_equal(told.train.x, true.train.x)
    assert set(told.spec.features(COPARENT)) == {5, 6, 7, 8, 9, 10}
    assert set(told.spec.features(PARENT)) == {1, 2, 3, 4, 11}
    assert told.world.roles() == {c.name: c.roles for c in true.spec.columns}
    assert wrong.variant == "x1 declared coparent, a1 declared ignored, x2 declared parent"


def test_many_rows_are_generated_in_blocks_that_are_always_the_same():
    config = MeasurementConfig(train_rows=1_000_000)
    train = datasets.load("measurement", config=config).train
    assert isinstance(train, GeneratedSplit)
    assert len(train) == 1_000_000
    x, y = train.block(tf.constant(7, tf.int64))
    again, _ = train.block(tf.constant(7, tf.int64))
    assert x.shape == (BLOCK_ROWS, 20)
    np.testing.assert_array_equal(x, again)
    assert not np.allclose(x, train.block(tf.constant(8, tf.int64))[0])
    np.testing.assert_array_equal(train.sample().y, train.block(tf.constant(0, tf.int64))[1])
    assert len(np.unique(y)) == measurement.NUM_CLASSES


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"train_rows": 0}, "train_rows=0 was given; it must be at least 1"),
        ({"noise_x": 0.0}, "noise_x=0 was given; it must be positive"),
        ({"declared": ("x1",)}, "takes column:role; 'x1' was given"),
        ({"declared": ("x11:parent",)}, "unknown column 'x11'"),
        ({"declared": ("x1:coparents",)}, "did you mean 'coparent'"),
    ],
)
def test_bad_choices_are_one_clear_sentence(change, sentence):
    with pytest.raises(InputError, match=sentence):
        dataclasses.replace(MeasurementConfig(), **change)
