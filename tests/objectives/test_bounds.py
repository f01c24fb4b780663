"""Bounds in a linear-Gaussian model, where log p(x, y) is known in closed form.

p(z) = N(0, 1), p(x | z) = N(a z + b, s^2): log p(x) = log N(x; b, a^2 + s^2), and the posterior is
N(a (x - b) / (a^2 + s^2), s^2 / (a^2 + s^2)).
"""

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from tfcama.models.cama_prediction import importance_bound
from tfcama.objectives import bounds, classification
from tfcama.types import LogWeights

A, B, S, LOG_PY = 1.5, 0.3, 0.7, np.log(0.25)
X = np.array([-1.0, 0.4, 2.0])
TRUE_LOC, TRUE_SCALE = A * (X - B) / (A**2 + S**2), S / np.sqrt(A**2 + S**2)
LOG_JOINT = stats.norm(B, np.sqrt(A**2 + S**2)).logpdf(X) + LOG_PY


def weights(loc, scale, *, samples, seed=0):
    z = loc + scale * np.random.default_rng(seed).normal(size=(samples, len(X)))
    terms = (
        stats.norm(A * z + B, S).logpdf(X),
        np.full([1, 1], LOG_PY),
        stats.norm.logpdf(z) - stats.norm(loc, scale).logpdf(z),
        np.zeros([1, 1]),
    )
    return LogWeights(*(tf.constant(term, tf.float32) for term in terms))


def test_elbo_is_tight_at_the_true_posterior():
    found = bounds.elbo(weights(TRUE_LOC, TRUE_SCALE, samples=3))
    np.testing.assert_allclose(found, LOG_JOINT, rtol=1e-5)


@pytest.mark.parametrize(("shift", "stretch"), [(0.3, 1.0), (0.0, 2.0), (-0.2, 0.6)])
def test_elbo_falls_short_by_the_kl(shift, stretch):
    found = bounds.elbo(weights(TRUE_LOC + shift, TRUE_SCALE * stretch, samples=400_000))
    kl = -np.log(stretch) + (stretch**2 + (shift / TRUE_SCALE) ** 2 - 1) / 2
    np.testing.assert_allclose(found, LOG_JOINT - kl, atol=0.02)
    assert np.all(found < LOG_JOINT)


def test_the_importance_bound_grows_with_k_towards_the_truth():
    def bound(samples):
        repeats = [
            importance_bound(
                weights(TRUE_LOC + 0.5, 1.5 * TRUE_SCALE, samples=samples, seed=s).total()
            )
            for s in range(500)
        ]
        return np.mean(repeats, axis=0)

    one, five, fifty = bound(1), bound(5), bound(50)
    assert np.all(one < five)
    assert np.all(five < fifty)
    assert np.all(fifty < LOG_JOINT + 0.01)
    np.testing.assert_allclose(fifty, LOG_JOINT, atol=0.05)


def test_with_one_sample_both_bounds_are_the_same_number():
    w = weights(TRUE_LOC + 0.5, TRUE_SCALE, samples=1)
    np.testing.assert_allclose(bounds.elbo(w), importance_bound(w.total()), rtol=1e-6)


def test_marginal_over_classes_is_log_p_x_for_exact_joints():
    log_py = np.log([0.2, 0.5, 0.3])
    log_px_given_y = np.array([[-3.0, -1.0, -200.0], [-900.0, -901.0, -902.0]])
    found = bounds.marginal_over_classes(tf.constant(log_px_given_y + log_py))
    expected = np.log(np.exp(log_px_given_y[0] + log_py).sum())
    np.testing.assert_allclose(found[0], expected, rtol=1e-6)
    assert np.isfinite(found[1])  # no underflow


def test_bounds_keep_the_axis_of_classes():
    w = LogWeights(
        tf.zeros([4, 2, 3]), tf.zeros([1, 1, 1]), tf.zeros([4, 2, 3]), tf.zeros([1, 2, 1])
    )
    assert bounds.elbo(w).shape == (2, 3)
    assert importance_bound(w.total()).shape == (2, 3)


def test_cross_entropy_is_the_formula():
    scores = np.array([[1.0, 2.0, -1.0], [0.0, 0.0, 0.0]])
    log_softmax = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    found = classification.cross_entropy(tf.constant(scores), tf.constant([1, 2]))
    np.testing.assert_allclose(found, [-log_softmax[0, 1], np.log(3)], rtol=1e-6)
