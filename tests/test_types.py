import json

import numpy as np
import pytest

from tfcama.errors import InputError
from tfcama.types import CHILD, COPARENT, PARENT, Bounds, Column, InputSpec


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


COLUMNS = (
    Column("age", (PARENT,), loc=40.0, scale=10.0, indicator=True),
    Column("ward", (PARENT, COPARENT), categories=("north", "south")),
    Column("dose", (COPARENT,)),
    Column("pulse", (CHILD,)),
    Column("colour", (CHILD,), categories=("red", "pale")),
    Column("id", ()),
)
TABLE = InputSpec((9,), ("ill", "well"), None, columns=COLUMNS, target="state")


def test_features_of_a_role_are_found_by_column():
    np.testing.assert_array_equal(TABLE.places("ward"), [2, 3])
    np.testing.assert_array_equal(TABLE.features(PARENT), [0, 1, 2, 3])
    np.testing.assert_array_equal(TABLE.features(COPARENT), [2, 3, 4])
    np.testing.assert_array_equal(TABLE.features(CHILD), [5, 6, 7])
    assert TABLE.kind == "table"
    with pytest.raises(InputError, match="did you mean 'dose'"):
        TABLE.places("doses")


def test_a_tables_spec_survives_json():
    assert InputSpec.from_json(json.loads(json.dumps(TABLE.to_json()))) == TABLE


def test_children_may_be_missing_and_nothing_else():
    x = np.zeros((2, 9))
    x[1, 5:8] = np.nan
    np.testing.assert_array_equal(np.isnan(TABLE.check(x)), np.isnan(x))
    for place, value in ((0, np.nan), (4, np.nan), (8, np.nan), (5, np.inf)):
        wrong = np.zeros((2, 9))
        wrong[1, place] = value
        with pytest.raises(InputError, match="row 1 holds NaN or infinity"):
            TABLE.check(wrong)
