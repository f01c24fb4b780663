"""What a mechanism finds, against what was done."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tests.doubles import subject_of
from tfcama import random
from tfcama.data import manipulations
from tfcama.evaluation import curves
from tfcama.evaluation.recovered import recover
from tfcama.models.cama import Cama, CamaConfig
from tfcama.models.registry import MODELS
from tfcama.training.config import FinetuneConfig
from tfcama.training.finetune import adapted_rows


@pytest.fixture(scope="module")
def subject(bars):
    random.seed_everything(0)
    architecture = CamaConfig(num_samples=1, mechanism="rotation+translation")
    return subject_of(
        Cama(bars.spec, architecture),
        bars,
        model="cama",
        architecture=architecture,
        seed=3,
        finetuned=FinetuneConfig(subject="horizontal_shift:0.25"),
    )


def test_what_was_done_is_compared_with_the_model_s_own_numbers(subject, bars, monkeypatch):
    model = subject.loaded.classifier
    monkeypatch.setattr(
        model,
        "manipulation",
        lambda x, *, seed: tf.reduce_sum(x, axis=[1, 2, 3])[:, None] * [[0.0, 1.0, 2.0]],
    )
    found = {
        each.parameter.name: each for each in recover(subject, "horizontal_shift", 0.25, limit=7)
    }
    assert list(found) == ["rotation", "shift_x", "shift_y"]
    rows = np.setdiff1d(np.arange(30), adapted_rows(30, subject.loaded.config.finetuned))[:7]
    move = manipulations.parse("horizontal_shift:0.25").fit(bars)
    moved, code = move(tf.constant(bars.test.x), seed=random.stream(3, "manipulation"))
    np.testing.assert_allclose(found["shift_x"].true, 28 * code.numpy()[rows, 0], rtol=1e-6)
    assert np.all(found["shift_y"].true == 0.0)
    sums = moved.numpy()[rows].sum(axis=(1, 2, 3))
    np.testing.assert_allclose(found["shift_y"].found, 2 * sums, rtol=1e-5)
    error = np.median(np.abs(sums - found["shift_x"].true))
    assert found["shift_x"].median_error == pytest.approx(error, rel=1e-5)


def test_a_model_whose_m_has_no_meaning_recovers_nothing(subject, bars):
    model = MODELS["dnn"].build(bars.spec, MODELS["dnn"].config_class())
    plain = dataclasses.replace(subject, loaded=subject.loaded._replace(classifier=model))
    assert recover(plain, "rotation", 30.0, limit=3) == []


def test_a_manipulation_of_several_levels_is_one_point_of_a_curve(subject):
    text = "rotation:30+horizontal_shift:0.1"
    few = dataclasses.replace(subject, test=subject.test.take(slice(12)))
    rows = curves.manipulation_curve(few, text, [None])
    assert [(row.manipulation, row.level) for row in rows] == [(text, 1.0)] * 2
    assert rows[1].experiment == "manipulation_held_out"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("vertical_shift:0.5:mode=fixed", {"shift_y": 14.0}),
        ("shift:0.25:mode=fixed", {"shift_x": 7.0, "shift_y": 7.0}),
        ("rotation:60:mode=fixed", {"rotation": 60.0}),
        ("zoom:0.4:mode=fixed", {"zoom": np.log(1.4)}),
        ("contrast:0.4:mode=fixed+rotation:10:mode=fixed", {"contrast": 0.4, "rotation": 10.0}),
        ("inversion:1", {"contrast": -2.0}),
        ("brightness:0.3:mode=fixed", {"brightness": 0.3}),
        ("gaussian_noise:0.3", {}),
    ],
)
def test_manipulations_know_what_they_did(bars, text, expected):
    move = manipulations.parse(text).fit(bars)
    _, code = move(tf.constant(bars.test.x[:2]), seed=tf.constant([1, 2]))
    found = move.parameters(code, bars.spec.shape)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], [value] * 2, rtol=1e-4)
