import numpy as np
import pytest

from tfcama.errors import InputError
from tfcama.types import Bounds, InputSpec


def test_spec_round_trip():
    for bounds in (None, Bounds(0.0, 1.0)):
        spec = InputSpec((4,), ("a", "b"), bounds)
        assert InputSpec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize(
    ("x", "sentence"),
    [
        (np.zeros([2, 28, 28]), r"shape \[2, 28, 28\] was given, \[batch, 28, 28, 1\] is needed"),
        (np.full([2, 28, 28, 1], np.nan), "row 0 holds NaN or infinity"),
        (np.full([2, 28, 28, 1], 255.0), r"values from 255 to 255 were given, \[0, 1\] is allowed"),
        (np.full([2, 28, 28, 1], "a"), "numbers are needed"),
    ],
)
def test_invalid_inputs_are_one_clear_sentence(spec, x, sentence):
    with pytest.raises(InputError, match=sentence):
        spec.check(x)


def test_valid_inputs_become_float32(spec):
    assert spec.check(np.zeros([2, 28, 28, 1], np.uint8)).dtype == np.float32


def test_unbounded_inputs_may_be_anything_finite():
    spec = InputSpec((2,), ("a", "b"), None)
    np.testing.assert_array_equal(spec.check([[1e6, -1e6]]), [[1e6, -1e6]])
