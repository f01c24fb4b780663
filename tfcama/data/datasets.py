"""DATASETS: every data set by name."""

from __future__ import annotations

from typing import Any, NamedTuple

from tfcama.data import breast_cancer, csv_table, digits, measurement, tfds_images
from tfcama.data.base import DataConfig, Dataset, Loader, Request, hold_out
from tfcama.registry import Registry


class DatasetEntry(NamedTuple):
    """A data set, and how long models are trained on it unless told otherwise.

    Attributes:
      load: see Loader.
      config_class: dataclass of the data set's own choices.
      kind: of InputSpec.
      epochs: of training.
      steps_per_epoch: 0 makes an epoch one pass over the training rows.
    """

    load: Loader
    config_class: type[DataConfig] = DataConfig
    kind: str = "image"
    epochs: int = 15
    steps_per_epoch: int = 0


DATASETS: Registry[DatasetEntry] = Registry(
    "dataset",
    {
        "digits": DatasetEntry(digits.load, epochs=60),
        "mnist": DatasetEntry(tfds_images.mnist),
        "fashion_mnist": DatasetEntry(tfds_images.fashion_mnist),
        "cifar10": DatasetEntry(tfds_images.cifar10),
        "cifar_binary": DatasetEntry(tfds_images.cifar_binary),
        "measurement": DatasetEntry(
            measurement.load, measurement.MeasurementConfig, "table", 20, 50
        ),
        "breast_cancer": DatasetEntry(breast_cancer.load, DataConfig, "table", 20, 50),
        "csv": DatasetEntry(csv_table.load, csv_table.CsvConfig, "table", 20, 50),
    },
)


def load(
    name: str,
    *,
    config: Any = None,
    data_dir: str | None = None,
    seed: int = 0,
    validation_fraction: float = 0.05,
) -> Dataset:
    """A data set by name, validation held out of its training rows.

    Args:
      name: a key of DATASETS.
      config: of its config_class; None for the defaults.
      data_dir: where tensorflow-datasets keeps prepared data; None for its own default.
      seed: which rows become validation; for generated data, which rows there are.
      validation_fraction: of the training rows, inside (0, 1); the papers use 0.05.

    Raises:
      InputError: unknown name, or the data is not there and cannot be downloaded.
    """
    entry = DATASETS[name]
    request = Request(data_dir, seed, validation_fraction)
    source = entry.load(entry.config_class() if config is None else config, request)
    return hold_out(source, name=name, fraction=validation_fraction, seed=seed)
