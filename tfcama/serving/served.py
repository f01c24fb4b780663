"""What a model was asked in production, as features to adapt it to.

The inputs come from a folder of images, from a CSV file, or from the log of requests that
TF-Serving and the local server write: a TFRecord file of PredictionLogs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from tfcama.data import tables
from tfcama.errors import InputError
from tfcama.serving import client_files, png
from tfcama.serving.answers import traced
from tfcama.serving.errors import of_tensorflow
from tfcama.serving.inputs import CLASSIFIER, EXAMPLES, LABEL, SEED, Inputs, inputs_of
from tfcama.serving.server.inference import serialized_examples
from tfcama.serving.server.request_log import is_cut_off, older
from tfcama.types import InputSpec

_IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif")


def of_folder(directory: Path, spec: InputSpec) -> np.ndarray:
    """The images of a folder as features [N, H, W, channels], each different one once.

    Args:
      directory: PNG, JPEG, BMP and GIF files are read, in the order of their names.
      spec: of the model's inputs.

    Raises:
      InputError: the model takes a table, there is no image, or one cannot be read, has
        transparent pixels or another size.
    """
    if spec.kind != "image":
        raise InputError("--inputs was given, but the model takes a table; give --csv or --log.")
    try:
        paths = sorted(p for p in directory.iterdir() if p.suffix.lower() in _IMAGES)
    except OSError as error:
        raise InputError(f"{directory} cannot be listed ({error.strerror}).") from None
    if not paths:
        raise InputError(f"{directory} has no images ({', '.join(_IMAGES)}).")
    images = np.stack([client_files.read_image(path, spec.shape) for path in paths])
    low, high = spec.bounds or (0.0, 1.0)
    return distinct(low + (high - low) * images)


def of_csv(path: Path, spec: InputSpec) -> np.ndarray:
    """The rows of a CSV file as features [N, F], each different one once.

    Raises:
      InputError: the model takes images, or the file does not fit it.
    """
    if spec.kind != "table":
        raise InputError("--csv was given, but the model takes images; give --inputs or --log.")
    return distinct(tables.unlabelled_csv(spec, path))


def of_log(
    path: Path,
    spec: InputSpec,
    *,
    model_name: str | None = None,
    progress: Callable[[str], object],
) -> np.ndarray:
    """The inputs of all logged requests as features [N, *shape], each different one once.

    Whatever they asked (a class, a reconstruction) and in whatever form (tensors, PNG files,
    tf.Examples) counts. A record that a killed server left unfinished ends the file.

    Args:
      path: a TFRecord file of PredictionLogs; its older half, see RequestLog, is read with it.
      spec: of the model's inputs.
      model_name: requests for other models are left out; None: there are none.
      progress: told of an unfinished record.

    Raises:
      InputError: the file cannot be read or is damaged, a request does not fit the model, or there
        is none.
    """
    inputs = inputs_of(spec)
    halves = [half for half in (older(path), path) if half.is_file()]
    if not halves:
        raise InputError(f"{path} is no file; name a log of requests.")
    found = [x for half in halves for x in _requests(half, inputs, model_name, progress)]
    if not found:
        of_model = "" if model_name is None else f" for model '{model_name}'"
        raise InputError(f"{path} has no requests{of_model}.")
    return distinct(np.concatenate(found))


def _requests(
    path: Path, inputs: Inputs, model_name: str | None, progress: Callable[[str], object]
) -> Iterator[np.ndarray]:
    """The features of each request in one file, [B, *shape]."""
    features = traced(lambda *values: inputs.features(values), inputs.signature)
    for place, content in enumerate(_records(path, progress)):
        hint = ""
        try:
            log = prediction_log_pb2.PredictionLog.FromString(content)
            kind = log.WhichOneof("log_type")
            request = getattr(log, kind).request if kind else None
            if request is None:
                raise ValueError("it is no PredictionLog of a request")
            if model_name is None or request.model_spec.name == model_name:
                hint = "; if the log is of several models, --model_name chooses one"
                values = _values(kind, request, inputs)
                hint = ""  # names, types and shapes are this model's
                yield features(*values).numpy()
        except tf.errors.OpError as error:
            raise _unfit(path, place, of_tensorflow(error).sentence, hint) from None
        except Exception as error:  # protobuf's DecodeError and what a wrong tensor leads to
            raise _unfit(path, place, str(error), hint) from None


def distinct(x: np.ndarray) -> np.ndarray:
    """The different rows of features, in their order.

    Clients ask twice, and about one input in several ways. A row that was adapted on must not be
    among those held out.

    Example:
      >>> distinct(np.array([[1.0], [0.0], [1.0]])).tolist()
      [[1.0], [0.0]]
    """
    places = {row.tobytes(): place for place, row in reversed(list(enumerate(x)))}
    return x[np.sort(np.fromiter(places.values(), np.int64))]


def _records(path: Path, progress: Callable[[str], object]) -> Iterator[bytes]:
    number = 0
    try:
        for record in tf.data.TFRecordDataset(str(path)):
            yield bytes(record.numpy())
            number += 1
    except tf.errors.DataLossError as error:
        if not is_cut_off(error):
            raise InputError(f"{path} is damaged after {number} records.") from None
        progress(f"{path}: the last record is unfinished; {number} are read")


def _values(kind: str, request: Any, inputs: Inputs) -> tuple[tf.Tensor, ...]:
    """The request's values in the order of the signature."""
    if kind == "classify_log":
        return inputs.parse(tf.constant(serialized_examples(request.input)))
    if kind != "predict_log":
        raise ValueError(f"a {kind} is neither a predict_log nor a classify_log")
    if request.model_spec.signature_name == CLASSIFIER:  # by Predict, as Client.class_names does
        return inputs.parse(tf.constant(tf.make_ndarray(request.inputs[EXAMPLES])))
    names = set(request.inputs) - {SEED, LABEL}
    if names == {png.IMAGE_BYTES} and png.decodable(inputs.spec):
        contents = tf.constant(tf.make_ndarray(request.inputs[png.IMAGE_BYTES]))
        return (png.decode(contents, inputs.spec),)
    if names != set(inputs.names):
        raise ValueError(
            f"its inputs are {', '.join(sorted(names)) or 'none'}, the model's are "
            f"{', '.join(inputs.names)}"
        )
    values = tuple(tf.constant(tf.make_ndarray(request.inputs[name])) for name in inputs.names)
    for wanted, value in zip(inputs.signature, values, strict=True):
        if not wanted.is_compatible_with(value):
            raise ValueError(
                f"{wanted.name} is {value.dtype.name} {list(value.shape)}, the model's is "
                f"{wanted.dtype.name} {list(wanted.shape)}"
            )
    return values


def _unfit(path: Path, place: int, why: str, hint: str) -> InputError:
    return InputError(f"{path}, record {place}: {why.rstrip('.')}{hint}.")
