"""Requests that TF-Serving answers while it loads a version, so that no client is the first.

    <version>/assets.extra/tf_serving_warmup_requests: a TFRecord file of PredictionLogs

A record that fails fails the load of the version, so all of them are replayed before it is
published.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from tfcama.serving.inputs import EXAMPLES
from tfcama.serving.signatures import CLASSIFY, Signature

FILE = Path("assets.extra") / "tf_serving_warmup_requests"
MAX_RECORDS = 1000  # TensorFlow Serving's own limit
_BATCHES = (1, 4)


def records(
    offered: Mapping[str, Signature], *, model_name: str, generator: np.random.Generator
) -> list[prediction_log_pb2.PredictionLog]:
    """Requests for every signature, of one row and of a few.

    Args:
      offered: signatures by name.
      model_name: under which the version is served.
      generator: of the rows.
    """
    return [
        _record(signature, signature.examples(generator, size), model_name)
        for signature in offered.values()
        for size in _BATCHES
    ]


def write(path: Path, logs: Iterable[prediction_log_pb2.PredictionLog]) -> None:
    """Writes the TFRecord file and the directory it is in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for log in logs:
            writer.write(log.SerializeToString(deterministic=True))


def read(path: Path) -> Iterator[tuple[str, dict[str, tf.Tensor]]]:
    """The requests of a file: signature and inputs by name, as a server hands them to the graph."""
    for record in tf.data.TFRecordDataset(str(path)):
        log = prediction_log_pb2.PredictionLog.FromString(record.numpy())
        if log.WhichOneof("log_type") == "classify_log":
            request = log.classify_log.request
            examples = request.input.example_list.examples
            serialized = tf.constant([example.SerializeToString() for example in examples])
            yield request.model_spec.signature_name, {EXAMPLES: serialized}
        else:
            predict = log.predict_log.request
            yield (
                predict.model_spec.signature_name,
                {name: tf.constant(tf.make_ndarray(v)) for name, v in predict.inputs.items()},
            )


def _record(
    signature: Signature, values: tuple[np.ndarray, ...], model_name: str
) -> prediction_log_pb2.PredictionLog:
    log = prediction_log_pb2.PredictionLog()
    if signature.method == CLASSIFY:
        request = log.classify_log.request
        for serialized in values[0]:
            request.input.example_list.examples.add().ParseFromString(serialized)
    else:
        request = log.predict_log.request
        for tensor, value in zip(signature.inputs, values, strict=True):
            proto = tf.make_tensor_proto(value, dtype=tensor.dtype)
            request.inputs[tensor.name].CopyFrom(proto)
    request.model_spec.name = model_name
    request.model_spec.signature_name = signature.name
    return log
