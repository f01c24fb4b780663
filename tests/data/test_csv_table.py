import os

import numpy as np
import pandas as pd
import pytest

from tfcama.data import breast_cancer, datasets
from tfcama.data.csv_table import CsvConfig
from tfcama.errors import InputError
from tfcama.types import CHILD


@pytest.fixture
def table():
    generator = np.random.default_rng(0)
    y = generator.permutation(np.repeat(["no", "yes"], [60, 20]))
    x = generator.normal(10.0, 3.0, 80) + (y == "yes")
    return pd.DataFrame({"id": range(80), "a": generator.normal(size=80), "x": x, "y": y})


def write(frame, path):
    frame.to_csv(path, index=False)
    return str(path)


def config(path, **changes):
    return CsvConfig(
        **{"csv": path, "target": "y", "parents": ("a",), "children": ("x",)} | changes
    )


def test_a_table_is_split_in_proportion_and_standardised_by_its_training_rows(table, tmp_path):
    path = write(table, tmp_path / "t.csv")
    data = datasets.load("csv", config=config(path), validation_fraction=0.1)
    assert [len(s) for s in (data.train, data.validation, data.test)] == [54, 6, 20]
    assert data.test.y.mean() == 0.25  # a quarter "yes", as in the table
    np.testing.assert_allclose(data.train.x.mean(axis=0), np.zeros(2), atol=1e-6)
    np.testing.assert_allclose(data.train.x.std(axis=0), np.ones(2), atol=1e-6)
    assert np.abs(data.test.x.mean(axis=0)).max() > 1e-3
    x = data.spec.columns[1]
    everything = np.concatenate([data.train.x, data.validation.x, data.test.x])[:, 1]
    np.testing.assert_allclose(np.sort(everything * x.scale + x.loc), np.sort(table.x), rtol=1e-5)
    again = datasets.load("csv", config=config(path), validation_fraction=0.1)
    np.testing.assert_array_equal(again.test.x, data.test.x)


def test_test_rows_may_come_from_a_file_of_their_own(table, tmp_path):
    train, test = write(table[:60], tmp_path / "a.csv"), write(table[60:], tmp_path / "b.csv")
    data = datasets.load("csv", config=config(train, test_csv=test), validation_fraction=0.1)
    assert [len(s) for s in (data.train, data.validation, data.test)] == [54, 6, 20]
    classes = np.array(data.spec.class_names)[data.test.y]
    np.testing.assert_array_equal(classes, table.y[60:])


def test_a_dag_and_a_roles_file_say_the_same_as_lists(table, tmp_path):
    path = write(table, tmp_path / "t.csv")
    (tmp_path / "g.dot").write_text("digraph { a -> y; y -> x }")
    (tmp_path / "r.yaml").write_text("target: y\nparents: [a]\nchildren: [x]\n")
    by_lists = datasets.load("csv", config=config(path))
    by_dag = datasets.load("csv", config=CsvConfig(path, "y", dag=str(tmp_path / "g.dot")))
    by_file = datasets.load("csv", config=CsvConfig(path, roles=str(tmp_path / "r.yaml")))
    assert by_lists.spec == by_dag.spec == by_file.spec
    np.testing.assert_array_equal(by_dag.train.x, by_lists.train.x)


def test_the_breast_cancer_example_uses_the_markov_blanket_of_its_graph():
    data = datasets.load("breast_cancer")
    names = [column.name for column in data.spec.with_role(CHILD)]
    assert "mean_radius" in names
    assert "mean_perimeter" not in names  # it follows from the radius
    assert len(names) == len(data.spec.columns) == 7
    assert data.spec.class_names == ("benign", "malignant")
    total = sum(len(split) for split in (data.train, data.validation, data.test))
    assert total == len(breast_cancer.table()) == 569


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"csv": ""}, "--csv is missing: name the table"),
        ({"csv": "nowhere.csv"}, "nowhere.csv"),
        ({"target": ""}, "--target is missing"),
        ({"target": "yy"}, "did you mean 'y'"),
        ({"children": ("x", "y")}, r"'y'"),
        ({"parents": ("x",)}, "'x'"),
        ({"children": ("z",)}, "'z'"),
        ({"children": ("id", "a"), "parents": ("a",)}, r"'a'.*--dag"),
    ],
)
def test_a_wrong_table_is_one_clear_sentence(table, tmp_path, changes, sentence):
    path = write(table, tmp_path / "t.csv")
    with pytest.raises(InputError, match=sentence):
        datasets.load("csv", config=config(path, **changes))


def test_the_graph_is_given_once_and_fractions_are_fractions(tmp_path):
    with pytest.raises(InputError, match="the graph was given twice"):
        CsvConfig("t.csv", "y", children=("x",), dag="g.dot")
    with pytest.raises(InputError, match=r"test_fraction=1\.5 was given"):
        CsvConfig("t.csv", "y", test_fraction=1.5)
    for both in ({"target": "y"}, {"categorical": ("a",)}):
        with pytest.raises(InputError, match=r"roles=r.yaml and .* were given"):
            CsvConfig("t.csv", roles="r.yaml", **both)


def test_a_class_too_rare_to_split_is_named(table, tmp_path):
    table.loc[0, "y"] = "maybe"
    path = write(table, tmp_path / "t.csv")
    with pytest.raises(InputError, match="'y' has 3 classes in 80 rows, of which maybe have one"):
        datasets.load("csv", config=config(path))
    with pytest.raises(InputError, match=r"cannot be split with test_fraction=0\.01"):
        datasets.load("csv", config=config(write(table[1:], path), test_fraction=0.01))


def test_a_measured_target_is_told_in_one_short_sentence(table, tmp_path):
    table["y"] = np.random.default_rng(0).normal(size=80)
    path = write(table, tmp_path / "t.csv")
    with pytest.raises(InputError, match=r"and 75 more .* looks like a number") as refused:
        datasets.load("csv", config=config(path))
    assert len(str(refused.value)) < 500


def test_a_pipe_is_no_table_to_train_on(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="pipe is no regular file"):
        datasets.load("csv", config=config(str(tmp_path / "pipe")))


def test_a_rare_class_stays_in_training_whatever_the_seed(table, tmp_path):
    """Of four rows of a class one is a test row, and chance may hold out the other three."""
    table.loc[:3, "y"] = "rare"
    path = write(table, tmp_path / "t.csv")
    for seed in range(12):
        data = datasets.load("csv", config=config(path), validation_fraction=0.7, seed=seed)
        rare = data.spec.class_names.index("rare")
        assert (data.train.y == rare).any()
        assert len(data.train) + len(data.validation) == 60
