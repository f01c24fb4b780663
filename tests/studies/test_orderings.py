import numpy as np
import pytest

from tests.doubles import ROW
from tfcama.evaluation import results
from tfcama.studies.orderings import orderings


def scored(hits, **changes):
    return results.scored(np.arange(100) < hits, **{**ROW, **changes})


def test_a_gain_is_the_mean_over_shared_ranges():
    rows = [
        *(scored(h, level=r) for h, r in ((99, 0.0), (60, 0.2), (40, 0.5), (20, 0.9))),
        scored(72, level=0.2, experiment="matched", finetuned_on="vertical_shift:0.2"),
        scored(42, level=0.5, experiment="matched", finetuned_on="vertical_shift:0.5"),
        scored(98, level=0.0, experiment="matched", finetuned_on="vertical_shift:0.2"),
        scored(1, level=0.5, experiment="matched_held_out", finetuned_on="vertical_shift:0.5"),
    ]
    (check,) = orderings(rows)
    assert check.name == "fine-tuned on the same shift CAMA is clearly above CAMA without"
    assert check.passed
    assert check.detail == "vertical shift +7.0 points (0.2: +12.0, 0.5: +2.0)"


@pytest.mark.parametrize(("dnn", "holds"), [(60, True), (70, False), (50, True)])
def test_an_ordering_can_fail(dnn, holds):
    (check,) = orderings([scored(60), scored(dnn, model="dnn")])
    assert check.passed == holds


@pytest.mark.parametrize(
    ("model", "trained", "tested", "name"),
    [
        ("cnn", "vertical_shift:0.5", "horizontal_shift", "a CNN trained on one direction"),
        ("cnn", "zca_whitening:1", "vertical_shift", "a CNN trained on whitened images"),
        ("cnn", "zca_whitening:1", "horizontal_shift", "a CNN trained on whitened images"),
        ("dnn_large", "horizontal_shift:0.5", "vertical_shift", "a large DNN trained on one"),
    ],
)
@pytest.mark.parametrize(("hits", "holds"), [(59, True), (61, False)])
def test_what_a_network_expects_may_harm_it_elsewhere(model, trained, tested, name, hits, holds):
    clean = scored(60, model=model, manipulation=tested)
    expecting = scored(hits, model=model, manipulation=tested, trained_on=f"clean+{trained}")
    (check,) = orderings([clean, expecting])
    assert check.name.startswith(name)
    assert check.passed == holds


def test_without_rows_nothing_is_claimed():
    assert orderings([scored(60)]) == []
