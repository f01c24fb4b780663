"""Attacks on linear classifiers, where the best perturbation is known, and promises of them all."""

import numpy as np
import pytest
import tensorflow as tf

from tests.doubles import Linear, Masked, binary
from tfcama import random
from tfcama.attacks import losses
from tfcama.attacks.draws import loss_of
from tfcama.attacks.registry import ATTACKS, STRONG, chosen, parse
from tfcama.ball import L2, LINF, into_ball, l2_distance
from tfcama.errors import InputError
from tfcama.types import CHILD, Bounds, Column

EPS = 0.05
FEW = {
    "pgd": "pgd:steps=12",
    "cw": "cw:steps=60:searches=5:learning_rate=0.05:const=1",
    "pgd_eot": "pgd_eot:steps=12:draws=4",
    "square": "square:queries=80",
    "spsa": "spsa:steps=20:directions=16",
}
WHITE_BOX = ("fgsm", "pgd", "pgd_eot")


def texts():
    return [FEW.get(name, name) for name in ATTACKS]


def in_max_norm():
    return [FEW.get(name, name) for name in ATTACKS if ATTACKS[name].norm == LINF]


def inputs(count=6, shape=(4, 4, 1), seed=1):
    """Away from the bounds, so that the ball is what limits."""
    return np.random.default_rng(seed).uniform(0.3, 0.7, (count, *shape)).astype(np.float32)


def margins(model, x, y):
    return losses.margin(model.log_scores(tf.constant(x), seed=tf.constant([9, 9])), y).numpy()


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_few_steps_cross_the_ball_as_well(steps):
    model, w = binary()
    x, y = inputs(), np.array([0, 1, 0, 1, 0, 1])
    found = parse(f"pgd_eot:steps={steps}:draws=1", eps=EPS)(model, x, y, seed=0)
    gained = margins(model, found.x, y) - margins(model, x, y)
    np.testing.assert_allclose(gained, EPS * np.abs(w).sum(), rtol=1e-3)


@pytest.mark.parametrize("name", WHITE_BOX)
def test_white_box_attacks_find_the_best_perturbation_of_a_linear_model(name):
    model, w = binary()
    x, y = inputs(), np.array([0, 1, 0, 1, 0, 1])
    found = parse(FEW.get(name, name), eps=EPS)(model, x, y, seed=0)
    gained = margins(model, found.x, y) - margins(model, x, y)
    np.testing.assert_allclose(gained, EPS * np.abs(w).sum(), rtol=1e-3)


@pytest.mark.parametrize("name", WHITE_BOX)
def test_confidence_is_no_shelter(name):
    """At a margin of 50 nats the softmax form of cross-entropy has no gradient in float32."""
    scale = 1000.0
    _, w = binary()
    kernel = np.stack([np.zeros(16), scale * w.ravel()], axis=1)
    x, y = inputs(), np.ones(6, np.int32)
    bias = np.array([0.0, 50.0 - scale * (x.reshape(6, 16) @ w.ravel()).min()], np.float32)
    model = Linear(kernel, shape=(4, 4, 1), bias=bias)
    assert margins(model, x, y).max() <= -50.0 + 1e-2
    found = parse(FEW.get(name, name), eps=EPS)(model, x, y, seed=0)
    gained = margins(model, found.x, y) - margins(model, x, y)
    np.testing.assert_allclose(gained, scale * EPS * np.abs(w).sum(), rtol=1e-3)
    spec = FEW.get(name, name) + ":loss=cross_entropy"
    stuck = parse(spec, eps=EPS)(model, x, y, seed=0)
    assert np.all(margins(model, stuck.x, y) < margins(model, found.x, y) - 1.0)


NEAR = "cw:steps=150:searches=8:learning_rate=0.05:const=0.1"


@pytest.mark.parametrize("confidence", [0.0, 0.7])
def test_cw_finds_the_nearest_example_of_a_linear_model(confidence):
    model, w = binary()
    x, y = inputs(), np.array([0, 1, 0, 1, 0, 1])
    found = parse(f"{NEAR}:confidence={confidence:g}", eps=9.0)(model, x, y, seed=0)
    distance = np.maximum(confidence - margins(model, x, y), 0.0) / np.linalg.norm(w)
    assert 0 < np.sum(distance > 0) < (7 if confidence else 6)
    np.testing.assert_allclose(found.l2, distance, rtol=0.01)
    assert np.all(margins(model, found.x, y) >= confidence)


def test_cw_is_where_a_small_ball_is_the_point_on_the_way():
    model, _ = binary()
    x = inputs()
    y = np.argmax(model.log_scores(tf.constant(x), seed=tf.constant([0, 0])), axis=1)
    far, near = (parse(NEAR, eps=eps)(model, x, y, seed=0) for eps in (9.0, 0.02))
    np.testing.assert_allclose(near.l2, 0.02, rtol=1e-4)
    np.testing.assert_allclose(
        near.x - x, (far.x - x) * (0.02 / far.l2)[:, None, None, None], atol=1e-6
    )


def test_cw_moves_of_a_row_what_it_may_and_what_is_there():
    mask = tf.constant([0.0, 1.0, 1.0, 0.0, 1.0, 1.0])

    class Missing(Linear):
        def log_scores(self, x, *, seed):
            return super().log_scores(tf.where(tf.math.is_nan(x), 0.0, x), seed=seed)

    _, w = binary((6,))
    model = Missing(np.stack([np.zeros(6), w], axis=1), shape=(6,), bounds=None, mask=mask)
    children = Column("c", (CHILD,), categories=tuple("abcdef"))
    model.spec = model.spec._replace(columns=(children,), target="y")
    x = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
    x[1, 4] = x[2, 1] = np.nan
    y = np.argmax(model.log_scores(tf.constant(x), seed=None), axis=1)
    free = (mask.numpy() > 0) & ~np.isnan(x)
    found = parse(NEAR, eps=99.0)(model, x, y, seed=0)
    np.testing.assert_array_equal(found.x[~free], x[~free])
    expected = -margins(model, x, y) / np.sqrt((free * w**2).sum(axis=1))
    np.testing.assert_allclose(found.l2, expected, rtol=0.02)


def test_cw_leaves_alone_what_nothing_can_fool():
    _, w = binary()
    kernel = np.stack([np.zeros(16), w.ravel()], axis=1)
    model = Linear(kernel, shape=(4, 4, 1), bias=np.array([0.0, 99.0], np.float32))
    found = parse(FEW["cw"], eps=9.0)(model, inputs(), np.ones(6, np.int32), seed=0)
    np.testing.assert_array_equal(found.x, inputs())


def test_cw_looks_for_the_constant_of_every_input():
    """A constant that is too small finds nothing, and one that is too large nothing near."""
    model, w = binary()
    x = inputs()
    y = np.argmax(model.log_scores(tf.constant(x), seed=tf.constant([0, 0])), axis=1)
    distance = -margins(model, x, y) / np.linalg.norm(w)
    one = "cw:steps=150:learning_rate=0.05:searches=1"
    small, large = (parse(f"{one}:const={c}", eps=9.0)(model, x, y, seed=0) for c in (1e-4, 1e4))
    np.testing.assert_array_equal(small.l2, 0.0)
    assert np.all(large.l2 > distance)
    many = one.replace("searches=1", "searches=9")
    for const in (1e-4, 1e4):
        found = parse(f"{many}:const={const}", eps=9.0)(model, x, y, seed=0)
        assert np.all(found.l2 < large.l2)
        assert np.all(found.l2 >= distance * (1 - 1e-3))


def test_cw_fools_draws_that_it_did_not_see():
    """The nearest example that fools one draw fools every other draw by a coin."""
    model, _ = binary(noise=0.05)
    x = inputs()
    quiet, _ = binary()
    y = np.argmax(quiet.log_scores(tf.constant(x), seed=tf.constant([0, 0])), axis=1)
    found = parse(NEAR, eps=9.0)(model, x, y, seed=0)
    draws = [
        losses.margin(model.log_scores(tf.constant(found.x), seed=tf.constant([5, n])), y) > 0
        for n in range(100)
    ]
    assert np.mean(draws) > 0.85


@pytest.mark.parametrize("shape", [(5,), (4, 4, 1)])
def test_a_euclidean_ball_cuts_what_is_outside_and_nothing_else(shape):
    model, _ = binary(shape)
    generator = np.random.default_rng(0)
    origin = generator.uniform(size=(40, *shape)).astype(np.float32)
    moved = origin + generator.normal(size=origin.shape).astype(np.float32) * 0.2
    moved = np.clip(moved, 0.0, 1.0)
    distance = l2_distance(tf.constant(moved), tf.constant(origin)).numpy()
    eps = float(np.median(distance))
    kept = into_ball(tf.constant(moved), tf.constant(origin), eps, model, norm=L2).numpy()
    inside = distance <= eps
    np.testing.assert_array_equal(kept[inside], moved[inside])
    ways = (kept - origin)[~inside].reshape(np.sum(~inside), -1)
    np.testing.assert_allclose(np.linalg.norm(ways, axis=1), eps, rtol=1e-5)
    before = (moved - origin)[~inside].reshape(len(ways), -1)
    cosines = np.sum(ways * before, axis=1) / (eps * distance[~inside])
    np.testing.assert_allclose(cosines, 1.0, rtol=1e-5)
    same = into_ball(tf.constant(origin), tf.constant(origin), 0.0, model, norm=L2)
    np.testing.assert_array_equal(same, origin)


def test_the_log_odds_are_cross_entropy_before_its_softplus():
    scores = tf.constant(np.random.default_rng(0).normal(size=(5, 4)), tf.float32)
    y = tf.constant([0, 1, 2, 3, 0])
    np.testing.assert_allclose(
        tf.nn.softplus(losses.log_odds(scores, y)), losses.cross_entropy(scores, y), rtol=1e-5
    )


def test_the_odds_of_far_inputs_have_their_sign_and_gradient():
    """log p(x, y) of a table's row may be a trillion nats below zero."""
    scores, y = tf.constant([[-2e9, -3e9, -4e9], [-3.1e12, -3e12, -5e12]]), tf.constant([0, 0])
    with tf.GradientTape() as tape:
        tape.watch(scores)
        found = losses.log_odds(scores, y)
    np.testing.assert_allclose(found, [-1e9, 1e11], rtol=1e-4)
    np.testing.assert_array_equal(tape.gradient(found, scores), [[-1, 1, 0], [-1, 1, 0]])
    np.testing.assert_allclose(losses.margin(scores, y), [-1e9, 1e11], rtol=1e-4)


def test_square_gets_near_it_without_gradients():
    model, w = binary()
    x, y = inputs(), np.array([0, 1, 0, 1, 0, 1])
    found = parse("square:queries=400", eps=EPS)(model, x, y, seed=0)
    gained = margins(model, found.x, y) - margins(model, x, y)
    assert np.all(gained > 0.6 * EPS * np.abs(w).sum())


def test_spsa_finds_what_a_masked_gradient_hides():
    _, w = binary()
    model = Masked(np.stack([np.zeros(16), w.ravel()], axis=1), shape=(4, 4, 1))
    x, y = inputs(), np.array([0, 1, 0, 1, 0, 1])
    stuck = parse("pgd_eot:steps=20", eps=EPS)(model, x, y, seed=0)
    found = parse("spsa:steps=20:directions=64", eps=EPS)(model, x, y, seed=0)
    np.testing.assert_array_equal(stuck.x, x)
    gained = margins(model, found.x, y) - margins(model, x, y)
    assert np.all(gained > 0.95 * EPS * np.abs(w).sum())


def test_spsa_s_first_step_goes_its_one_direction_to_the_side_that_gains():
    """Adam's first step is as long as its rate in every pixel, whatever the estimate's size."""
    model, w = binary()
    x, y = inputs(), np.ones(6, np.int32)
    found = parse("spsa:steps=1:directions=1:learning_rate=0.02", eps=EPS)(model, x, y, seed=0).x
    signs = (found - x) / 0.02
    np.testing.assert_allclose(np.abs(signs), 1.0, rtol=1e-3)
    assert np.all(signs.reshape(6, 16) @ w.ravel() < 0)
    assert len(np.unique(np.sign(signs.reshape(6, 16)), axis=0)) > 1  # each input has its own


def test_spsa_asks_inside_the_ball_and_both_sides_under_one_draw():
    asked = []

    class Told(Linear):
        def log_scores(self, x, *, seed):
            tf.py_function(lambda x, seed: asked.append((x.numpy(), seed.numpy())), [x, seed], [])
            return super().log_scores(x, seed=seed)

    model, x = Told(np.eye(16)[:, :2], shape=(4, 4, 1), noise=1.0), inputs()
    parse("spsa:steps=2:directions=3:delta=0.2", eps=EPS)(model, x, np.zeros(6, np.int32), seed=0)
    sides = [(found, tuple(seed)) for found, seed in asked if len(found) == 12]
    assert len(sides) == 6
    assert len({seed for _, seed in sides}) == 6
    assert all(np.abs(found - np.tile(x, (2, 1, 1, 1))).max() <= EPS + 1e-6 for found, _ in sides)
    held_out = [tuple(seed) for found, seed in asked if len(found) == 6]
    assert len(held_out) == 30
    assert len(set(held_out)) == 10


class Offset(Linear):
    """Every draw moves the scores of all inputs by far more than any attack does."""

    def log_scores(self, x, *, seed):
        return super().log_scores(x, seed=seed) + 30.0 * random.normal([1, 2], seed)


def offset():
    """`binary` as an Offset, and as it is."""
    quiet, w = binary()
    kernel = np.stack([np.zeros(16), w.ravel()], axis=1)
    return Offset(kernel, shape=(4, 4, 1), noise=1.0), quiet, w


@pytest.mark.parametrize("text", ["square:queries=800", FEW["spsa"]])
def test_a_lucky_draw_does_not_stop_what_asks_for_scores(text):
    """Compared across draws, one of them wins."""
    model, quiet, w = offset()
    x, y = inputs(), np.array([0, 1, 0, 1, 0, 1])
    found = parse(text, eps=EPS)(model, x, y, seed=0)
    gained = margins(quiet, found.x, y) - margins(quiet, x, y)
    assert np.all(gained > 0.6 * EPS * np.abs(w).sum())


@pytest.mark.parametrize(("noise", "asked"), [(0.0, 7), (1.0, 6)])
def test_square_asks_as_often_as_it_may(noise, asked):
    class Counting(Linear):
        calls = 0

        def log_scores(self, x, *, seed):
            tf.py_function(self._count, [], [])
            return super().log_scores(x, seed=seed)

        def _count(self):
            type(self).calls += 1

    model = Counting(np.eye(16)[:, :2], shape=(4, 4, 1), noise=noise)
    parse("square:queries=7", eps=EPS)(model, inputs(), np.zeros(6, np.int32), seed=0)
    assert Counting.calls == asked


@pytest.mark.parametrize("text", ["pgd:steps=10", "pgd_eot:steps=10:restarts=5"])
def test_pgd_climbs_where_the_mask_lets_it_stay(text):
    """Off the mask the slope would turn, and be worth more; nobody may go there."""
    mask = tf.constant([1.0, 0.0])

    class Turning(Linear):
        def log_scores(self, x, *, seed):
            slope = tf.where(tf.abs(x[:, 1]) < 0.01, 1.0, -2.0)
            return tf.stack([slope * x[:, 0], tf.zeros_like(x[:, 0])], axis=1)

    model = Turning(np.zeros([2, 2]), shape=(2,), bounds=None, mask=mask)
    x = np.zeros([4, 2], np.float32)
    found = parse(text, eps=0.5)(model, x, np.zeros(4, np.int32), seed=0)
    np.testing.assert_allclose(found.x, [[-0.5, 0.0]] * 4, atol=1e-6)


@pytest.mark.parametrize("text", in_max_norm())
def test_rows_of_a_table_move_where_the_mask_allows_and_missing_values_stay(text):
    mask = tf.constant([0.0, 1.0, 1.0, 0.0, 1.0, 1.0])
    table, w = binary((6,), bounds=None, mask=mask)
    x = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
    y = np.array([0, 1, 0, 1, 0])
    found = parse(text, eps=EPS)(table, x, y, seed=0)
    assert np.abs(found.x - x).max() <= EPS + 1e-6
    np.testing.assert_array_equal(found.x[:, [0, 3]], x[:, [0, 3]])
    assert found.linf.max() == pytest.approx(EPS, rel=1e-3)
    if not text.startswith("noise"):
        gained = margins(table, found.x, y) - margins(table, x, y)
        assert np.all(gained > 0.6 * EPS * np.abs(w[[1, 2, 4, 5]]).sum())


@pytest.mark.parametrize("text", texts())
@pytest.mark.parametrize("eps", [0.01, 0.3, 2.0])
def test_no_attack_leaves_the_ball_or_the_bounds(text, eps):
    model, _ = binary(noise=0.1)
    x = np.random.default_rng(0).uniform(size=(5, 4, 4, 1)).astype(np.float32)
    found = parse(text, eps=eps)(model, x, np.zeros(5, np.int32), seed=0)
    assert found.x.shape == x.shape
    assert found.x.dtype == np.float32
    assert np.all(np.abs(found.x - x) <= eps + 1e-6)
    assert found.x.min() >= 0.0
    assert found.x.max() <= 1.0
    np.testing.assert_allclose(found.linf, np.abs(found.x - x).max(axis=(1, 2, 3)), rtol=1e-6)
    assert found.linf.max() > 0


@pytest.mark.parametrize("text", [t for t in in_max_norm() if not t.startswith("square")])
def test_no_attack_crosses_the_mask(text):
    mask = np.array([1.0, 0.0, 1.0, 0.0, 0.0], np.float32)
    model, _ = binary((5,), bounds=None, mask=tf.constant(mask))
    x = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    found = parse(text, eps=0.5)(model, x, np.array([0, 1, 0, 1]), seed=0)
    np.testing.assert_array_equal(found.x[:, mask == 0], x[:, mask == 0])
    assert np.all(np.abs(found.x - x)[:, mask == 1].max(axis=1) > 0.4)


@pytest.mark.parametrize("text", texts())
def test_the_seed_decides(text):
    model, _ = binary(noise=0.3)
    x, y = inputs(), np.zeros(6, np.int32)
    one, two, other = (parse(text, eps=EPS)(model, x, y, seed=s).x for s in (0, 0, 1))
    np.testing.assert_array_equal(one, two)
    if text == "noise":
        assert not np.array_equal(one, other)


def test_every_batch_has_draws_of_its_own():
    model, _ = binary()
    x = np.repeat(inputs(1), 6, axis=0)
    found = parse("noise:batch_size=3", eps=EPS)(model, x, np.zeros(6, np.int32), seed=0).x
    assert not np.array_equal(found[:3], found[3:])


@pytest.mark.parametrize("text", texts())
def test_eps_zero_changes_nothing(text):
    model, _ = binary()
    np.testing.assert_array_equal(
        parse(text, eps=0.0)(model, inputs(), np.zeros(6, np.int32), seed=0).x, inputs()
    )


@pytest.mark.parametrize("text", [t for t in texts() if t.split(":")[0] in WHITE_BOX])
def test_batches_do_not_matter_to_a_deterministic_gradient(text):
    model, _ = binary()
    x, y = inputs(7), np.zeros(7, np.int32)
    whole = parse(text, eps=EPS)(model, x, y, seed=0).x
    parts = parse(f"{text}:batch_size=3", eps=EPS)(model, x, y, seed=0).x
    np.testing.assert_allclose(whole, parts, atol=1e-6)


def test_expectation_over_noise_beats_one_draw_a_step():
    """The gradient's sign is mostly noise in one draw, and right in the mean of many."""
    shape = (6, 6, 1)
    generator = np.random.default_rng(0)
    w = generator.normal(size=36)

    class NoisyGradient(Linear):
        def log_scores(self, x, *, seed):
            flat = tf.reshape(x, [-1, 36])
            random_direction = 3.0 * random.normal([36], seed)
            margin = tf.linalg.matvec(flat, tf.constant(w, tf.float32) + random_direction)
            return tf.stack([tf.zeros_like(margin), margin], axis=1)

    model = NoisyGradient(np.zeros([36, 2]), shape=shape, noise=1.0)
    x, y = inputs(4, shape), np.ones(4, np.int32)

    def gained(text):
        moved = parse(text, eps=EPS)(model, x, y, seed=0).x - x
        return -(moved.reshape(4, -1) @ w).mean() / (EPS * np.abs(w).sum())

    one = gained("pgd_eot:steps=10:draws=1:step_size=0.02")
    many = gained("pgd_eot:steps=10:draws=200:step_size=0.02")
    assert many > one + 0.2


@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_restarts_escape_a_flat_start(side):
    """No gradient at the input itself: only another start can move, to one side alone."""

    class Flat(Linear):
        def log_scores(self, x, *, seed):
            away = tf.reduce_sum(tf.nn.relu(side * (x - 0.5) - 0.01), axis=[1, 2, 3])
            return tf.stack([tf.zeros_like(away), 1.0 - 10.0 * away], axis=1)

    model = Flat(np.zeros([16, 2]), shape=(4, 4, 1))
    x, y = np.full([2, 4, 4, 1], 0.5, np.float32), np.ones(2, np.int32)
    stuck = parse("pgd_eot:steps=5:restarts=1", eps=EPS)(model, x, y, seed=0).x
    free = parse("pgd_eot:steps=5:restarts=3", eps=EPS)(model, x, y, seed=0).x
    np.testing.assert_array_equal(stuck, x)
    assert np.all(margins(model, free, y) > margins(model, x, y) + 0.1)


def test_a_gradient_that_is_no_number_stops_no_start():
    """At the input itself alone: one start is lost there, others find what FGSM would."""

    class Kinked(Linear):
        def log_scores(self, x, *, seed):
            distance = tf.sqrt(tf.reduce_sum(tf.square(x - 0.5), axis=[1, 2, 3]))
            return tf.stack([tf.zeros_like(distance), 0.05 - distance], axis=1)

    model = Kinked(np.zeros([16, 2]), shape=(4, 4, 1))
    x, y = np.full([2, 4, 4, 1], 0.5, np.float32), np.ones(2, np.int32)
    found = parse("pgd_eot:steps=5:restarts=3", eps=EPS)(model, x, y, seed=0).x
    assert np.isfinite(found).all()
    assert np.all(margins(model, found, y) > 0.05)


def test_another_start_never_takes_back_what_was_found():
    class Wavy(Linear):
        def log_scores(self, x, *, seed):
            height = tf.reduce_sum(tf.sin(90.0 * x) + 20.0 * x, axis=[1, 2, 3])
            return tf.stack([height, tf.zeros_like(height)], axis=1)

    model, x, y = Wavy(np.zeros([16, 2]), shape=(4, 4, 1)), inputs(), np.ones(6, np.int32)
    found = [
        margins(model, parse(f"pgd_eot:steps=6:restarts={n}", eps=EPS)(model, x, y, seed=0).x, y)
        for n in (1, 2, 4, 6)
    ]
    assert np.all(np.diff(found, axis=0) >= -1e-5)
    assert np.any(found[-1] > found[0])


def test_a_lucky_draw_does_not_choose_the_iterate():
    """Iterates meet the same held-out draws."""
    model, quiet, w = offset()
    x, y = inputs(), np.array([0, 1, 0, 1, 0, 1])
    attack, compiled = parse("pgd_eot:steps=8:draws=1:checks=8", eps=EPS), {}
    for seed in range(4):
        found = attack(model, x, y, seed=seed, compiled=compiled).x
        gained = margins(quiet, found, y) - margins(quiet, x, y)
        np.testing.assert_allclose(gained, EPS * np.abs(w).sum(), rtol=1e-3)


class Gambler(Linear):
    """To one side wrong by far under one draw of five, to the other by little under every draw."""

    def log_scores(self, x, *, seed):
        away = (tf.reduce_mean(x, axis=[1, 2, 3]) - 0.5) / EPS
        jackpot = tf.where(random.normal([], seed) > 0.84, 61.0, 0.0)
        wrong = jackpot * tf.nn.relu(away) + 2.0 * tf.nn.relu(-away) - 1.0
        return tf.stack([wrong, tf.zeros_like(wrong)], axis=1)


class Crowd(Linear):
    """To one side log-odds rise by many classes that stay behind, to the other one class wins."""

    def log_scores(self, x, *, seed):
        away = (tf.reduce_mean(x, axis=[1, 2, 3]) - 0.5) / EPS
        behind = 4.5 * tf.nn.relu(away) - 5.0
        first = tf.maximum(behind, 5.5 * tf.nn.relu(-away) - 5.0)
        return tf.stack([first, tf.zeros_like(first), *[behind] * 8], axis=1)


@pytest.mark.parametrize(("cls", "noise", "classes"), [(Gambler, 1.0, 2), (Crowd, 0.0, 10)])
def test_what_fools_more_draws_beats_what_has_the_higher_loss(cls, noise, classes):
    model = cls(np.zeros([1, classes]), shape=(1, 1, 1), noise=noise)
    x, y = np.full([4, 1, 1, 1], 0.5, np.float32), np.ones(4, np.int32)
    moved = parse("pgd_eot:steps=8:restarts=8", eps=EPS)(model, x, y, seed=0).x
    np.testing.assert_allclose(moved, 0.5 - EPS, atol=0.1 * EPS)


class TwoSamples(Linear):
    """Answers by the best of two samples, of which the second hides the first's gradient."""

    def log_scores_by_sample(self, x, *, seed):
        seen = super().log_scores(x, seed=seed)
        return tf.stack([seen, tf.broadcast_to(tf.constant([0.0, 50.0]), tf.shape(seen))])

    def log_scores(self, x, *, seed):
        return tf.reduce_max(self.log_scores_by_sample(x, seed=seed), axis=0)


def two_samples():
    _, w = binary()
    return TwoSamples(np.stack([np.zeros(16), w.ravel()], axis=1), shape=(4, 4, 1)), w


def test_a_loss_of_samples_is_the_mean_of_theirs():
    model, _ = two_samples()
    x, y, seed = tf.constant(inputs()), tf.constant([0, 1, 0, 1, 0, 1]), tf.constant([0, 0])
    by_sample = model.log_scores_by_sample(x, seed=seed)
    each = [losses.cross_entropy(scores, y) for scores in by_sample]
    found = loss_of(model, "cross_entropy", of="samples")(x, y, seed)
    np.testing.assert_allclose(found, np.mean(each, axis=0), rtol=1e-6)
    pooled = loss_of(model, "cross_entropy", of="answer")(x, y, seed)
    expected = losses.cross_entropy(model.log_scores(x, seed=seed), y)
    np.testing.assert_allclose(pooled, expected, rtol=1e-6)
    plain, _ = binary()  # has no samples
    alone = loss_of(plain, "margin", of="samples")(x, y, seed)
    np.testing.assert_allclose(alone, losses.margin(plain.log_scores(x, seed=seed), y), rtol=1e-6)


def test_a_loss_of_samples_finds_what_their_pool_hides():
    model, w = two_samples()
    x, y = inputs(), np.ones(6, np.int32)
    found = {
        of: parse(f"pgd_eot:steps=12:loss=cross_entropy:of={of}", eps=EPS)(model, x, y, seed=0).x
        for of in ("answer", "samples")
    }
    np.testing.assert_array_equal(found["answer"], x)
    gained = (x - found["samples"]).reshape(6, 16) @ w.ravel()
    np.testing.assert_allclose(gained, EPS * np.abs(w).sum(), rtol=1e-3)


def test_steps_of_expectation_pgd_fall_to_a_tenth_along_a_cosine():
    model, _ = binary()
    x, y = inputs(), np.array([0, 1, 0, 1, 0, 1])
    found = parse("pgd_eot:steps=4:step_size=0.001", eps=EPS)(model, x, y, seed=0)
    steps = 0.001 * (0.1 + 0.45 * (1 + np.cos(np.pi * np.arange(4) / 4)))
    np.testing.assert_allclose(np.abs(found.x - x), steps.sum(), rtol=1e-2)


def test_pgd_takes_its_steps_under_fresh_noise():
    """The default step is 2.5 eps / steps; every gradient has a draw of its own."""
    draws, places = [], []

    class Told(Linear):
        def log_scores(self, x, *, seed):
            tf.py_function(self._note, [seed, x], [])
            return super().log_scores(x, seed=seed)

        def _note(self, seed, x):
            draws.append(tuple(seed.numpy()))
            places.append(x.numpy())

    _, w = binary()
    model = Told(np.stack([np.zeros(16), w.ravel()], axis=1), shape=(4, 4, 1), noise=0.1)
    attack = parse("pgd:steps=10:loss=cross_entropy", eps=0.2)
    attack(model, inputs(), np.array([0, 1, 0, 1, 0, 1]), seed=0)
    assert len(set(draws)) == len(draws) == 10
    assert np.abs(np.diff(places, axis=0)).max() == pytest.approx(0.05, rel=1e-4)


@pytest.mark.parametrize("name", losses.LOSSES)
def test_losses_rise_as_the_answer_gets_worse(name):
    good, bad = tf.constant([[5.0, 1.0, 0.0, -1.0]]), tf.constant([[1.0, 1.5, 0.0, -1.0]])
    y = tf.constant([0])
    loss = losses.LOSSES[name]
    assert float(loss(bad, y)[0]) > float(loss(good, y)[0])


def test_margin_and_dlr_are_their_formulas():
    scores, y = tf.constant([[5.0, 1.0, 0.5, -1.0]]), tf.constant([1])
    assert float(losses.margin(scores, y)[0]) == pytest.approx(4.0)
    assert float(losses.dlr(scores, y)[0]) == pytest.approx(4.0 / 4.5)
    two = tf.constant([[5.0, 1.0]])
    assert float(losses.dlr(two, y)[0]) == pytest.approx(float(losses.margin(two, y)[0]))
    # Unlike the cross-entropy, DLR does not care for the scores' scale.
    assert float(losses.dlr(100 * scores, y)[0]) == pytest.approx(4.0 / 4.5)


@pytest.mark.parametrize(
    ("text", "eps", "sentence"),
    [
        ("fgms", 0.1, "did you mean 'fgsm'"),
        ("pgd:step=3", 0.1, "did you mean 'steps'"),
        ("pgd:steps=0", 0.1, "steps=0"),
        ("pgd_eot:loss=ce", 0.1, "unknown attack loss 'ce'"),
        ("fgsm:loss=ce", 0.1, "unknown attack loss 'ce'"),
        ("pgd_eot:of=sample", 0.1, "did you mean 'samples'"),
        ("pgd_eot:draws=0", 0.1, "draws=0 was given; it must be at least 1"),
        ("square:share=0", 0.1, "share=0"),
        ("spsa:delta=0", 0.1, "delta=0 was given; it must be above 0"),
        ("spsa:directions=0", 0.1, "directions=0 was given; it must be at least 1"),
        ("cw:const=0", 0.1, "const=0 was given; it must be positive"),
        ("cw:learning_rate=-1", 0.1, "learning_rate=-1 was given; it must be positive"),
        ("cw:searches=0", 0.1, "searches=0 was given; it must be at least 1"),
        ("cw:confidence=-1", 0.1, "confidence=-1 was given; it must be at least 0"),
        ("fgsm", -0.1, "eps=-0.1 was given; it must be at least 0"),
        ("fgsm:batch_size=0", 0.1, "batch_size=0"),
        ("pgd_eot:step_size=-0.1", 0.1, "step_size=-0.1 was given; it must be at least 0"),
        ("pgd:40", 0.1, "pgd takes options alone, as key=value"),
    ],
)
def test_bad_choices_are_one_clear_sentence(text, eps, sentence):
    with pytest.raises(InputError, match=sentence):
        parse(text, eps=eps)


def test_strong_names_the_whole_protocol():
    assert chosen(["pgd", "strong", "spsa"]) == ["pgd", *STRONG]
    attacks = [parse(text, eps=EPS) for text in STRONG]
    assert {attack.protocol for attack in attacks} == {"strong"}
    kinds = {type(attack) for attack in attacks}
    in_its_ball = [cls for cls in ATTACKS.values() if cls.norm == LINF]
    assert kinds == {cls for cls in in_its_ball if cls.protocol == "strong"}


def test_bad_inputs_are_one_clear_sentence():
    model, _ = binary()
    attack = parse("fgsm", eps=EPS)
    with pytest.raises(InputError, match="inputs to attack: values from 3 to 3"):
        attack(model, np.full([1, 4, 4, 1], 3.0), np.zeros(1), seed=0)
    with pytest.raises(InputError, match=r"6 inputs and labels of shape \[5\]"):
        attack(model, inputs(), np.zeros(5), seed=0)
    grid, _ = binary((5, 2), bounds=Bounds(0.0, 1.0))
    with pytest.raises(InputError, match=r"square attacks images .* and rows"):
        parse("square", eps=EPS)(grid, np.zeros([1, 5, 2]), np.zeros(1), seed=0)


def test_double_softmax_saturates_where_log_odds_does_not():
    """What the CausalIB authors attack: a sure answer leaves their loss without a gradient."""
    scores, y = tf.constant([[40.0] + [0.0] * 9, [0.0, 40.0] + [0.0] * 8]), tf.constant([0, 0])
    gradients = {}
    for name in ("double_softmax", "log_odds"):
        with tf.GradientTape() as tape:
            tape.watch(scores)
            loss = losses.LOSSES[name](scores, y)
        gradients[name] = tape.gradient(loss, scores).numpy()
    assert np.abs(gradients["double_softmax"]).max() < 1e-6
    assert np.abs(gradients["log_odds"]).max(axis=1).min() > 0.9
    bounds = losses.double_softmax(scores, y).numpy()
    np.testing.assert_allclose(bounds, [np.log(np.e + 9) - 1, np.log(np.e + 9)], rtol=1e-5)


def test_attacks_on_a_classifier_share_what_they_compiled():
    class Counting(Linear):
        calls = 0

        def log_scores(self, x, *, seed):
            self.calls += 1
            return super().log_scores(x, seed=seed)

    _, w = binary()
    classifier = Counting(np.stack([np.zeros_like(w), w], axis=1), shape=(4, 4, 1))
    x, y = np.full([3, 4, 4, 1], 0.5, np.float32), np.array([0, 1, 0])
    compiled, calls = {}, []
    for attack in ("fgsm", "fgsm", "pgd:steps=3", "pgd_eot:steps=3", "pgd_eot:steps=3"):
        made = parse(attack, eps=0.1 * (1 + len(calls)))
        found = made(classifier, x, y, seed=0, compiled=compiled)
        calls.append(classifier.calls)
        np.testing.assert_array_equal(found.x, made(classifier, x, y, seed=0).x)
        classifier.calls = 0
    assert calls[0] > 0
    assert calls[3] > 0
    assert calls[1] == calls[2] == calls[4] == 0
