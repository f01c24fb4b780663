"""`digits`: scikit-learn's 1,797 real handwritten digits, framed the way MNIST frames its own.

The embedded default: needs neither a download nor a directory. The images are the test part of
"Optical Recognition of Handwritten Digits" (UCI; Alpaydin and Kaynak, 1998), 8x8, 17 grey levels.
"""

from __future__ import annotations

import functools

import numpy as np
from scipy import ndimage
from sklearn import datasets, model_selection

from tfcama.data.base import DataConfig, Request, Source, Split
from tfcama.types import Bounds, InputSpec

_FRAME = 28  # pixels: MNIST's image
_BOX = 20  # pixels: the box MNIST fits a digit into, aspect ratio kept
_TEST_FRACTION = 0.25


def frame_like_mnist(image: np.ndarray) -> np.ndarray:
    """Fits a digit into a 20x20 box, aspect ratio kept, its centre of mass amid 28x28.

    That is how MNIST was made from NIST (LeCun et al., 1998). One resampling does both, so that
    the strokes are smoothed once.

    Args:
      image: [h, w], in [0, 1], 0 is background.

    Returns:
      float32 [28, 28], in [0, 1].
    """
    rows, columns = np.nonzero(image.max(axis=1))[0], np.nonzero(image.max(axis=0))[0]
    height = rows[-1] - rows[0] + 1
    width = columns[-1] - columns[0] + 1
    pixels = max(height, width) / _BOX  # source pixels per target pixel
    centre = np.asarray(ndimage.center_of_mass(image))
    offset = centre - pixels * (_FRAME - 1) / 2
    framed = ndimage.affine_transform(
        np.asarray(image, np.float64),
        matrix=np.diag([pixels, pixels]),
        offset=offset,
        output_shape=(_FRAME, _FRAME),
        order=3,
        mode="constant",
    )
    return np.clip(framed, 0.0, 1.0).astype(np.float32)


@functools.cache
def _framed() -> tuple[np.ndarray, np.ndarray]:
    """All of them and their labels; once a process, for it takes a third of a second."""
    raw = datasets.load_digits()
    x = np.stack([frame_like_mnist(image / 16.0) for image in raw.images])[..., None]
    x.setflags(write=False)
    return x, raw.target.astype(np.int32)


def load(config: DataConfig, request: Request) -> Source:
    """Digits as [28, 28, 1] images in [0, 1]; 25 % are the test split, stratified, always the same.

    They come with scikit-learn; neither argument changes them.
    """
    del config, request
    x, y = _framed()
    train, test = model_selection.train_test_split(
        np.arange(len(y)), test_size=_TEST_FRACTION, random_state=0, stratify=y
    )
    return Source(
        spec=InputSpec(
            shape=(_FRAME, _FRAME, 1),
            class_names=tuple(str(digit) for digit in range(10)),
            bounds=Bounds(0.0, 1.0),
        ),
        train=Split(x[train], y[train]),
        test=Split(x[test], y[test]),
    )
