"""VIB and CausalIB: answers, losses, and what is refused."""

import numpy as np
import pytest
import tensorflow as tf

from tfcama import random
from tfcama.data import pipeline
from tfcama.errors import InputError
from tfcama.models.causal_ib import CausalIb, CausalIbConfig
from tfcama.models.vib import Vib, VibConfig, codes
from tfcama.networks.heads import MeanAndScaleHead
from tfcama.training.bottleneck import CausalIbTrainer, VibTrainer

SEED = tf.constant([3, 4])
SMALL = {"backbone": "mlp:units=16", "dim_z": 8, "head_hidden": 0}


def vib(spec, **config):
    random.seed_everything(0)
    return Vib(spec, VibConfig(**SMALL, **config))


def terms(kind, model, bars, *, rows=6):
    batch = next(iter(pipeline.evaluation_stream(bars.test, batch_size=rows)))
    draws = random.RowDraws(SEED, tf.range(rows), rows)
    trainer = kind(model, num_rows=rows, seed=np.array([0, 1]))
    return batch, draws, {k: v.numpy() for k, v in trainer.terms(batch, draws=draws).items()}


def test_a_prediction_is_the_decoder_at_the_mean_code(spec, images):
    """The decoder is linear: the mean of K logits is the logits of the mean of K codes."""
    model = vib(spec, num_samples=5)
    x = tf.constant(images)
    z = codes(model.q_z(x), model.shared_noise(SEED))
    assert z.shape == (5, 7, 8)
    expected = model.q_y(tf.reduce_mean(z, axis=0))
    np.testing.assert_allclose(model.log_scores(x, seed=SEED), expected, atol=1e-4)


def test_the_mean_of_probabilities_is_one_too(spec, images):
    model = vib(spec, num_samples=5, pooling="mean_probability")
    x = tf.constant(images)
    scores = model.log_scores(x, seed=SEED)
    each = tf.nn.softmax(model.q_y(codes(model.q_z(x), model.shared_noise(SEED))), axis=-1)
    np.testing.assert_allclose(tf.exp(scores), tf.reduce_mean(each, axis=0), atol=1e-5)


def test_an_answer_pools_the_samples(spec, images):
    model = vib(spec, num_samples=5)
    by_sample = model.log_scores_by_sample(tf.constant(images), seed=SEED)
    assert by_sample.shape[0] == 5
    pooled = model.log_scores(tf.constant(images), seed=SEED)
    np.testing.assert_allclose(tf.reduce_mean(by_sample, axis=0), pooled, atol=1e-5)


@pytest.mark.parametrize("scale", ["softplus", "absolute"])
def test_scales_are_above_their_floor(scale):
    features = tf.constant(np.random.default_rng(0).normal(size=(20, 4)) * 100, tf.float32)
    q = MeanAndScaleHead(3, hidden=0, scale=scale, floor=0.01)(features)
    assert q.stddev().numpy().min() >= 0.01
    assert q.event_shape == (3,)


@pytest.mark.parametrize(("unit", "per_nat"), [("nats", 1.0), ("bits", 1.0 / np.log(2.0))])
def test_vibs_loss_is_eq_4(spec, bars, unit, per_nat):
    _, _, found = terms(VibTrainer, vib(spec, alpha=0.3, unit=unit), bars)
    expected = per_nat * (found["distortion"] + 0.3 * found["rate"])
    np.testing.assert_allclose(found["loss"], expected, rtol=1e-5)


def test_causal_ibs_loss_is_eq_11(spec, bars):
    """Beta weighs what instruments.py computes from the very samples that are decoded."""
    losses = {}
    for beta in (0.0, 0.5, 1.0):
        random.seed_everything(0)
        model = CausalIb(spec, CausalIbConfig(**SMALL, beta=beta))
        batch, draws, found = terms(CausalIbTrainer, model, bars)
        losses[beta] = found
    _, _, plain = terms(VibTrainer, vib(spec, alpha=0.05), bars)
    np.testing.assert_allclose(losses[0.0]["loss"], plain["loss"], rtol=1e-5)
    np.testing.assert_allclose(losses[1.0]["causal"], 2 * losses[0.5]["causal"], rtol=1e-5)
    for beta, found in losses.items():
        np.testing.assert_allclose(found["loss"] - plain["loss"], found["causal"], atol=1e-3)
        assert (found["causal"] > 0).all() == (beta > 0)
    q_z, noise = model.q_z(batch.x), model.row_noise(draws).numpy()
    z, r = codes(q_z, noise).numpy(), (np.abs(noise) < 2).mean(axis=-1)
    total = 0.0
    for i in range(12):
        rest = [j for j in range(12) if j != i]
        d = np.abs(z[i] * r[rest].mean(0)[:, None] - z[rest].mean(0) * r[i][:, None])
        total += np.where(d < 1, d**2 / 2, d - 0.5).sum(-1) / 12
    np.testing.assert_allclose(losses[1.0]["causal"], total, rtol=1e-4)


def test_the_ratio_form_is_eqs_9_and_10(spec, bars):
    random.seed_everything(0)
    model = CausalIb(spec, CausalIbConfig(**SMALL, beta=1.0, form="ratio", norm="l1"))
    batch, draws, found = terms(CausalIbTrainer, model, bars)
    q_z, noise = model.q_z(batch.x), model.row_noise(draws).numpy()
    strength = (np.abs(noise) < 2).mean(axis=-1)[..., None]
    effects = (codes(q_z, noise) - q_z.mean()).numpy() / strength
    pairs = np.abs(effects[:, None] - effects[None]).sum(axis=-1)
    expected = pairs.sum(axis=(0, 1)) / (12 * 11)
    np.testing.assert_allclose(found["causal"], expected, rtol=1e-4)


def test_samples_of_a_code_differ(spec):
    noise = vib(spec, num_samples=3).shared_noise(SEED).numpy()
    assert np.abs(np.diff(noise, axis=0)).min() > 0.0


def test_training_counts_the_answers_of_all_samples(spec, bars):
    model = vib(spec, num_samples=7)
    batch, draws, found = terms(VibTrainer, model, bars, rows=30)
    logits = model.q_y(codes(model.q_z(batch.x), model.row_noise(draws))).numpy()
    hits = logits.mean(axis=0).argmax(axis=1) == batch.y
    assert not np.array_equal(hits, logits[0].argmax(axis=1) == batch.y)
    np.testing.assert_array_equal(found["accuracy"], hits)


def test_a_row_gets_the_noise_of_its_place_in_the_global_batch(spec):
    model = vib(spec)
    whole = model.row_noise(random.RowDraws(SEED, tf.range(6), 6))
    part = model.row_noise(random.RowDraws(SEED, tf.constant([4, 1]), 6))
    np.testing.assert_array_equal(tf.gather(whole, [4, 1], axis=1), part)


def test_every_variable_is_trained(spec, bars):
    random.seed_everything(0)
    model = CausalIb(spec, CausalIbConfig(**{**SMALL, "head_hidden": 4}))
    trainer = CausalIbTrainer(model, num_rows=6, seed=np.array([0, 1]))
    batch = next(iter(pipeline.evaluation_stream(bars.test, batch_size=6)))
    with tf.GradientTape() as tape:
        loss = trainer.terms(batch, draws=random.RowDraws(SEED, tf.range(6), 6))["loss"]
    gradients = tape.gradient(loss, [v.value for v in model.trainable_variables])
    assert all(g is not None and np.any(g.numpy()) for g in gradients)


@pytest.mark.parametrize(
    ("kind", "options", "sentence"),
    [
        (VibConfig, {"alpha": -0.1}, "alpha=-0.1 was given; it must be at least 0"),
        (VibConfig, {"num_samples": 0}, "num_samples=0 was given; it must be at least 1"),
        (VibConfig, {"scale_floor": 0.0}, "scale_floor=0 was given; it must be positive"),
        (VibConfig, {"scale": "softmax"}, "did you mean 'softplus'"),
        (VibConfig, {"pooling": "mean_logit"}, "did you mean 'mean_logits'"),
        (VibConfig, {"backbone": "mpl"}, "did you mean 'mlp'"),
        (CausalIbConfig, {"beta": -1.0}, "beta=-1 was given; it must be at least 0"),
        (CausalIbConfig, {"num_samples": 1}, "num_samples=1 was given; it must be at least 2"),
    ],
)
def test_bad_choices_are_refused(kind, options, sentence):
    with pytest.raises(InputError, match=sentence):
        kind(**options)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"unit": "bit"}, "did you mean 'bits'"),
        ({"norm": "l3"}, "unknown norm 'l3'"),
        ({"form": "ratios"}, "did you mean 'ratio'"),
    ],
)
def test_bad_choices_of_the_objective_are_refused(spec, options, sentence):
    model = CausalIb(spec, CausalIbConfig(**SMALL, **options))
    with pytest.raises(InputError, match=sentence):
        CausalIbTrainer(model, num_rows=6, seed=np.array([0, 1]))
