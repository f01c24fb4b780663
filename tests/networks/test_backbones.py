"""Backbones: published sizes, scaling of inputs, and what does not fit."""

import numpy as np
import pytest
import tensorflow as tf

from tfcama import random
from tfcama.errors import InputError
from tfcama.models.backbone_classifier import BackboneClassifier, ClassifierConfig
from tfcama.networks.backbones import registry
from tfcama.networks.norms import NORMS
from tfcama.types import Bounds, InputSpec

TEN = tuple("0123456789")
MNIST = InputSpec((28, 28, 1), TEN, Bounds(0.0, 1.0))
CIFAR = InputSpec((32, 32, 3), TEN, Bounds(0.0, 1.0))

# With a linear layer to ten classes. AlexNet: 2.47 M (bearpaw/pytorch-classification);
# PreActResNet-18: 11,172,170 (Rice et al., 2020); ResNet-34: 21.28 M; WideResNet-34-10:
# 46,160,474 (TRADES). The mlp: the CausalIB authors' 784-1024-1024-256-10.
PUBLISHED = {
    "mlp": (MNIST, 256, 2_118_410),
    "alexnet": (CIFAR, 0, 2_472_266),
    "preact_resnet18": (CIFAR, 0, 11_172_170),
    "resnet34": (CIFAR, 0, 21_280_330),
    "wide_resnet": (CIFAR, 0, 46_160_474),
}


def test_every_backbone_has_a_published_size():
    assert set(PUBLISHED) == set(registry.BACKBONES)


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_as_many_as_published(name):
    spec, hidden, published = PUBLISHED[name]
    config = ClassifierConfig(backbone=name, kernel_initializer="zeros", hidden=hidden)
    model = BackboneClassifier(spec, config)
    assert sum(int(np.prod(v.shape)) for v in model.trainable_variables) == published


@pytest.fixture(scope="module")
def small():
    random.seed_everything(0)
    made = registry.parse("wide_resnet:depth=10:width=1")
    return made.build(CIFAR, kernel_initializer="he_normal")


def test_inputs_are_scaled_to_minus_one_to_one():
    """The features of [0, 1] inputs are those of the tower at 2 x - 1."""
    backbone = registry.parse("mlp:units=4:layers=1").build(MNIST, kernel_initializer="he_normal")
    x = np.random.default_rng(0).uniform(size=(3, 28, 28, 1)).astype(np.float32)
    features = backbone(tf.constant(x))
    kernel, bias = (v.numpy() for v in backbone.trainable_variables)
    expected = np.maximum((2 * x - 1).reshape(3, -1) @ kernel + bias, 0)
    np.testing.assert_allclose(features, expected, atol=1e-4)


def test_what_is_missing_in_a_table_reads_as_its_mean():
    spec = InputSpec((3,), ("a", "b"), None)
    backbone = registry.parse("mlp:units=4").build(spec, kernel_initializer="he_normal")
    missing, mean = tf.constant([[1.0, np.nan, 2.0]]), tf.constant([[1.0, 0.0, 2.0]])
    np.testing.assert_array_equal(backbone(missing), backbone(mean))


def test_a_residual_net_halves_twice_and_averages(small):
    x = tf.constant(np.random.default_rng(0).uniform(size=(2, 32, 32, 3)), tf.float32)
    assert small(x).shape == (2, 64)
    inner = 2.0 * x - 1.0
    for block, size in zip([small._stem, *small._blocks], (32, 32, 16, 8), strict=True):
        inner = block(inner)
        assert inner.shape[1:3] == (size, size)


def test_prediction_does_not_depend_on_the_batch_and_learning_does(small):
    x = tf.constant(np.random.default_rng(1).uniform(size=(3, 32, 32, 3)), tf.float32)
    together = small(x)
    np.testing.assert_allclose(together[:1], small(x[:1]), atol=1e-4)
    assert not np.allclose(together, small(x, batch=True), atol=1e-2)


def test_group_norm_normalises_each_example_by_itself():
    norm = NORMS["group"]()
    x = np.random.default_rng(0).normal(3.0, 2.0, size=(2, 5, 5, 48)).astype(np.float32)
    out = norm(tf.constant(x), batch=True, update=True).numpy()
    assert norm.groups == 16
    grouped = x.reshape(2, 25, 16, 3)
    mean, spread = (f(grouped, axis=(1, 3), keepdims=True) for f in (np.mean, np.std))
    np.testing.assert_allclose(out.reshape(grouped.shape), (grouped - mean) / spread, atol=1e-2)
    np.testing.assert_allclose(out[:1], norm(tf.constant(x[:1])), atol=1e-5)


@pytest.mark.parametrize(
    ("text", "spec", "sentence"),
    [
        ("alexnet", MNIST, r"'alexnet' takes images of 29x29 pixels or more; inputs are \[28, 28"),
        ("resnet34", InputSpec((6,), ("a", "b"), None), "'resnet34' takes images of 8x8"),
        ("wide_resnet:depth=12", CIFAR, "depth=12 was given; a wide_resnet has 10, 16"),
        ("wide_resnet:width=0", CIFAR, "width=0 was given; it must be at least 1"),
        ("resnet34:norm=layer", CIFAR, "unknown norm 'layer'"),
        ("resnet43", CIFAR, "did you mean 'resnet34'"),
        ("mlp:3", MNIST, "mlp takes options alone"),
    ],
)
def test_what_does_not_fit_is_refused(text, spec, sentence):
    with pytest.raises(InputError, match=sentence):
        registry.parse(text).build(spec, kernel_initializer="zeros")
