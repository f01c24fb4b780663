"""CiiV: what its gazes see, and how their answers become one."""

import numpy as np
import pytest
import tensorflow as tf

from tfcama import random
from tfcama.data import pipeline
from tfcama.errors import InputError
from tfcama.models.ciiv import Ciiv, CiivConfig
from tfcama.networks import retina
from tfcama.training.ciiv import CiivTrainer
from tfcama.types import Bounds, InputSpec

SEED = tf.constant([5, 6])


@pytest.fixture(scope="module")
def model(spec):
    random.seed_everything(0)
    return Ciiv(spec, CiivConfig(backbone="mlp:units=8:layers=1", num_samples=2))


def test_a_gaze_favours_its_own_centre():
    maps = retina.fovea(32, 32)
    assert maps.shape == (9, 32, 32, 1)
    assert maps.max() == pytest.approx(1.0)
    middle = maps[4, ..., 0]
    assert np.unravel_index(maps[0, ..., 0].argmax(), (32, 32)) in [(4, 4), (5, 5), (4, 5), (5, 4)]
    far, near = np.hypot(15.5, 15.5), np.hypot(0.5, 0.5)
    expected = ((np.hypot(15.5, 15.5) - far + 10) / (far - near + 10)) ** 0.3
    assert middle[0, 0] == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(retina.fovea(64, 64)[4, ::63, ::63], maps[4, ::31, ::31], atol=0.02)


def test_bright_pixels_are_seen_and_dark_ones_by_chance():
    """P(x + 0.9 u > 0) is 1 for x >= 0.9 and 1/2 for x = 0, where the mask keeps the pixel."""
    x = np.zeros([1, 20, 20, 1], np.float32)
    x[:, :10] = 1.0
    size = [1, 9, 50, 20, 20, 1]
    noise = retina.Noise(random.uniform(size, SEED), tf.ones(size) - 1e-6)
    views, strength = retina.sample(tf.constant(x), tf.constant(retina.fovea(20, 20)), noise)
    np.testing.assert_allclose(strength, 1.0)
    np.testing.assert_allclose(views[..., :10, :, :], 1.0, atol=2e-4)
    assert float(tf.reduce_mean(views[..., 10:, :, :])) == pytest.approx(0.5, abs=0.01)
    noise = noise._replace(places=tf.zeros(size))  # kept where the fovea itself is above 0.9
    _, strength = retina.sample(tf.constant(x), tf.constant(retina.fovea(20, 20)), noise)
    kept = (retina.fovea(20, 20) > 0.9).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(strength[0], kept, rtol=1e-5)
    assert (kept < 1).all()


def test_the_answer_is_the_mean_over_gazes_of_logits_by_strength(model, images):
    x = tf.constant(images)
    views = model.views(x, model.shared_noise(SEED))
    assert views.logits.shape == (9, 7, 3)
    expected = (views.logits / views.strength[..., None]).numpy().mean(axis=0)
    np.testing.assert_allclose(model.log_scores(x, seed=SEED), expected, rtol=1e-5)


def test_views_belong_to_their_row_and_gaze(model, images):
    noise = model.shared_noise(SEED)
    views = model.views(tf.constant(images), noise)
    seen, _ = retina.sample(tf.constant(images[3:4]), tf.constant(model._maps), noise)
    alone = model._logits(model._backbone(seen[:, 5]))
    np.testing.assert_allclose(views.logits[5, 3], alone[0], atol=1e-5)


def test_the_loss_is_cross_entropy_and_the_weighted_regulariser(model, spec, bars):
    batch = next(iter(pipeline.evaluation_stream(bars.test, batch_size=4)))
    draws = random.RowDraws(SEED, tf.range(4), 4)
    trainer = CiivTrainer(model, num_rows=4, seed=np.array([0, 1]))
    terms = trainer.terms(batch, draws=draws)
    np.testing.assert_allclose(terms["loss"], terms["distortion"] + terms["causal"], rtol=1e-6)
    views = model.views(batch.x, model.row_noise(draws), learning=True)
    f, r = views.features.numpy(), views.strength.numpy()
    total = 0.0
    for i in range(9):
        rest = [j for j in range(9) if j != i]
        d = np.abs(f[i] * r[rest].mean(0)[:, None] - f[rest].mean(0) * r[i][:, None])
        total += np.where(d < 1, d**2 / 2, d - 0.5).mean(-1) / 9
    np.testing.assert_allclose(terms["causal"], 0.1 * total, rtol=1e-4)
    assert (total > 0).all()


@pytest.mark.parametrize(
    ("shape", "bounds"), [((6,), None), ((28, 28, 1), Bounds(-1.0, 1.0)), ((28, 28, 1), None)]
)
def test_what_is_no_image_from_zero_to_one_is_refused(shape, bounds):
    with pytest.raises(InputError, match=r"ciiv takes images in \[0, 1\]"):
        Ciiv(InputSpec(shape, ("a", "b"), bounds), CiivConfig())
