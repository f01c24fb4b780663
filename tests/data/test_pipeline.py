import numpy as np
import pytest
import tensorflow as tf

from tfcama import random
from tfcama.data import manipulations, pipeline
from tfcama.data.base import BLOCK_ROWS, GeneratedSplit, Split

SEED = random.stream(0, "test")


@pytest.fixture
def rows():
    """Every input holds its own row number."""
    numbers = np.arange(10, dtype=np.float32)
    return Split(
        np.ones([10, 4, 4, 1], np.float32) * numbers[:, None, None, None] / 10,
        np.arange(10, dtype=np.int32),
    )


def test_every_pass_holds_every_row_once_in_another_order(rows):
    stream = pipeline.training_stream(rows, batch_size=5, seed=SEED)
    seen = np.concatenate([batch.y.numpy() for batch in stream.take(4)])
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert not np.array_equal(seen[:10], seen[10:])


def test_batches_run_on_across_passes(rows):
    stream = pipeline.training_stream(rows, batch_size=4, seed=SEED)
    seen = np.concatenate([batch.y.numpy() for batch in stream.take(5)])
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))


def test_inputs_stay_with_their_labels(rows):
    for batch in pipeline.training_stream(rows, batch_size=4, seed=SEED).take(3):
        np.testing.assert_allclose(batch.x[:, 0, 0, 0] * 10, batch.y, atol=1e-6)


@pytest.mark.parametrize("augment", [None, "vertical_shift:0.5"])
@pytest.mark.parametrize("start", [1, 2, 3, 7])
def test_a_resumed_stream_goes_on_as_the_unbroken_one(rows, augment, start):
    made = manipulations.parse(augment) if augment else None
    arguments = {"batch_size": 4, "seed": SEED, "augment": made}
    unbroken = list(pipeline.training_stream(rows, **arguments).take(start + 2))[start:]
    resumed = list(pipeline.training_stream(rows, **arguments, start_step=start).take(2))
    for one, two in zip(unbroken, resumed, strict=True):
        for a, b in zip(one, two, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_augmented_batches_carry_both_parts_of_eq_5(rows, weight):
    made = manipulations.parse("vertical_shift:0.5:mode=fixed")
    stream = pipeline.training_stream(
        rows, batch_size=4, seed=SEED, augment=made, augment_weight=weight
    )
    batch = next(iter(stream))
    np.testing.assert_array_equal(batch.manipulated, [False] * 4 + [True] * 4)
    np.testing.assert_array_equal(batch.y[:4], batch.y[4:])
    np.testing.assert_allclose(batch.weight, [2 * (1 - weight)] * 4 + [2 * weight] * 4)
    np.testing.assert_allclose(np.sum(batch.weight), len(batch.y))
    np.testing.assert_allclose(batch.m_known, [[0.0]] * 4 + [[0.5]] * 4)
    np.testing.assert_array_equal(batch.row, range(8))
    assert np.all(batch.x[4:, :2] == 0)  # moved down by half


def test_augmentation_draws_anew_every_step(rows):
    made = manipulations.parse("vertical_shift:0.5")
    stream = pipeline.training_stream(rows, batch_size=10, seed=SEED, augment=made)
    one, two = list(stream.take(2))
    assert not np.allclose(one.m_known[10:], two.m_known[10:])


def test_evaluation_is_every_row_once_in_order(rows):
    batches = list(pipeline.evaluation_stream(rows, batch_size=4))
    assert [len(batch.y) for batch in batches] == [4, 4, 2]
    np.testing.assert_array_equal(np.concatenate([b.y for b in batches]), range(10))
    assert not np.any(np.concatenate([b.manipulated for b in batches]))


@pytest.mark.parametrize(("size", "batch_size", "replicas"), [(9, 4, 2), (10, 5, 4), (8, 4, 3)])
def test_every_replica_has_rows_to_evaluate_and_none_counts_twice(rows, size, batch_size, replicas):
    split = rows.take(slice(size))
    stream = pipeline.evaluation_stream(split, batch_size=batch_size, replicas=replicas)
    batches = list(stream)
    assert all(len(batch.y) % replicas == 0 for batch in batches)
    x, number, weight = (
        np.concatenate([getattr(batch, name) for batch in batches])
        for name in ("x", "row", "weight")
    )
    np.testing.assert_array_equal(x[weight == 1], split.x)
    np.testing.assert_array_equal(number[weight == 1], np.arange(size) % batch_size)
    assert set(weight) <= {0.0, 1.0}
    assert number.max() < batch_size


def test_fine_tuning_pairs_clean_rows_with_unlabelled_ones(rows):
    unlabelled = np.full([3, 4, 4, 1], 0.7, np.float32)  # fewer than a batch
    stream = pipeline.finetuning_stream(rows, unlabelled, batch_size=4, seed=SEED)
    pair = next(iter(stream))
    assert not np.any(pair["clean"].manipulated)
    assert np.all(pair["unlabelled"].manipulated)
    assert np.all(pair["unlabelled"].y == -1)  # no label can leak
    assert np.all(pair["unlabelled"].x == np.float32(0.7))
    later = list(pipeline.finetuning_stream(rows, unlabelled, batch_size=4, seed=SEED).take(3))[2]
    resumed = pipeline.finetuning_stream(rows, unlabelled, batch_size=4, seed=SEED, start_step=2)
    np.testing.assert_array_equal(next(iter(resumed))["clean"].x, later["clean"].x)


def generated(size):
    """Row r of block b is the number b * BLOCK_ROWS + r, its class the same modulo 3."""

    def block(number):
        rows = number * BLOCK_ROWS + tf.range(BLOCK_ROWS, dtype=tf.int64)
        return tf.cast(rows, tf.float32)[:, None], tf.cast(rows % 3, tf.int32)

    return GeneratedSplit(size, block)


def test_a_generated_split_gives_every_row_once_a_pass_in_a_new_order():
    size = 2 * BLOCK_ROWS + 100
    stream = pipeline.example_stream(generated(size), batch_size=4, seed=SEED)
    passes = [
        np.concatenate([x for x, _ in stream.skip(at).take(size // 4)]) for at in (0, size // 4)
    ]
    for rows in passes:
        np.testing.assert_array_equal(np.sort(rows[:, 0]), np.arange(size))
    assert not np.array_equal(passes[0], passes[1])
    x, y = next(iter(stream))
    np.testing.assert_array_equal(y, x[:, 0].numpy().astype(int) % 3)


def test_a_generated_stream_resumes_where_it_was():
    whole = generated(BLOCK_ROWS + 7)
    through = pipeline.training_stream(whole, batch_size=32, seed=SEED)
    resumed = pipeline.training_stream(whole, batch_size=32, seed=SEED, start_step=200)
    for one, two in zip(through.skip(200).take(3), resumed.take(3), strict=True):
        np.testing.assert_array_equal(one.x, two.x)
