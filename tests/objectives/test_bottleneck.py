"""VIB's bounds and CausalIB's causal loss against closed forms."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats
from tensorflow_probability import distributions as tfd

from tfcama import random
from tfcama.objectives import bottleneck, instruments

GENERATOR = np.random.default_rng(0)


@pytest.fixture
def q_z():
    loc = GENERATOR.normal(size=(2, 3)).astype(np.float32)
    scale = GENERATOR.uniform(0.2, 2.0, size=(2, 3)).astype(np.float32)
    return tfd.Independent(tfd.Normal(loc, scale), 1)


def test_the_rate_is_the_closed_form_and_what_samples_say(q_z):
    loc, scale = q_z.mean().numpy(), q_z.stddev().numpy()
    closed = 0.5 * (loc**2 + scale**2 - 1 - 2 * np.log(scale)).sum(axis=-1)
    np.testing.assert_allclose(bottleneck.rate(q_z), closed, rtol=1e-5)
    z = loc + scale * GENERATOR.normal(size=(200_000, 2, 3))
    sampled = (stats.norm(loc, scale).logpdf(z) - stats.norm.logpdf(z)).sum(axis=-1).mean(axis=0)
    np.testing.assert_allclose(bottleneck.rate(q_z), sampled, rtol=0.02)


def test_the_distortion_is_the_mean_over_samples(q_z):
    logits = GENERATOR.normal(size=(4, 2, 5)).astype(np.float32)
    labels = np.array([1, 3], np.int32)
    log_q = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    expected = [-log_q[:, row, label].mean() for row, label in enumerate(labels)]
    found = bottleneck.expected_cross_entropy(tf.constant(logits), tf.constant(labels))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_bit_is_log_2_nats():
    assert np.log(2.0) * bottleneck.UNITS["bits"] == pytest.approx(bottleneck.UNITS["nats"])


def test_the_strength_is_the_share_within_two_standard_deviations():
    noise = tf.constant([[0.0, 1.9, -2.1, 5.0], [-1.0, 1.0, -1.9, 0.3]])
    np.testing.assert_array_equal(instruments.instrument_strength(noise), [0.5, 1.0])
    many = instruments.instrument_strength(random.normal([4, 100_000], tf.constant([1, 2])))
    np.testing.assert_allclose(many, np.full(4, 0.9545), atol=3e-3)


def test_norms_against_numpy():
    d = np.array([[0.5, -3.0, 0.0], [0.0, 0.0, 0.0]], np.float32)
    np.testing.assert_allclose(instruments.NORMS["l1"](d), [3.5, 0.0])
    np.testing.assert_allclose(instruments.NORMS["l2"](d), [np.sqrt(9.25), 0.0], rtol=1e-6)
    np.testing.assert_allclose(instruments.NORMS["smooth_l1"](d), [0.125 + 2.5, 0.0])


@pytest.mark.parametrize("norm", instruments.NORMS)
def test_norms_have_finite_gradients_at_zero(norm):
    d = tf.zeros([2, 3])
    with tf.GradientTape() as tape:
        tape.watch(d)
        value = instruments.NORMS[norm](d)
    np.testing.assert_array_equal(tape.gradient(value, d), np.zeros([2, 3]))


def drawn(samples, *, batch=2, size=5):
    codes = GENERATOR.normal(size=(samples, batch, size)).astype(np.float32)
    strength = GENERATOR.uniform(0.5, 1.0, size=(samples, batch)).astype(np.float32)
    return codes, strength


def value(form, codes, strength, *, mean=0.0, norm="l1"):
    mean = tf.fill(codes.shape[1:], tf.constant(mean, tf.float32))
    return instruments.FORMS[form](
        tf.constant(codes), mean, tf.constant(strength), norm=instruments.NORMS[norm]
    ).numpy()


def test_both_forms_against_loops():
    codes, r = drawn(4)
    mean, others = 0.3, lambda v, i: np.delete(v, i, axis=0).mean(axis=0)
    crossed = np.mean(
        [
            np.abs(codes[i] * others(r, i)[:, None] - others(codes, i) * r[i][:, None]).sum(-1)
            for i in range(4)
        ],
        axis=0,
    )
    np.testing.assert_allclose(value("cross_multiplied", codes, r, mean=mean), crossed, rtol=1e-5)
    w = (codes - mean) / r[..., None]
    pairs = [np.abs(w[i] - w[j]).sum(-1) for i in range(4) for j in range(4) if i != j]
    np.testing.assert_allclose(value("ratio", codes, r, mean=mean), np.mean(pairs, 0), rtol=1e-5)


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_two_samples_of_the_ratio_times_their_strengths_are_the_cross_product(norm):
    codes, r = drawn(2)
    np.testing.assert_allclose(
        value("cross_multiplied", codes, r, norm=norm),
        r[0] * r[1] * value("ratio", codes, r, norm=norm),
        rtol=1e-4,
    )


def test_both_forms_are_zero_for_one_and_the_same_effect_and_not_otherwise():
    codes, r = drawn(3)
    same = r[..., None] * np.float32([[1.0, -2.0, 0.5, 0.0, 4.0]])
    for form in instruments.FORMS:
        np.testing.assert_allclose(value(form, same, r), 0.0, atol=1e-5)
        assert (value(form, codes, r) > 0.5).all()
        np.testing.assert_allclose(value(form, 3 * codes, r), 3 * value(form, codes, r), rtol=1e-4)


def test_the_mean_of_pairs_is_at_least_the_distance_to_the_mean_of_the_others():
    """Strengths of 1: what is left between the two forms is Jensen's inequality."""
    codes, _ = drawn(6)
    one = np.ones([6, 2], np.float32)
    crossed, pairs = value("cross_multiplied", codes, one), value("ratio", codes, one)
    assert (pairs >= crossed).all()
    assert (pairs <= 2 * crossed).all()


def test_the_ratio_survives_a_sample_without_strength():
    codes, r = drawn(3)
    r[0] = 0.0
    assert np.isfinite(value("ratio", codes, r)).all()
    assert np.isfinite(value("cross_multiplied", codes, r)).all()
