import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats
from tensorflow_probability import distributions as tfd

from tfcama import random
from tfcama.errors import InputError
from tfcama.networks.dropout import dropout
from tfcama.networks.heads import NormalHead
from tfcama.networks.likelihoods import LIKELIHOODS
from tfcama.networks.towers import ConvTower, DeconvTower, Mlp


def test_towers_have_the_papers_shapes():
    assert Mlp((5, 3))(tf.zeros([2, 4, 6])).shape == (2, 4, 3)
    assert ConvTower((64, 64, 64))(tf.zeros([2, 28, 28, 1])).shape == (2, 4 * 4 * 64)
    assert ConvTower((64, 64, 64))(tf.zeros([2, 32, 32, 3])).shape == (2, 4 * 4 * 64)
    mnist = DeconvTower((7, 14, 28), channels=(8, 8, 1), start=4)
    assert mnist(tf.zeros([2, 4, 4, 64])).shape == (2, 28, 28, 1)
    cifar = DeconvTower((8, 16, 32, 32), channels=(8, 8, 8, 3), start=4)
    assert cifar(tf.zeros([2, 4, 4, 64])).shape == (2, 32, 32, 3)


def test_an_mlp_without_layers_changes_nothing():
    x = tf.random.stateless_normal([3, 4], seed=[0, 0])
    np.testing.assert_array_equal(Mlp(())(x), x)


def test_normal_head_is_the_normal_its_parameters_say():
    head, features = NormalHead(2), tf.random.stateless_normal([5, 3], seed=[0, 1])
    q = head(features)
    loc, log_variance = np.split(head._parameters(features).numpy(), 2, axis=-1)
    z = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)
    expected = stats.norm(loc, np.exp(log_variance / 2)).logpdf(z).sum(axis=-1)
    np.testing.assert_allclose(q.log_prob(z), expected, rtol=1e-4)
    assert q.batch_shape == (5,)
    assert q.event_shape == (2,)


def test_normal_head_stays_finite_whatever_the_features():
    q = NormalHead(2)(1e6 * tf.random.stateless_normal([50, 3], seed=[0, 1]))
    assert np.all(np.isfinite(q.stddev()))
    assert np.all(q.stddev() > 0)


def test_kl_in_closed_form_equals_monte_carlo():
    q = NormalHead(3)(tf.random.stateless_normal([2, 4], seed=[0, 2]))
    p = tfd.Independent(tfd.Normal(tf.zeros([3]), 1.0), 1)
    z = q.sample(200_000, seed=[1, 2])
    sampled = tf.reduce_mean(q.log_prob(z) - p.log_prob(z), axis=0)
    np.testing.assert_allclose(q.kl_divergence(p), sampled, rtol=0.02)


@pytest.fixture(scope="module")
def pixels():
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(3, 4, 4, 1)).astype(np.float32) * 3
    x = generator.uniform(size=(3, 4, 4, 1)).astype(np.float32)
    return logits, x


def sigmoid(logits):
    return 1 / (1 + np.exp(-logits))


def test_bernoulli_is_tfps_and_the_formula(pixels):
    logits, x = pixels
    ours = LIKELIHOODS["bernoulli"](scale=1.0)(logits)
    theirs = tfd.Independent(tfd.Bernoulli(logits=logits, dtype=tf.float32), 3)
    s = sigmoid(logits)
    formula = (x * np.log(s) + (1 - x) * np.log(1 - s)).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(ours.log_prob(x), theirs.log_prob(x), rtol=1e-5)
    np.testing.assert_allclose(ours.log_prob(x), formula, rtol=1e-4)
    np.testing.assert_allclose(ours.mean(), s, rtol=1e-5)


def test_bernoulli_stays_finite_at_huge_logits(pixels):
    _, x = pixels
    assert np.all(np.isfinite(LIKELIHOODS["bernoulli"](scale=1.0)(x * 1e5).log_prob(x)))


def test_gaussian_is_the_formula(pixels):
    logits, x = pixels
    formula = stats.norm(sigmoid(logits), 0.3).logpdf(x).sum(axis=(1, 2, 3))
    p = LIKELIHOODS["gaussian"](scale=0.3)(logits)
    np.testing.assert_allclose(p.log_prob(x), formula, rtol=1e-4)


def test_l2_is_deepbayes_up_to_its_constant(pixels):
    logits, x = pixels
    formula = -((x - sigmoid(logits)) ** 2).sum(axis=(1, 2, 3)) - 16 / 2 * np.log(np.pi)
    np.testing.assert_allclose(LIKELIHOODS["l2"](scale=0.3)(logits).log_prob(x), formula, rtol=1e-4)


def test_a_scale_must_be_positive():
    with pytest.raises(InputError, match="likelihood_scale=0 was given; it must be positive"):
        LIKELIHOODS["gaussian"](scale=0.0)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_distributions_are_float32_under_bfloat16(name, pixels):
    logits, x = pixels
    p = LIKELIHOODS[name](scale=0.3)(tf.cast(logits, tf.bfloat16))
    assert p.log_prob(x).dtype == tf.float32
    head = NormalHead(2, dtype=keras.DTypePolicy("mixed_bfloat16"))
    assert head(tf.zeros([1, 3])).mean().dtype == tf.float32


def test_dropout_drops_its_share_and_keeps_the_mean():
    x = tf.ones([200, 500])
    dropped = dropout(x, 0.25, random.RowDraws(random.stream(0, "d"), tf.range(200), 200)).numpy()
    assert abs((dropped == 0).mean() - 0.25) < 0.01
    np.testing.assert_allclose(np.unique(dropped), [0.0, 1 / 0.75], rtol=1e-6)
    np.testing.assert_array_equal(dropout(x, 0.25, None), x)
