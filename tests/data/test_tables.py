import os
import threading

import numpy as np
import pandas as pd
import pytest
from sklearn import datasets as sklearn_datasets

from tfcama.data import graphs, tables
from tfcama.data.graphs import Roles
from tfcama.errors import InputError
from tfcama.types import CHILD, COPARENT, PARENT, Bounds, Column, InputSpec

CSV = """ill,age,sex,pressure,colour,id
no,30,f,100,red,a1
yes,40,m,120,blue,a2
no,50,,110,red,a3
yes,NA,m,,green,a4
no,60,x,130,pink,a5
yes,20,f,90,,a6
"""
ROLES = graphs.from_lists("ill", ["age"], ["sex"], ["pressure", "colour"])
TRAINING = np.arange(4)  # the last two rows are the test's
SD = np.sqrt(200 / 3)  # of 30, 40, 50 and of 100, 110, 120
NAN = np.nan
# By hand: age and its indicator; f, m and their indicator; pressure; blue, green, red.
FEATURES = [
    [-10 / SD, 0, 1, 0, 0, -10 / SD, 0, 0, 1],
    [0, 0, 0, 1, 0, 10 / SD, 1, 0, 0],
    [10 / SD, 0, 0, 0, 1, 0, 0, 0, 1],
    [0, 1, 0, 1, 0, NAN, 0, 1, 0],
    [20 / SD, 0, 0, 0, 1, 20 / SD, NAN, NAN, NAN],
    [-20 / SD, 0, 1, 0, 0, -20 / SD, NAN, NAN, NAN],
]


def write(tmp_path, text, encoding="utf-8"):
    path = tmp_path / "table.csv"
    path.write_bytes(text.encode(encoding))
    return path


@pytest.fixture
def frame(tmp_path):
    return tables.read_csv(write(tmp_path, CSV))


@pytest.fixture
def spec(frame):
    return tables.fit(frame, ROLES, TRAINING)


def small(**columns):
    return pd.DataFrame({"y": ["a", "b", "a", "b"], **columns})


def fit_small(roles=None, rows=(0, 1, 2), **columns):
    """Fits small's first three rows, with x as the only parent."""
    roles = roles or graphs.from_lists("y", ["x"])
    return tables.fit(small(**columns), roles, np.array(rows))


# Reading


def test_a_csv_file_is_read_as_text(frame):
    assert list(frame.columns) == ["ill", "age", "sex", "pressure", "colour", "id"]
    assert frame["age"][0] == "30"
    assert frame.isna().sum().to_dict() == {
        "ill": 0,
        "age": 1,
        "sex": 1,
        "pressure": 1,
        "colour": 1,
        "id": 0,
    }
    assert list(frame.index) == list(range(6))


@pytest.mark.parametrize("rows", [1, 4, 6, 100])
def test_chunks_are_the_file(tmp_path, frame, rows):
    chunks = list(tables.read_csv_chunks(tmp_path / "table.csv", rows=rows))
    assert [len(chunk) for chunk in chunks[:-1]] == [rows] * ((6 - 1) // rows)
    pd.testing.assert_frame_equal(pd.concat(chunks), frame)


def test_what_a_csv_file_may_hold(tmp_path):
    text = '\ufeffé,"b,c"\r\n\r\n"two\nlines", 3\r\n   \r\n"say ""a""",\r\n,\r\n\r\n'
    frame = tables.read_csv(write(tmp_path, text))
    assert list(frame.columns) == ["é", "b,c"]
    assert frame["é"].tolist()[:2] == ["two\nlines", 'say "a"']
    assert frame["b,c"][0] == "3"
    assert frame.isna().to_numpy().tolist() == [[False, False], [False, True], [True, True]]


def test_a_single_column_keeps_its_missing_rows(tmp_path):
    frame = tables.read_csv(write(tmp_path, 'x\n1\n""\n\n3\n" "\n\u00a0\n4\n'))
    assert [str(cell).strip() for cell in frame["x"]] == ["1", "nan", "3", "nan", "nan", "4"]


def test_spaces_after_commas_and_around_names_do_not_count(tmp_path):
    frame = tables.read_csv(write(tmp_path, 'a , b, "c, d"\n1, yes, "x, y"\n2,NA, \n'))
    assert list(frame.columns) == ["a", "b", "c, d"]
    assert frame.iloc[0].tolist() == ["1", "yes", "x, y"]
    assert frame.isna().to_numpy().tolist() == [[False] * 3, [False, True, True]]
    padded = tables.read_csv(write(tmp_path, 'a,y\n1 ,no\n NA ,"no "\n'))
    assert padded["y"].tolist() == ["no", "no"]
    assert padded["a"].isna().tolist() == [False, True]
    with pytest.raises(InputError, match="the header names column 'a' twice"):
        tables.read_csv(write(tmp_path, "a, a\n1,2\n"))


def test_a_pipe_is_read_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_text, args=("a,b\n1,2\n3,4\n",))
    writer.start()
    chunks = list(tables.read_csv_chunks(tmp_path / "pipe", rows=1))
    writer.join()
    assert [chunk.to_numpy().tolist() for chunk in chunks] == [[["1", "2"]], [["3", "4"]]]


def test_a_home_directory_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path, "a\n1\n")
    assert tables.read_csv("~/table.csv")["a"].tolist() == ["1"]


def test_numbers_with_decimal_commas_are_refused_unless_they_are_named(tmp_path):
    frame = tables.read_csv(write(tmp_path, 'y,x\na,"1,5"\nb,"2,5"\na,"1,5"\n'))
    with pytest.raises(InputError, match=r"column 'x' has values like '1,5', .* decimal point"):
        tables.fit(frame, graphs.from_lists("y", ["x"]), np.arange(3))
    spec = tables.fit(frame, graphs.from_lists("y", ["x"], categorical=["x"]), np.arange(3))
    assert spec.columns[0].categories == ("1,5", "2,5")


def test_what_is_imputed_is_told_where_features_cannot(spec, frame):
    whole = tables.fit(frame.iloc[:3], graphs.from_lists("ill", ["age"]), np.arange(3))
    assert tables.imputed(whole, frame) == {"age": 1}
    assert tables.imputed(spec, frame) == {}  # it has an indicator


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", r"table.csv is empty; a header and at least one row are needed"),
        ("\n\n", r"table.csv is empty"),
        ("a,b\n", r"table.csv has a header and no rows"),
        ("a,b,a\n1,2,3\n", r"table.csv: the header names column 'a' twice"),
        ("a,b\n1,2\n\n3\n", r"table.csv, row 2: 1 values were found, where the header names 2"),
        ("a,b\n1,2,3\n", r"table.csv, row 1: 3 values were found, where the header names 2"),
        (
            "a,b\n1,2\n3,4\n5,6,7\n",
            r"table.csv, row 3: 3 values were found, where the header names 2",
        ),
        ('a,b\n1,"2\n', r"table.csv is no valid CSV file: unexpected end of data"),
    ],
)
def test_a_bad_csv_file_is_refused(tmp_path, text, sentence):
    path = write(tmp_path, text)
    with pytest.raises(InputError, match=sentence):
        tables.read_csv(path)
    with pytest.raises(InputError, match=sentence):
        list(tables.read_csv_chunks(path, rows=2))


def test_a_csv_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere.csv cannot be read: No such file [^/]*$"):
        tables.read_csv(tmp_path / "nowhere.csv")
    with pytest.raises(InputError, match=f"nowhere.csv cannot be read: .* in {os.getcwd()}"):
        tables.read_csv("nowhere.csv")
    with pytest.raises(InputError, match=r"table.csv cannot be read: it is no UTF-8 text"):
        tables.read_csv(write(tmp_path, "a\né\n", encoding="latin-1"))
    with pytest.raises(InputError, match=r"rows=0 was given"):
        next(tables.read_csv_chunks(tmp_path / "table.csv", rows=0))


# Fitting


def test_the_promise_of_a_table(spec):
    assert spec == InputSpec(
        shape=(9,),
        class_names=("no", "yes"),
        bounds=None,
        columns=(
            Column("age", (PARENT,), spec.columns[0].loc, spec.columns[0].scale, indicator=True),
            Column("sex", (COPARENT,), categories=("f", "m"), indicator=True),
            Column("pressure", (CHILD,), spec.columns[2].loc, spec.columns[2].scale),
            Column("colour", (CHILD,), categories=("blue", "green", "red")),
        ),
        target="ill",
    )
    assert [spec.columns[i].loc for i in (0, 2)] == pytest.approx([40, 110])
    assert [spec.columns[i].scale for i in (0, 2)] == pytest.approx([SD, SD])
    assert InputSpec.from_json(spec.to_json()) == spec


def test_only_training_rows_are_fitted_on(frame, spec):
    frame.loc[4:, ["age", "pressure"]] = "1e6"
    frame.loc[4:, ["sex", "colour"]] = "other"
    assert tables.fit(frame, ROLES, TRAINING) == spec
    frame.loc[3, "pressure"] = "90"
    assert tables.fit(frame, ROLES, TRAINING) != spec


def test_training_rows_may_be_a_mask_and_in_any_order(frame, spec):
    assert tables.fit(frame, ROLES, np.array([3, 1, 0, 2])) == spec
    assert tables.fit(frame, ROLES, np.arange(6) < 4) == spec


def test_an_indicator_needs_missing_training_values():
    spec = fit_small(x=[1, 2, 3, NAN])
    assert not spec.columns[0].indicator
    np.testing.assert_array_equal(tables.encode(spec, small(x=[2, 2, NAN, 2]))[:, 0], [0, 0, 0, 0])


def test_a_parent_that_is_a_coparent_is_encoded_once():
    roles = Roles("y", parents=("x",), coparents=("x",), children=("c",), nodes=("c", "x", "y"))
    spec = fit_small(roles, x=[1, 2, 3, 4], c=[0, 1, 0, 1])
    assert spec.shape == (2,)
    assert spec.columns[0].roles == (PARENT, COPARENT)


@pytest.mark.parametrize(
    ("x", "categories"),
    [
        (["1", "2", "3", "4"], ()),
        (["1", "2", None, "4"], ()),
        ([1, 2, 3, 4], ()),
        ([1.5, NAN, 3.0, 4.0], ()),
        (pd.array([1, None, 3, 4], "Int64"), ()),
        (np.array([1, "2", 3.5, None], object), ()),
        (["b", "a", "1", "c"], ("1", "a", "b")),  # one of three reads as a number
        (["b", None, "", "a"], None),  # blank is missing, one value is left
        ([True, False, True, False], ("False", "True")),
        (np.array([True, False, None, True], object), ("False", "True")),
        (pd.array([True, False, None, True], "boolean"), ("False", "True")),
        (pd.Categorical([2, 1, None, 3]), ("1", "2")),
        (pd.to_datetime(["2020-01-02", "2020-01-01", None, None]), 2),
    ],
)
def test_which_columns_are_categorical(x, categories):
    if categories is None:
        with pytest.raises(InputError, match="column 'x' is b in every training row"):
            fit_small(x=x)
        return
    column = fit_small(x=x).columns[0]
    if categories == 2:
        assert len(column.categories) == 2
    else:
        assert column.categories == categories
        assert column.numeric == (categories == ())


@pytest.mark.parametrize(
    ("x", "categories"),
    [
        (["10", "9", "9.0", "7"], ("9", "10")),  # in numeric order; whole numbers are alike
        ([10.0, 9.0, NAN, 7.0], ("9", "10")),
        ([10, 9, 9, 7], ("9", "10")),
        (["10", "9", "x", "7"], ("10", "9", "x")),
        ([0.5, 0.25, 0.5, 7.0], ("0.25", "0.5")),
        (["01", "1", "x", "7"], ("01", "1", "x")),  # codes keep their zeros
    ],
)
def test_numbers_may_be_declared_categorical(x, categories):
    spec = fit_small(graphs.from_lists("y", ["x"], categorical=["x"]), x=x)
    assert spec.columns[0].categories == categories


@pytest.mark.parametrize(
    ("y", "names"),
    [
        (["10", "9", "10", "9"], ("9", "10")),
        ([1.0, 0.0, 1.0, 0.0], ("0", "1")),
        ([True, False, True, False], ("False", "True")),
        (["b", "10", "b", "9"], ("10", "9", "b")),
    ],
)
def test_class_names_are_the_targets_values_in_order(y, names):
    frame = small(x=[1, 2, 3, 4]).assign(y=y)
    spec = tables.fit(frame, graphs.from_lists("y", ["x"]), np.arange(4))
    assert spec.class_names == names
    assert [names[c] for c in tables.labels(spec, frame)] == [
        str(value).removesuffix(".0") for value in y
    ]


@pytest.mark.parametrize(
    ("x", "sentence"),
    [
        (["1", "2", "old", "4"], r"column 'x', row 3: 'old' is no number; .*in `categorical`"),
        (["1", "a", None, None], r"column 'x', row 2: 'a' is no number"),  # half read as numbers
        (["1", "-inf", "2", "3"], r"column 'x', row 2: '-inf' is infinite"),
        ([1.0, 2.0, np.inf, 3.0], r"column 'x', row 3: 'inf' is infinite"),
        ([2.5, 2.5, None, 3.0], r"column 'x' is 2.5 in every training row; leave it out"),
        (["7", "7.0", "7", "8"], r"column 'x' is 7 in every training row"),
        (["a", "a", "", "b"], r"column 'x' is a in every training row"),
        ([NAN, NAN, NAN, 1.0], r"column 'x' has no value in the training rows"),
        ([None, None, None, "a"], r"column 'x' has no value in the training rows"),
        ([" ", "", None, "a"], r"column 'x' has no value in the training rows"),
        ([0.0, 1e-200, 0.0, 0.0], r"column 'x' has values from 0 to 1e-200, whose standard dev"),
        ([1e300, -1e300, 0.0, 0.0], r"from -1e\+300 to 1e\+300, whose standard deviation is inf"),
    ],
)
def test_a_bad_column_is_refused(x, sentence):
    with pytest.raises(InputError, match=sentence):
        fit_small(x=x)


def test_an_empty_column_is_no_category():
    with pytest.raises(InputError, match="column 'x' has no value in the training rows"):
        fit_small(graphs.from_lists("y", ["x"], categorical=["x"]), x=["", None, " ", "a"])


def test_free_text_is_refused():
    frame = pd.DataFrame({"y": ["a", "b"] * 600, "x": [f"name {i}" for i in range(1200)]})
    with pytest.raises(InputError, match=r"'x' has 1100 categories .* more than 1000"):
        tables.fit(frame, graphs.from_lists("y", ["x"]), np.arange(1100))


@pytest.mark.parametrize("text", ["1,{:03d}.5", "{} mg", "{}.5%", "2020-01-{:03d}"])
def test_what_is_another_text_in_every_row_is_no_category(text):
    frame = pd.DataFrame({"y": ["a", "b"] * 30, "x": [text.format(i) for i in range(60)]})
    with pytest.raises(InputError, match=r"column 'x' has 60 different texts in 60 training rows"):
        tables.fit(frame, graphs.from_lists("y", ["x"]), np.arange(60))
    asked = graphs.from_lists("y", ["x"], categorical=["x"])
    assert len(tables.fit(frame, asked, np.arange(60)).columns[0].categories) == 60
    frame["x"] = [text.format(i % 25) for i in range(60)]
    assert tables.fit(frame, graphs.from_lists("y", ["x"]), np.arange(60)).shape == (25,)


@pytest.mark.parametrize(
    ("y", "sentence"),
    [
        (["a", "b", None, "b"], r"target 'y' is missing in row 3"),
        (["a", "b", "a", " "], r"target 'y' is missing in row 4"),
        ([1.0, 0.0, 1.0, NAN], r"target 'y' is missing in row 4"),
        (["a", "a", "a", "a"], r"target 'y' is 'a' in every row; at least two classes"),
        (["a", "b", "a", "c"], r"class 'c' of target 'y' has no training row; each of its 3 class"),
    ],
)
def test_a_bad_target_is_refused(y, sentence):
    frame = small(x=[1, 2, 3, 4]).assign(y=y)
    with pytest.raises(InputError, match=sentence):
        tables.fit(frame, graphs.from_lists("y", ["x"]), np.arange(3))


@pytest.mark.parametrize(
    ("roles", "sentence"),
    [
        (Roles("yy", ("x",)), r"unknown target column 'yy'; did you mean 'y'\?"),
        (
            Roles("y", ("age_",)),
            r"unknown parent column 'age_'; did you mean 'age'\? .*: age, x, y",
        ),
        (Roles("y", ("x",), coparents=("xx",)), r"unknown co-parent column 'xx'"),
        (Roles("y", ("x",), children=("xx",)), r"unknown child column 'xx'; did you mean 'x'"),
        (Roles("y", ("x",), nodes=("x", "u", "y")), r"unknown DAG node 'u'"),
    ],
)
def test_roles_name_columns_of_the_table(roles, sentence):
    with pytest.raises(InputError, match=sentence):
        fit_small(roles, x=[1, 2, 3, 4], age=[1, 2, 3, 4])


def test_a_table_without_training_rows_is_refused():
    with pytest.raises(InputError, match="no training rows"):
        fit_small(x=[1, 2, 3, 4], rows=np.zeros([4], bool))


def test_rows_keep_their_number(tmp_path):
    frame = small(x=["1", "2", "3", "old"])
    spec = fit_small(x=["1", "2", "3", "4"])
    for part in (frame, frame.iloc[[3]], frame.iloc[::-1], frame.set_index(pd.Index(list("abcd")))):
        with pytest.raises(InputError, match="row 4: 'old'"):
            tables.encode(spec, part)
        if len(part) > 1:
            rows = np.flatnonzero(part["x"] != "1")
            with pytest.raises(InputError, match="row 4: 'old'"):
                tables.fit(part, graphs.from_lists("y", ["x"]), rows)
    path = write(tmp_path, "x\n1\n2\n3\nold\n")
    with pytest.raises(InputError, match="row 4: 'old'"):
        [tables.encode(spec, chunk) for chunk in tables.read_csv_chunks(path, rows=3)]


# Encoding


def test_features_by_hand(spec, frame):
    x = tables.encode(spec, frame)
    assert x.dtype == np.float32
    np.testing.assert_allclose(x, FEATURES, atol=1e-6)
    np.testing.assert_array_equal(spec.check(x), x)


def test_training_features_are_standardised():
    frame = pd.DataFrame(np.random.default_rng(0).normal(5, 3, [200, 2]), columns=["a", "b"])
    frame["y"] = np.arange(200) % 2
    spec = tables.fit(frame, graphs.from_lists("y", ["a"], children=["b"]), np.arange(150))
    x = tables.encode(spec, frame)[:150]
    np.testing.assert_allclose(x.mean(axis=0), [0, 0], atol=1e-6)
    np.testing.assert_allclose(x.std(axis=0), [1, 1], atol=1e-6)


def test_text_and_numbers_are_encoded_alike(tmp_path):
    bunch = sklearn_datasets.load_breast_cancer(as_frame=True)
    names = tuple(bunch.feature_names)
    roles = graphs.from_lists("target", children=names)
    bunch.frame.to_csv(tmp_path / "cancer.csv", index=False)
    text = tables.read_csv(tmp_path / "cancer.csv")
    rows = np.arange(400)
    one, two = tables.fit(bunch.frame, roles, rows), tables.fit(text, roles, rows)
    assert one.class_names == two.class_names == ("0", "1")
    np.testing.assert_allclose(tables.encode(one, bunch.frame), tables.encode(two, text), atol=1e-6)
    np.testing.assert_array_equal(tables.labels(one, text), bunch.target)


def test_extra_columns_and_their_order_do_not_matter(spec, frame):
    mixed = frame[["colour", "id", "pressure", "sex", "age"]].assign(extra="text")
    np.testing.assert_array_equal(tables.encode(spec, mixed), tables.encode(spec, frame))


def test_rows_are_encoded_one_by_one_or_together(spec, frame):
    together = tables.encode(spec, frame)
    alone = np.concatenate([tables.encode(spec, frame.iloc[[i]]) for i in range(len(frame))])
    np.testing.assert_array_equal(alone, together)
    assert tables.encode(spec, frame.iloc[:0]).shape == (0, 9)


def test_a_column_that_is_all_missing_in_a_later_table(spec, frame):
    x = tables.encode(spec, frame.assign(age=None, pressure=NAN, colour="", sex=None))
    expected = [0, 1, 0, 0, 1, NAN, NAN, NAN, NAN]
    np.testing.assert_array_equal(x, [expected] * 6)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"age": "old"}, r"column 'age', row 1: 'old' is no number"),
        ({"age": True}, r"column 'age', row 1: 'True' is no number"),
        ({"pressure": np.inf}, r"column 'pressure', row 1: 'inf' is infinite"),
        ({"pressure": "1e300"}, r"'pressure', row 1: '1e300' is over 1e\+12 standard deviations"),
    ],
)
def test_a_bad_value_is_refused(spec, frame, change, sentence):
    with pytest.raises(InputError, match=sentence):
        tables.encode(spec, frame.assign(**change))


def test_columns_that_are_not_there_are_named(spec, frame):
    lacking = frame.rename(columns={"age": "Age", "sex": "gender"})
    sentence = r"columns 'age', 'sex' are not in the table, which has .*; did you mean 'Age' for 'a"
    with pytest.raises(InputError, match=sentence):
        tables.encode(spec, lacking)
    with pytest.raises(InputError, match=r"column 'colour' is not in the table, which has [^?]*$"):
        tables.encode(spec, frame.drop(columns="colour"))
    with pytest.raises(InputError, match=r"column 'ill' is not in the table"):
        tables.labels(spec, frame.drop(columns="ill"))
    with pytest.raises(InputError, match=r"the table has column 'age' twice"):
        tables.encode(spec, pd.concat([frame, frame[["age"]]], axis=1))
    with pytest.raises(InputError, match=r"the spec is of images"):
        tables.encode(InputSpec((2, 2, 1), ("a", "b"), Bounds(0.0, 1.0)), frame)


def test_unseen_categories_are_counted(spec, frame):
    assert tables.unseen(spec, frame.iloc[TRAINING]) == {"sex": 0, "colour": 0}
    assert tables.unseen(spec, frame) == {"sex": 1, "colour": 1}  # x; pink; missing is none
    assert tables.unseen(spec, frame.assign(sex="q"))["sex"] == 6


def test_labels(spec, frame):
    y = tables.labels(spec, frame)
    assert y.dtype == np.int32
    np.testing.assert_array_equal(y, [0, 1, 0, 1, 0, 1])
    frame.loc[2, "ill"] = "maybe"
    with pytest.raises(InputError, match=r"'ill', row 3: 'maybe' is no class; .* are no, yes"):
        tables.labels(spec, frame)
    frame.loc[1, "ill"] = None
    with pytest.raises(InputError, match=r"target 'ill' is missing in row 2"):
        tables.labels(spec, frame)


# Decoding


def test_decoding_gives_the_users_units_back(spec, frame):
    decoded = tables.decode(spec, tables.encode(spec, frame))
    assert list(decoded.columns) == ["age", "sex", "pressure", "colour"]
    np.testing.assert_allclose(decoded["age"], [30, 40, 50, NAN, 60, 20], rtol=1e-6)
    np.testing.assert_allclose(decoded["pressure"], [100, 120, 110, NAN, 130, 90], rtol=1e-6)
    assert decoded["sex"].tolist() == ["f", "m", None, "m", None, "f"]
    assert decoded["colour"].tolist() == ["red", "blue", "red", "green", None, None]


def test_encoding_what_was_decoded_changes_nothing(spec, frame):
    x = tables.encode(spec, frame)
    np.testing.assert_allclose(tables.encode(spec, tables.decode(spec, x)), x, atol=1e-6)


def test_the_largest_feature_names_the_category(spec):
    x = np.array([[0, 0, 0.3, 0.6, 0.2, 1.0, 0.1, -0.2, 0.05]])
    decoded = tables.decode(spec, x)
    assert decoded.loc[0, ["sex", "colour"]].tolist() == ["m", "blue"]
    assert decoded.loc[0, "pressure"] == pytest.approx(110 + SD)


@pytest.mark.parametrize("shape", [(9,), (2, 8), (1, 9, 1)])
def test_features_of_another_table_are_not_decoded(spec, shape):
    with pytest.raises(InputError, match=r"features: shape .* was given, \[rows, 9\] is needed"):
        tables.decode(spec, np.zeros(shape))
