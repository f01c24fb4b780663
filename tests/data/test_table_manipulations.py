import numpy as np
import pytest
import tensorflow as tf

from tfcama import random
from tfcama.data import datasets
from tfcama.data.base import Dataset, Split
from tfcama.data.manipulations import MANIPULATIONS, manipulate, parse
from tfcama.errors import InputError
from tfcama.report import labels
from tfcama.types import CHILD, COPARENT, PARENT, Column, InputSpec

SEED = random.stream(0, "test")
COLUMNS = (
    Column("a", (PARENT,)),
    Column("both", (PARENT, COPARENT)),
    Column("c", (COPARENT,), indicator=True),
    Column("ward", (COPARENT,), categories=("p", "q")),
    Column("x", (CHILD,), loc=5.0, scale=2.0),
    Column("late", (CHILD,)),
)


@pytest.fixture(scope="module")
def table():
    x = np.random.default_rng(0).normal(size=(6, 8)).astype(np.float32)
    x[2, 6] = np.nan
    x[:, 3] = 0.0
    x[4, 2:4] = 0.0, 1.0  # c is missing
    split = Split(x, np.zeros(6, np.int32))
    spec = InputSpec((8,), ("u", "v"), None, columns=COLUMNS, target="y")
    return Dataset("table", spec, split, split, split)


def moved_by(table, text):
    split = manipulate(table.test, parse(text).fit(table), seed=0)
    return split.x - table.test.x


def test_children_shift_up_and_down_and_one_alone(table):
    up = moved_by(table, "children_shift:2")
    np.testing.assert_allclose(up[0], [0, 0, 0, 0, 0, 0, 2, 2], atol=1e-6)
    assert np.isnan(up[2, 6])  # what is missing stays missing
    down = moved_by(table, "children_shift:0.5:direction=down:column=late")
    np.testing.assert_allclose(down[0], [0, 0, 0, 0, 0, 0, 0, -0.5], atol=1e-6)


def test_a_column_may_be_called_anything(table):
    columns = (*COLUMNS[:-1], COLUMNS[-1]._replace(name="Na+: 50%"))
    named = table._replace(spec=table.spec._replace(columns=columns))
    text = "children_shift:1:column=Na%2B%3A 50%25"
    np.testing.assert_allclose(moved_by(named, text)[0], [0, 0, 0, 0, 0, 0, 0, 1], atol=1e-6)
    assert labels.manipulation_name(text) == "children shift 1 of Na+: 50%"
    with pytest.raises(InputError, match=r"a '\+' in a name is written %2B"):
        parse("children_shift:1:column=Na+")
    with pytest.raises(InputError, match=r"Valid names: .*Na%2B%3A 50%25"):
        parse("children_shift:1:column=Na").fit(named)


def test_coparents_shift_leaves_what_also_causes_y_categories_and_indicators(table):
    up = moved_by(table, "coparents_shift:1")
    np.testing.assert_allclose(up[0], [0, 0, 1, 0, 0, 0, 0, 0], atol=1e-6)
    np.testing.assert_array_equal(up[4], np.zeros(8))  # what is missing stays missing


def test_in_a_known_world_effects_follow_their_causes():
    data = datasets.load("measurement")
    move = parse("coparents_shift:1:column=c2").fit(data)
    split = manipulate(data.test, move, seed=0)
    delta = split.x - data.test.x
    np.testing.assert_allclose(delta[:, 6], np.ones(500), atol=1e-5)
    np.testing.assert_array_equal(delta[:, [0, 1, 2, 3, 4, 5, 7, 8, 9]], np.zeros((500, 9)))
    rows = data.world.abduct(tf.constant(data.test.x), tf.constant(data.test.y))
    shift = np.eye(5, dtype=np.float32)[1]
    expected = data.world.counterfactual(rows, shift_c=tf.constant(shift)).x
    np.testing.assert_allclose(split.x[:, 10:], expected, atol=1e-5)


def test_true_roles_decide_what_is_shifted_whatever_a_model_was_told():
    config = datasets.measurement.MeasurementConfig(declared=("x1:coparent",))
    data = datasets.load("measurement", config=config)
    delta = manipulate(data.test, parse("children_shift:1").fit(data), seed=0).x - data.test.x
    np.testing.assert_allclose(delta[:, 10:], np.ones((500, 10)), atol=1e-5)


@pytest.mark.parametrize("name", [n for n, m in MANIPULATIONS.items() if m.kind == "table"])
def test_every_shift_keeps_its_promises(name):
    data = datasets.load("measurement")
    x, y = tf.constant(data.test.x), tf.constant(data.test.y)
    made = parse(name, level=1.5).fit(data)
    moved = made(x, y=y, seed=SEED)
    assert moved.x.shape == x.shape
    np.testing.assert_array_equal(moved.code, np.full((500, 1), 1.5))
    assert not np.allclose(moved.x, x)
    np.testing.assert_allclose(tf.function(lambda: made(x, y=y, seed=SEED).x)(), moved.x, atol=1e-5)
    still = parse(name, level=0.0).fit(data)(x, y=y, seed=SEED)
    np.testing.assert_allclose(still.x, x, atol=1e-5)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("children_shift:1:column=ward", "unknown numeric child 'ward'"),
        ("coparents_shift:1:column=both", "unknown numeric coparent 'both'"),
        ("children_shift:1:direction=left", "unknown direction 'left'"),
        ("children_shift:-1", "level -1 was given"),
        ("vertical_shift:0.1", "VerticalShift manipulates images; table holds tables"),
    ],
)
def test_bad_shifts_are_one_clear_sentence(table, text, sentence):
    with pytest.raises(InputError, match=sentence):
        parse(text).fit(table)


def test_tables_of_another_kind_are_refused(table, bars):
    with pytest.raises(InputError, match="manipulates tables; bars holds images"):
        parse("children_shift:1").fit(bars)
    parents = table._replace(spec=table.spec._replace(columns=COLUMNS[:1], shape=(1,)))
    with pytest.raises(InputError, match="table has no numeric child that could be shifted"):
        parse("children_shift:1").fit(parents)
