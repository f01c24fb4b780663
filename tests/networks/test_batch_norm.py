import keras
import numpy as np
import pytest
import tensorflow as tf

from tfcama.networks.batch_norm import BatchNorm


@pytest.fixture
def layer():
    norm = BatchNorm()
    norm.build((None, 3, 3, 2))
    norm.scale.assign([2.0, 0.5])
    norm.shift.assign([1.0, -1.0])
    norm.mean.assign([0.3, -0.2])
    norm.variance.assign([4.0, 0.25])
    return norm


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(5.0, 3.0, size=(6, 3, 3, 2)).astype(np.float32)


def normalised(x, mean, variance):
    scaled = (x - np.asarray(mean)) / np.sqrt(np.asarray(variance) + 1e-3)
    return scaled * np.array([2.0, 0.5]) + np.array([1.0, -1.0])


def test_prediction_takes_the_running_statistics_and_leaves_them(layer, x):
    np.testing.assert_allclose(layer(x), normalised(x, [0.3, -0.2], [4.0, 0.25]), rtol=1e-4)
    np.testing.assert_allclose(layer.mean, [0.3, -0.2])
    np.testing.assert_allclose(layer.variance, [4.0, 0.25])


def test_a_batch_is_normalised_by_its_own_statistics(layer, x):
    mean, variance = x.mean(axis=(0, 1, 2)), x.var(axis=(0, 1, 2))
    np.testing.assert_allclose(layer(x, batch=True), normalised(x, mean, variance), atol=1e-4)
    np.testing.assert_allclose(layer.mean, [0.3, -0.2])  # asked for, not followed
    theirs = keras.layers.BatchNormalization()
    theirs.build(x.shape)
    theirs.gamma.assign([2.0, 0.5])
    theirs.beta.assign([1.0, -1.0])
    np.testing.assert_allclose(layer(x, batch=True), theirs(x, training=True), atol=1e-4)


def test_running_statistics_follow_the_batch_by_a_tenth(layer, x):
    layer(x, batch=True, update=True)
    axes = (0, 1, 2)
    np.testing.assert_allclose(
        layer.mean, 0.9 * np.array([0.3, -0.2]) + 0.1 * x.mean(axis=axes), rtol=1e-5
    )
    np.testing.assert_allclose(
        layer.variance, 0.9 * np.array([4.0, 0.25]) + 0.1 * x.var(axis=axes), rtol=1e-5
    )


def test_bfloat16_features_are_normalised_in_float32(x):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        norm = BatchNorm()
    finally:
        keras.config.set_dtype_policy("float32")
    far = tf.cast(x + 1000.0, tf.bfloat16)  # bfloat16 alone could not tell the variance
    out = norm(far, batch=True, update=True)
    assert out.dtype == tf.bfloat16
    assert {v.dtype for v in norm.variables} == {"float32"}
    exact = tf.cast(far, tf.float32).numpy()
    np.testing.assert_allclose(norm.mean, 0.1 * exact.mean(axis=(0, 1, 2)), rtol=1e-4)
