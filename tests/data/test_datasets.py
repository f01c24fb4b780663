import numpy as np
import pytest
from scipy import ndimage

from tests.conftest import TFDS, needs_tfds
from tfcama.data import datasets, digits
from tfcama.data.base import Source, Split, hold_out
from tfcama.errors import InputError
from tfcama.types import InputSpec

# what is read from ../shared: rows of train, validation and test, shape, classes
PREPARED = {
    "mnist": ((57_000, 3_000, 10_000), (28, 28, 1), 10),
    "fashion_mnist": ((57_000, 3_000, 10_000), (28, 28, 1), 10),
    "cifar10": ((47_500, 2_500, 10_000), (32, 32, 3), 10),
    "cifar_binary": ((9_500, 500, 2_000), (32, 32, 3), 2),
}


def test_framing_centres_the_mass_in_a_box_of_twenty():
    image = np.zeros([8, 8])
    image[1:7, 2:4] = 1.0
    framed = digits.frame_like_mnist(image)
    assert framed.shape == (28, 28)
    np.testing.assert_allclose(ndimage.center_of_mass(framed), [13.5, 13.5], atol=0.1)
    rows = np.nonzero(framed.max(axis=1) > 0.5)[0]
    columns = np.nonzero(framed.max(axis=0) > 0.5)[0]
    assert abs((rows[-1] - rows[0] + 1) - 20) <= 1  # the longer side fills the box
    assert abs((columns[-1] - columns[0] + 1) - 20 / 3) <= 2  # the aspect ratio is kept


def test_digits_are_all_there_and_split_cleanly():
    data = datasets.load("digits")
    assert len(data.train) + len(data.validation) + len(data.test) == 1797
    assert len(data.test) == 450
    assert len(data.validation) == round(0.05 * 1347)
    everything = np.concatenate([data.train.x, data.validation.x, data.test.x])
    assert len(np.unique(everything.reshape(1797, -1), axis=0)) == 1797
    assert set(data.train.y) == set(range(10))
    data.spec.check(everything)


def test_the_seed_moves_validation_and_nothing_else():
    one, two = datasets.load("digits", seed=0), datasets.load("digits", seed=1)
    np.testing.assert_array_equal(one.test.x, two.test.x)
    assert not np.array_equal(one.validation.x, two.validation.x)
    np.testing.assert_array_equal(one.validation.x, datasets.load("digits", seed=0).validation.x)


@pytest.mark.parametrize("fraction", [0.0, 1.0, 0.01])
def test_a_split_without_rows_is_refused(fraction):
    rows = Split(np.zeros([10, 2], np.float32), np.zeros([10], np.int32))
    source = Source(InputSpec((2,), ("a",), None), rows, rows)
    with pytest.raises(InputError, match="validation_fraction"):
        hold_out(source, name="x", fraction=fraction, seed=0)


def test_an_unknown_name_names_the_nearest():
    with pytest.raises(InputError, match="did you mean 'mnist'"):
        datasets.load("mnits")


@pytest.mark.parametrize("name", PREPARED)
def test_data_that_is_not_there_says_what_data_dir_should_hold(name, tmp_path):
    missing = tmp_path / "nowhere"
    with pytest.raises(
        InputError, match=r"should hold .*Without data at hand, use --dataset=digits"
    ):
        datasets.load(name, data_dir=str(missing))


def test_a_home_that_the_shell_left_to_us_is_found(tmp_path, monkeypatch):
    """bash expands no ~ behind --data_dir=, and tensorflow-datasets would make a directory ~."""
    tfds = pytest.importorskip("tensorflow_datasets")
    asked = []

    def builder(name, *, data_dir):
        asked.append(data_dir)
        raise OSError("no more is needed")

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(tfds, "builder", builder)
    (tmp_path / "prepared").mkdir()
    with pytest.raises(InputError, match="no more is needed"):
        datasets.load("mnist", data_dir="~/prepared")
    assert asked == [str(tmp_path / "prepared")]


@needs_tfds
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name == "mnist" else pytest.mark.long) for name in PREPARED],
)
def test_prepared_data_is_read_whole(name):
    sizes, shape, classes = PREPARED[name]
    data = datasets.load(name, data_dir=TFDS)
    assert (len(data.train), len(data.validation), len(data.test)) == sizes
    assert data.spec.shape == shape
    assert data.spec.num_classes == classes
    assert set(data.test.y) == set(range(classes))
    data.spec.check(data.test.x)
    assert data.test.x.max() == 1.0


@pytest.mark.parametrize("name", [name for name in datasets.DATASETS if name not in PREPARED])
def test_what_needs_no_files_keeps_the_contract(name, tmp_path):
    """All of the registry but PREPARED, so that a new entry is here."""
    entry, config = datasets.DATASETS[name], None
    if name == "csv":
        rows = [f"{place},{place % 7},{'pq'[place % 2]}" for place in range(60)]
        path = tmp_path / "rows.csv"
        path.write_text("\n".join(["a,x,y", *rows]))
        roles = {"parents": ("a",), "children": ("x",)}
        config = entry.config_class(csv=str(path), target="y", **roles)
    one, again = (datasets.load(name, config=config, seed=3) for _ in range(2))
    assert one.spec.kind == entry.kind
    splits = [one.train, one.validation, one.test]
    for split, same in zip(splits, [again.train, again.validation, again.test], strict=True):
        assert (split.x.dtype, split.y.dtype) == (np.float32, np.int32)
        assert split.x.shape == (len(split), *one.spec.shape)
        assert set(split.y) <= set(range(one.spec.num_classes))
        one.spec.check(split.x)
        np.testing.assert_array_equal(split.x, same.x)
        np.testing.assert_array_equal(split.y, same.y)


@needs_tfds
def test_mnist_is_the_canonical_one():
    data = datasets.load("mnist", data_dir=TFDS)
    published = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    np.testing.assert_array_equal(np.bincount(data.test.y), published)
    everything = np.concatenate([data.train.x, data.validation.x])
    assert abs(everything.mean() - 0.1307) < 1e-4
    assert abs(everything.std() - 0.3081) < 1e-4
