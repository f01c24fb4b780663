import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import special, stats
from tensorflow_probability import distributions as tfd

from tfcama import random
from tfcama.errors import InputError
from tfcama.models.cama import Cama, CamaConfig
from tfcama.objectives import bounds
from tfcama.types import Bounds, Generative, InputSpec

SEED = tf.constant([3, 4])


@pytest.fixture(scope="module")
def model(spec):
    random.seed_everything(0)
    return Cama(spec, CamaConfig(num_samples=4, class_margin=0.0))


@pytest.fixture(scope="module")
def open_gates(spec):
    """A CAMA whose m does something, as after fine-tuning."""
    random.seed_everything(0)
    made = Cama(spec, CamaConfig(num_samples=4, class_margin=0.0))
    generator = np.random.default_rng(0)
    for variable in [*made.mechanism.trainable_variables, *made.q_m.trainable_variables]:
        variable.assign_add(0.05 * generator.normal(size=variable.shape))
    return made


def naive_log_weights(model, x, seed):
    """Eq. 6 with loops over examples, classes and samples, and nothing shared; [B, C, K]."""
    noise = model.shared_noise(seed, num_samples=model.config.num_samples)
    found = np.zeros([len(x), model.num_classes, model.config.num_samples])
    for row in range(len(x)):
        image = tf.constant(x[row : row + 1])
        q_m = model.posterior_m(image)
        m = q_m.mean() + q_m.stddev() * noise.m
        ratio_m = model.prior_m(tf.zeros([1, 1, 1])).log_prob(m)[0] - q_m.log_prob(m)
        for label in range(model.num_classes):
            y = tf.one_hot([[label]], model.num_classes)
            for sample in range(model.config.num_samples):
                q_z = model.posterior_z(image, y, m)
                z = q_z.mean() + q_z.stddev() * noise.z[sample, 0, label]
                log_px = model.p(y, z[None], m).log_prob(image[:, None])[0]
                log_weight = (
                    log_px
                    + np.log(1 / model.num_classes)
                    + model.prior_z().log_prob(z)
                    - q_z.log_prob(z)
                    + ratio_m
                )
                found[row, label, sample] = np.squeeze(log_weight)
    return found


def log_mean_exp(weights, axis):
    return special.logsumexp(weights, axis=axis) - np.log(weights.shape[axis])


def test_log_scores_equal_a_naive_loop(open_gates, images):
    found = open_gates.log_scores(images[:2], seed=SEED)
    expected = log_mean_exp(naive_log_weights(open_gates, images[:2], SEED), axis=2)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_classes_that_fall_behind_keep_their_first_sample(open_gates, images):
    weights = naive_log_weights(open_gates, images[:4], SEED)
    first = weights[:, :, 0]
    behind = first.max(axis=1, keepdims=True) - first
    margin = float(np.sort(behind.ravel())[7:9].mean())  # 8 of 12 are within it
    far = behind > margin
    expected = np.where(far, first, log_mean_exp(weights, axis=2))
    found = copied(open_gates, class_margin=margin).log_scores(images[:4], seed=SEED).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert np.abs(found - open_gates.log_scores(images[:4], seed=SEED))[far].min() > 0.1


def test_samples_are_predictions_by_one_sample_of_eq_6(open_gates, images):
    found = open_gates.log_scores_by_sample(images[:2], seed=SEED)
    draws = random.split(SEED, open_gates.config.num_samples)
    expected = [
        log_mean_exp(naive_log_weights(copied(open_gates, num_samples=1), images[:2], draw), axis=2)
        for draw in draws
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_batch_equals_singles(open_gates, images):
    together = open_gates.log_scores(images, seed=SEED).numpy()
    alone = [
        open_gates.log_scores(images[i : i + 1], seed=SEED).numpy()[0] for i in range(len(images))
    ]
    np.testing.assert_allclose(together, alone, atol=2e-3)  # of about -600 nats


def test_the_seed_decides(open_gates, images):
    one, two = (open_gates.log_scores(images, seed=SEED).numpy() for _ in range(2))
    np.testing.assert_array_equal(one, two)
    other = open_gates.log_scores(images, seed=tf.constant([3, 5])).numpy()
    assert np.abs(one - other).max() > 1e-2


@pytest.mark.parametrize(
    "rows", [1, 6, 1000, *(pytest.param(rows, marks=pytest.mark.long) for rows in (3, 12, 24))]
)
def test_chunks_change_nothing(spec, open_gates, images, rows):
    chunked = copied(open_gates, max_decoder_rows=rows)
    expected = open_gates.log_scores(images, seed=SEED).numpy()
    np.testing.assert_allclose(chunked.log_scores(images, seed=SEED), expected, atol=2e-3)
    signature = [tf.TensorSpec([None, *spec.shape], tf.float32)]
    graph = tf.function(lambda x: chunked.log_scores(x, seed=SEED), input_signature=signature)
    for size in (1, 5, 7):
        np.testing.assert_allclose(graph(images[:size]), expected[:size], atol=2e-3)


def test_a_fresh_model_takes_no_notice_of_m(model, images):
    sampled = model.log_scores(images, seed=SEED).numpy()
    with_do = copied(model, m_at_test="do_m0")
    np.testing.assert_allclose(sampled, with_do.log_scores(images, seed=SEED), atol=2e-3)


def test_without_gates_a_fresh_model_is_disturbed_by_m(spec, images):
    random.seed_everything(0)
    made = Cama(spec, CamaConfig(gated=False))
    m = random.normal([len(images), made.dim_m], SEED)
    assert np.abs(made.mechanism.features(m)).max() > 0.1
    assert np.abs(made.mechanism.code(m) - m).max() == 0.0


def test_the_gates_get_a_gradient_from_the_start(model, images):
    """A gate at a ReLU's kink would never move."""
    with tf.GradientTape() as tape:
        weights = model.log_weights(
            images,
            noise=model.shared_noise(SEED, num_samples=1),
            analytic=True,
        )
        loss = tf.reduce_mean(bounds.marginal_over_classes(bounds.elbo(weights)))
    gates = [model.mechanism._feature_gate.value, model.mechanism._code_gate.value]
    for gradient in tape.gradient(loss, gates):
        assert np.abs(gradient).max() > 0.0


def test_do_m_masks_exactly_the_clean_rows(open_gates, images):
    manipulated = tf.constant([True, False, True, False, False, True, False])
    noise = open_gates.shared_noise(SEED, num_samples=2, classes=1)
    labels = tf.zeros([7], tf.int32)

    def terms(**kwargs):
        return open_gates.log_weights(images, noise=noise, labels=labels, **kwargs)

    mixed, all_m, none = terms(manipulated=manipulated), terms(), terms(manipulated=False)
    for name in ("log_px", "log_ratio_z", "log_ratio_m"):
        rows = [np.broadcast_to(getattr(w, name), [2, 7]) for w in (mixed, all_m, none)]
        expected = np.where(manipulated, rows[1], rows[2])
        np.testing.assert_allclose(rows[0], expected, atol=2e-3)
    assert np.all(np.asarray(none.log_ratio_m) == 0.0)
    assert np.abs(all_m.log_px - none.log_px).max() > 0.01


def test_a_known_m_is_set_and_costs_nothing(open_gates, images):
    noise = open_gates.shared_noise(SEED, num_samples=1, classes=1)
    m_do = tf.fill([7, open_gates.dim_m], 0.5)
    m, ratio = open_gates.sample_m(
        images, noise=noise.m, y=tf.eye(3)[None], manipulated=False, m_do=m_do
    )
    np.testing.assert_array_equal(m, m_do)
    np.testing.assert_array_equal(ratio, np.zeros([7, 1]))


def test_analytic_ratios_are_the_expectation_of_sampled_ones(open_gates, images):
    noise = open_gates.shared_noise(SEED, num_samples=3000, classes=1)
    labels = tf.zeros([2], tf.int32)
    q_z = open_gates.posterior_z(
        tf.constant(images[:2]), tf.one_hot(labels, 3)[:, None], tf.zeros([2, open_gates.dim_m])
    )
    z = q_z.mean() + q_z.stddev() * noise.z
    sampled = tf.reduce_mean(open_gates.prior_z().log_prob(z) - q_z.log_prob(z), axis=0)
    analytic = open_gates.log_weights(
        images[:2],
        noise=noise._replace(z=noise.z[:1]),
        labels=labels,
        manipulated=False,
        analytic=True,
    ).log_ratio_z[0]
    np.testing.assert_allclose(analytic, sampled[:, 0], rtol=0.02)


def test_given_labels_pick_their_class_from_the_enumeration(open_gates, images):
    noise = open_gates.shared_noise(SEED, num_samples=2)
    labels = tf.constant([0, 1, 2, 0, 1, 2, 0])
    every = open_gates.log_weights(images, noise=noise).total()  # [K, B, C]
    for row, label in enumerate(labels.numpy()):
        own = noise._replace(z=noise.z[:, :, label : label + 1])
        one = open_gates.log_weights(images, noise=own, labels=labels).total()
        np.testing.assert_allclose(one[:, row], every[:, row, label], atol=2e-3)


def test_noise_of_rows_is_every_rows_own(model):
    draws = random.RowDraws(SEED, tf.range(5), 5)
    noise = model.row_noise(draws, num_samples=2)
    assert noise.m.shape == (5, model.dim_m)
    assert noise.z.shape == (2, 5, 3, model.dim_z)
    assert not np.allclose(noise.z[:, 0], noise.z[:, 1])
    half = model.row_noise(draws._replace(rows=tf.constant([3])), num_samples=2)
    np.testing.assert_array_equal(half.z[:, 0], noise.z[:, 3])


def test_variable_groups_hold_every_variable_once(spec):
    cifar = InputSpec((32, 32, 3), ("a", "b"), Bounds(0.0, 1.0))
    for made in (Cama(spec, CamaConfig()), Cama(cifar, CamaConfig())):
        grouped = [id(v) for group in made.variable_groups().values() for v in group]
        assert len(grouped) == len(set(grouped))
        assert set(grouped) == {id(v) for v in made.trainable_variables}


def test_sizes_are_those_of_the_appendix():
    made = Cama(InputSpec((28, 28, 1), tuple("0123456789"), Bounds(0.0, 1.0)), CamaConfig())
    groups = {
        name: [tuple(v.shape) for v in variables if len(v.shape) > 1]
        for name, variables in made.variable_groups().items()
    }
    assert groups["p_y"] == [(10, 500), (500, 500)]
    assert groups["p_z"] == [(64, 500), (500, 500)]
    assert groups["p_m"] == [(32, 500), (500, 500), (500, 500), (500, 500)]
    assert groups["p_merge"] == [(1500, 1024), (3, 3, 64, 64), (3, 3, 64, 64), (3, 3, 1, 64)]
    assert groups["q_m"] == [
        *[(3, 3, 1, 64), (3, 3, 64, 64), (3, 3, 64, 64)],
        *[(1024, 500), (500, 64)],
    ]
    assert groups["q_z"] == [
        *[(5, 5, 1, 64), (5, 5, 64, 64), (5, 5, 64, 64)],
        *[(1024, 500), (500 + 32 + 10, 500), (500, 128)],
    ]


def test_it_generates(model, images):
    assert isinstance(model, Generative)
    for do_m0 in (False, True):
        found = model.reconstruct(tf.constant(images), seed=SEED, do_m0=do_m0)
        assert found.shape == images.shape
        assert np.all((found >= 0) & (found <= 1))
    samples = model.sample(tf.constant([0, 1, 2]), seed=SEED)
    assert samples.shape == (3, 28, 28, 1)
    log_scores = model.log_scores(images, seed=SEED).numpy()
    expected = special.logsumexp(log_scores, axis=1)
    np.testing.assert_allclose(model.log_px(images, seed=SEED), expected, rtol=1e-5)


def test_samples_are_under_do_m0(open_gates):
    z = random.normal([1, 3, 1, open_gates.dim_z], tf.constant(SEED))
    expected = open_gates.p(tf.eye(3)[:, None], z, tf.zeros([3, open_gates.dim_m])).mean()
    found = open_gates.sample(tf.constant([0, 1, 2]), seed=SEED)
    np.testing.assert_allclose(found, expected[0, :, 0], atol=1e-6)


def test_do_m0_reconstruction_differs_once_m_matters(open_gates, images):
    x = tf.constant(images)
    with_m = open_gates.reconstruct(x, seed=SEED, do_m0=False)
    without = open_gates.reconstruct(x, seed=SEED, do_m0=True)
    assert np.abs(with_m - without).max() > 1e-3


@pytest.mark.parametrize("likelihood", ["gaussian", "l2"])
def test_other_likelihoods_score(spec, images, likelihood):
    scores = Cama(spec, CamaConfig(likelihood=likelihood)).log_scores(images[:2], seed=SEED)
    assert np.all(np.isfinite(scores))


def test_log_scores_are_differentiable_in_x(model, images):
    x = tf.constant(images[:2])
    with tf.GradientTape() as tape:
        tape.watch(x)
        score = model.log_scores(x, seed=SEED)[:, 0]
    gradient = tape.gradient(score, x).numpy()
    direction, step = np.sign(gradient), 1e-3
    ahead = model.log_scores(x + step * direction, seed=SEED)[:, 0].numpy()
    behind = model.log_scores(x - step * direction, seed=SEED)[:, 0].numpy()
    slope = (gradient * direction).sum(axis=(1, 2, 3))
    np.testing.assert_allclose((ahead - behind) / (2 * step), slope, rtol=0.05)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"dim_z": -1}, "dim_z=-1 was given; it must be at least 0"),
        ({"class_margin": -1.0}, "class_margin=-1 was given; it must be at least 0"),
        ({"num_samples": 0}, "num_samples=0 was given; it must be at least 1"),
        ({"m_at_test": "do_m1"}, "did you mean 'do_m0'"),
        ({"p_untouched": 1.0}, r"p_untouched=1 was given; it must be in \[0, 1\)"),
        ({"p_untouched": -0.1}, r"p_untouched=-0.1 was given; it must be in \[0, 1\)"),
        ({"mechanism": "aditive"}, "did you mean 'additive'"),
        ({"likelihood": "bernouli"}, "did you mean 'bernoulli'"),
    ],
)
def test_bad_choices_are_one_clear_sentence(spec, config, sentence):
    with pytest.raises(InputError, match=sentence):
        Cama(spec, CamaConfig(**config))


@pytest.mark.parametrize("shape", [(30, 30, 1), (28, 32, 1), (784,)])
def test_other_input_shapes_are_refused(shape):
    with pytest.raises(InputError, match=r"cama takes images \[28, 28, channels\] or \[32, 32"):
        Cama(InputSpec(shape, ("a", "b"), None), CamaConfig())


def copied(model, **config):
    """The same variables under another configuration."""
    other = Cama(model.spec, dataclasses.replace(model.config, **config))
    for ours, theirs in zip(other.variables, model.variables, strict=True):
        ours.assign(theirs)
    return other


@pytest.fixture(scope="module")
def shifting(spec):
    """A CAMA with translation+rotation whose q(m|x) says something."""
    random.seed_everything(1)
    made = Cama(
        spec,
        CamaConfig(
            num_samples=2, mechanism="rotation+translation", completions=0, class_margin=0.0
        ),
    )
    generator = np.random.default_rng(0)
    for variable in [*made.mechanism.trainable_variables, *made.q_m.trainable_variables]:
        variable.assign_add(0.03 * generator.normal(size=variable.shape))
    return made


def test_several_samples_of_m_are_weighted_by_equation_6(shifting, images):
    x = tf.constant(images[:2])
    model = copied(shifting, m_samples=3)
    noise = model.shared_noise(SEED, num_samples=2, m_samples=3)
    weights = []
    for sample in range(3):
        for z in range(2):
            one = noise._replace(m=noise.m[sample : sample + 1], z=noise.z[z : z + 1])
            weights.append(model.log_weights(x, noise=one).total()[0])
    expected = special.logsumexp(weights, axis=0) - np.log(6)
    np.testing.assert_allclose(model.log_scores(x, seed=SEED), expected, rtol=1e-5)


def test_a_search_for_m_never_ends_below_its_start(shifting, images):
    x = tf.constant(images[:3])
    values = []
    for settings in ({}, {"m_starts": 2}, {"m_starts": 2, "m_steps": 2}):
        model = copied(shifting, m_at_test="mean", **settings)
        y = tf.eye(3)[None]
        m = model._m_at_test(x, tf.zeros([1, model.dim_m]), y)[0][0]
        q_z = model.posterior_z(x, y, m)
        joint = model._weigh(
            x, y=y, m=m, q_z=q_z, noise_z=tf.zeros([1, 1, 3, model.dim_z]), analytic=True
        ).total()[0]
        prior = model.prior_m(y).log_prob(m[:, None])
        values.append(tf.reduce_logsumexp(joint + prior, axis=-1).numpy())
    assert np.all(values[1] >= values[0] - 1e-2)
    assert np.all(values[2] >= values[1] - 1e-2)
    assert np.any(values[2] > values[0] + 1.0)


def test_a_search_for_m_decodes_no_more_rows_than_it_may(shifting, images, monkeypatch):
    settings = {"m_starts": 2, "m_steps": 2, "m_at_test": "mean"}
    whole, chunked = (
        copied(shifting, **settings, **more) for more in ({}, {"max_decoder_rows": 6})
    )
    x = tf.constant(images[:7])
    expected = whole._sharpened(x, whole.posterior_m(x)).mean()
    sizes, weigh = [], type(chunked)._weigh

    def weighing(self, x, **options):
        sizes.append(len(x) * self.num_classes)
        return weigh(self, x, **options)

    monkeypatch.setattr(type(chunked), "_weigh", weighing)
    found = chunked._sharpened(x, chunked.posterior_m(x)).mean()
    np.testing.assert_allclose(found, expected, atol=2e-3)
    assert max(sizes) <= 6


def test_a_search_for_m_heeds_p_m(model, images):
    """In a fresh model m does nothing: what is likelier a priori wins."""
    searching = copied(model, m_starts=1, m_steps=4, m_at_test="mean")
    searching.q_m.trainable_variables[-1].assign([3.0] * 32 + [0.0] * 32)  # mean and spread
    m, _ = searching.scores_by_m(images[:2], seed=SEED, num_samples=1)
    assert np.linalg.norm(m[0], axis=1).max() < 0.9 * 3.0 * np.sqrt(32)


def test_a_search_for_m_is_held_fixed_under_differentiation(shifting, images):
    x, searching = tf.constant(images[:1]), copied(shifting, m_starts=1)
    with tf.GradientTape() as tape:
        tape.watch(x)
        found = searching._sharpened(x, searching.posterior_m(x)).mean()
    assert tape.gradient(found, x) is None


@pytest.mark.parametrize(
    ("kind", "by_class"),
    [
        ("learned", [(0.5, np.exp(0.1))] * 3),
        ("class", [(0.5, np.exp(0.1)), (-1.0, 1.0), (0.0, np.exp(-0.5))]),
    ],
)
def test_p_m_may_be_learned_for_all_or_a_class(spec, images, kind, by_class):
    random.seed_everything(0)
    model = Cama(spec, CamaConfig(num_samples=2, mechanism="rotation", prior_m=kind))
    loc, log_scale = model.prior_m.trainable_variables
    means, scales = np.array(by_class[: loc.shape[0]]).T[..., None]
    loc.assign(means / 30)
    log_scale.assign(np.log(scales) / 3)
    noise = model.shared_noise(SEED, num_samples=1)
    q_m = model.posterior_m(tf.constant(images))
    m = (q_m.mean() + q_m.stddev() * noise.m).numpy()
    sampled = model.log_weights(images, noise=noise).log_ratio_m[0]
    analytic = model.log_weights(images, noise=noise, analytic=True).log_ratio_m[0]
    own = stats.norm(q_m.mean(), q_m.stddev())
    for label, (mean, scale) in enumerate(by_class):
        place = label if kind == "class" else 0
        expected = stats.norm(mean, scale).logpdf(m) - own.logpdf(m)
        np.testing.assert_allclose(sampled[:, place], expected[:, 0], atol=1e-4)
        kl = (
            np.log(scale / own.std())
            + (own.var() + (own.mean() - mean) ** 2) / (2 * scale**2)
            - 0.5
        )
        np.testing.assert_allclose(analytic[:, place], -kl[:, 0], atol=1e-4)
    untouched = model.log_weights(images, noise=noise, untouched=True).log_ratio_m[0]
    expected = stats.norm.logpdf(m) - own.logpdf(m)
    np.testing.assert_allclose(untouched, expected, atol=1e-4)
    assert any(v is loc for v in model.variable_groups()["p_m"])
    assert np.all(np.isfinite(model.log_scores(images, seed=SEED)))


def test_prediction_leaves_room_for_an_m_that_a_learned_p_m_never_saw(spec, images):
    """p(m) = 0.8 N(mu, s^2) + 0.2 N(0, I), m by m."""
    random.seed_everything(0)
    sure = Cama(
        spec,
        CamaConfig(
            num_samples=1, mechanism="rotation", prior_m="learned", p_unseen=0.0, class_margin=0.0
        ),
    )
    sure.prior_m.set_moments(np.array([1.5]), np.array([0.5]))
    m, without = sure.scores_by_m(images, seed=SEED, m_samples=4)
    _, found = copied(sure, p_unseen=0.2).scores_by_m(images, seed=SEED, m_samples=4)
    fitted, wide = stats.norm.pdf(m, 1.5, 0.5), stats.norm.pdf(m)
    expected = np.log((0.8 * fitted + 0.2 * wide) / fitted)  # [S, B, 1]
    assert np.ptp(expected) > 1.0
    np.testing.assert_allclose(found - without, np.tile(expected, 3), atol=1e-3)


def test_another_mechanism_adopts_all_but_the_m_networks(model, images):
    random.seed_everything(5)
    for mechanism in ("translation", "additive+rotation"):
        config = dataclasses.replace(model.config, mechanism=mechanism)
        other = Cama(model.spec, config)
        other.adopt(model)
        scores = [
            copied(each, m_at_test="do_m0").log_scores(images, seed=SEED) for each in (other, model)
        ]
        np.testing.assert_allclose(*scores, atol=2e-3)


def test_what_left_the_frame_is_filled_in_and_the_rest_is_left_alone(spec, images):
    random.seed_everything(1)
    model = Cama(spec, CamaConfig(num_samples=2, mechanism="translation", completions=2))
    m = model.mechanism.m_of(tf.constant([[0.0, 0.0], [0.3, 0.0], [0.0, 12.0], [9.0, 9.0]]))
    x, y = tf.constant(images[:4]), tf.eye(3)[None]
    q_z = model.posterior_z(x, y, m)
    improved = model._best_posterior_z(x, y, m)
    changed = np.abs(improved.mean() - q_z.mean()).max(axis=(1, 2))
    assert np.all(changed[:2] == 0.0)
    assert np.all(changed[2:] > 0.01)
    # By hand: row 2, class 1.
    z = q_z.mean()[2:3, 1:2]
    seen = model.mechanism.visible(m[2:3], tf.ones([1, 28, 28, 1]))
    assert 0.5 < float(tf.reduce_mean(seen)) < 0.65
    for _ in range(2):
        mean = model.p(y[:, 1:2], z[None], tf.zeros([1, 2])).mean()[0, :, 0]
        whole = seen * model.mechanism.invert(m[2:3], x[2:3]) + (1 - seen) * mean
        again = model.q_z(model.q_z.encode(whole), None, y[:, 1:2])
        z = again.mean()
    np.testing.assert_allclose(improved.mean()[2, 1], z[0, 0], atol=1e-4)
    np.testing.assert_allclose(improved.stddev()[2, 1], again.stddev()[0, 0], atol=1e-4)
    # What an explanation takes for z is that, too.
    _, z = model.latents_of(x, tf.constant([1, 1, 1, 1]), m)
    np.testing.assert_allclose(z[0, :, 0], improved.mean()[:, 1], atol=1e-4)
    # Alone as in the batch; labels given.
    alone = model._best_posterior_z(x[2:3], y, m[2:3])
    np.testing.assert_allclose(alone.mean()[0], improved.mean()[2], atol=1e-4)
    one = tf.one_hot([1, 1, 1, 1], 3)[:, None]
    given = model._best_posterior_z(x, one, m)
    np.testing.assert_allclose(given.mean()[:, 0], improved.mean()[:, 1], atol=1e-4)


def test_what_is_close_is_completed_again_and_what_is_closest_gets_all_samples(spec, images):
    """m = 0 takes part in saying what is close."""
    random.seed_everything(1)
    config = CamaConfig(num_samples=3, mechanism="translation:scale=2", p_untouched=0.3)
    model = Cama(spec, dataclasses.replace(config, class_margin=0.0))
    x, y = tf.constant(images), tf.eye(3)[None]
    noise = model.shared_noise(SEED, num_samples=3)
    m, log_ratio = (t[0] for t in model._m_at_test(x, noise.m, y))
    found = []  # by m: after none, one and two completions, of one sample and of all
    for each, weight in ((m, np.log(0.7) + log_ratio), (tf.zeros_like(m), np.log(0.3))):
        q_z = model.posterior_z(x, y, each)
        for completions in range(3):
            q_z = model._improved(q_z, x, y, each) if completions else q_z
            log_weights = model._weigh(
                x, y=y, m=each, q_z=q_z, noise_z=noise.z, analytic=False
            ).total()
            found.append(log_weights[0] + weight)
            found.append(log_mean_exp(log_weights.numpy(), axis=0) + weight)
    one_0, all_0, one_1, all_1, one_2, all_2 = (
        np.array(found).reshape(2, 6, 7, 3).transpose(1, 0, 2, 3)
    )
    assert np.abs(one_1 - one_2).max() > 0.1
    np.testing.assert_allclose(
        model.log_scores(x, seed=SEED), special.logsumexp(all_2, axis=0), rtol=1e-5
    )

    def within(scores, margin):
        return scores.max(axis=(0, 2), keepdims=True) - scores <= margin

    behind = one_1.max(axis=(0, 2), keepdims=True) - one_1
    margin = float(np.sort(behind.ravel())[37:39].mean())
    close = within(one_1, margin)
    scores = np.where(close, one_2, one_1)
    closest = within(scores, margin)
    scores = np.where(closest, np.where(close, all_2, all_1), scores)
    assert 14 < closest.sum() < close.sum() < 42
    assert within(one_0, 2 * margin).all()  # so all of them are completed once
    found = copied(model, class_margin=margin).log_scores(x, seed=SEED)
    np.testing.assert_allclose(found, special.logsumexp(scores, axis=0), rtol=1e-5)
    # Where the margin is small, what is far without a completion gets none.
    behind = one_0.max(axis=(0, 2), keepdims=True) - one_0
    margin = float(np.sort(behind.ravel())[32:34].mean()) / 2
    near = within(one_0, 2 * margin)
    scores = np.where(near, one_1, one_0)
    close = within(scores, margin)
    scores = np.where(close, np.where(near, one_2, one_1), scores)
    closest = within(scores, margin)
    of_all = np.where(near, np.where(close, all_2, all_1), np.where(close, all_1, all_0))
    scores = np.where(closest, of_all, scores)
    assert 7 <= closest.sum() <= close.sum() < near.sum() < 42
    _, found = copied(model, class_margin=margin).scores_by_m(x, seed=SEED)
    np.testing.assert_allclose(found, scores, rtol=1e-5)


def test_z_ascends_by_adam_to_what_is_likelier(shifting, images):
    x, y, m = tf.constant(images), tf.eye(3)[None], tf.zeros([7, shifting.dim_m])
    noise = tf.zeros([1, 1, 1, shifting.dim_z])

    def log_joint(z):
        at_z = tfd.Independent(tfd.Normal(z, q_z.stddev()), 1)
        return shifting._weigh(x, y=y, m=m, q_z=at_z, noise_z=noise, analytic=True).total()[0]

    q_z = shifting.posterior_z(x, y, m)
    found = shifting._ascended(q_z, x, y, m, steps=5)
    z = tf.Variable(q_z.mean())
    schedule = keras.optimizers.schedules.PolynomialDecay(0.2, 5, end_learning_rate=0.0)
    adam = keras.optimizers.Adam(schedule, beta_1=0.8, beta_2=0.95, epsilon=1e-6)
    for _ in range(5):
        with tf.GradientTape() as tape:
            loss = -tf.reduce_sum(log_joint(z))
        adam.apply([tape.gradient(loss, z)], [z])
    np.testing.assert_allclose(found.mean(), z, atol=2e-3)
    np.testing.assert_array_equal(found.stddev(), q_z.stddev())
    won = (log_joint(found.mean()) - log_joint(q_z.mean())).numpy()
    assert won.min() > 0.0
    with tf.GradientTape() as tape:
        tape.watch(x)
        far = tf.reduce_sum(shifting._ascended(q_z, x, y, m, steps=5).mean())
    assert tape.gradient(far, x) is None
    alone = shifting._ascended(shifting.posterior_z(x[2:3], y, m[2:3]), x[2:3], y, m[2:3], steps=5)
    np.testing.assert_allclose(alone.mean()[0], found.mean()[2], atol=2e-3)


def test_z_ascends_for_the_best_m_of_every_class_that_may_win(shifting, images):
    x, y = tf.constant(images), tf.eye(3)[None]
    model = copied(shifting, m_samples=3, num_samples=1, z_steps=4)
    noise = model.shared_noise(SEED, num_samples=1, m_samples=3)
    m, before = model.scores_by_m(x, seed=SEED, z_steps=0)
    after = []
    for each, start in zip(m, before, strict=True):
        q_z = model.posterior_z(x, y, each)
        ascended = model._ascended(q_z, x, y, each, steps=4)
        old, new = (
            model._weigh(x, y=y, m=each, q_z=q, noise_z=noise.z, analytic=False).total()[0]
            for q in (q_z, ascended)
        )
        after.append(start + new - old)
    by_class = before.numpy().max(axis=0)
    behind = by_class.max(axis=1, keepdims=True) - by_class
    margin = float(np.sort(behind.ravel())[[12, 13]].mean()) / 3  # seven are 0
    near = behind <= 3 * margin
    contested = near & (near.sum(axis=1, keepdims=True) > 1)
    assert 0 < contested.sum() < near.sum() < near.size
    rival = contested & (before.numpy() == by_class)
    assert rival.sum() == contested.sum()
    expected = np.where(rival, after, before)
    assert np.abs(expected - before).max() > 0.1
    _, found = copied(model, class_margin=margin).scores_by_m(x, seed=SEED)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-3)
    _, found = model.scores_by_m(x, seed=SEED)  # no margin: all classes
    np.testing.assert_allclose(found, np.where(before == by_class, after, before), atol=5e-3)


@pytest.mark.parametrize(
    "rows", [1, *(pytest.param(rows, marks=pytest.mark.long) for rows in (7, 2048))]
)
def test_margins_do_not_depend_on_the_batch_or_on_chunks(shifting, images, rows):
    settings = {"class_margin": 20.0, "p_untouched": 0.5, "num_samples": 4, "z_steps": 2}
    model = copied(shifting, **settings)
    expected = model.log_scores(images, seed=SEED).numpy()
    chunked = copied(model, max_decoder_rows=rows)
    np.testing.assert_allclose(chunked.log_scores(images, seed=SEED), expected, atol=2e-3)
    alone = [chunked.log_scores(images[i : i + 1], seed=SEED).numpy()[0] for i in range(7)]
    np.testing.assert_allclose(alone, expected, atol=2e-3)
    signature = [tf.TensorSpec([None, *model.spec.shape], tf.float32)]
    graph = tf.function(lambda x: chunked.log_scores(x, seed=SEED), input_signature=signature)
    np.testing.assert_allclose(graph(images[:5]), expected[:5], atol=2e-3)


def test_an_intervention_on_one_part_keeps_the_others(shifting, images):
    x = tf.constant(images[:3])

    def rebuilt(do):
        return shifting.reconstruct(x, seed=SEED, do_m0=do).numpy()

    none, turn, all_parts = rebuilt(False), rebuilt(("rotation",)), rebuilt(True)
    assert np.abs(turn - none).max() > 1e-3
    assert np.abs(turn - all_parts).max() > 1e-3
    np.testing.assert_array_equal(rebuilt(("rotation", "translation")), all_parts)
    np.testing.assert_array_equal(rebuilt(("shift_x", "shift_y", "rotation")), all_parts)


def test_an_interpolation_moves_one_parameter_and_holds_the_rest(shifting, images):
    x = tf.constant(images[:3])
    found = shifting.interpolate(x, shifting.explanation(x, seed=SEED), (0.0, 1.0))
    assert set(found) == set(shifting.mechanism.coordinates_of_parameters())
    along = found["shift_y"].numpy()
    np.testing.assert_array_equal(along[0], shifting.reconstruct(x, seed=SEED, do_m0=("shift_y",)))
    assert np.abs(along[1] - along[0]).max() > 1e-3


def test_an_interpolation_goes_by_the_p_m_that_was_learned(shifting, images):
    model = Cama(shifting.spec, dataclasses.replace(shifting.config, prior_m="learned"))
    model.adopt(shifting)
    loc, scale = np.array([0.5, -1.0, 0.0], np.float32), np.array([0.1, 3.0, 1.0], np.float32)
    model.prior_m.set_moments(loc, scale)
    expected = [loc - 2 * scale, loc + scale]
    np.testing.assert_allclose(model.m_along((-2.0, 1.0)), expected, rtol=1e-5)
    x = images[:2]
    found = model.interpolate(x, model.explanation(x, seed=SEED), (-2.0, 1.0))
    explained = shifting.explanation(x, seed=SEED)
    for name, place in model.mechanism.coordinates_of_parameters().items():
        at = [float(m[place]) for m in expected]
        same = shifting.interpolate(x, explained, at)[name]  # by N(0, I)
        np.testing.assert_allclose(found[name], same, atol=1e-5)


def test_the_manipulation_that_is_read_off_is_the_prediction_s_own(shifting, images):
    noise = shifting.shared_noise(SEED, num_samples=2)
    q_m = shifting.posterior_m(tf.constant(images))
    expected = shifting.mechanism.values(q_m.mean() + q_m.stddev() * noise.m)
    np.testing.assert_allclose(shifting.manipulation(images, seed=SEED), expected, rtol=1e-5)


def test_the_mean_of_m_may_stand_for_its_samples(shifting, images):
    found = copied(shifting, m_at_test="mean").manipulation(images, seed=SEED)
    expected = shifting.mechanism.values(shifting.posterior_m(tf.constant(images)).mean())
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_an_input_may_be_untouched(shifting, images):
    """p(x, y) = p_untouched p(x, y | do(m=0)) + (1 - p_untouched) p(x, y)."""
    slab = shifting.log_scores(images, seed=SEED).numpy()
    spike = copied(shifting, m_at_test="do_m0").log_scores(images, seed=SEED).numpy()
    model = copied(shifting, p_untouched=0.2)
    expected = np.logaddexp(np.log(0.8) + slab, np.log(0.2) + spike)
    np.testing.assert_allclose(model.log_scores(images, seed=SEED), expected, rtol=1e-5)
    never = copied(model, m_at_test="do_m0")
    np.testing.assert_array_equal(never.log_scores(images, seed=SEED), spike)
    np.testing.assert_array_equal(never.log_p_untouched(images, seed=SEED), 0.0)
    assert np.all(np.isneginf(shifting.log_p_untouched(images, seed=SEED)))


def test_who_is_untouched_follows_bayes_rule_and_has_no_manipulation(shifting, images, monkeypatch):
    """Likelihoods are given, so that both kinds of rows are among them."""
    told = shifting.manipulation(images, seed=SEED).numpy()
    model = copied(shifting, p_untouched=0.2)
    log_ratio = model._m_at_test(
        tf.constant(images), model.shared_noise(SEED, num_samples=2).m, tf.eye(3)[None]
    )[1]
    touched = np.arange(7) % 2 == 0

    def given(x, m, log_weight_m, noise_z, *, z_steps):
        """Touched rows: 5 nats for m, others: 2 nats against it, none for 0."""
        assert z_steps == 0
        favour = tf.constant(np.where(touched, 5.0, -2.0), tf.float32)[None, :, None]
        np.testing.assert_array_equal(m[1], 0.0)
        scores = [tf.zeros([1, 7, 3]) + favour - log_ratio, tf.zeros([1, 7, 3])]
        return tf.concat(scores, axis=0) + log_weight_m

    monkeypatch.setattr(model, "_scores_at", given)
    odds = np.where(touched, 0.2 / (0.8 * np.exp(5.0)), 0.2 / (0.8 * np.exp(-2.0)))
    found = np.exp(model.log_p_untouched(images, seed=SEED))
    np.testing.assert_allclose(found, odds / (1 + odds), rtol=1e-4)
    zero = odds > 1
    assert 0 < zero.sum() < 7
    manipulation = model.manipulation(images, seed=SEED).numpy()
    np.testing.assert_array_equal(manipulation[zero], 0.0)
    np.testing.assert_allclose(manipulation[~zero], told[~zero], rtol=1e-4)


def test_samples_of_m_may_be_likelier_than_untouched_only_together(shifting, images, monkeypatch):
    """0.25 + 0.35 against 0.4: touched, and the second sample explains it best."""
    model = copied(shifting, p_untouched=0.2, m_samples=2)
    shares = tf.constant([0.25, 0.35, 0.4])[:, None, None]
    monkeypatch.setattr(
        model, "_scores_at", lambda *args, z_steps: tf.math.log(shares / 3 * tf.ones([3, 7, 3]))
    )
    samples, _ = model.scores_by_m(images, seed=SEED)
    _, m = model.log_scores_and_m(images, seed=SEED)
    np.testing.assert_array_equal(m, samples[1])
    np.testing.assert_allclose(model.log_p_untouched(images, seed=SEED), np.log(0.4), rtol=1e-5)
