"""Randomized smoothing of linear classifiers, whose certificate is known in closed form."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from tests.doubles import Linear, binary, subject_of
from tfcama import random
from tfcama.errors import InputError
from tfcama.evaluation import smoothed as smoothing
from tfcama.evaluation.smoothed import ABSTAIN, Certificate, Smoothed
from tfcama.evaluation.subject import Subject
from tfcama.types import InputSpec

SEED = random.stream(0, "smoothing")
SIGMA = 0.5


@pytest.fixture(scope="module")
def linear():
    """Two classes by the sign of w x, ||w|| = 1, and inputs at known distances from the border."""
    base, w = binary((2, 2, 1), bounds=None)
    unit = w / np.linalg.norm(w)
    distances = np.array([-1.2, -0.4, -0.02, 0.02, 0.6])
    x = (distances[:, None] * unit).reshape(-1, 2, 2, 1).astype(np.float32)
    return Smoothed(base, sigma=SIGMA), x, distances


def test_votes_are_what_the_normal_distribution_says(linear):
    model, x, distances = linear
    votes = model.votes(x, seed=SEED, copies=4000)
    assert (votes.sum(axis=1) == 4000).all()
    np.testing.assert_allclose(votes[:, 1] / 4000, stats.norm.cdf(distances / SIGMA), atol=0.025)


def test_radii_are_below_the_distance_to_the_border_and_near_it(linear):
    """The smoothed linear classifier changes its answer exactly at the border."""
    model, x, distances = linear
    found = smoothing.certify(model, x, seed=SEED, estimation=4000)
    clear = np.abs(distances) > 0.1
    np.testing.assert_array_equal(found.labels[clear], (distances > 0)[clear])
    assert (found.radii <= np.abs(distances)).all()
    np.testing.assert_allclose(found.radii[1], 0.4, atol=0.06)
    np.testing.assert_array_equal(found.labels[~clear], ABSTAIN)
    np.testing.assert_array_equal(found.radii[~clear], 0.0)


def test_no_radius_exceeds_what_the_votes_can_show(linear):
    model, _, _ = linear
    far = 100 * np.ones([1, 2, 2, 1], np.float32)
    found = smoothing.certify(model, far, seed=SEED, estimation=50, failure=0.01)
    np.testing.assert_allclose(found.radii, SIGMA * stats.norm.ppf(0.01 ** (1 / 50)), rtol=1e-6)
    largest = smoothing.largest_radius(SIGMA, estimation=50, failure=0.01)
    np.testing.assert_allclose(found.radii, largest, rtol=1e-6)
    assert smoothing.largest_radius(SIGMA, estimation=3, failure=0.01) == 0.0


def test_prediction_abstains_where_votes_are_even(linear):
    model, x, distances = linear
    labels = smoothing.predict(model, x, seed=SEED, copies=300)
    expected = np.where(np.abs(distances) < 0.1, ABSTAIN, distances > 0)
    np.testing.assert_array_equal(labels, expected)


def test_the_bound_is_clopper_and_pearsons():
    for hits in (0, 1, 60, 100):
        exact = stats.binomtest(hits, 100, alternative="greater").proportion_ci(0.999, "exact")
        found = smoothing.lower_confidence(np.array([hits]), 100, failure=0.001)
        assert found[0] == pytest.approx(exact.low)


def test_soft_votes_are_the_mean_of_probabilities(linear):
    model, x, _ = linear
    scores = model.log_scores(tf.constant(x), seed=tf.constant(SEED)).numpy()
    np.testing.assert_allclose(np.exp(scores).sum(axis=1), 1.0, rtol=1e-5)
    alone = model.log_scores(tf.constant(x[2:3]), seed=tf.constant(SEED)).numpy()
    np.testing.assert_allclose(scores[2:3], alone, atol=1e-5)


def test_every_copy_has_a_draw_of_a_stochastic_classifier_s_own():
    class Coin(Linear):
        def log_scores(self, x, *, seed):
            return super().log_scores(0.0 * x, seed=seed) + random.normal([1, 2], seed)

    coin = Coin(np.zeros([4, 2]), shape=(2, 2, 1), bounds=None)
    votes = Smoothed(coin, sigma=SIGMA).votes(np.zeros([1, 2, 2, 1]), seed=SEED, copies=200)
    assert votes.min() > 60


def test_what_chooses_the_class_does_not_bound_its_share(linear, monkeypatch):
    model, x, _ = linear
    seeds, votes = [], model.votes

    def noted(x, *, seed, copies):
        seeds.append(tuple(seed))
        return votes(x, seed=seed, copies=copies)

    monkeypatch.setattr(model, "votes", noted)
    smoothing.certify(model, x, seed=SEED, selection=10, estimation=10)
    assert len(set(seeds)) == 2


def test_certified_accuracy_counts_right_answers_within_the_radius():
    found = Certificate(np.array([0, 1, ABSTAIN, 1]), np.array([0.3, 0.1, 0.0, 0.5]))
    y = np.array([0, 1, 1, 0])
    assert [found.accuracy(y, r) for r in (0.0, 0.2, 0.4)] == [0.5, 0.25, 0.0]


@pytest.mark.parametrize("sigma", [0.0, -0.5])
def test_smoothing_needs_noise(sigma):
    with pytest.raises(InputError, match="smoothing needs noise above 0"):
        Smoothed(binary()[0], sigma=sigma)


def test_bad_certification_is_refused(linear):
    model, x, _ = linear
    with pytest.raises(InputError, match="at least 1 vote and a probability inside"):
        smoothing.certify(model, x, seed=SEED, estimation=0)
    table = Linear(np.ones([3, 2]), shape=(3,))
    table.spec = InputSpec((3,), ("a", "b"), None, columns=("a", "b", "c"), target="y")
    with pytest.raises(InputError, match="smoothing is for images"):
        Smoothed(table, sigma=0.5)


class Nowhere:
    root = "runs/dnn"


@pytest.mark.parametrize(
    ("defence", "sentence"),
    [("", "was trained without noise"), ("mixup:alpha=1", "was trained with mixup:alpha=1")],
)
def test_a_radius_of_a_run_without_noise_is_refused(defence, sentence):
    @dataclasses.dataclass
    class Loaded:
        config: object

    class Config:
        class training:  # noqa: N801
            pass

    Config.training.defence = defence
    subject = Subject(Nowhere(), Loaded(Config), None, None)
    with pytest.raises(InputError, match=sentence):
        smoothing.smoothed(subject)


def test_a_run_is_smoothed_with_the_noise_it_was_trained_with(bars):
    subject = subject_of(Linear(np.ones([784, 3]), shape=(28, 28, 1)), bars)
    training = dataclasses.replace(subject.loaded.config.training, defence="noise:sigma=0.7")
    config = dataclasses.replace(subject.loaded.config, training=training)
    subject = dataclasses.replace(subject, loaded=subject.loaded._replace(config=config))
    assert smoothing.smoothed(subject, copies=3).scorer.sigma == 0.7
