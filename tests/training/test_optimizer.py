import keras
import numpy as np
import pytest
import tensorflow as tf

from tfcama.training.optimizer import Adam
from tfcama.training.run import WarmUp


def _moved(optimizer, *, jit_compile: bool = False) -> list[np.ndarray]:
    """Values after a few steps, and then the optimiser's state."""
    generator = np.random.default_rng(0)
    variables = [
        keras.Variable(generator.normal(size=shape).astype(np.float32)) for shape in ((4, 3), (5,))
    ]
    optimizer.build(variables)

    @tf.function(jit_compile=jit_compile)
    def step(gradients):
        optimizer.apply_gradients(list(zip(gradients, variables, strict=True)))

    for _ in range(5):
        step([tf.constant(generator.normal(size=v.shape), tf.float32) for v in variables])
    return [v.numpy() for v in (*variables, *optimizer.variables)]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"beta_1": 0.5, "beta_2": 0.9, "epsilon": 1e-3},
        {"weight_decay": 0.1},
        {"amsgrad": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_the_fused_update_is_keras_adam(options, jit_compile):
    rate = keras.optimizers.schedules.PolynomialDecay(0.1, 10)
    ours = _moved(Adam(rate, **options), jit_compile=jit_compile)
    theirs = _moved(keras.optimizers.Adam(rate, **options))
    for mine, keras_own in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, keras_own, rtol=2e-5, atol=2e-6)


def test_a_sparse_gradient_takes_keras_own_way():
    table = keras.Variable(np.ones((4, 2), np.float32))
    optimizer = Adam(0.1)
    optimizer.apply_gradients(
        [(tf.IndexedSlices(tf.ones([1, 2]), tf.constant([2]), tf.constant([4, 2])), table)]
    )
    moved = table.numpy() != 1.0
    assert moved[2].all()
    assert not moved[[0, 1, 3]].any()


def test_the_learning_rate_rises_in_a_line_and_falls_along_a_cosine():
    rate = WarmUp(0.1, warmup_steps=4, steps=10, cosine=True)
    found = [float(rate(tf.constant(step))) for step in (0, 1, 3, 4, 7, 10, 11)]
    np.testing.assert_allclose(found, [0.025, 0.05, 0.1, 0.1, 0.05, 0.0, 0.0], atol=1e-6)
