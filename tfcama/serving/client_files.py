"""Files of images and rows as a client's inputs, and reconstructions as a picture."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import PIL.Image
import tensorflow as tf

from tfcama.data import tables
from tfcama.errors import InputError
from tfcama.serving.inputs import IMAGE, input_name

_ZOOM = 4  # pixels of the picture for one of an image
_GAP = 2


def read_images(paths: Sequence[Path], definition: Any) -> dict[str, np.ndarray]:
    """The inputs of a signature that takes images, values in [0, 1].

    Args:
      paths: PNG, JPEG, BMP or GIF files; of colour images a grey model sees the luminance, of
        animations every model the first frame.
      definition: the SignatureDef.

    Raises:
      InputError: the model takes no images, or a file cannot be read, has transparent pixels or
        another size.
    """
    if set(definition.inputs) != {IMAGE}:
        raise InputError(
            "--image was given, but the model takes columns "
            f"({', '.join(sorted(definition.inputs))}); send --csv."
        )
    shape = tuple(d.size for d in definition.inputs[IMAGE].tensor_shape.dim[1:])
    images = [read_image(path, shape) for path in paths]
    return {IMAGE: np.stack(images)}


def read_image(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """One image file as [H, W, channels] float32 in [0, 1]; see `read_images`."""
    height, width, channels = shape
    try:
        content = path.expanduser().read_bytes()
        pixels, transparent = _decoded(content, channels), _transparent(content)
    except (PIL.UnidentifiedImageError, tf.errors.InvalidArgumentError):
        raise InputError(f"{path} is no PNG, JPEG, BMP or GIF that can be read.") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}).") from None
    if transparent:
        raise InputError(
            f"{path} has transparent pixels, and nobody knows on what background the model should "
            "see them; save it without transparency."
        )
    if pixels.shape[:2] != (height, width):
        raise InputError(
            f"{path} has {pixels.shape[1]} x {pixels.shape[0]} pixels; the model takes "
            f"{width} x {height}."
        )
    return pixels.astype(np.float32) / 255.0


def _decoded(content: bytes, channels: int) -> np.ndarray:
    """A file's pixels [H, W, channels], uint8."""
    if not content.startswith((b"BM", b"GIF")):  # as the server's predict_png, 16 bit as well
        return tf.io.decode_image(content, channels=channels, expand_animations=False).numpy()
    # Of these decode_image makes no grey images.
    with PIL.Image.open(io.BytesIO(content)) as image:
        pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    return pixels.reshape(*pixels.shape[:2], channels)


def _transparent(content: bytes) -> bool:
    """Whether an image shows what is behind it."""
    with PIL.Image.open(io.BytesIO(content)) as image:
        if not image.has_transparency_data:
            return False
        lowest, _ = image.convert("RGBA").getchannel("A").getextrema()
    return lowest < 255


def read_rows(path: Path, definition: Any) -> dict[str, np.ndarray]:
    """The inputs of a signature that takes columns, from a CSV file with a header.

    Columns go by their own names; others than the model's, such as the target, are not sent. An
    empty cell is a missing value.

    Args:
      path: of the file.
      definition: the SignatureDef.

    Raises:
      InputError: the model takes images, the file cannot be read (see tables.read_csv), lacks a
        column or has one twice, or a number is none.
    """
    if set(definition.inputs) == {IMAGE}:
        raise InputError("--csv was given, but the model takes images; send --image.")
    table = tables.read_csv(path)
    columns: dict[str, str] = {}
    for column in table.columns:
        name = input_name(column)
        if name in columns and name in definition.inputs:
            raise InputError(
                f"{path} has '{columns[name]}' and '{column}', both of which the model would take "
                f"for {name}; leave one out."
            )
        columns[name] = column
    missing = sorted(set(definition.inputs) - set(columns))
    if missing:
        raise InputError(f"{path} lacks the columns {', '.join(missing)}.")
    inputs: dict[str, np.ndarray] = {}
    for name, info in definition.inputs.items():
        values = table[columns[name]]
        if info.dtype == tf.string.as_datatype_enum:
            inputs[name] = values.fillna("").to_numpy(object)
            continue
        numbers = pd.to_numeric(values, errors="coerce")
        wrong = numbers.isna() & values.notna()
        if wrong.any():
            row = int(np.argmax(wrong))
            raise InputError(
                f"{path}, row {row + 1}: column {columns[name]} is '{values.iloc[row]}'; a number "
                "is needed."
            )
        with np.errstate(over="ignore"):  # the model says what is too large
            inputs[name] = numbers.to_numpy(np.float32)
    return inputs


def picture(images: np.ndarray, reconstructions: np.ndarray) -> bytes:
    """A PNG: inputs in the first row, under each what it would be under do(m = 0).

    Args:
      images: [N, H, W, channels] in [0, 1].
      reconstructions: as many of the same size.
    """
    both = np.stack([images, np.clip(reconstructions, 0.0, 1.0)])  # [2, N, H, W, channels]
    both = both.repeat(_ZOOM, axis=2).repeat(_ZOOM, axis=3)
    both = np.pad(both, [(0, 0), (0, 0), (_GAP, _GAP), (_GAP, _GAP), (0, 0)], constant_values=1.0)
    rows, count, height, width, channels = both.shape
    page = both.transpose(0, 2, 1, 3, 4).reshape(rows * height, count * width, channels)
    return tf.io.encode_png(tf.constant(np.round(255.0 * page), tf.uint8)).numpy()
