import numpy as np
import pytest
import tensorflow as tf

from tfcama.networks.spatial_transformer import SpatialTransformer, resampled
from tfcama.warp import pixel_grid, sample_bilinear

IDENTITY = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).uniform(size=(3, 9, 9, 2)).astype(np.float32)


def test_it_starts_as_the_identity(x):
    layer = SpatialTransformer()
    np.testing.assert_array_equal(layer.theta(tf.constant(x)), [IDENTITY] * 3)
    np.testing.assert_allclose(layer(tf.constant(x)), x, atol=1e-6)


def test_it_learns_from_the_start(x):
    layer, target = SpatialTransformer(), np.roll(x, 1, axis=2)
    layer(tf.constant(x))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.square(layer(tf.constant(x)) - target))
    last = layer.trainable_variables[-2]
    assert np.abs(tape.gradient(loss, last.value)).max() > 0


def test_a_known_theta_is_plain_sampling(x):
    theta = np.array([0.9, -0.3, 0.25, 0.2, 1.1, -0.5], np.float32)
    grid = pixel_grid(9, 9)
    points = np.stack(
        [
            0.9 * grid[..., 0] - 0.3 * grid[..., 1] + 0.25 * 4,  # 4 pixels: half the frame
            0.2 * grid[..., 0] + 1.1 * grid[..., 1] - 0.5 * 4,
        ],
        axis=-1,
    ).astype(np.float32)
    expected = sample_bilinear(tf.constant(x), tf.constant(np.stack([points] * 3)))
    np.testing.assert_allclose(
        resampled(tf.constant(x), np.stack([theta] * 3)), expected, atol=1e-5
    )


@pytest.mark.parametrize(
    ("theta", "moved"),
    [
        ([1, 0, 0.25, 0, 1, 0], lambda x: np.pad(x[:, :, 1:], ((0, 0), (0, 0), (0, 1), (0, 0)))),
        ([1, 0, 0, 0, 1, -0.5], lambda x: np.pad(x[:, :-2], ((0, 0), (2, 0), (0, 0), (0, 0)))),
        ([0, -1, 0, 1, 0, 0], lambda x: np.rot90(x, axes=(1, 2))),
    ],
)
def test_whole_pixels_and_quarter_turns_are_exact(x, theta, moved):
    found = resampled(tf.constant(x), np.array([theta] * 3, np.float32))
    np.testing.assert_allclose(found, moved(x), atol=1e-5)
