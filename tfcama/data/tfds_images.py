"""`mnist`, `fashion_mnist`, `cifar10` and `cifar_binary` through tensorflow-datasets."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from tfcama.data.base import DataConfig, Request, Source, Split
from tfcama.errors import InputError
from tfcama.types import Bounds, InputSpec

# Prepared copies do not always carry the labels' names.
_CLASS_NAMES = {
    "mnist": tuple(str(digit) for digit in range(10)),
    "fashion_mnist": (
        *("T-shirt/top", "trouser", "pullover", "dress", "coat"),
        *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
    ),
    "cifar10": (
        *("airplane", "automobile", "bird", "cat", "deer"),
        *("dog", "frog", "horse", "ship", "truck"),
    ),
}


def _read(name: str, data_dir: str | None) -> tuple[InputSpec, Split, Split]:
    """One tensorflow-datasets image data set as float32 images in [0, 1].

    Raises:
      InputError: the data set is not under data_dir and cannot be downloaded.
    """
    # A shell leaves the ~ of --data_dir=~/x to us, and tensorflow-datasets takes it for a name.
    data_dir = data_dir and str(Path(data_dir).expanduser())
    if data_dir and not Path(data_dir).is_dir():
        raise InputError(
            f"--data_dir={data_dir} is not a directory; it should hold '{name}/<version>/' as "
            f"tensorflow-datasets prepares it. Without data at hand, use --dataset=digits."
        )
    # Imported here: it costs a second, which the embedded data sets need not pay.
    import tensorflow_datasets as tfds

    logging.getLogger("absl").setLevel(logging.ERROR)
    try:
        builder = tfds.builder(name, data_dir=data_dir)
        builder.download_and_prepare()
        train, test = (
            tfds.as_numpy(builder.as_dataset(split=split, batch_size=-1, as_supervised=True))
            for split in ("train", "test")
        )
    except Exception as error:  # tfds raises what its downloader, parser or file system raises
        place = data_dir or "~/tensorflow_datasets"
        reason = str(error).splitlines()[0] if str(error) else "no reason given"
        raise InputError(
            f"'{name}' could not be read from {place} nor downloaded "
            f"({type(error).__name__}: {reason}); "
            f"--data_dir should hold '{name}/<version>/' as tensorflow-datasets prepares it. "
            "Without data at hand, use --dataset=digits."
        ) from error
    spec = InputSpec(
        shape=tuple(builder.info.features["image"].shape),
        class_names=_CLASS_NAMES[name],
        bounds=Bounds(0.0, 1.0),
    )
    return spec, _split(*train), _split(*test)


def _split(images: np.ndarray, labels: np.ndarray) -> Split:
    return Split(images.astype(np.float32) / np.float32(255.0), labels.astype(np.int32))


def mnist(config: DataConfig, request: Request) -> Source:
    """MNIST (LeCun et al., 1998): 60,000 and 10,000 images [28, 28, 1]."""
    del config
    return Source(*_read("mnist", request.data_dir))


def fashion_mnist(config: DataConfig, request: Request) -> Source:
    """Fashion-MNIST (Xiao et al., 2017): 60,000 and 10,000 images [28, 28, 1]."""
    del config
    return Source(*_read("fashion_mnist", request.data_dir))


def cifar10(config: DataConfig, request: Request) -> Source:
    """CIFAR-10 (Krizhevsky, 2009): 50,000 and 10,000 images [32, 32, 3]."""
    del config
    return Source(*_read("cifar10", request.data_dir))


def cifar_binary(config: DataConfig, request: Request) -> Source:
    """Airplanes and frogs of CIFAR-10: 10,000 and 2,000 images [32, 32, 3].

    The binary task of Li et al. (DeepBayes, 2019) and of deep CAMA's appendix.
    """
    del config
    spec, train, test = _read("cifar10", request.data_dir)
    kept = ("airplane", "frog")
    old = np.array([spec.class_names.index(name) for name in kept])

    def pick(split: Split) -> Split:
        rows = np.isin(split.y, old)
        return Split(split.x[rows], (split.y[rows] == old[1]).astype(np.int32))

    return Source(spec._replace(class_names=kept), pick(train), pick(test))
