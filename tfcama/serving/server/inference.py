"""Requests to one loaded version: messages in, messages out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import classification_pb2, predict_pb2, prediction_log_pb2

from tfcama.serving.errors import Code, ServingError, invalid
from tfcama.serving.server import tensors
from tfcama.serving.server.version import LoadedVersion

DEFAULT_SIGNATURE = "serving_default"
_WARMUP = Path("assets.extra") / "tf_serving_warmup_requests"
_MOST_RECORDS = 1000  # as TF-Serving


def predict(
    version: LoadedVersion,
    request: predict_pb2.PredictRequest,
    *,
    deadline: float | None,
    most_bytes: int,
) -> predict_pb2.PredictResponse:
    """Answers a PredictRequest.

    Args:
      version: that is asked.
      request: model_spec names the signature; the rest of it has found the version.
      deadline: of time.monotonic, or None.
      most_bytes: of one input.

    Raises:
      ServingError: as tensorflow_model_server would say it.
    """
    name = request.model_spec.signature_name or DEFAULT_SIGNATURE
    definition = version.signature(name)
    if definition is None:
        sentence = f'Serving signature key "{name}" not found.{_offered(version)}'
        raise ServingError(Code.FAILED_PRECONDITION, sentence)
    inputs = tensors.inputs_of(definition, request.inputs, most_bytes=most_bytes)
    outputs = version.run(
        name, inputs, wanted_outputs(definition, request.output_filter), deadline=deadline
    )
    response = predict_pb2.PredictResponse()
    _fill_spec(response.model_spec, version, name)
    for output, value in outputs.items():
        response.outputs[output].CopyFrom(tensors.to_proto(value))
    return response


def classify(
    version: LoadedVersion,
    request: classification_pb2.ClassificationRequest,
    *,
    deadline: float | None,
) -> classification_pb2.ClassificationResponse:
    """Answers a ClassificationRequest; see `predict`."""
    name = request.model_spec.signature_name or DEFAULT_SIGNATURE
    definition = version.signature(name)
    if definition is None:
        raise invalid(f"No signature was found with the name: {name}.{_offered(version)}")
    if set(definition.inputs) != {"inputs"}:
        raise invalid(
            f"signature '{name}' cannot classify: one input, named inputs, of tf.Examples is "
            f"needed; it has {', '.join(sorted(definition.inputs))}."
        )
    outputs = tuple(key for key in ("classes", "scores") if key in definition.outputs)
    if not outputs or len(definition.outputs) > 2:
        raise invalid(f"signature '{name}' cannot classify: outputs classes or scores are needed.")
    examples = serialized_examples(request.input)
    found = version.run(name, {"inputs": examples}, outputs, deadline=deadline)
    for key, value in found.items():
        if value.ndim != 2 or len(value) != len(examples):
            raise invalid(f"Expected {key} of [batch_size num_classes] but got {value.shape}")
    response = classification_pb2.ClassificationResponse()
    _fill_spec(response.model_spec, version, name)
    for row in range(len(examples)):
        classes = response.result.classifications.add().classes
        for column in range(next(iter(found.values())).shape[1]):
            one = classes.add()
            if "classes" in found:
                one.label = found["classes"][row, column].decode()
            if "scores" in found:
                one.score = found["scores"][row, column]
    return response


def definition_for_rest(version: LoadedVersion, name: str) -> Any:
    """The SignatureDef that a REST body asks; its name may be empty.

    Raises:
      ServingError: INVALID_ARGUMENT; there is none.
    """
    name = name or DEFAULT_SIGNATURE
    definition = version.signature(name)
    if definition is None:
        raise invalid(
            f'Serving signature name: "{name}" not found in signature def.{_offered(version)}'
        )
    return definition


def wanted_outputs(definition: Any, output_filter: Any) -> tuple[str, ...]:
    """The outputs that a request's filter names; all of them if it is empty.

    Raises:
      ServingError: INVALID_ARGUMENT; one is unknown or named twice.
    """
    for name in output_filter:
        if name not in definition.outputs:
            raise invalid(
                f"output tensor alias not found in signature: {name} Outputs expected to be in "
                f"the set {{{','.join(sorted(definition.outputs))}}}."
            )
    if len(set(output_filter)) < len(output_filter):
        raise invalid(f"duplicate output tensor alias: {', '.join(output_filter)}")
    return tuple(sorted(output_filter or definition.outputs))


def warm_up(version: LoadedVersion, *, most_bytes: int) -> int:
    """Replays the version's recorded requests, so that no client is the first.

    Returns:
      How many there were.

    Raises:
      ServingError: one fails, there are too many, or the file is damaged.
    """
    path = version.path / _WARMUP
    if not path.exists():
        return 0
    try:
        # Read whole before the first is asked: tf.data would compete with the model for threads.
        records = [bytes(record.numpy()) for record in tf.data.TFRecordDataset(str(path))]
        logs = [prediction_log_pb2.PredictionLog.FromString(record) for record in records]
    except Exception as error:  # TensorFlow's DataLossError, protobuf's DecodeError
        raise ServingError(Code.DATA_LOSS, f"{path} is damaged ({error}).") from None
    if len(logs) > _MOST_RECORDS:
        raise invalid(f"{path} has {len(logs)} records; at most {_MOST_RECORDS} may be.")
    for place, log in enumerate(logs):
        kind = log.WhichOneof("log_type")
        try:
            if kind == "predict_log":
                predict(version, log.predict_log.request, deadline=None, most_bytes=most_bytes)
            elif kind == "classify_log":
                classify(version, log.classify_log.request, deadline=None)
            else:
                raise ServingError(Code.UNIMPLEMENTED, f"a {kind} cannot be replayed here.")
        except ServingError as error:
            sentence = f"warm-up record {place} of {path} failed: {error.sentence}"
            raise ServingError(error.code, sentence) from None
    return len(logs)


def serialized_examples(given: Any) -> np.ndarray:
    """The tf.Examples of a ClassificationRequest's input, [B] bytes.

    Raises:
      ServingError: INVALID_ARGUMENT; there is none.
    """
    kind = given.WhichOneof("kind")
    prefix = b""
    if kind == "example_list_with_context":
        prefix = given.example_list_with_context.context.SerializeToString()
    examples = getattr(given, kind).examples if kind else ()
    if not examples:
        raise invalid("Input is empty.")
    # Messages one after the other are one message: later features win over the context's.
    return np.array([prefix + example.SerializeToString() for example in examples], object)


def _fill_spec(spec: Any, version: LoadedVersion, signature: str) -> None:
    spec.name = version.name
    spec.version.value = version.number
    spec.signature_name = signature


def _offered(version: LoadedVersion) -> str:
    names = sorted(name for name in version.signatures if version.signature(name) is not None)
    return f" This version has {', '.join(names)}."
