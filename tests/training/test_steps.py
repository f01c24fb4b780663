"""What a step moves and what it leaves alone, by value."""

import contextlib
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from tests.conftest import eagerly
from tfcama import random
from tfcama.data import manipulations, pipeline
from tfcama.errors import InputError
from tfcama.models.cama import Cama, CamaConfig
from tfcama.models.discriminative import DiscriminativeConfig, dnn
from tfcama.objectives import bounds
from tfcama.training.cama import (
    CamaTrainer,
    DreamTrainer,
    FinetuneTrainer,
    Guesses,
    WakeTrainer,
    active_units,
    bounded,
    dreamt,
)
from tfcama.training.config import TrainingConfig
from tfcama.training.discriminative import DiscriminativeTrainer
from tfcama.training.optimizer import Adam
from tfcama.training.registry import TRAINERS

SEED = random.stream(0, "test")
CLEAN_GROUPS = {"p_y", "p_z", "p_merge", "q_z"}


def cama(spec, **config):
    random.seed_everything(0)
    return Cama(spec, CamaConfig(num_samples=1, **config))


def finetuning(model, **changed):
    how = {"alpha": 0.5, "clean_do_m0": False, "num_samples": 1, **changed}
    return FinetuneTrainer(model, num_rows=4, seed=SEED, **how)


def moved_groups(model, work):
    """Group -> whether each of its variables changed, by value."""
    before = {name: [v.numpy() for v in vs] for name, vs in model.variable_groups().items()}
    work()
    return {
        name: [not np.array_equal(a, b) for a, b in zip(before[name], vs, strict=True)]
        for name, vs in model.variable_groups().items()
    }


def fit(trainer, stream, steps, *, compiled=False):
    """A few steps take longer to compile than to take."""
    with contextlib.nullcontext() if compiled else eagerly():
        trainer.compile(Adam(1e-3))
        trainer.fit(stream, epochs=1, steps_per_epoch=steps, shuffle=False, verbose=0)
    return {metric.name: float(metric.result()) for metric in trainer.metrics}


def test_clean_data_alone_gives_the_m_networks_no_gradient(spec, bars):
    model = cama(spec)
    trainer = CamaTrainer(model, num_rows=8, seed=SEED)
    stream = pipeline.training_stream(bars.train, batch_size=8, seed=SEED)
    moved = moved_groups(model, lambda: fit(trainer, stream, 2))
    for name, flags in moved.items():
        assert all(flags) if name in CLEAN_GROUPS else not any(flags), name


def test_augmented_data_moves_every_group(spec, bars):
    model = cama(spec)
    trainer = CamaTrainer(model, num_rows=16, seed=SEED, augmented=True)
    stream = pipeline.training_stream(
        bars.train, batch_size=8, seed=SEED, augment=manipulations.parse("vertical_shift:0.5")
    )
    moved = moved_groups(model, lambda: fit(trainer, stream, 3))
    assert all(all(flags) for flags in moved.values()), moved


def test_a_known_m_trains_the_decoder_of_m_and_not_its_encoder(spec, bars):
    model = cama(spec)
    trainer = CamaTrainer(model, num_rows=16, seed=SEED, augmented=True, m_known=True)
    stream = pipeline.training_stream(
        bars.train, batch_size=8, seed=SEED, augment=manipulations.parse("vertical_shift:0.5")
    )
    moved = moved_groups(model, lambda: fit(trainer, stream, 3))
    assert all(moved["p_m"])
    assert not any(moved["q_m"])


@pytest.mark.parametrize("clean_do_m0", [True, False])
def test_fine_tuning_moves_the_m_networks_and_nothing_else(spec, bars, clean_do_m0):
    model = cama(spec)
    trainer = finetuning(model, groups=("p_m", "q_m"), clean_do_m0=clean_do_m0)
    stream = pipeline.finetuning_stream(bars.train, bars.test.x, batch_size=4, seed=SEED)
    moved = moved_groups(model, lambda: fit(trainer, stream, 4, compiled=True))
    for name, flags in moved.items():
        assert all(flags) if name in ("p_m", "q_m") else not any(flags), name


def test_a_step_traced_before_does_not_unfreeze(spec, bars):
    """`trainable = False` after tracing freezes nothing; groups must."""
    model = cama(spec)
    stream = pipeline.training_stream(bars.train, batch_size=8, seed=SEED)
    fit(CamaTrainer(model, num_rows=8, seed=SEED), stream, 1, compiled=True)
    only = CamaTrainer(model, num_rows=8, seed=SEED, groups=("p_y",))
    moved = moved_groups(model, lambda: fit(only, stream, 1, compiled=True))
    assert all(moved["p_y"])
    assert not any(any(flags) for name, flags in moved.items() if name != "p_y")


def test_an_unknown_group_is_refused(spec):
    with pytest.raises(InputError, match="did you mean 'p_m'"):
        CamaTrainer(cama(spec), num_rows=8, seed=SEED, groups=("p_mm",))


def test_the_weights_of_eq_5_decide_what_is_learned(spec, bars):
    """With all weight on clean rows the manipulated ones change no loss."""
    losses, learned = [], []
    for weight, level in ((0.0, 0.1), (0.0, 0.9), (0.5, 0.9)):
        model = cama(spec)
        trainer = CamaTrainer(model, num_rows=16, seed=SEED, augmented=True)
        augment = manipulations.parse(f"vertical_shift:{level}:mode=fixed")
        stream = pipeline.training_stream(
            bars.train, batch_size=8, seed=SEED, augment=augment, augment_weight=weight
        )
        losses.append(fit(trainer, stream, 1)["loss"])
        learned.append(np.concatenate([np.ravel(v) for v in model.variable_groups()["p_merge"]]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[1] != pytest.approx(losses[2], rel=1e-5)
    np.testing.assert_allclose(learned[0], learned[1], atol=1e-6)
    assert np.abs(learned[1] - learned[2]).max() > 1e-4


@pytest.mark.parametrize(("mechanism", "clean_do_m0"), [("additive", True), ("translation", False)])
def test_the_fine_tuning_loss_is_eq_8(spec, bars, mechanism, clean_do_m0):
    model, generator = cama(spec, mechanism=mechanism), np.random.default_rng(0)
    for variable in model.variable_groups()["q_m"]:  # so that m is not N(0, I)
        variable.assign_add(0.03 * generator.normal(size=variable.shape))
    trainer = finetuning(model, alpha=0.3, clean_do_m0=clean_do_m0, num_samples=2)
    stream = pipeline.finetuning_stream(bars.train, bars.test.x, batch_size=4, seed=SEED)
    batch, draws = next(iter(stream)), random.RowDraws(tf.constant(SEED), tf.range(4), 4)
    terms = trainer.terms(batch, draws=draws)
    expected = -(0.3 * terms["elbo_clean"] + 0.7 * terms["elbo_x"])
    np.testing.assert_allclose(terms["loss"], expected, rtol=1e-6)
    clean = model.log_weights(
        batch["clean"].x,
        noise=model.row_noise(draws.fold(0), num_samples=2, classes=1),
        labels=batch["clean"].y,
        manipulated=not clean_do_m0,
        analytic=True,
    )
    np.testing.assert_allclose(terms["elbo_clean"], bounds.elbo(clean), rtol=1e-5)
    assert np.any(clean.log_ratio_m != 0.0) != clean_do_m0
    noise = model.row_noise(draws.fold(1), num_samples=2)
    by_hand, plain = (
        bounds.marginal_over_classes(
            bounds.elbo(
                model.log_weights(
                    batch["unlabelled"].x, noise=noise, analytic=True, improved=improved
                )
            )
        )
        for improved in (True, False)
    )
    np.testing.assert_allclose(terms["elbo_x"], by_hand, rtol=1e-5)
    assert np.allclose(by_hand, plain, rtol=1e-4) == (mechanism == "additive")
    assert np.all((terms["kl_m"] > 0.01) & (terms["kl_m"] < 100.0))


def test_the_parts_of_an_elbo_add_up_and_a_known_m_is_the_first_of_all(spec, bars):
    model = cama(spec, gated=False)
    trainer = CamaTrainer(model, num_rows=8, seed=SEED, augmented=True, m_known=True)
    move = manipulations.parse("vertical_shift:0.5:mode=fixed")
    batch = next(iter(pipeline.training_stream(bars.train, batch_size=4, seed=SEED, augment=move)))
    draws = random.RowDraws(tf.constant(SEED), tf.range(8), 8)
    terms = trainer.terms(batch, draws=draws)
    parts = terms["log_px"] + np.log(1 / 3) - terms["kl_z"] - terms["kl_m"]
    np.testing.assert_allclose(terms["elbo"], parts, rtol=1e-5)
    assert np.all(terms["kl_z"] > 0.0)
    m_do = np.zeros([8, model.dim_m], np.float32)
    m_do[4:, 0] = 0.5
    np.testing.assert_array_equal(batch.manipulated, m_do[:, 0] > 0)
    noise = model.row_noise(draws, num_samples=1, classes=1)
    by_hand = model.log_weights(
        batch.x, noise=noise, labels=batch.y, manipulated=False, m_do=m_do, analytic=True
    )
    np.testing.assert_allclose(terms["elbo"], bounds.elbo(by_hand), rtol=1e-5)


def test_every_step_has_its_own_noise(spec, bars):
    trainer = CamaTrainer(cama(spec), num_rows=8, seed=SEED)
    trainer.compile(Adam(1e-12))  # so that nothing else changes
    batch = next(iter(pipeline.training_stream(bars.train, batch_size=8, seed=SEED)))
    losses = []
    for _ in range(2):
        trainer.reset_metrics()
        losses.append(float(trainer.train_step(batch)["loss"]))
    assert losses[0] == pytest.approx(losses[1], rel=0.2)
    assert losses[0] != pytest.approx(losses[1], rel=1e-5)


def test_a_curriculum_begins_with_the_likeliest_inputs_and_ends_with_all(spec, bars):
    trainer = finetuning(cama(spec, mechanism="rotation"), alpha=0.3, curriculum=10)
    trainer.compile(Adam(1e-3))
    stream = pipeline.finetuning_stream(bars.train, bars.test.x, batch_size=4, seed=SEED)
    batch, draws = next(iter(stream)), random.RowDraws(tf.constant(SEED), tf.range(4), 4)
    for step, counted in ((0, 1), (4, 3), (10, 4), (20, 4)):  # shares 0.25, 0.55, 1, 1
        trainer.optimizer.iterations.assign(step)
        terms = trainer.terms(batch, draws=draws)
        elbo_x = terms["elbo_x"].numpy()
        paced = np.where(elbo_x >= np.sort(elbo_x)[-counted], elbo_x * 4 / counted, 0.0)
        expected = -(0.3 * terms["elbo_clean"] + 0.7 * paced)
        np.testing.assert_allclose(terms["loss"], expected, rtol=1e-5)


@pytest.mark.parametrize("prior_m", ["learned", "class"])
@pytest.mark.parametrize("alpha", [1.0, 0.0])
def test_only_unlabelled_rows_move_a_learned_prior(spec, bars, alpha, prior_m):
    model = cama(spec, mechanism="rotation", prior_m=prior_m)
    trainer = finetuning(model, groups=("p_m", "q_m"), alpha=alpha)
    stream = pipeline.finetuning_stream(bars.train, bars.test.x, batch_size=4, seed=SEED)
    prior = model.prior_m.trainable_variables
    before = [variable.numpy() for variable in prior]
    fit(trainer, stream, 2)
    moved = [not np.array_equal(a, b) for a, b in zip(before, prior, strict=True)]
    assert moved == [alpha == 0.0] * 2


def test_training_learns_the_bars(spec, bars):
    """Sixty steps are enough for three classes that a ruler could tell apart."""
    model = cama(spec)
    trainer = CamaTrainer(model, num_rows=16, seed=SEED)
    stream = pipeline.training_stream(bars.train, batch_size=16, seed=SEED)
    fit(trainer, stream, 60, compiled=True)
    guess = model.log_scores(tf.constant(bars.test.x), seed=tf.constant([0, 0])).numpy().argmax(1)
    assert (guess == bars.test.y).mean() > 0.95


def test_dropout_is_on_in_training_and_off_in_validation(spec, bars):
    random.seed_everything(0)
    model = dnn(spec, DiscriminativeConfig())
    trainer = DiscriminativeTrainer(model, num_rows=30, seed=SEED)
    batch = next(iter(pipeline.evaluation_stream(bars.test, batch_size=30)))
    draws = random.RowDraws(tf.constant(SEED), tf.range(30), 30)
    on, off = trainer.terms(batch, draws=draws), trainer.terms(batch, draws=None)
    assert not np.allclose(on["loss"], off["loss"])
    np.testing.assert_array_equal(off["loss"], trainer.terms(batch, draws=None)["loss"])
    np.testing.assert_array_equal(on["loss"], trainer.terms(batch, draws=draws)["loss"])


def test_active_units_counts_dimensions_that_vary():
    loc = np.zeros([100, 4], np.float32)
    loc[:, 0] = np.linspace(-1, 1, 100)
    loc[:, 1] = 5.0  # constant, however large
    loc[:, 2] = np.linspace(-0.01, 0.01, 100)
    assert active_units(tf.constant(loc)) == 1


def test_many_classes_are_pictured(spec, bars, quick_pictures):
    names = tuple(f"class {i}" for i in range(45))
    trainer = CamaTrainer(cama(spec._replace(class_names=names)), num_rows=8, seed=SEED)
    height, width, _ = spec.shape
    samples = trainer.summary_images(bars.test)["samples"]
    assert samples.shape[1] * samples.shape[2] == 45 * height * width


def test_bfloat16_keeps_variables_and_densities_in_float32(spec, bars):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = cama(spec)
    finally:
        keras.config.set_dtype_policy("float32")
    assert {v.dtype for v in model.variables} == {"float32"}
    terms = CamaTrainer(model, num_rows=8, seed=SEED).terms(
        next(iter(pipeline.evaluation_stream(bars.test, batch_size=8))), draws=None
    )
    assert {t.dtype for t in terms.values()} == {tf.float32}


@pytest.mark.parametrize("mechanism", ["translation", "additive+rotation"])
def test_dreams_teach_q_m_what_the_mechanism_does(spec, bars, mechanism):
    """The loss of a dream is -log q(m|T_m x), of the coordinates that a person can name."""
    model = cama(spec, mechanism=mechanism)
    trainer = finetuning(model, dreams=0.7)
    batch = next(iter(pipeline.finetuning_stream(bars.train, bars.test.x, batch_size=4, seed=SEED)))
    draws = random.RowDraws(tf.constant(SEED), tf.range(4), 4)
    terms = trainer.terms(batch, draws=draws)
    m = dreamt(model.mechanism, draws.fold(2))
    q_m = model.posterior_m(model.mechanism.simulate(m, batch["clean"].x))
    named = list(model.mechanism.coordinates_of_parameters().values())
    assert len(named) == {"translation": 2, "additive+rotation": 1}[mechanism]
    density = -np.log(q_m.stddev()) - 0.5 * np.log(2 * np.pi)
    density = density - 0.5 * ((m - q_m.mean()) / q_m.stddev()) ** 2
    surprise = -density.numpy()[:, named].sum(axis=1)
    limit = 5.0 * len(named)
    surprise = np.where(surprise > limit, limit * (1 + np.log(surprise / limit)), surprise)
    expected = -0.5 * (terms["elbo_clean"] + terms["elbo_x"]) + 0.7 * surprise
    np.testing.assert_allclose(terms["loss"], expected, rtol=1e-5)
    moved = moved_groups(
        model,
        lambda: fit(
            finetuning(model, groups=("p_m", "q_m"), dreams=1.0),
            pipeline.finetuning_stream(bars.train, bars.test.x, batch_size=4, seed=SEED),
            2,
        ),
    )
    assert all(moved["p_m"])
    assert all(moved["q_m"])
    assert not any(any(moved[name]) for name in CLEAN_GROUPS)


@pytest.mark.parametrize(
    ("mechanism", "far"), [("translation", 1.0), ("photometric", 2 / 3), ("affine", 1 / 3)]
)
def test_about_two_parameters_of_a_dream_go_far(spec, mechanism, far):
    """A mixture of N(0, 25) and N(0, 1/4), in each coordinate on its own."""
    mechanism = cama(spec, mechanism=mechanism).mechanism
    size = 20_000
    m = dreamt(mechanism, random.RowDraws(tf.constant(SEED), tf.range(size), size)).numpy()
    assert m.shape == (size, len(mechanism.parameters))
    np.testing.assert_allclose((m**2).mean(axis=0), far * 25 + (1 - far) / 4, rtol=0.06)
    np.testing.assert_allclose(m.mean(axis=0), 0.0, atol=0.15)
    expected = far * 2 * stats.norm.sf(0.4) + (1 - far) * 2 * stats.norm.sf(4.0)
    np.testing.assert_allclose((np.abs(m) > 2.0).mean(axis=0), expected, atol=0.02)
    together = np.corrcoef(np.abs(m).T > 2.0)
    assert np.all(np.abs(together - np.diag(np.diag(together))) < 0.03)


def test_all_columns_of_a_table_move_in_a_dream():
    together = SimpleNamespace(size=3, moves_together=True)
    m = dreamt(together, random.RowDraws(tf.constant(SEED), tf.range(9000), 9000)).numpy()
    np.testing.assert_allclose(m.std(axis=0), 2.0, rtol=0.03)
    np.testing.assert_allclose((m**4).mean(axis=0), 3 * 16.0, rtol=0.1)  # of one normal, no mixture


def test_the_warm_up_moves_q_m_alone(spec, bars):
    model = cama(spec, mechanism="rotation")
    trainer = DreamTrainer(model, num_rows=8, seed=SEED)
    stream = pipeline.training_stream(bars.train, batch_size=8, seed=SEED)
    moved = moved_groups(model, lambda: fit(trainer, stream, 2))
    for name, flags in moved.items():
        assert all(flags) if name == "q_m" else not any(flags), name


def test_a_wake_phase_matches_the_moments_of_the_guesses(spec, bars):
    """The N(mu, s^2) that maximises E log q has the guesses' mean and deviation (Bishop, 10.7)."""
    model = cama(spec, mechanism="translation")
    trainer = WakeTrainer(model, dreams=0.0, num_rows=2, seed=SEED)
    trainer.compile(Adam(3e-3))
    (clean,) = pipeline.evaluation_stream(bars.test.take(slice(2)), batch_size=2)
    x = bars.test.x[:2]
    m = np.array([[[1, 0], [3, 0.5], [2, 1]], [[-1, 0], [0, 1], [0.5, -1]]], np.float32)
    share = np.array([[0.2, 0.5, 0.1], [0.3, 0.3, 0.4]], np.float32)  # a fifth of one is untouched
    batch = {"clean": clean, "unlabelled": Guesses(*map(tf.constant, (x, m, share)))}
    draws = random.RowDraws(tf.constant(SEED), tf.range(2), 2)
    terms = trainer.terms(batch, draws=draws)
    q_m = model.posterior_m(tf.constant(x))
    log_q = stats.norm.logpdf(m, q_m.mean()[:, None], q_m.stddev()[:, None]).sum(-1)
    np.testing.assert_allclose(terms["wake"], -(share * log_q).sum(1), rtol=1e-4)
    np.testing.assert_array_equal(terms["loss"], terms["wake"])
    step = tf.function(trainer.train_step, autograph=False)
    moved = moved_groups(model, lambda: [step(batch) for _ in range(300)])
    for name, flags in moved.items():
        assert all(flags) if name == "q_m" else not any(flags), name
    q_m, share = model.posterior_m(tf.constant(x)), share / share.sum(axis=1, keepdims=True)
    loc = (share[..., None] * m).sum(axis=1)
    scale = np.sqrt((share[..., None] * (m - loc[:, None]) ** 2).sum(axis=1))
    np.testing.assert_allclose(q_m.mean(), loc, atol=0.05)
    np.testing.assert_allclose(q_m.stddev(), scale, rtol=0.05)
    dreaming = WakeTrainer(model, dreams=0.5, num_rows=2, seed=SEED).terms(batch, draws=draws)
    total = dreaming["wake"] + 0.5 * dreaming["surprise"]
    np.testing.assert_allclose(dreaming["loss"], total, rtol=1e-6)
    assert np.all(dreaming["surprise"].numpy() != 0.0)


@pytest.mark.parametrize("kind", ["learned", "class"])
def test_most_dreams_go_by_a_p_m_that_was_fitted(spec, bars, kind, monkeypatch):
    model = cama(spec, mechanism="rotation", prior_m=kind)
    loc = np.array([20.0, -30.0, 40.0])[:, None] if kind == "class" else np.array([20.0])
    model.prior_m.set_moments(loc, np.full(loc.shape, 0.5))
    dreamt_of = []
    monkeypatch.setattr(model, "simulate", lambda m, x: dreamt_of.append(m) or x)
    size = 1500
    rows = np.arange(size) % len(bars.test)
    batch = next(iter(pipeline.evaluation_stream(bars.test.take(rows), batch_size=size)))
    draws = random.RowDraws(tf.constant(SEED), tf.range(size), size)
    for fitted in (True, False):
        trainer = DreamTrainer(model, fitted=fitted, num_rows=size, seed=SEED)
        trainer.terms(batch, draws=draws)
    shown, broad = (m.numpy()[:, 0] for m in dreamt_of)
    own = loc[bars.test.y[rows], 0] if kind == "class" else loc[0]
    near = np.abs(shown - own) < 2.5
    assert near.mean() == pytest.approx(0.8, abs=0.03)
    assert (shown - own)[near].std() == pytest.approx(0.5, rel=0.1)
    np.testing.assert_array_equal(shown[~near], broad[~near])
    assert (np.abs(broad - own) < 2.5).mean() < 0.01


def test_no_row_pulls_harder_than_one_at_the_limit():
    """The derivative is 1 up to the limit and limit / loss beyond it."""
    loss = tf.constant([-3.0, 0.0, 9.9, 10.1, 1e3, 1e30])
    with tf.GradientTape() as tape:
        tape.watch(loss)
        found = bounded(loss, limit=10.0)
    np.testing.assert_allclose(found[:3], loss[:3])
    np.testing.assert_allclose(found[3:5], 10 * (1 + np.log([1.01, 100.0])), rtol=1e-6)
    gradient = tape.gradient(found, loss)
    np.testing.assert_allclose(gradient, [1, 1, 1, 10 / 10.1, 0.01, 1e-29], rtol=1e-5)


def test_a_mechanism_without_parameters_has_nothing_to_dream_of(spec):
    with pytest.raises(InputError, match=r"mechanism 'additive' has no parameters to dream of"):
        finetuning(cama(spec), dreams=1.0)


def test_a_known_m_needs_an_m_without_units(spec):
    with pytest.raises(InputError, match=r"augment_m=known sets the first coordinates of m"):
        CamaTrainer(
            cama(spec, mechanism="rotation"), num_rows=4, seed=SEED, augmented=True, m_known=True
        )


@pytest.mark.parametrize("how", [{}, {"groups": ["q_m", "p_m", "q_m"]}])
def test_adaptation_moves_the_m_networks_unless_told_otherwise_each_once(spec, how):
    model = cama(spec)
    moving = finetuning(model, **how)._moving
    groups = model.variable_groups()
    assert {id(v) for v in moving} == {id(v) for name in ("p_m", "q_m") for v in groups[name]}
    assert len(moving) == len(groups["p_m"]) + len(groups["q_m"])


def test_something_must_move(spec):
    with pytest.raises(InputError, match="no variable group was named that moves; name of p_y"):
        finetuning(cama(spec), groups=())


def test_xla_is_not_asked_for_shapes_that_nobody_knows(spec):
    with pytest.raises(InputError, match="jit_compile was given; cama fills in what"):
        finetuning(cama(spec, mechanism="translation")).compile(Adam(1e-3), jit_compile=True)
    finetuning(cama(spec, mechanism="photometric")).compile(Adam(1e-3), jit_compile=True)


@pytest.mark.parametrize(
    ("model", "config", "sentence"),
    [
        ("cama", {"augment": "shift:0.5"}, "m has 1 coordinates, what shift:0.5 did more"),
        ("dnn", {"augment": "shift:0.5"}, "augment_m=known was given; dnn has no m"),
    ],
)
def test_what_is_known_of_m_must_have_a_place(spec, model, config, sentence):
    made = cama(spec, dim_m=1) if model == "cama" else dnn(spec, DiscriminativeConfig())
    how = TrainingConfig(augment_m="known", **config)
    family = "cama" if model == "cama" else "discriminative"
    with pytest.raises(InputError, match=sentence):
        TRAINERS[family](made, how, 4, SEED)


def test_a_known_m_is_of_an_augmentation():
    with pytest.raises(InputError, match="augment_m=known was given, but no augment"):
        TrainingConfig(augment_m="known")
