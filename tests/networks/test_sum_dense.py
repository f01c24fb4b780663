import keras
import numpy as np
import tensorflow as tf

from tfcama.networks.sum_dense import SumDense


def parts_and_dense():
    """Parts at their own shapes, and Dense over their concatenation with the same kernel."""
    generator = np.random.default_rng(0)
    shapes = ([1, 3, 4], [5, 1, 2], [2, 5, 3, 6])  # y, m, z
    parts = tuple(tf.constant(generator.normal(size=s), tf.float32) for s in shapes)
    layer, dense = SumDense(7, sizes={"a": 4, "b": 2, "c": 6}), keras.layers.Dense(7)
    dense.build([None, 12])
    layer.bias.assign(generator.normal(size=7))
    dense.set_weights(layer.get_weights())
    return parts, layer, dense


def concatenated(parts, dense):
    lead = (2, 5, 3)
    return dense(tf.concat([tf.broadcast_to(p, (*lead, p.shape[-1])) for p in parts], axis=-1))


def test_values_equal_dense_over_the_concatenation():
    parts, layer, dense = parts_and_dense()
    np.testing.assert_allclose(layer(parts), concatenated(parts, dense), rtol=1e-5, atol=1e-5)


def test_gradients_equal_dense_over_the_concatenation():
    parts, layer, dense = parts_and_dense()
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(parts)
        ours = tf.reduce_sum(tf.sin(layer(parts)))
        theirs = tf.reduce_sum(tf.sin(concatenated(parts, dense)))
    for a, b in zip(tape.gradient(ours, parts), tape.gradient(theirs, parts), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    for a, b in (("kernel", "kernel"), ("bias", "bias")):
        np.testing.assert_allclose(
            tape.gradient(ours, getattr(layer, a).value),
            tape.gradient(theirs, getattr(dense, b).value),
            rtol=1e-4,
            atol=1e-4,
        )


def test_a_layer_adopts_the_parts_that_the_other_has_and_its_bias():
    _, other, _ = parts_and_dense()
    layer = SumDense(7, sizes={"a": 4, "new": 3, "c": 6})
    new = layer.kernel.numpy()[4:7]
    layer.adopt(other)
    kernel = np.concatenate([other.kernel[:4], new, other.kernel[6:]])
    np.testing.assert_array_equal(layer.kernel, kernel)
    np.testing.assert_array_equal(layer.bias, other.bias)


def test_initialisation_has_the_fan_in_of_the_concatenation():
    kernel = SumDense(2000, sizes={"a": 300, "b": 100, "c": 100}).kernel.numpy()
    np.testing.assert_allclose(kernel.std(), np.sqrt(2 / 500), rtol=0.02)
