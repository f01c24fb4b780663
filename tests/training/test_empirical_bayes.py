"""p(m) from what unlabelled inputs show: against closed forms of a linear Gaussian model."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from scipy import special, stats
from tensorflow_probability import distributions as tfd

from tests.conftest import eagerly
from tfcama import random
from tfcama.errors import InputError
from tfcama.models.cama import Cama, CamaConfig
from tfcama.models.cama_prediction import sampled
from tfcama.training import empirical_bayes, phases, run
from tfcama.training.config import FinetuneConfig
from tfcama.training.empirical_bayes import (
    Proposals,
    Proposer,
    SparselyToo,
    fit_moments,
    fit_prior,
    shares,
)

_NOISE, _SAMPLES, _WIDE = 0.3, 100, 0.6
SEED = (3, 1)


@pytest.fixture(autouse=True)
def uncompiled():
    """A handful of inputs takes longer to compile for than to weigh."""
    with eagerly():
        yield


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


def _normal(loc, scale):
    return tfd.Independent(tfd.Normal(np.float32(loc), np.float32(scale)), 1)


def test_sparse_proposals_are_weighted_by_the_density_that_they_are_drawn_from(generator):
    """Importance weights of a known density have mean 1, and its mean."""
    size, share, always = [240_000, 4], 0.5, np.array([False, False, False, True])
    active = generator.random([160_000, 1, 4]) < share
    propose_both = SparselyToo(active, share=share, always=always)
    noise = tf.constant(generator.normal(size=size), tf.float32)[:, None]
    m, log_proposed = propose_both(_normal([[1.0, -1.0, 0.5, 2.0]], [[0.5] * 4]), noise)
    target = stats.multivariate_normal([1.1, 0.02, 0.03, 2.1], np.diag([0.3, 0.08, 0.08, 0.4]) ** 2)
    weights = target.pdf(m.numpy()[:, 0]) / np.exp(log_proposed.numpy()[:, 0])
    np.testing.assert_allclose(weights.mean(), 1.0, atol=0.03)
    mean = (weights[:, None] * m.numpy()[:, 0]).mean(axis=0)
    np.testing.assert_allclose(mean, target.mean, atol=0.05)


def test_what_never_happened_is_not_as_wide_as_q_errs(generator):
    """One parameter in five moves; the inputs say little of the others, of which q(m|x) is sure."""
    moved = 3.0 * generator.normal(size=[400, 1])
    errors = np.concatenate([np.zeros([400, 1]), generator.normal(size=[400, 4])], axis=1)
    q_m = _normal(moved * np.eye(5)[:1] + errors, [[0.2] * 5])
    noise = tf.constant(generator.normal(size=[24, 400, 5]), tf.float32)
    active = generator.random([16, 400, 5]) < 0.4
    both = SparselyToo(active, share=0.4, always=np.zeros(5, bool))

    def fitted(propose_m, noise):
        m, log_proposed = propose_m(q_m, noise)
        seen = np.concatenate([moved, np.zeros([400, 4])], axis=1)
        log_px = stats.norm.logpdf(seen, m.numpy(), [0.2, 2.0, 2.0, 2.0, 2.0]).sum(-1)
        log_weights = (log_px - log_proposed.numpy() - np.log(len(noise)))[..., None]
        proposals = Proposals(m.numpy(), log_weights, np.full(400, -np.inf))
        return fit_moments(proposals, by_class=False, p_unseen=0.0)[1]

    alone, scale = fitted(sampled, noise[:8]), fitted(both, noise)
    assert alone[1:].min() > 0.6
    assert scale[1:].max() < 0.45
    np.testing.assert_allclose(scale[0], moved.std(), rtol=0.05)


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
    found = Proposer(model)(x, seed=SEED)
    log_px = _log_px(found, np.array([[0.3, -0.2]]), np.array([[0.5, 2.0]]))
    seed = random.fold_in(SEED, 0)
    propose, number = empirical_bayes._proposing(model, seed=seed)
    how = {"seed": seed, "num_samples": 1, "m_samples": number, "propose": propose}
    parts = model.scores_by_m(tf.constant(x), **how)[1]
    np.testing.assert_allclose(log_px, tf.reduce_logsumexp(parts, axis=[0, 2]), rtol=1e-5)
    assert np.isfinite(found.log_untouched).all() == bool(p_untouched)
    by_m = tf.reduce_logsumexp(parts, axis=2)  # [S (+ 1), B]
    expected = tf.nn.softmax(by_m, axis=0)[: len(found.m)]
    np.testing.assert_allclose(shares(model, found), expected, rtol=1e-3, atol=1e-6)


def test_a_mechanism_that_can_do_many_things_also_proposes_few_of_them(spec, bars):
    """A new q(m|x) is N(0, 1), which is within a half for 38 % of the time."""

    def little(mechanism):
        m = Proposer(_model(spec, mechanism=mechanism))(bars.test.x, seed=SEED).m
        return (np.abs(m) < 0.5).mean(axis=(1, 2))  # [S]

    found = little("affine")
    assert len(found) == 24
    np.testing.assert_allclose(found[:8].mean(), 0.38, atol=0.05)
    assert found[8:].min() > 0.5
    np.testing.assert_allclose(little("translation").mean(), 0.38, atol=0.05)


@pytest.mark.parametrize("mechanism", ["translation", "affine"])
def test_what_inputs_say_nothing_about_stays_as_it_was(spec, bars, mechanism, monkeypatch):
    """Every input has its own proposals: EM of eight that all share is drawn to one of them."""
    model = _model(spec, mechanism=mechanism)
    monkeypatch.setattr(
        model, "_scores_at", lambda x, m, weight, z, z_steps: weight + tf.zeros([1, 1, 3])
    )
    x = np.tile(bars.test.x, [10, 1, 1, 1])
    fit_prior(model, x, seed=SEED, title="")
    p_m = model.prior_m(tf.eye(3)[None])
    np.testing.assert_allclose(p_m.mean(), np.zeros([1, 1, model.dim_m]), atol=0.5)
    np.testing.assert_allclose(p_m.stddev(), np.ones([1, 1, model.dim_m]), atol=0.35)


@pytest.mark.parametrize("m_at_test", ["mean", "do_m0"])
def test_p_m_is_not_fitted_to_what_is_no_sample(spec, bars, m_at_test):
    model = _model(spec, m_at_test=m_at_test)
    with pytest.raises(InputError, match=f"m_at_test='{m_at_test}' was given; p\\(m\\) is fitted"):
        phases.phases_of(
            SimpleNamespace(classifier=model),
            FinetuneConfig(warm_up=3, sleep=4, steps=5, batch_size=2),
            clean=bars.train,
            unlabelled=bars.test.x,
            devices=run.Devices(),
        )


@pytest.mark.parametrize("kind", ["learned", pytest.param("class", marks=pytest.mark.long)])
def test_fitting_moves_p_m_alone_and_makes_the_inputs_likelier(spec, bars, kind):
    model = _model(spec, prior_m=kind, p_untouched=0.5)
    x = bars.test.x[:30]
    before = [variable.numpy() for variable in model.trainable_variables]
    fit_prior(model, x, seed=SEED, title="")
    prior = {id(variable) for variable in model.prior_m.trainable_variables}
    for variable, value in zip(model.trainable_variables, before, strict=True):
        assert np.array_equal(variable, value) == (id(variable) not in prior), variable.path
    again = _model(spec, prior_m=kind, p_untouched=0.5)
    proposals = Proposer(again)(x, seed=random.split(SEED)[1])
    fitted = model.prior_m(tf.eye(3)[None])
    found = _log_px(proposals, fitted.mean()[0].numpy(), fitted.stddev()[0].numpy())
    assert found.mean() > _log_px(proposals, np.zeros([1, 2]), np.ones([1, 2])).mean() + 0.01
    fit_prior(again, x, seed=SEED, title="")
    for one, other in zip(
        model.prior_m.trainable_variables, again.prior_m.trainable_variables, strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_p_m_is_fitted_to_the_unlabelled_inputs_before_dreams_go_by_it(spec, bars, monkeypatch):
    made, fitted_to = [], []
    monkeypatch.setattr(phases, "make_dreamer", lambda *args, fitted, **how: made.append(fitted))
    monkeypatch.setattr(phases, "fit_prior", lambda model, x, **how: fitted_to.append(x))
    config = FinetuneConfig(warm_up=3, sleep=4, steps=5, batch_size=2)
    found = phases.phases_of(
        SimpleNamespace(classifier=_model(spec)),
        config,
        clean=bars.train,
        unlabelled=bars.test.x,
        devices=run.Devices(),
    )
    assert made == [False, True]  # whether dreams go by what was fitted
    for phase, before in zip(found, (0, 1, 0), strict=True):
        fitted_to.clear()
        phase.before()
        assert [x is bars.test.x for x in fitted_to] == [True] * before


def test_dreams_end_where_their_learning_rate_does(spec, bars, monkeypatch):
    """Whole epochs are as many steps as the cosine has."""
    dreamt = []
    monkeypatch.setattr(phases, "make_dreamer", lambda *args, steps, **how: dreamt.append(steps))
    found = phases.phases_of(
        SimpleNamespace(classifier=_model(spec)),
        FinetuneConfig(warm_up=1001, sleep=1000, steps=51, batch_size=2),
        clean=bars.train,
        unlabelled=bars.test.x,
        devices=run.Devices(),
    )
    lengths = [(phase.end - phase.begin) * phase.steps for phase in found]
    assert lengths == [1002, 1000, 52]
    assert dreamt == lengths[:2]
    assert [phase.begin for phase in found] == [0, *(phase.end for phase in found[:-1])]
