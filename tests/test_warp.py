import numpy as np
import tensorflow as tf

from tfcama.warp import sample_bilinear, sample_upright

GENERATOR = np.random.default_rng(0)


def test_rows_and_columns_are_points_of_a_grid():
    """Values and derivatives, between pixels, on them, at the edge and far outside."""
    images = tf.constant(GENERATOR.normal(size=(3, 5, 6, 2)), tf.float32)
    columns = np.array([[-9.0, -2.5, -1.0, 0.25], [-3.2, 0.5, 1.5, 2.9], [0.0, 1.1, 2.5, 3.4]])
    rows = np.array([[-2.0, -0.4, 2.7], [-2.6, 0.0, 1.0], [0.6, 2.0, 40.0]])
    columns, rows = tf.constant(columns, tf.float32), tf.constant(rows, tf.float32)

    def at_points(images, columns, rows):
        ones = tf.ones([3, 3, 4])
        points = tf.stack([columns[:, None] * ones, rows[:, :, None] * ones], axis=-1)
        return sample_bilinear(images, points)

    def at_crossings(images, columns, rows):
        found = sample_upright(tf.transpose(images, [0, 3, 1, 2]), columns, rows)
        return tf.transpose(found, [0, 2, 3, 1])

    weight = tf.constant(GENERATOR.normal(size=(3, 3, 4, 2)), tf.float32)
    found = []
    for sample in (at_points, at_crossings):
        inputs = [images, columns, rows]
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            values = sample(*inputs)
            loss = tf.reduce_sum(weight * values)
        found.append([values, *tape.gradient(loss, inputs)])
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    assert np.abs(found[0][2]).max() > 0.1


def test_leading_axes_share_the_grid():
    images = tf.constant(GENERATOR.normal(size=(2, 3, 4, 5, 6)), tf.float32)
    columns, rows = (
        tf.constant(GENERATOR.uniform(-3, 3, (3, size)), tf.float32) for size in (2, 7)
    )
    together = sample_upright(images, columns, rows)
    assert together.shape == (2, 3, 4, 7, 2)
    for part, whole in zip(images, together, strict=True):
        np.testing.assert_allclose(sample_upright(part, columns, rows), whole, atol=1e-6)


def test_nan_is_no_place_and_stays_nan():
    images = tf.ones([1, 3, 4, 1])
    points = tf.constant([[[[np.nan, 0.0], [0.0, 0.0]]]], tf.float32)
    found = sample_bilinear(images, points).numpy().ravel()
    assert np.isnan(found[0])
    assert found[1] == 1.0
