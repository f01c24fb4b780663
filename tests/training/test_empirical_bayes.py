"""p(m) from what unlabelled inputs show: against closed forms of a linear Gaussian model."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from scipy import special, stats

from tfcama import random
from tfcama.models.cama import Cama, CamaConfig
from tfcama.training.empirical_bayes import Proposals, fit_moments, fit_prior, propose

_NOISE, _SAMPLES, _WIDE = 0.3, 100, 0.6
SEED = (3, 1)


def _observed(loc, scale, rows, generator):
    """Numbers x = m + N(0, 0.3^2) of m ~ N(loc, scale^2), [rows, M]."""
    size = [rows, len(loc)]
    return loc + scale * generator.normal(size=size) + _NOISE * generator.normal(size=size)


def _proposals(x, generator, *, classes=1, p_untouched=0.0):
    """Of q(m|x) = N(x, 0.6^2); all classes explain x alike."""
    m = x + _WIDE * generator.normal(size=[_SAMPLES, *x.shape])
    log_px = stats.norm.logpdf(x, m, _NOISE).sum(-1)
    log_q = stats.norm.logpdf(m, x, _WIDE).sum(-1)
    log_weights = np.log1p(-p_untouched) + log_px - log_q - np.log(_SAMPLES)
    with np.errstate(divide="ignore"):
        log_untouched = np.log(p_untouched) + stats.norm.logpdf(x, 0.0, _NOISE).sum(-1)
    each = log_weights[..., None] - np.log(classes)
    return Proposals(m, np.broadcast_to(each, [*log_weights.shape, classes]), log_untouched)


@pytest.fixture
def generator():
    return np.random.default_rng(0)


LOC, SCALE = np.array([4.0, 0.0]), np.array([2.0, 0.5])


def test_the_moments_are_those_of_what_happened(generator):
    x = _observed(LOC, SCALE, 2000, generator)
    loc, scale = fit_moments(_proposals(x, generator), by_class=False, p_unseen=0.0)
    np.testing.assert_allclose(loc, x.mean(axis=0), atol=0.02)
    np.testing.assert_allclose(scale, np.sqrt(x.var(axis=0) - _NOISE**2), rtol=0.03)


def test_untouched_and_unseen_inputs_do_not_count(generator):
    """A third is untouched, one in fifty is an outlier that N(0, I) explains better."""
    touched = _observed(LOC, SCALE, 1500, generator)
    x = np.concatenate([touched, _NOISE * generator.normal(size=[800, 2]), np.full([30, 2], -3.0)])
    proposals = _proposals(x, generator, p_untouched=0.5)
    loc, scale = fit_moments(proposals, by_class=False, p_unseen=0.01)
    np.testing.assert_allclose(loc, LOC, atol=0.15)
    np.testing.assert_allclose(scale, SCALE, rtol=0.1)
    never = proposals._replace(log_untouched=np.full_like(proposals.log_untouched, -np.inf))
    loc, _ = fit_moments(never, by_class=False, p_unseen=0.0)
    assert loc[0] < 3.0


def test_every_class_has_its_own(generator):
    """Which class a row is of follows from its weights."""
    x = np.concatenate([_observed(np.array([c]), np.ones(1), 1500, generator) for c in (-4.0, 4.0)])
    proposals = _proposals(x, generator, classes=2)
    certain = np.where(np.arange(3000)[:, None] // 1500 == np.arange(2), 0.0, -50.0)
    proposals = proposals._replace(log_weights=proposals.log_weights + certain)
    loc, scale = fit_moments(proposals, by_class=True, p_unseen=0.0)
    np.testing.assert_allclose(loc[:, 0], [-4.0, 4.0], atol=0.1)
    np.testing.assert_allclose(scale[:, 0], [1.0, 1.0], rtol=0.05)
    loc, scale = fit_moments(proposals, by_class=False, p_unseen=0.0)
    np.testing.assert_allclose(loc, 0.0, atol=0.1)
    np.testing.assert_allclose(scale, np.sqrt(17.0), rtol=0.03)


@pytest.mark.parametrize("rows", [1, 90])
def test_few_inputs_do_not_make_p_m_a_point(generator, rows):
    """Ten rows of N(0, I) stand beside those that all say the same."""
    m = np.full([4, rows, 1], 0.7)
    proposals = Proposals(m, np.zeros([4, rows, 1]), np.full(rows, -np.inf))
    loc, scale = fit_moments(proposals, by_class=False, p_unseen=0.0)
    np.testing.assert_allclose(loc, 0.7, rtol=1e-6)
    np.testing.assert_allclose(scale, np.sqrt(10.0 / (rows + 10.0)), rtol=1e-6)


def _model(spec, **changes):
    random.seed_everything(0)
    settings = {"num_samples": 2, "mechanism": "translation", "prior_m": "learned"}
    return Cama(spec, CamaConfig(**{**settings, "class_margin": 0.0, **changes}))


def _log_px(proposals, loc, scale):
    """By p(m) = 0.99 N(loc, scale^2) + 0.01 N(0, I), loc and scale [1 or C, M]."""
    m = proposals.m[:, :, None]
    prior = 0.99 * np.exp(stats.norm.logpdf(m, loc, scale).sum(-1))
    prior += 0.01 * np.exp(stats.norm.logpdf(m).sum(-1))
    joint = proposals.log_weights + np.log(prior)
    return np.logaddexp(special.logsumexp(joint, axis=(0, 2)), proposals.log_untouched)


@pytest.mark.parametrize("p_untouched", [0.0, 0.5])
def test_proposals_are_the_prediction_without_its_p_m(spec, bars, p_untouched):
    model = _model(spec, p_untouched=p_untouched)
    model.prior_m.set_moments(np.array([0.3, -0.2]), np.array([0.5, 2.0]))
    x = bars.test.x[:6]
    found = propose(model, x, seed=SEED, title="")
    log_px = _log_px(found, np.array([[0.3, -0.2]]), np.array([[0.5, 2.0]]))
    noise = {"num_samples": 1, "m_samples": 8}
    parts = model.scores_by_m(tf.constant(x), seed=tf.constant(SEED), **noise)[1]
    np.testing.assert_allclose(log_px, tf.reduce_logsumexp(parts, axis=[0, 2]), rtol=1e-5)
    assert np.isfinite(found.log_untouched).all() == bool(p_untouched)


@pytest.mark.parametrize("kind", ["learned", "class"])
def test_fitting_moves_p_m_alone_and_makes_the_inputs_likelier(spec, bars, kind):
    model = _model(spec, prior_m=kind, p_untouched=0.5)
    x = bars.test.x[:30]
    before = [variable.numpy() for variable in model.trainable_variables]
    fit_prior(model, x, seed=SEED, title="")
    prior = {id(variable) for variable in model.prior_m.trainable_variables}
    for variable, value in zip(model.trainable_variables, before, strict=True):
        assert np.array_equal(variable, value) == (id(variable) not in prior), variable.path
    again = _model(spec, prior_m=kind, p_untouched=0.5)
    proposals = propose(again, x, seed=random.split(SEED)[1], title="")
    fitted = model.prior_m(tf.eye(3)[None])
    found = _log_px(proposals, fitted.mean()[0].numpy(), fitted.stddev()[0].numpy())
    assert found.mean() > _log_px(proposals, np.zeros([1, 2]), np.ones([1, 2])).mean() + 0.01
    fit_prior(again, x, seed=SEED, title="")
    for one, other in zip(
        model.prior_m.trainable_variables, again.prior_m.trainable_variables, strict=True
    ):
        np.testing.assert_array_equal(one, other)
