"""Fixtures that several tests share, and two logical CPUs so that replicas can be tested."""

from __future__ import annotations

import contextlib
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# One test process a core (make unit): their thread pools must not fight. Those of OpenMP wait by
# spinning: beside another process t-SNE of thirty points took ten times as long by two threads.
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import pytest
import tensorflow as tf

from tfcama.data.base import Dataset, Split
from tfcama.training.cama import _CamaTrainer
from tfcama.types import Bounds, InputSpec

(_CPU,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(_CPU, [tf.config.LogicalDeviceConfiguration()] * 2)

# Files of few and long tests: begun last, one of them would run alone at the end.
_SLOW = ("studies/", "trainers/", "training/", "test_conformance", "report/", "serving/")

# Where functions run eagerly, those of tf.data stay compiled, and say so.
TF_DATA_IS_COMPILED = pytest.mark.filterwarnings("ignore:Even though the `tf.config")

TFDS = os.path.join(os.path.dirname(__file__), "..", "..", "shared", "tfds")

needs_tfds = pytest.mark.skipif(
    not os.path.isdir(TFDS), reason="../shared/tfds with prepared MNIST and CIFAR-10 is absent"
)


_PICTURES = _CamaTrainer.summary_images


@pytest.fixture(scope="session", autouse=True)
def no_pictures():
    """A CAMA's training is not pictured: to compile that takes longer than a tiny training."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(_CamaTrainer, "summary_images", lambda *args: {})
        yield


@pytest.fixture
def pictures(monkeypatch, no_pictures):
    """Training is pictured in this test all the same."""
    monkeypatch.setattr(_CamaTrainer, "summary_images", _PICTURES)


@pytest.fixture
def quick_pictures(monkeypatch, no_pictures):
    """As `pictures`, uncompiled."""

    def uncompiled(*args):
        with eagerly():
            return _PICTURES(*args)

    monkeypatch.setattr(_CamaTrainer, "summary_images", uncompiled)


@contextlib.contextmanager
def eagerly():
    """Functions are not compiled, for what is called once or twice: to compile takes longer."""
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(False)


@pytest.fixture(scope="module")
def uncompiled():
    """All of a file runs eagerly, see `eagerly`."""
    with eagerly():
        yield


@pytest.fixture
def no_rewriting():
    """Grappler is off: two compilations of a training step are then equal to the bit.

    With it, one in sixty sums in another order (BUILD.md, "Test suite").
    """
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    yield
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False})


@pytest.fixture(scope="session")
def spec() -> InputSpec:
    """MNIST's promise with three classes: enumerating ten costs time and shows no more."""
    return InputSpec((28, 28, 1), ("a", "b", "c"), Bounds(0.0, 1.0))


@pytest.fixture(scope="session")
def images(spec) -> np.ndarray:
    """Seven valid inputs."""
    return np.random.default_rng(0).uniform(size=(7, *spec.shape)).astype(np.float32)


@pytest.fixture(scope="session")
def bars(spec) -> Dataset:
    """A data set that is learned at once: the class is which third of the image is bright."""
    generator = np.random.default_rng(1)

    def split(size: int) -> Split:
        y = generator.integers(0, 3, size).astype(np.int32)
        x = generator.uniform(0.0, 0.2, (size, *spec.shape)).astype(np.float32)
        for row, label in enumerate(y):
            x[row, 4 + 8 * label : 8 + 8 * label, 4:24] += 0.7
        return Split(x, y)

    return Dataset("bars", spec, split(96), split(24), split(30))


@pytest.fixture
def bars_everywhere(bars, monkeypatch) -> Dataset:
    """`bars` in place of every data set that a run loads."""
    from tfcama.training import run

    monkeypatch.setattr(run, "load_data", lambda config, *, data_dir: bars)
    return bars


def pytest_collection_modifyitems(items) -> None:
    """Slow files first."""

    def place(item) -> int:
        return next((i for i, part in enumerate(_SLOW) if part in item.nodeid), len(_SLOW))

    items.sort(key=place)
