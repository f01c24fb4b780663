"""Deep CAMA on tables: Eqs. 9 to 11, missing values, empty roles, and who may see what."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import special, stats
from tensorflow_probability import distributions as tfd

from tfcama import random
from tfcama.errors import InputError
from tfcama.models.cama_base import CamaBase
from tfcama.models.cama_config import CamaBaseConfig
from tfcama.models.discriminative import DiscriminativeConfig, measurement_dnn
from tfcama.models.measurement_cama import (
    MeasurementCama,
    MeasurementCamaConfig,
    _quadratic,
)
from tfcama.networks.children import ChildrenDistribution
from tfcama.objectives import bounds
from tfcama.training.optimizer import Adam
from tfcama.types import CHILD, COPARENT, PARENT, Bounds, Column, InputSpec

SEED = tf.constant(random.stream(0, "test"))
COLUMNS = (
    Column("a", (PARENT,)),
    Column("c", (COPARENT,)),
    Column("d", (COPARENT,)),
    Column("x", (CHILD,)),
    Column("kind", (CHILD,), categories=("p", "q", "r")),
    Column("w", (CHILD,)),
)


def spec_of(columns):
    width = sum(column.width for column in columns)
    return InputSpec((width,), ("u", "v", "w"), None, columns=tuple(columns), target="y")


def small(columns=COLUMNS, **config):
    random.seed_everything(0)
    sizes = {"hidden": 16, "dim_z": 4, "dim_m": 3, "num_samples": 2}
    return MeasurementCama(spec_of(columns), MeasurementCamaConfig(**{**sizes, **config}))


@pytest.fixture(scope="module")
def rows():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(6, 8)).astype(np.float32)
    x[:, 4:7] = np.eye(3)[generator.integers(0, 3, 6)]
    return x


class LinearGaussian(CamaBase):
    """p(x|y,c,z) = N(W y + V c + B z, s^2 I) with the exact q(z|.): one sample says it all."""

    W = np.array([[1.0, -0.5], [-0.7, 0.3], [0.2, 0.9]], np.float32)  # [C, X]
    V = np.array([[0.8, -1.2]], np.float32)  # [c, X]
    B = np.array([[0.6, 0.1]], np.float32)  # [Z, X]
    U = np.array([[0.5, -0.2, 0.1]], np.float32)  # [a, C]
    S = 0.4

    def __init__(self):
        columns = (Column("a", (PARENT,)), Column("c", (COPARENT,)))
        columns += (Column("x1", (CHILD,)), Column("x2", (CHILD,)))
        super().__init__(
            spec_of(columns),
            CamaBaseConfig(num_samples=3, m_at_test="do_m0"),
            dim_z=1,
            dim_m=1,
            p_m_hidden=(1,),
            name="linear_gaussian",
        )

    def posterior_m(self, x):
        return tfd.Independent(tfd.Normal(tf.zeros([tf.shape(x)[0], 1]), 1.0), 1)

    def posterior_z(self, x, y, m):
        residual = x[:, None, 2:] - y @ self.W - (x[:, 1:2] @ self.V)[:, None]
        precision = 1.0 + float((self.B**2).sum()) / self.S**2
        loc = tf.reduce_sum(residual * self.B, axis=-1, keepdims=True) / self.S**2 / precision
        return tfd.Independent(tfd.Normal(loc, precision**-0.5), 1)

    def p(self, y, z, m, c=None):
        loc = y @ self.W + (c @ self.V)[:, None] + z @ self.B
        return tfd.Independent(tfd.Normal(loc, self.S), 1)

    def log_py(self, x):
        return tf.nn.log_softmax(x[:, :1] @ self.U)

    def effects(self, x):
        return x[:, 2:]

    def coparents(self, x):
        return x[:, 1:2]

    def variable_groups(self):
        return {}

    _sums = ()

    def _mean(self, x, y, z, m):
        raise NotImplementedError


def closed_form(x):
    """Log p(y, x | a, c) of LinearGaussian, [B, C]: z integrated out by hand."""
    covariance = LinearGaussian.B.T @ LinearGaussian.B + LinearGaussian.S**2 * np.eye(2)
    logits = x[:, :1] @ LinearGaussian.U
    log_py = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    loc = LinearGaussian.W[None] + (x[:, 1:2] @ LinearGaussian.V)[:, None]  # [B, C, X]
    residual = x[:, None, 2:] - loc
    return log_py + stats.multivariate_normal(np.zeros(2), covariance).logpdf(residual)


def test_the_posterior_is_equation_11_where_all_is_known():
    x = np.random.default_rng(1).normal(size=(5, 4)).astype(np.float32)
    model, expected = LinearGaussian(), closed_form(x)
    found = model.log_scores(tf.constant(x), seed=SEED).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4)  # Eq. 11 before normalising
    posterior = np.exp(expected) / np.exp(expected).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(tf.nn.softmax(found), posterior, atol=1e-5)
    noise = model.shared_noise(SEED, num_samples=7)
    weights = model.log_weights(tf.constant(x), noise=noise, manipulated=False)
    np.testing.assert_allclose(bounds.elbo(weights), expected, atol=1e-4)  # tight: q is exact


def test_an_intervention_on_c_leaves_the_posterior_as_it_is():
    x = np.random.default_rng(2).normal(size=(5, 4)).astype(np.float32)
    moved = x.copy()
    moved[:, 1] += 2.5  # do(C := C + 2.5) ...
    moved[:, 2:] += 2.5 * LinearGaussian.V  # ... and X follows
    model = LinearGaussian()
    before, after = (model.log_scores(tf.constant(v), seed=SEED).numpy() for v in (x, moved))
    np.testing.assert_allclose(after, before, atol=1e-4)
    moved[:, 2:] += 1.0  # while do(X := X + 1) does not
    assert np.abs(model.log_scores(tf.constant(moved), seed=SEED) - before).max() > 0.5


def test_the_likelihood_is_normal_and_categorical_and_missing_values_add_nothing(rows):
    model = small(initial_scale=0.7)
    children = tf.constant(rows[:, 3:])
    outputs = np.random.default_rng(3).normal(size=(6, 5)).astype(np.float32)
    columns = COLUMNS[3:]
    scale = model.p_x.log_scale
    p_x = ChildrenDistribution(tf.constant(outputs), tf.constant(scale), columns=columns)
    normal = stats.norm(outputs[:, [0, 4]], 0.7).logpdf(rows[:, [3, 7]])
    logits = outputs[:, 1:4]
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    categorical = (log_p * rows[:, 4:7]).sum(axis=1)
    found = p_x.log_prob(children).numpy()
    np.testing.assert_allclose(found, normal.sum(axis=1) + categorical, rtol=1e-4)
    missing = rows[:, 3:].copy()
    missing[:, 0] = np.nan
    found = p_x.log_prob(tf.constant(missing)).numpy()
    np.testing.assert_allclose(found, normal[:, 1] + categorical, rtol=1e-4)
    missing[:, 1:4] = np.nan
    found = p_x.log_prob(tf.constant(missing)).numpy()
    np.testing.assert_allclose(found, normal[:, 1], rtol=1e-4)
    np.testing.assert_allclose(p_x.mean()[:, 1:4], np.exp(log_p), rtol=1e-4)


def test_a_shift_that_is_known_changes_nothing_where_a_child_is_missing(rows):
    """X' = X + d and m = d are X and m = 0, also to q(z|.), whatever is missing."""
    model = small(mechanism="location_scale", dim_m=0)
    shift = np.array([3.0, -2.0], np.float32)  # of x and w
    m = model.mechanism.m_of(tf.constant([[*shift, 0.0, 0.0]]))
    x = rows.copy()
    x[::2, 3], x[1::3, 7] = np.nan, np.nan
    moved = x.copy()
    moved[:, [3, 7]] += shift
    y = tf.eye(3)[None]
    before = model.posterior_z(tf.constant(x), y, tf.zeros([6, 4]))
    after = model.posterior_z(tf.constant(moved), y, tf.repeat(m, 6, axis=0))
    np.testing.assert_allclose(after.mean(), before.mean(), atol=1e-5)


def test_a_missing_value_has_no_gradient_and_spoils_none(rows):
    model = small()
    x = rows.copy()
    x[0, 3] = np.nan
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        total = tf.reduce_sum(model.log_scores(x, seed=SEED))
    gradient = tape.gradient(total, x).numpy()
    assert np.all(np.isfinite(gradient))
    assert gradient[0, 3] == 0.0
    assert np.abs(gradient[1:, 3]).min() > 0.0


def test_m_sees_the_children_and_the_prior_of_y_sees_the_parents(rows):
    model = small(gated=False)
    other = rows.copy()
    other[:, [0, 1, 2]] += 1.0
    x, moved = tf.constant(rows), tf.constant(other)
    np.testing.assert_array_equal(model.posterior_m(x).mean(), model.posterior_m(moved).mean())
    only_c = rows.copy()
    only_c[:, [1, 2]] += 1.0
    np.testing.assert_array_equal(model.log_py(x), model.log_py(tf.constant(only_c)))
    assert not np.allclose(model.log_py(x), model.log_py(moved))
    np.testing.assert_array_equal(model.coparents(x), rows[:, [1, 2]])
    np.testing.assert_array_equal(model.effects(x), rows[:, 3:])


def test_scores_equal_a_loop_over_classes_and_samples(rows):
    model = small(m_at_test="do_m0")
    x = tf.constant(rows)
    scores = model.log_scores(x, seed=SEED).numpy()
    noise = model.shared_noise(SEED, num_samples=2)
    for label in range(3):
        totals = []
        for k in range(2):
            part = noise._replace(z=noise.z[k : k + 1, :, label : label + 1])
            labels = tf.fill([6], label)
            w = model.log_weights(x, noise=part, labels=labels, manipulated=False)
            totals.append(w.total().numpy()[0])
        naive = np.logaddexp(*totals) - np.log(2)
        np.testing.assert_allclose(scores[:, label], naive, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("z_steps", [0, 2])
def test_chunks_change_nothing(rows, z_steps):
    whole, chunked = small(z_steps=z_steps), small(z_steps=z_steps, max_decoder_rows=4)
    x = tf.constant(rows)
    np.testing.assert_allclose(
        chunked.log_scores(x, seed=SEED), whole.log_scores(x, seed=SEED), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("empty", [PARENT, COPARENT, CHILD, (PARENT, COPARENT)])
@pytest.mark.parametrize("features", ["mlp", "quadratic"])
def test_any_role_may_be_empty(empty, features):
    columns = [column for column in COLUMNS if column.roles[0] not in empty]
    model = small(columns, coparent_features=features)
    x = tf.constant(np.random.default_rng(0).normal(size=(3, *model.spec.shape)), tf.float32)
    scores = model.log_scores(x, seed=SEED).numpy()
    assert np.all(np.isfinite(scores))
    if empty == CHILD:  # p(y | a) alone, whatever z and m are, up to what q(z|.) costs
        kl = scores - model.log_py(x).numpy()
        assert np.abs(kl).max() < 50.0
    grouped = sum(len(v) for v in model.variable_groups().values())
    assert grouped == len(model.trainable_variables)
    assert model.reconstruct(x, seed=SEED, do_m0=True).shape == x.shape


def test_without_parents_the_frequencies_of_rare_classes_are_learned_soon():
    model = small([column for column in COLUMNS if PARENT not in column.roles])
    x = tf.zeros([1, *model.spec.shape])
    frequencies = np.array([0.97, 0.02, 0.01], np.float32)
    variables = model.variable_groups()["p_y_given_a"]
    optimizer = Adam(1e-3)
    for _ in range(500):
        with tf.GradientTape() as tape:
            loss = -tf.reduce_sum(frequencies * model.log_py(x)[0])
        optimizer.apply_gradients([(tape.gradient(loss, variables[0].value), variables[0])])
    np.testing.assert_allclose(np.exp(model.log_py(x)[0]), frequencies, rtol=0.15)


def test_log_p_y_is_float32_under_bfloat16():
    columns = [column for column in COLUMNS if PARENT not in column.roles]
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = small(columns)
    finally:
        keras.config.set_dtype_policy("float32")
    logits = np.array([0.1234567, -0.1, 0.0131313], np.float32)
    model.variable_groups()["p_y_given_a"][0].assign(logits)
    found = model.log_py(tf.zeros([1, *model.spec.shape]))[0]
    np.testing.assert_allclose(found, special.log_softmax(30.0 * logits), rtol=1e-6)


def test_a_column_that_causes_y_and_x_is_seen_by_both(rows):
    columns = (Column("a", (PARENT, COPARENT)), Column("x", (CHILD,)))
    model = small(columns)
    x = tf.constant(rows[:, :2])
    np.testing.assert_array_equal(model.coparents(x), rows[:, :1])
    assert not np.allclose(model.log_py(x), model.log_py(x + tf.constant([[1.0, 0.0]])))
    np.testing.assert_array_equal(model.attack_mask, [0.0, 1.0])


def test_attacks_may_move_numeric_children_and_coparents_only():
    columns = (*COLUMNS, Column("e", (COPARENT,), indicator=True), Column("f", ()))
    expected = [0, 1, 1, 1, 0, 0, 0, 1, 1, 0, 0]
    np.testing.assert_array_equal(small(columns).attack_mask, expected)
    dnn = measurement_dnn(spec_of(columns), DiscriminativeConfig())
    np.testing.assert_array_equal(dnn.attack_mask, expected)


def test_the_gate_keeps_m_out_until_it_has_learned(rows):
    model, x = small(), tf.constant(rows)
    q_m = model.posterior_m(x)
    np.testing.assert_array_equal(q_m.mean(), np.zeros((6, 3)))
    np.testing.assert_array_equal(q_m.stddev(), np.ones((6, 3)))
    y = tf.eye(3)[None]
    z = random.normal([2, 6, 3, 4], SEED)
    outputs = [
        model.p(y, z, m, model.coparents(x)).mean() for m in (tf.zeros([6, 3]), tf.ones([6, 3]))
    ]
    np.testing.assert_array_equal(outputs[0], outputs[1])


def test_the_papers_sizes():
    random.seed_everything(0)
    spec = spec_of(
        [Column(f"a{i}", (PARENT,)) for i in range(5)]
        + [Column(f"c{i}", (COPARENT,)) for i in range(5)]
        + [Column(f"x{i}", (CHILD,)) for i in range(10)]
    )
    model = MeasurementCama(spec, MeasurementCamaConfig())
    assert (model.dim_z, model.dim_m) == (64, 32)
    shapes = {
        name: [tuple(v.shape) for v in group] for name, group in model.variable_groups().items()
    }
    kernels = {name: [s for s in group if len(s) == 2] for name, group in shapes.items()}
    assert kernels["p_y_given_a"] == [(5, 500), (500, 500), (500, 3)]
    assert kernels["p_c"] == [(5, 500), (500, 500)]
    assert kernels["p_z"] == [(64, 500), (500, 500)]
    assert kernels["p_m"] == [(32, 500), (500, 500), (500, 500), (500, 500)]
    assert kernels["p_merge"] == [(2000, 500), (500, 10)]
    assert kernels["q_m"] == [(10, 500), (500, 500), (500, 64)]
    assert kernels["q_z"] == [(10 + 3 + 32 + 5 + 5, 500), (500, 500), (500, 128)]


def test_a_moved_child_is_the_push_forward_of_the_child():
    """x' = e^s x + t: log p(x'|m) = log p(x|do(m = 0)) - s, summed over what moves."""
    columns = (*COLUMNS[:4], Column("w", (CHILD,)))
    model = small(columns, mechanism="location_scale", dim_m=0)
    m = model.mechanism.m_of(tf.constant([[1.5, -2.0, 0.3, -0.2]]))
    y, z = tf.one_hot([[1]], 3), tf.random.stateless_normal([2, 1, 1, 4], [1, 2])
    x, c = tf.constant([[0.4, -1.1]]), tf.constant([[0.3, 0.7]])
    moved = x * tf.exp([[0.3, -0.2]]) + [[1.5, -2.0]]
    before = model.p(y, z, tf.zeros_like(m), c).log_prob(x[:, None])
    found = model.p(y, z, m, c).log_prob(moved[:, None])
    np.testing.assert_allclose(found, before - (0.3 - 0.2), rtol=1e-4)


def test_quadratic_features_are_all_products():
    np.testing.assert_array_equal(_quadratic(tf.constant([[2.0, 3.0]])), [[2, 3, 4, 6, 9]])


def test_z_sees_parents_and_coparents(rows):
    model = small()
    y, m = tf.one_hot([[1]] * 6, 3), tf.zeros([6, model.dim_m])
    before = model.posterior_z(tf.constant(rows), y, m).mean()
    for column in (0, 1, 2):
        other = rows.copy()
        other[:, column] += 1.0
        assert not np.allclose(model.posterior_z(tf.constant(other), y, m).mean(), before)


@pytest.mark.parametrize("features", ["mlp", "quadratic"])
def test_every_cause_of_a_child_is_heard(rows, features):
    model, x = small(gated=False, coparent_features=features), tf.constant(rows)
    y, z, m = tf.eye(3)[None], random.normal([1, 6, 3, 4], SEED), tf.zeros([6, 3])
    c = model.coparents(x)
    mean = model.p(y, z, m, c).mean().numpy()
    for other in ((y[:, ::-1], z, m, c), (y, z + 1, m, c), (y, z, m + 1, c), (y, z, m, c + 1)):
        assert np.abs(model.p(*other).mean() - mean).max() > 1e-2


def test_a_learned_scale_is_one_a_numeric_child_and_moves(rows):
    model = small(scale="learned")
    assert any(v is model.p_x.log_scale for v in model.variable_groups()["p_merge"])
    fixed = small()
    assert not any(v is fixed.p_x.log_scale for v in fixed.trainable_variables)
    assert model.p_x.log_scale.shape == (2,)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: small(coparent_features="cubic"), "unknown coparent_features 'cubic'"),
        (lambda: small(scale="free"), "unknown scale 'free'"),
        (lambda: small(hidden=0), "hidden=0 was given; it must be at least 1"),
        (lambda: small(initial_scale=0.0), "initial_scale=0 was given; it must be positive"),
        (lambda: small((Column("a", ()),)), "needs a parent, co-parent or child"),
        (
            lambda: MeasurementCama(
                InputSpec((28, 28, 1), ("a", "b"), Bounds(0, 1)), MeasurementCamaConfig()
            ),
            "measurement_cama takes tables",
        ),
        (
            lambda: measurement_dnn(
                InputSpec((28, 28, 1), ("a", "b"), Bounds(0, 1)), DiscriminativeConfig()
            ),
            "measurement_dnn takes tables",
        ),
    ],
)
def test_bad_choices_are_one_clear_sentence(make, sentence):
    with pytest.raises(InputError, match=sentence):
        make()
