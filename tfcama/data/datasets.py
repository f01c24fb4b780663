"""DATASETS: every data set by name."""

from __future__ import annotations

from tfcama.data import digits, tfds_images
from tfcama.data.base import Dataset, Loader, hold_out
from tfcama.registry import Registry

DATASETS: Registry[Loader] = Registry(
    "dataset",
    {
        "digits": digits.load,
        "mnist": tfds_images.mnist,
        "fashion_mnist": tfds_images.fashion_mnist,
        "cifar10": tfds_images.cifar10,
        "cifar_binary": tfds_images.cifar_binary,
    },
)


def load(
    name: str, *, data_dir: str | None = None, seed: int = 0, validation_fraction: float = 0.05
) -> Dataset:
    """A data set by name, validation held out of its training rows.

    Args:
      name: a key of DATASETS.
      data_dir: where tensorflow-datasets keeps prepared data; None for its own default.
      seed: which rows become validation.
      validation_fraction: of the training rows, inside (0, 1); the papers use 0.05.

    Raises:
      InputError: unknown name, or the data is not there and cannot be downloaded.
    """
    source = DATASETS[name](data_dir)
    return hold_out(source, name=name, fraction=validation_fraction, seed=seed)
