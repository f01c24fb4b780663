"""tf.data streams of `Batch`es whose every row is a function of (seed, step)."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tfcama import random
from tfcama.data.base import BLOCK_ROWS, GeneratedSplit, Split
from tfcama.data.manipulations import Sequence
from tfcama.data.transforms import Transforms
from tfcama.types import Batch

_UNLABELLED = -1
_TRANSFORMING = -1  # folded into a step's seed; manipulations draw from that seed itself
# AutoGraph rewrites what tf.data calls before a stream can start; nothing here needs it.
_as_it_is = tf.autograph.experimental.do_not_convert


def _numbers_from(start: int) -> tf.data.Dataset:
    """start, start + 1, …: tf.data's counter is a scan, whose graph outlives the stream."""
    return tf.data.Dataset.range(start, tf.int64.max)


def row_stream(size: int, *, batch_size: int, seed: np.ndarray, start_step: int = 0):
    """Endless batches of row numbers; each pass over the rows is a new permutation.

    Batches run on across the end of a pass, so no row is dropped and a split smaller than a batch
    is no special case. Step s is the same whether the stream began at 0 or at s.

    Args:
      size: number of rows.
      batch_size: rows a step.
      seed: int32 [2].
      start_step: the first step to yield.

    Returns:
      tf.data.Dataset of int64 [batch_size].
    """
    first_pass, skipped = divmod(start_step * batch_size, size)
    passes = _numbers_from(first_pass)

    @_as_it_is
    def shuffled(number: tf.Tensor) -> tf.data.Dataset:
        order = random.shuffled(size, random.fold_in(seed, number))
        return tf.data.Dataset.from_tensor_slices(order)

    rows = passes.flat_map(shuffled)
    return rows.skip(skipped).batch(batch_size, drop_remainder=True)


def example_stream(
    split: Split | GeneratedSplit, *, batch_size: int, seed: np.ndarray, start_step: int = 0
) -> tf.data.Dataset:
    """Endless (x [batch_size, *shape], y [batch_size]), in a new order each pass; see row_stream.

    A generated split is passed block by block, the blocks and the rows of each in a new order each
    pass, and no more than a few blocks are held.
    """
    if isinstance(split, Split):
        x_all, y_all = tf.constant(split.x), tf.constant(split.y)
        return row_stream(len(split), batch_size=batch_size, seed=seed, start_step=start_step).map(
            _as_it_is(lambda rows: (tf.gather(x_all, rows), tf.gather(y_all, rows))),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
    size, generate = len(split), split.block
    blocks = -(-size // BLOCK_ROWS)

    @_as_it_is
    def one_pass(number: tf.Tensor) -> tf.data.Dataset:
        pass_seed = random.fold_in(seed, number)

        def rows_of(block: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            valid = tf.minimum(size - block * BLOCK_ROWS, BLOCK_ROWS)
            order = random.shuffled(BLOCK_ROWS, random.fold_in(pass_seed, block))
            order = tf.boolean_mask(order, order < valid)
            x, y = generate(block)
            return tf.gather(x, order), tf.gather(y, order)

        order = random.shuffled(blocks, random.fold_in(pass_seed, -1))
        made = tf.data.Dataset.from_tensor_slices(order).map(
            _as_it_is(rows_of), num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
        )
        return made.unbatch()

    first_pass, skipped = divmod(start_step * batch_size, size)
    rows = _numbers_from(first_pass).flat_map(one_pass)
    return rows.skip(skipped).batch(batch_size, drop_remainder=True)


def training_stream(
    split: Split | GeneratedSplit,
    *,
    batch_size: int,
    seed: np.ndarray,
    transform: Transforms | None = None,
    augment: Sequence | None = None,
    augment_weight: float = 0.5,
    start_step: int = 0,
) -> tf.data.Dataset:
    """Endless training batches; with `augment`, deep CAMA's Eq. 5.

    Args:
      split: the rows.
      batch_size: clean rows a step. With `augment` as many manipulated copies follow them.
      seed: int32 [2].
      transform: what clean rows go through, before they are manipulated; None for nothing.
      augment: the manipulation of D'; None for clean data alone.
      augment_weight: 1 - lambda of Eq. 5, the weight of the manipulated rows, in [0, 1].
      start_step: the first step to yield, after a resume.
    """
    code_size = augment.code_size if augment is not None else 0

    def clean(step: tf.Tensor, rows: tuple[tf.Tensor, tf.Tensor]) -> Batch:
        x, y = rows
        if transform is not None:
            x = transform(x, seed=random.fold_in(random.fold_in(seed, step), _TRANSFORMING))
        return _clean_batch(x, y, code_size)

    to_batch = clean
    if augment is not None:
        manipulate = augment

        def to_batch(step: tf.Tensor, rows: tuple[tf.Tensor, tf.Tensor]) -> Batch:
            batch = clean(step, rows)
            moved = manipulate(batch.x, y=batch.y, seed=random.fold_in(seed, step))
            ones = tf.ones([batch_size], tf.float32)
            return Batch(
                x=tf.concat([batch.x, moved.x], axis=0),
                y=tf.concat([batch.y, batch.y], axis=0),
                manipulated=tf.concat([batch.manipulated, tf.ones([batch_size], tf.bool)], axis=0),
                m_known=tf.concat([batch.m_known, moved.code], axis=0),
                weight=tf.concat([2 * (1 - augment_weight) * ones, 2 * augment_weight * ones], 0),
                row=tf.range(2 * batch_size),
            )

    rows = example_stream(split, batch_size=batch_size, seed=seed, start_step=start_step)
    steps = _numbers_from(start_step)
    stream = tf.data.Dataset.zip((steps, rows)).map(
        _as_it_is(to_batch), num_parallel_calls=tf.data.AUTOTUNE
    )
    return _ordered(stream)


def finetuning_stream(
    clean: Split | GeneratedSplit,
    unlabelled: np.ndarray,
    *,
    batch_size: int,
    seed: np.ndarray,
    start_step: int = 0,
) -> tf.data.Dataset:
    """Endless pairs for deep CAMA's Eq. 8.

    Args:
      clean: labelled clean rows (training data).
      unlabelled: [N, *shape] manipulated inputs; any N > 0.
      batch_size: rows a step of each.
      seed: int32 [2].
      start_step: the first step to yield, after a resume.

    Returns:
      Dataset of {"clean": Batch, "unlabelled": Batch}; the latter's labels are all -1.
    """
    return _ordered(
        tf.data.Dataset.zip(
            {
                "clean": training_stream(
                    clean,
                    batch_size=batch_size,
                    seed=random.fold_in(seed, 0),
                    start_step=start_step,
                ),
                "unlabelled": unlabelled_stream(
                    unlabelled,
                    batch_size=batch_size,
                    seed=random.fold_in(seed, 1),
                    start_step=start_step,
                ),
            }
        )
    )


def unlabelled_stream(
    x: np.ndarray, *, batch_size: int, seed: np.ndarray, start_step: int = 0
) -> tf.data.Dataset:
    """Endless batches of manipulated inputs, any number above 0; their labels are all -1."""
    x_all = tf.constant(x)
    rows = row_stream(len(x), batch_size=batch_size, seed=seed, start_step=start_step)
    return _ordered(
        rows.map(
            _as_it_is(lambda batch: unlabelled_batch(tf.gather(x_all, batch))),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
    )


def unlabelled_batch(x: tf.Tensor) -> Batch:
    """Inputs [B, *shape] that may be manipulated; their labels are all -1."""
    x = tf.convert_to_tensor(x)
    batch = _clean_batch(x, tf.fill([tf.shape(x)[0]], _UNLABELLED), 0)
    return batch._replace(manipulated=tf.ones([tf.shape(x)[0]], tf.bool))


def evaluation_stream(split: Split, *, batch_size: int, replicas: int = 1) -> tf.data.Dataset:
    """The rows of a split once, in order; the last batch may be smaller.

    Every batch is filled up to a multiple of `replicas`, so that each of them has rows (TensorFlow
    knows no convolution of none), by rows of weight 0.
    """

    def to_batch(x: tf.Tensor, y: tf.Tensor) -> Batch:
        size = tf.shape(x)[0]
        place = tf.range(size + -size % replicas)
        counts = place < size
        place = tf.where(counts, place, 0)
        batch = _clean_batch(tf.gather(x, place), tf.gather(y, place), 0)
        return batch._replace(row=place, weight=tf.cast(counts, tf.float32))

    stream = tf.data.Dataset.from_tensor_slices((split.x, split.y)).batch(batch_size)
    return _ordered(stream.map(_as_it_is(to_batch)))


def _clean_batch(x: tf.Tensor, y: tf.Tensor, code_size: int) -> Batch:
    size = tf.shape(x)[0]
    return Batch(
        x=x,
        y=y,
        manipulated=tf.zeros([size], tf.bool),
        m_known=tf.zeros([size, code_size], tf.float32),
        weight=tf.ones([size], tf.float32),
        row=tf.range(size),
    )


def _ordered(stream: tf.data.Dataset) -> tf.data.Dataset:
    options = tf.data.Options()
    options.deterministic = True
    # Several machines read the whole stream and keep their share of each global batch.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return stream.with_options(options).prefetch(tf.data.AUTOTUNE)
