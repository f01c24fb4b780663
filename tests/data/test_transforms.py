"""Random crops and flips: what they may do, and what they leave alone."""

import numpy as np
import pytest
import tensorflow as tf

from tfcama import random
from tfcama.data import pipeline, transforms
from tfcama.data.base import Split
from tfcama.errors import InputError
from tfcama.types import Bounds, Column, InputSpec

SEED = random.stream(0, "test")
COLOUR = InputSpec((5, 6, 3), ("a", "b"), Bounds(0.0, 1.0))
TABLE = InputSpec((1,), ("a", "b"), None, columns=(Column("x1", ("child",)),), target="y")


@pytest.fixture
def images():
    return np.random.default_rng(0).uniform(0.1, 1, (400, 5, 6, 3)).astype(np.float32)


def shifted(image, down, right, border):
    """The window of a zero-padded image, written out."""
    padded = np.pad(image, [(border, border), (border, border), (0, 0)])
    return padded[down : down + image.shape[0], right : right + image.shape[1]]


def test_a_crop_is_a_window_of_the_padded_image_and_every_window_comes(images):
    found = transforms.parse("crop:pixels=1")(images, seed=SEED).numpy()
    places = []
    for image, cropped in zip(images, found, strict=True):
        (place,) = (
            (down, right)
            for down in range(3)
            for right in range(3)
            if np.array_equal(shifted(image, down, right, 1), cropped)
        )
        places.append(place)
    counts = [places.count((down, right)) for down in range(3) for right in range(3)]
    assert min(counts) > 400 / 9 / 2  # nine windows, uniform


def test_half_of_the_images_are_mirrored_and_the_others_left(images):
    found = transforms.parse("flip")(images, seed=SEED).numpy()
    mirrored = np.array([np.array_equal(a, b[:, ::-1]) for a, b in zip(found, images, strict=True)])
    np.testing.assert_array_equal(found[~mirrored], images[~mirrored])
    assert 0.4 < mirrored.mean() < 0.6


def test_parts_draw_independently_and_by_the_seed_alone(images):
    both = transforms.parse("flip+flip")
    assert both.parts == (transforms.Flip(), transforms.Flip())
    found = both(images, seed=SEED).numpy()
    kept = np.mean([np.array_equal(a, b) for a, b in zip(found, images, strict=True)])
    assert 0.4 < kept < 0.6  # the same draw twice would keep all
    graph = tf.function(lambda x: both(x, seed=SEED))
    np.testing.assert_array_equal(found, graph(images))
    other = both(images, seed=random.fold_in(SEED, 1)).numpy()
    assert not np.array_equal(found, other)


def test_a_stream_transforms_anew_each_step_and_a_resumed_one_alike(images):
    split = Split(images[:8], np.arange(8, dtype=np.int32))
    arguments = {"batch_size": 8, "seed": SEED, "transform": transforms.parse("crop:pixels=2")}
    unbroken = list(pipeline.training_stream(split, **arguments).take(3))
    (resumed,) = pipeline.training_stream(split, **arguments, start_step=2).take(1)
    np.testing.assert_array_equal(unbroken[2].x, resumed.x)
    first, second = (b.x.numpy()[np.argsort(b.y)] for b in unbroken[:2])
    assert not np.array_equal(first, second)
    assert not any(np.any(batch.manipulated) for batch in unbroken)
    alike = Split(np.repeat(images[:1], 8, axis=0), split.y)  # by place, whoever comes there
    first, second = (b.x.numpy() for b in pipeline.training_stream(alike, **arguments).take(2))
    assert not np.array_equal(first, second)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("crp", "unknown transform 'crp'; did you mean 'crop'"),
        ("crop:4", "crop takes options alone, as key=value"),
        ("crop:pixels=0", "pixels=0 was given; it must be at least 1"),
        ("flip:pixels=2", "unknown option of flip 'pixels'"),
    ],
)
def test_bad_transforms_are_one_sentence(text, message):
    with pytest.raises(InputError, match=message):
        transforms.parse(text)


def test_inputs_that_cannot_be_transformed_are_refused():
    with pytest.raises(InputError, match=r"pixels=5 was given; images are \[5, 6, 3\], pixels may"):
        transforms.parse("crop:pixels=5").check(COLOUR)
    with pytest.raises(InputError, match="transform=flip is for images, not tables"):
        transforms.parse("flip").check(TABLE)
