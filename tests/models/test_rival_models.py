"""The models of what a user would do instead: cnn_bn and stn_cnn."""

import numpy as np
import pytest
import tensorflow as tf

from tfcama import random
from tfcama.errors import InputError
from tfcama.models.batch_norm_classifier import cnn_bn
from tfcama.models.discriminative import DiscriminativeConfig, cnn, cnn_binary
from tfcama.models.stn_cnn import stn_cnn
from tfcama.types import InputSpec

DRAWS = random.RowDraws(tf.constant([1, 2]), tf.range(7), 7)


def made(build, spec):
    random.seed_everything(0)
    return build(spec, DiscriminativeConfig())


def statistics(model):
    return [v.numpy() for v in model.non_trainable_variables]


def test_statistics_move_in_training_and_not_in_prediction(spec, images):
    model = made(cnn_bn, spec)
    before = statistics(model)
    assert len(before) == 2 * 4  # a mean and a variance for each convolution
    model.log_scores(tf.constant(images), seed=tf.constant([0, 0]))
    model.logits(tf.constant(images), batch_statistics=True)
    for ours, theirs in zip(statistics(model), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    model.logits(tf.constant(images), draws=DRAWS)
    assert not any(np.array_equal(a, b) for a, b in zip(statistics(model), before, strict=True))


def test_batch_statistics_are_training_without_dropout(spec, images):
    model = made(cnn_bn, spec)
    x = tf.constant(images)
    frozen, batch = model.logits(x), model.logits(x, batch_statistics=True)
    assert not np.allclose(frozen, batch, atol=1e-2)
    assert not np.allclose(batch, model.logits(x, draws=DRAWS), atol=1e-2)
    np.testing.assert_array_equal(batch, model.logits(x, batch_statistics=True))


def test_norms_stand_between_convolutions_and_their_relus(spec):
    model = made(cnn_bn, spec)
    for place in model.norms():
        names = [type(layer).__name__ for layer in model.stack[place - 1 : place + 2]]
        assert names == ["Conv2D", "BatchNorm", "ReLU"]
    groups = model.variable_groups()
    assert len(groups["scale_shift"]) == 2 * 4
    assert {v.name for v in groups["scale_shift"]} == {"scale", "shift"}


def test_a_spatial_transformer_starts_as_the_cnn_behind_it(spec, images):
    """The images in front of the convolutions are the input's, to rounding."""
    model = made(stn_cnn, spec)
    np.testing.assert_allclose(model.stack[0](tf.constant(images)), images, atol=1e-5)
    plain = made(cnn, spec)
    for ours, theirs in zip(model.variables[-len(plain.variables) :], plain.variables, strict=True):
        theirs.assign(ours)
    np.testing.assert_allclose(
        model.logits(tf.constant(images)), plain.logits(tf.constant(images)), atol=1e-3
    )


@pytest.mark.parametrize("build", [cnn, cnn_binary, cnn_bn, stn_cnn])
def test_tables_are_refused(build):
    with pytest.raises(InputError, match=f"{build.__name__} takes images; inputs are"):
        build(InputSpec((6,), ("a", "b"), None), DiscriminativeConfig())
