import numpy as np
import pytest
import tensorflow as tf

from tfcama.data.manipulations import parse
from tfcama.errors import InputError
from tfcama.models.mechanisms.base import Context
from tfcama.models.mechanisms.blur_noise import _expected_clip, _wiener
from tfcama.models.mechanisms.registry import MECHANISMS, is_versatile, make_mechanism, only_moves
from tfcama.types import CHILD, PARENT, Bounds, Column, InputSpec

IMAGE = InputSpec((28, 28, 1), ("a", "b", "c"), Bounds(0.0, 1.0))
COLUMNS = (
    Column("a1", (PARENT,)),
    Column("x1", (CHILD,)),
    Column("kind", (CHILD,), categories=("p", "q")),
    Column("x2", (CHILD,)),
)
TABLE = InputSpec((5,), ("a", "b", "c"), None, columns=COLUMNS, target="y")
SEED = tf.constant([5, 6])


def made(text, spec=IMAGE, dim_m=0):
    return make_mechanism(
        text,
        Context(
            spec,
            dim_m=dim_m,
            default_dim_m=3,
            hidden=(8,),
            gated=True,
            kernel_initializer="he_normal",
        ),
    )


def fixed(text, **values):
    """The mechanism and an m [1, M] at which its parameters have these values."""
    mechanism = made(text)
    known = [values.get(p.name, 0.0) for p in mechanism.parameters]
    return mechanism, mechanism.m_of(tf.constant([known], tf.float32))


@pytest.fixture(scope="module")
def blobs():
    """Four smooth images that end well inside the frame."""
    rows, columns = np.mgrid[:28, :28]
    generator = np.random.default_rng(0)
    images = np.zeros([4, 28, 28], np.float32)
    for image in images:
        for row, column in generator.uniform(9, 18, (3, 2)):
            image += np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / 8)
    return np.clip(images, 0, 1)[..., None].astype(np.float32)


def logits_like(seed=0):
    return tf.constant(np.random.default_rng(seed).normal(-4, 6, (2, 3, 2, 28, 28, 1)), tf.float32)


@pytest.mark.parametrize("name", list(MECHANISMS))
def test_do_m0_is_the_identity(name):
    spec = IMAGE if "image" in MECHANISMS[name].kinds else TABLE
    mechanism = made(name, spec)
    zero = tf.zeros([3, mechanism.size])
    outputs = logits_like() if spec is IMAGE else tf.random.stateless_normal([2, 3, 2, 4], [1, 2])
    np.testing.assert_allclose(mechanism.apply(zero, outputs), outputs, rtol=1e-5, atol=2e-6)
    x = tf.random.stateless_uniform([3, *(spec.shape if spec is IMAGE else (4,))], [1, 2])
    np.testing.assert_allclose(mechanism.invert(zero, x), x, atol=1e-6)
    np.testing.assert_allclose(mechanism.values(zero), np.zeros([3, len(mechanism.parameters)]))


@pytest.mark.parametrize("name", [n for n in MECHANISMS if n != "additive"])
def test_values_and_m_are_each_other_s_inverse(name):
    mechanism = made(name, TABLE if name == "location_scale" else IMAGE)
    mechanism.log_scale.assign(np.linspace(-0.2, 0.2, mechanism.size))
    m = tf.random.stateless_normal([6, mechanism.size], [3, 4])
    np.testing.assert_allclose(mechanism.m_of(mechanism.values(m)), m, rtol=1e-3, atol=1e-3)
    limits = np.array([p.limit for p in mechanism.parameters])
    assert np.all(np.abs(mechanism.values(1e6 * m)) <= limits * 1.001)


def test_the_scale_is_the_standard_deviation_of_the_prior():
    mechanism = made("translation:scale=0.5")
    m = tf.random.stateless_normal([20_000, 2], [3, 4])
    np.testing.assert_allclose(np.std(mechanism.values(m), axis=0), [1.0, 1.0], rtol=0.02)
    np.testing.assert_allclose(mechanism.scale, [1.0, 1.0])


@pytest.mark.parametrize(
    ("text", "manipulation", "values"),
    [
        ("translation", "vertical_shift:0.25:mode=fixed", {"shift_y": 7.0}),
        ("translation", "horizontal_shift:0.125:mode=fixed", {"shift_x": 3.5}),
        ("affine", "shift:0.1:mode=fixed", {"shift_x": 2.8, "shift_y": 2.8}),
        ("rotation", "rotation:35:mode=fixed", {"rotation": 35.0}),
        ("affine", "rotation:-0:mode=fixed", {}),
        ("zoom", "zoom:0.3:mode=fixed", {"zoom": np.log(1.3)}),
        ("photometric", "contrast:0.5:mode=fixed", {"contrast": 0.5}),
        ("photometric", "brightness:0.2:mode=fixed", {"brightness": 0.2}),
        ("photometric", "inversion:1", {"contrast": -2.0}),
        (
            "rotation+translation",
            "rotation:35:mode=fixed+horizontal_shift:0.25:mode=fixed",
            {"rotation": 35.0, "shift_x": 7.0},
        ),
    ],
)
def test_a_mechanism_does_what_the_manipulation_of_that_name_does(
    blobs, text, manipulation, values
):
    mechanism, m = fixed(text, **values)
    m = tf.tile(m, [4, 1])
    moved = parse(manipulation)(tf.constant(blobs), seed=SEED).x
    np.testing.assert_allclose(mechanism.simulate(m, blobs), moved, atol=2e-3)
    if values:
        assert np.abs(moved - blobs).mean() > 0.005


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("translation", {"shift_x": 3.3, "shift_y": -4.7}),
        ("rotation", {"rotation": 40.0}),
        ("zoom", {"zoom": 0.3}),
        ("affine", {"rotation": -30, "zoom": 0.2, "aspect": 0.2, "shear": 0.3, "shift_y": 3.0}),
        ("photometric", {"contrast": -0.4, "brightness": 0.1, "gamma": 0.4}),
        ("photometric", {"contrast": -1.7}),
        ("elastic", {"move_x_11": 2.0, "move_y_22": -2.0}),
        ("rotation+translation+photometric", {"rotation": 40, "shift_x": 3, "contrast": -0.4}),
    ],
)
def test_invert_undoes_simulate(blobs, text, values):
    mechanism, m = fixed(text, **values)
    m = tf.tile(m, [4, 1])
    moved = mechanism.simulate(m, blobs)
    back = np.abs(mechanism.invert(m, moved) - blobs).mean()
    assert back < 0.25 * np.abs(moved - blobs).mean()


@pytest.mark.parametrize("text", ["translation", "rotation", "affine", "elastic", "zoom+rotation"])
def test_a_warp_moves_what_is_expected_as_it_moves_what_is_seen(text):
    """p(x | y, z, m) goes where T_m takes x: logits above that of outside, bilinearly."""
    mechanism, generator = made(text), np.random.default_rng(0)
    m = tf.constant(generator.normal(0, 3, (3, mechanism.size)), tf.float32)
    logits = logits_like()
    moved = mechanism.apply(m, logits)
    for sample, label in np.ndindex(2, 2):
        expected = mechanism.simulate(m, logits[sample, :, label] + 9.0) - 9.0
        np.testing.assert_allclose(moved[sample, :, label], expected, atol=1e-3)
    assert np.abs(moved - logits).mean() > 0.5


def test_whole_pixels_move_logits_and_bring_in_black():
    mechanism, m = fixed("translation", shift_x=-5.0, shift_y=2.0)
    logits = logits_like()[:, :1]
    expected = np.full(logits.shape, -9.0, np.float32)
    expected[:, :, :, 2:, :-5] = logits[:, :, :, :-2, 5:]
    np.testing.assert_allclose(mechanism.apply(m, logits), expected, atol=1e-3)


def test_a_quarter_turn_is_rot90(blobs):
    mechanism, m = fixed("rotation", rotation=90.0)
    turned = mechanism.simulate(m, blobs[:1])
    np.testing.assert_allclose(turned[0], np.rot90(blobs[0]), atol=1e-3)


def test_affine_moves_a_blob_s_covariance_as_its_docstring_says():
    """Shear, aspect, zoom and rotation, in this order: C becomes F C F', then the shift."""
    angle, zoom, aspect, shear = np.deg2rad(25.0), 0.1, 0.25, 0.5
    mechanism, m = fixed(
        "affine", rotation=25.0, zoom=zoom, aspect=aspect, shear=shear, shift_x=1.0, shift_y=-2.0
    )
    rows, columns = np.mgrid[:28, :28] - 13.5
    blob = np.exp(-0.5 * (columns**2 / 2.0**2 + rows**2 / 1.5**2))
    moved = mechanism.simulate(m, tf.constant(blob[None, :, :, None], tf.float32))
    weights = moved[0, :, :, 0].numpy() / np.sum(moved)
    points = np.stack([columns, rows])
    mean = (weights * points).sum(axis=(1, 2))
    np.testing.assert_allclose(mean, [1.0, -2.0], atol=0.02)
    away = points - mean[:, None, None]
    # (column, row down): what turns counter-clockwise turns from the row's axis to the column's
    turn = [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]
    stretch = np.diag(np.exp([zoom + aspect, zoom - aspect]))
    whole = turn @ stretch @ [[1.0, shear], [0.0, 1.0]]
    expected = whole @ np.diag([2.0**2, 1.5**2]) @ whole.T
    np.testing.assert_allclose(np.einsum("hw,ihw,jhw->ij", weights, away, away), expected, atol=0.6)


def test_an_elastic_control_point_moves_what_is_near_it():
    mechanism, m = fixed("elastic", move_x_12=2.0)  # the second row, the third column
    moved = mechanism._displacement(mechanism.values(m), mechanism._grid[None])[0].numpy()
    assert np.unravel_index(moved[..., 0].argmax(), (28, 28)) == (9, 18)
    np.testing.assert_allclose(moved[9, 18], [2.0 * 4 / 9, 0.0], atol=0.02)  # (2/3)^2 of a spline


def test_inversion_changes_the_sign_of_logits():
    mechanism, m = fixed("photometric", contrast=-2.0)
    logits = tf.clip_by_value(logits_like()[:, :1], -8.0, 8.0)
    np.testing.assert_allclose(mechanism.apply(m, logits), -logits, atol=0.02)


def test_an_inverted_image_is_as_likely_as_the_image():
    """Inversion is a bijection: log p(1 - x | inverted) = log p(x), however sure p(x|.) is."""
    mechanism, m = fixed("photometric", contrast=-2.0)
    logits = tf.constant(np.linspace(-25, 25, 784).reshape([1, 1, 1, 28, 28, 1]), tf.float32)
    x = tf.cast(logits > 0, tf.float32)

    def log_px(logits, x):
        return -tf.nn.sigmoid_cross_entropy_with_logits(logits=logits, labels=x)

    inverted = log_px(mechanism.apply(m, logits), 1.0 - x)
    np.testing.assert_allclose(inverted, log_px(logits, x), rtol=1e-3, atol=1e-10)


def test_gamma_is_a_power_of_the_mean():
    mechanism, m = fixed("photometric", gamma=0.5)
    logits = tf.clip_by_value(logits_like()[:, :1], -4.0, 4.0)
    expected = tf.sigmoid(logits) ** np.exp(0.5)
    np.testing.assert_allclose(tf.sigmoid(mechanism.apply(m, logits)), expected, atol=1e-3)


def test_noise_makes_a_pixel_the_mean_of_its_clipped_draws():
    draws = np.random.default_rng(0).normal(size=200_000)
    for mean, noise in ((0.0, 0.5), (0.3, 0.2), (1.0, 0.1), (0.9, 1.0)):
        expected = np.clip(mean + noise * draws, 0, 1).mean()
        assert float(_expected_clip(tf.constant(mean), tf.constant(noise))) == pytest.approx(
            expected, abs=3e-3
        )


def test_denoising_has_the_derivatives_of_an_inverse():
    mechanism, m = fixed("blur_noise", noise=0.3)
    x = tf.constant(np.linspace(0.2, 0.8, 784).reshape([1, 28, 28, 1]), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(x)
        found = mechanism.invert(m, x)
    again = _expected_clip(found, tf.fill([1, 1, 1, 1], 0.3))
    np.testing.assert_allclose(again, x, atol=2e-6)
    step = 0.01
    more, less = (mechanism.invert(m, x + by) for by in (step, -step))
    np.testing.assert_allclose(
        tape.gradient(found, x), (more - less) / (2 * step), rtol=0.02, atol=0.01
    )
    along = tf.constant([[0.0, step]])  # of m: blur, noise
    more, less = (mechanism.invert(m + by, x) for by in (along, -along))
    difference = tf.reduce_sum(tf.square(more) - tf.square(less))
    with tf.GradientTape() as tape:
        tape.watch(m)
        total = tf.reduce_sum(tf.square(mechanism.invert(m, x)))
    np.testing.assert_allclose(tape.gradient(total, m)[0, 1], difference / (2 * step), rtol=0.02)


def test_what_was_not_blurred_is_not_sharpened():
    np.testing.assert_allclose(_wiener(tf.eye(5)[None]), tf.eye(5)[None], atol=1e-6)


def test_blur_is_a_gaussian_and_keeps_the_sum(blobs):
    mechanism, m = fixed("blur_noise", blur=1.5)
    point = np.full([1, 28, 28, 1], 0.0, np.float32)
    point[0, 14, 14] = 0.9
    blurred = mechanism.simulate(m, point)[0, :, :, 0].numpy() - 1e-4
    assert blurred.sum() == pytest.approx(0.9, rel=0.02)
    assert blurred[14, 15] / blurred[14, 14] == pytest.approx(np.exp(-0.5 / 1.5**2), rel=0.02)
    sharp = mechanism.invert(tf.tile(m, [4, 1]), mechanism.simulate(tf.tile(m, [4, 1]), blobs))
    assert (
        np.abs(sharp - blobs).mean()
        < 0.5 * np.abs(mechanism.simulate(tf.tile(m, [4, 1]), blobs) - blobs).mean()
    )


def test_confident_pixels_stay_so_near_no_blur_and_noise():
    """Or images would be likelier just beside do(m = 0), by 20 nats a pixel of the wrong colour."""
    outputs = tf.reshape(tf.linspace(-40.0, 40.0, 784), [1, 1, 1, 28, 28, 1])
    mechanism = made("blur_noise")
    near = tf.constant([[1e-4, 1e-22]])
    np.testing.assert_allclose(mechanism.apply(near, outputs), outputs, atol=1e-3)
    at_zero = mechanism.apply(tf.zeros_like(near), outputs)
    np.testing.assert_array_equal(at_zero, outputs)


def test_blurred_light_leaves_the_frame_and_darkness_comes_in():
    mechanism, m = fixed("blur_noise", blur=2.0)
    white = tf.sigmoid(mechanism.apply(m, tf.fill([1, 1, 1, 28, 28, 1], 40.0)))[0, 0, 0, :, :, 0]
    kernel = np.exp(-0.5 * np.arange(-9, 10) ** 2 / (4.0 + 1e-3))
    kernel /= kernel.sum()
    row = np.array([kernel[max(0, 9 - i) : 9 + 28 - i].sum() for i in range(28)])
    np.testing.assert_allclose(white, np.outer(row, row), atol=1e-5)


def test_an_elastic_field_and_its_inverse():
    mechanism = made("elastic")
    values = 2.0 * tf.random.stateless_normal([3, mechanism.size], [1, 1])
    target = mechanism.target(values)
    there = target + mechanism._displacement(values, target)
    np.testing.assert_allclose(there, np.broadcast_to(mechanism._grid, there.shape), atol=0.1)


def test_location_scale_is_the_push_forward_of_a_normal():
    mechanism = made("location_scale", TABLE)
    names = [parameter.name for parameter in mechanism.parameters]
    assert names == ["shift x1", "shift x2", "log scale x1", "log scale x2"]
    m = mechanism.m_of(tf.constant([[1.5, -2.0, 0.3, -0.2]]))
    outputs = tf.constant([0.5, 2.0, -1.0, -0.7])[None, None, None]  # x1, p, q, x2
    moved = mechanism.apply(m, outputs)[0, 0, 0]
    expected = [0.5 * np.exp(0.3) + 1.5, 2.0, -1.0, -0.7 * np.exp(-0.2) - 2.0]
    np.testing.assert_allclose(moved, expected, rtol=1e-4)
    np.testing.assert_allclose(mechanism.log_stretch(m), [[0.3, -0.2]], rtol=1e-4)
    np.testing.assert_allclose(
        mechanism.invert(m, moved[None]), outputs[0, 0], rtol=1e-4, atol=1e-5
    )


def test_the_order_of_parts_matters(blobs):
    one, m = fixed("rotation+translation", rotation=40.0, shift_x=6.0)
    other, m_other = fixed("translation+rotation", rotation=40.0, shift_x=6.0)
    assert [p.name for p in other.parameters] == ["shift_x", "shift_y", "rotation"]
    moved, turned = one.simulate(m, blobs[:1]), other.simulate(m_other, blobs[:1])
    assert np.abs(moved - turned).mean() > 0.01


def test_parts_and_parameters_name_coordinates():
    mechanism = made("additive+rotation+translation")
    assert mechanism.size == 6
    assert mechanism.coordinates(("rotation",)) == [3]
    assert mechanism.coordinates(("translation",)) == [4, 5]
    assert mechanism.coordinates(("shift_y", "additive")) == [5, 0, 1, 2]
    with pytest.raises(InputError, match=r"unknown part of the mechanism 'rotatio'.*rotation"):
        mechanism.coordinates(("rotatio",))


def test_gradients_reach_m_and_the_learned_scales(blobs):
    mechanism = made("affine+photometric+elastic+blur_noise")
    m = tf.Variable(tf.random.stateless_uniform([1, mechanism.size], [1, 1], 0.5, 1.0))
    logits = tf.constant(20.0 * blobs[:1] - 10.0)[None, :, None]
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(mechanism.apply(m, logits))) + tf.reduce_mean(
            tf.square(mechanism.invert(m, blobs[:1]))
        )
    variables = [m, *(v.value for v in mechanism.trainable_variables)]
    for gradient in tape.gradient(loss, variables):
        assert np.all(np.isfinite(gradient))
    assert np.all(tape_gradient_nonzero(mechanism, m, logits))


def tape_gradient_nonzero(mechanism, m, logits):
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(mechanism.apply(m, logits)))
    return np.abs(tape.gradient(loss, m)[0]) > 0


@pytest.mark.parametrize(
    ("text", "spec", "message"),
    [
        ("affine", TABLE, "mechanism 'affine' acts on images; the inputs are tables"),
        ("location_scale", IMAGE, "mechanism 'location_scale' acts on tables"),
        ("additive+affine", TABLE, "mechanism 'affine' acts on images"),
        ("rotation+rotation", IMAGE, r"names 'rotation' twice"),
        ("rotation:scale=0", IMAGE, "the scale of a prior must be positive"),
        ("rotation:scale=-1", IMAGE, "the scale of a prior must be positive"),
        ("rotation:scale=inf", IMAGE, "scale of 'rotation:scale=inf' must be a number"),
        ("affine+translation", IMAGE, r"'affine\+translation' has shift_x, shift_y twice"),
        ("rotation:scale=big", IMAGE, "scale of 'rotation:scale=big' must be a number"),
        ("rotation:3", IMAGE, "takes no number"),
        ("rotation:spread=3", IMAGE, "unknown option of mechanism rotation 'spread'"),
        ("rotatoin", IMAGE, "did you mean 'rotation'"),
        ("rotation+additive", IMAGE, r"'rotation\+additive' has no inverse"),
        ("additive:scale=2", IMAGE, "'additive' has no scale"),
    ],
)
def test_bad_mechanisms_are_refused_with_a_sentence(text, spec, message):
    with pytest.raises(InputError, match=message):
        made(text, spec)


@pytest.mark.parametrize("text", ["rotation", "rotation+translation"])
def test_a_size_of_m_that_the_parameters_do_not_have_is_refused(text):
    with pytest.raises(InputError, match="dim_m=7 was given"):
        made(text, dim_m=7)


def test_location_scale_needs_a_numeric_child():
    columns = (Column("a1", (PARENT,)), Column("kind", (CHILD,), categories=("p", "q")))
    with pytest.raises(InputError, match="moves numeric children; the table has none"):
        made("location_scale", InputSpec((3,), ("a", "b"), None, columns=columns, target="y"))


@pytest.mark.parametrize("text", ["translation", "zoom", "affine", "rotation+translation"])
def test_what_a_frame_s_edge_hides_is_what_resampling_takes_from_white(text):
    """Completion adds (1 - visible) times its own image to T_m^-1 x."""
    mechanism = made(text)
    m = tf.constant(np.random.default_rng(0).normal(0, 3, (4, mechanism.size)), tf.float32)
    white = tf.ones([4, *IMAGE.shape])
    hidden = 1.0 - mechanism.visible(m, white)
    assert np.mean(hidden) > 0.05
    np.testing.assert_allclose(mechanism.invert(m, white) + hidden, white, atol=1e-5)


def test_warps_alone_only_move():
    for name in sorted(set(MECHANISMS) - {"location_scale", "additive"}):
        mechanism = made(name)
        m = tf.fill([1, mechanism.size], 0.5)
        black = np.array(mechanism.simulate(m, tf.zeros([1, *IMAGE.shape])))
        white = np.array(mechanism.simulate(m, tf.ones([1, *IMAGE.shape])))
        moves = np.abs(black).max() < 1e-5 and abs(white[0, 14, 14, 0] - 1.0) < 1e-5
        assert only_moves(name) == moves, name
    assert only_moves("rotation+translation")
    assert not only_moves("affine+photometric")
    assert not only_moves("additive")


def test_versatile_is_what_has_several_parts_or_moves_in_many_ways():
    wide = {name for name in MECHANISMS if is_versatile(name)}
    assert wide == {"affine", "elastic"}
    assert is_versatile("rotation+translation")
    assert is_versatile("additive+affine")
    assert not is_versatile("additive+translation")  # one part has parameters
