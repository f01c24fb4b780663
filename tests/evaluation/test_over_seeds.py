import numpy as np
import pytest

from tests.doubles import ROW
from tfcama.evaluation.over_seeds import OverSeeds, above, averaged
from tfcama.evaluation.results import Row


def test_mean_and_spread_are_of_a_sample():
    found = OverSeeds({0: 0.5, 1: 0.7, 2: 0.9})
    assert found.mean == pytest.approx(0.7)
    assert found.spread == pytest.approx(0.2)
    assert str(found) == "70.0 ± 20.0"


def test_one_seed_has_no_spread_and_none_no_mean():
    assert str(OverSeeds({4: 0.987})) == "98.7"
    assert np.isnan(OverSeeds({4: 0.987}).spread)
    assert np.isnan(OverSeeds({}).mean)


def test_averages_are_taken_seed_by_seed():
    """The spread of a mean is not the mean of spreads: here errors cancel."""
    found = averaged([OverSeeds({0: 0.4, 1: 0.6, 2: 0.1}), OverSeeds({1: 0.4, 0: 0.6})])
    assert found.by_seed == pytest.approx({0: 0.5, 1: 0.5})
    assert found.spread == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        (OverSeeds({0: 0.7}), OverSeeds({0: 0.6}), True),  # nobody knows of how many inputs
        (OverSeeds({0: 0.6}), OverSeeds({0: 0.6}), False),
        (OverSeeds({0: 0.7}, {0: 0.03}), OverSeeds({0: 0.6}, {0: 0.03}), True),  # error 0.042
        (OverSeeds({0: 0.7}, {0: 0.04}), OverSeeds({0: 0.6}, {0: 0.04}), None),  # error 0.057
        (OverSeeds({0: 0.6}, {0: 0.03}), OverSeeds({0: 0.7}, {0: 0.03}), False),
        # The same difference in every seed, though either spreads by ten points.
        (OverSeeds({0: 0.5, 1: 0.7}), OverSeeds({1: 0.69, 0: 0.49}), True),
        # Of other seeds the spread of either counts.
        (OverSeeds({0: 0.5, 1: 0.7}), OverSeeds({2: 0.49, 3: 0.69}), None),
        # Differences of 0.0 and 0.2: their mean's error is 0.1.
        (OverSeeds({0: 0.5, 1: 0.7}), OverSeeds({0: 0.5, 1: 0.5}), None),
    ],
)
def test_what_is_within_chance_is_not_above(ours, theirs, expected):
    assert above(ours, theirs) is expected


def test_rows_bring_their_standard_errors():
    rows = [
        Row(**{**ROW, "seed": s}, n=100, accuracy=a, low=a - 0.098, high=a + 0.098)
        for s, a in ((0, 0.5), (1, 0.6))
    ]
    found = OverSeeds.of(rows)
    assert found.by_seed == {0: 0.5, 1: 0.6}
    assert found.errors == {0: pytest.approx(0.05), 1: pytest.approx(0.05)}
    mean = averaged([found, OverSeeds({0: 0.3}, {0: 0.12})])
    assert mean.by_seed == {0: pytest.approx(0.4)}
    assert mean.errors == {0: pytest.approx(0.085)}  # as if of the same inputs
