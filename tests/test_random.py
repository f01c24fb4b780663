import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from tfcama import random


def test_streams_differ_by_root_and_name_and_repeat():
    seeds = [random.stream(0, "a"), random.stream(1, "a"), random.stream(0, "b")]
    assert len({tuple(seed) for seed in seeds}) == 3
    np.testing.assert_array_equal(random.stream(0, "a"), seeds[0])


def test_draws_repeat_for_a_seed_and_differ_between_seeds():
    seed = random.stream(0, "a")
    np.testing.assert_array_equal(random.normal([5], seed), random.normal([5], seed))
    assert not np.allclose(random.normal([5], seed), random.normal([5], random.fold_in(seed, 1)))


def test_normal_and_uniform_have_their_moments():
    seed = random.stream(0, "a")
    normal, uniform = random.normal([100_000], seed), random.uniform([100_000], seed, -1.0, 3.0)
    assert abs(np.mean(normal)) < 0.01
    assert abs(np.std(normal) - 1.0) < 0.01
    assert abs(np.mean(uniform) - 1.0) < 0.01
    assert np.min(uniform) >= -1.0
    assert np.max(uniform) < 3.0


def test_row_draws_do_not_depend_on_how_replicas_share_the_batch():
    whole = random.RowDraws(random.stream(0, "a"), tf.range(6), 6)
    part = whole._replace(rows=tf.constant([4, 2]))
    np.testing.assert_array_equal(part.normal(3, 2), tf.gather(whole.normal(3, 2), [4, 2]))
    np.testing.assert_array_equal(part.uniform(3), tf.gather(whole.uniform(3), [4, 2]))
    assert not np.allclose(whole.fold(0).normal(3), whole.fold(1).normal(3))


def test_row_draws_are_normal_to_the_tails():
    draws = random.RowDraws(random.stream(0, "a"), tf.range(3), 3).normal(333_333)
    for row in draws.numpy():
        assert stats.kstest(row, "norm").pvalue > 0.001
    assert np.isfinite(draws).all()
    # Both halves of a pair come from one radius; they must not know of each other.
    first, second = np.split(np.ravel(draws)[:-1], 2)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.005
    assert abs(np.corrcoef(first**2, second**2)[0, 1]) < 0.005


def test_shuffled_is_a_permutation_that_a_seed_decides():
    order = random.shuffled(50, random.stream(0, "a")).numpy()
    assert sorted(order) == list(range(50))
    assert not np.array_equal(order, np.arange(50))
    np.testing.assert_array_equal(order, random.shuffled(50, random.stream(0, "a")))


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "xla"])
def test_draws_are_those_of_tf_random_wherever_they_are_made(compiled):
    """To the bit: what was trained before goes on as it began."""

    def mine(seed):
        return (
            random.normal([3, 2], seed),
            random.uniform(tf.stack([2, tf.shape(seed)[0]]), seed),
            random.fold_in(seed, 7),
            *random.split(seed, 3),
        )

    def theirs(seed):
        return (
            tf.random.stateless_normal([3, 2], seed=seed, alg="philox"),
            tf.random.stateless_uniform([2, 2], seed=seed, alg="philox"),
            tf.random.fold_in(seed, 7, alg="philox"),
            *tf.unstack(tf.random.split(seed, 3, alg="philox")),
        )

    if compiled:
        mine, theirs = (tf.function(draws, jit_compile=True) for draws in (mine, theirs))
    for root in range(20):
        seed = tf.constant(random.stream(root, "a"))
        for found, expected in zip(mine(seed), theirs(seed), strict=True):
            assert found.dtype == expected.dtype
            np.testing.assert_array_equal(found, expected)


def test_a_draw_in_a_loop_has_the_shape_that_is_known_outside():
    """Or a loop's variables change their shape, which TensorFlow refuses."""

    @tf.function(input_signature=[tf.TensorSpec([None, 3, 1]), tf.TensorSpec([2], tf.int32)])
    def walked(x, seed):
        shape = tf.shape(x)
        for step in tf.range(2):
            x += random.uniform(shape, random.fold_in(seed, step))
            x += random.normal(tf.concat([[1], shape], 0), seed)[0]
        return x

    seed = random.stream(0, "a")
    expected = np.zeros([4, 3, 1], np.float32)
    for step in range(2):
        expected += random.uniform([4, 3, 1], random.fold_in(seed, step))
        expected += random.normal([1, 4, 3, 1], seed)[0]
    np.testing.assert_array_equal(walked(tf.zeros([4, 3, 1]), seed), expected)
