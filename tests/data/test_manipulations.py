import numpy as np
import pytest
import tensorflow as tf

from tfcama import random
from tfcama.data import manipulations
from tfcama.data.base import Dataset, Split
from tfcama.data.manipulations import MANIPULATIONS, parse
from tfcama.errors import InputError
from tfcama.types import Bounds, InputSpec

SEED = random.stream(0, "test")


@pytest.fixture(scope="module")
def pictures():
    """Smooth images with nothing near the border, so that geometry loses nothing."""
    generator = np.random.default_rng(0)
    x = np.zeros([40, 28, 28, 1], np.float32)
    x[:, 9:19, 9:19] = generator.uniform(0.0, 1.0, (40, 10, 10, 1))
    return x


IMAGES = [n for n, family in MANIPULATIONS.items() if family.kind == "image"]


def dataset(x):
    split = Split(x, np.zeros(len(x), np.int32))
    spec = InputSpec(x.shape[1:], ("a", "b"), Bounds(0.0, 1.0))
    return Dataset("pictures", spec, split, split, split)


def apply(text, x):
    y = tf.range(len(x)) % 2
    return parse(text).fit(dataset(x))(tf.constant(x), y=y, seed=SEED)


def test_a_fixed_wrapped_shift_is_a_roll(pictures):
    moved = apply("vertical_shift:0.25:mode=fixed:fill=wrap", pictures).x
    np.testing.assert_allclose(moved, np.roll(pictures, 7, axis=1), atol=1e-6)
    moved = apply("horizontal_shift:0.25:mode=fixed:fill=wrap", pictures).x
    np.testing.assert_allclose(moved, np.roll(pictures, 7, axis=2), atol=1e-6)


@pytest.mark.parametrize("level", [7.5 / 28, 27.0 / 28, 27.6 / 28, 1.0])
def test_a_wrapped_shift_has_no_seam(level):
    """Between two pixels it is the mean of what both show, the first and the last row included."""
    x = np.random.default_rng(0).uniform(size=(2, 28, 28, 1)).astype(np.float32)
    whole, part = divmod(28 * level, 1.0)
    rolled = [np.roll(x, int(whole) + more, axis=1) for more in (0, 1)]
    moved = apply(f"vertical_shift:{level:.9g}:mode=fixed:fill=wrap", x).x
    np.testing.assert_allclose(moved, (1 - part) * rolled[0] + part * rolled[1], atol=1e-4)


def test_a_zero_filled_shift_loses_what_leaves_the_frame(pictures):
    moved = apply("vertical_shift:0.5:mode=fixed", pictures).x.numpy()
    np.testing.assert_allclose(moved[:, 14:], pictures[:, :14], atol=1e-6)
    assert moved[:, :14].max() == 0.0


def test_nearest_fill_repeats_the_border():
    x = np.linspace(0.0, 1.0, 28, dtype=np.float32).reshape(1, 28, 1, 1) * np.ones([1, 28, 28, 1])
    moved = apply("vertical_shift:0.25:mode=fixed:fill=nearest", x.astype(np.float32)).x.numpy()
    np.testing.assert_allclose(moved[0, :8], x[0, :1].repeat(8, axis=0), atol=1e-6)


def test_shifts_are_uniform_on_the_range(pictures):
    code = apply("vertical_shift:0.5", np.repeat(pictures, 100, axis=0)).code.numpy()
    assert code.min() >= -0.5
    assert code.max() <= 0.5
    assert abs(code.mean()) < 0.02
    assert abs(code.std() - 1 / np.sqrt(12)) < 0.01


def test_the_code_is_the_shift(pictures):
    moved = apply("shift:0.2", pictures)
    grid = np.arange(28.0)
    mass = pictures.sum(axis=(1, 2, 3))
    for other, column in ((2, 1), (1, 0)):
        before = (pictures.sum(axis=(other, 3)) * grid).sum(axis=1) / mass
        after = (moved.x.numpy().sum(axis=(other, 3)) * grid).sum(axis=1) / mass
        np.testing.assert_allclose(after - before, 28 * moved.code[:, column], atol=1e-3)


@pytest.mark.parametrize("text", ["shift:0.5", "vertical_shift:0.5+horizontal_shift:0.5"])
def test_two_shifts_of_an_image_are_drawn_independently(pictures, text):
    code = apply(text, np.repeat(pictures, 100, axis=0)).code.numpy()
    assert code.shape[1] == 2
    assert abs(np.corrcoef(code.T)[0, 1]) < 0.15


def test_parameters_are_the_code_in_pixels():
    code = tf.constant([[0.1, -0.2], [0.3, 0.4]])
    found = parse("shift:0.5").parameters(code, (10, 20, 1))
    np.testing.assert_allclose(found["shift_x"], [2.0, 6.0], rtol=1e-6)
    np.testing.assert_allclose(found["shift_y"], [-2.0, 4.0], rtol=1e-6)


def test_rotation_by_a_right_angle_is_counter_clockwise(pictures):
    turned = apply("rotation:90:mode=fixed", pictures)
    np.testing.assert_allclose(turned.x, np.rot90(pictures, axes=(1, 2)), atol=1e-5)
    np.testing.assert_allclose(turned.code, 1.0)


def test_zoom_scales_about_the_centre(pictures):
    zoomed = apply("zoom:0.4:mode=fixed", pictures)
    area = zoomed.x.numpy().sum(axis=(1, 2, 3)) / pictures.sum(axis=(1, 2, 3))
    np.testing.assert_allclose(area.mean(), 1.4**2, rtol=0.02)
    np.testing.assert_allclose(zoomed.code, np.log(1.4), rtol=1e-6)


def test_noise_has_its_standard_deviation():
    grey = np.full([20, 28, 28, 1], 0.5, np.float32)
    noisy = apply("gaussian_noise:0.05", grey).x.numpy()
    assert abs((noisy - grey).std() - 0.05) < 0.001


def test_contrast_and_brightness_are_affine():
    x = np.linspace(0.3, 0.7, 28 * 28, dtype=np.float32).reshape(1, 28, 28, 1)
    np.testing.assert_allclose(
        apply("contrast:0.5:mode=fixed", x).x, 0.5 + 1.5 * (x - 0.5), atol=1e-6
    )
    np.testing.assert_allclose(apply("brightness:0.2:mode=fixed", x).x, x + 0.2, atol=1e-6)


def test_inversion_happens_with_its_probability(pictures):
    x = np.repeat(pictures, 50, axis=0)
    inverted = apply("inversion:0.3", x)
    share = inverted.code.numpy().mean()
    assert abs(share - 0.3) < 0.03
    happened = inverted.code.numpy()[:, 0] == 1.0
    np.testing.assert_allclose(inverted.x[happened], 1.0 - x[happened], atol=1e-6)
    np.testing.assert_array_equal(inverted.x[~happened], x[~happened])


def test_zca_whitens():
    generator = np.random.default_rng(0)
    mixing = generator.normal(size=(16, 16))
    x = generator.normal(size=(4000, 16)) @ mixing
    x = ((x - x.min()) / (x.max() - x.min())).reshape(-1, 4, 4, 1).astype(np.float32)
    white = apply("zca_whitening:1:epsilon=1e-9", x).x.numpy().reshape(4000, 16)
    covariance = np.cov(white, rowvar=False)
    np.testing.assert_allclose(covariance / covariance[0, 0], np.eye(16), atol=0.1)


def test_zca_adds_epsilon_to_the_variances():
    x = np.random.default_rng(0).uniform(size=(300, 2, 2, 1)).astype(np.float32)
    (fitted,) = parse("zca_whitening:1:epsilon=0.5").fit(dataset(x)).parts
    whiten = fitted.fitted[1]
    covariance = np.cov(x.reshape(300, 4), rowvar=False) + 0.5 * np.eye(4)
    np.testing.assert_allclose(whiten @ covariance @ whiten, np.eye(4), atol=1e-5)


def test_zca_needs_an_epsilon():
    with pytest.raises(InputError, match="epsilon=0 was given; it must be positive"):
        parse("zca_whitening:1:epsilon=0")


def test_zca_needs_training_images(pictures):
    with pytest.raises(InputError, match="seen no training images"):
        parse("zca_whitening:1")(tf.constant(pictures), seed=SEED)


def test_a_sequence_applies_its_parts_in_order(pictures):
    both = apply("vertical_shift:0.25:mode=fixed+rotation:90:mode=fixed", pictures)
    first = apply("vertical_shift:0.25:mode=fixed", pictures).x.numpy()
    second = apply("rotation:90:mode=fixed", first).x
    np.testing.assert_allclose(both.x, second, atol=1e-6)
    np.testing.assert_allclose(both.code, [[0.25, 1.0]] * len(pictures), atol=1e-6)


@pytest.mark.parametrize("name", IMAGES)
def test_every_manipulation_keeps_its_promises(name, pictures):
    level = MANIPULATIONS[name].max_level / 4
    made = parse(name, level=level).fit(dataset(pictures))
    y = tf.range(len(pictures)) % 2
    moved = made(tf.constant(pictures), y=y, seed=SEED)
    assert moved.x.shape == pictures.shape
    assert moved.x.dtype == tf.float32
    assert moved.code.shape == (len(pictures), made.code_size)
    assert float(tf.reduce_min(moved.x)) >= 0.0
    assert float(tf.reduce_max(moved.x)) <= 1.0
    assert not np.allclose(moved.x, pictures)
    again = made(tf.constant(pictures), y=y, seed=SEED)
    np.testing.assert_array_equal(again.x, moved.x)
    graph = tf.function(lambda x: made(x, y=y, seed=SEED).x)(tf.constant(pictures))
    np.testing.assert_allclose(graph, moved.x, atol=1e-5)
    still = parse(name, level=0.0).fit(dataset(pictures))(tf.constant(pictures), y=y, seed=SEED)
    np.testing.assert_allclose(still.x, pictures, atol=1e-6)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("vertical_shift", "has no level; give one, as in 'vertical_shift:0.5'"),
        ("children_shift", "has no level; give one, as in 'children_shift:2'"),
        ("vertical_shift:2", "takes 0 to 1 .fraction of the height."),
        ("rotation:-10", "takes 0 to 180 .degrees."),
        ("vertical_shift:0.5:fill=black", "unknown fill 'black'"),
        ("vertical_shift:0.5:mode=fix", "did you mean 'fixed'"),
        ("vertical_shift:0.5:filll=wrap", "did you mean 'fill'"),
        ("gaussian_noise:x", "must be a number; 'x' was given"),
        ("vertical_shift:0.5+rotaton:3", "did you mean 'rotation'"),
    ],
)
def test_bad_names_are_one_clear_sentence(text, sentence):
    with pytest.raises(InputError, match=sentence):
        parse(text)


def test_manipulate_is_the_same_for_the_same_seed(pictures):
    split = Split(pictures, np.arange(len(pictures), dtype=np.int32))
    shift = parse("vertical_shift:0.5")
    one, two, other = (manipulations.manipulate(split, shift, seed=s) for s in (0, 0, 1))
    np.testing.assert_array_equal(one.x, two.x)
    assert not np.allclose(one.x, other.x)
    np.testing.assert_array_equal(one.y, split.y)


def test_every_class_turns_by_its_own_angle(pictures):
    found = apply("class_rotation:40", pictures)
    angles = 90.0 * found.code.numpy()[:, 0]
    assert np.ptp(angles[::2]) > 1.0
    assert np.abs(angles[::2] + 40.0).max() <= 4.0  # class 0
    assert np.abs(angles[1::2] - 40.0).max() <= 4.0  # class 1
    turn = parse("rotation:40:mode=fixed").fit(dataset(pictures)).parts[0]
    expected = turn(tf.constant(pictures[1:2]), seed=SEED).x
    alike = parse("class_rotation:40:mode=fixed").fit(dataset(pictures)).parts[0]
    moved = alike(tf.constant(pictures[1:2]), y=tf.constant([1]), seed=SEED)
    np.testing.assert_allclose(moved.code, [[44.0 / 90.0]], rtol=1e-6)
    assert np.abs(moved.x - expected).mean() < 0.02
    with pytest.raises(InputError, match=r"it needs fit\(\) before it and labels y"):
        alike(tf.constant(pictures[:1]), seed=SEED)
