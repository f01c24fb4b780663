import numpy as np
import pytest

from tfcama.evaluation.over_seeds import OverSeeds, averaged


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
