"""The bodies of the REST API: JSON to arrays, arrays to JSON, examples and results."""

from __future__ import annotations

import base64
import binascii
import itertools
import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import classification_pb2

from tfcama.serving.errors import ServingError, invalid
from tfcama.serving.server.batching import Arrays
from tfcama.serving.server.tensors import check_shape

_B64 = "b64"
_SHOWN = 60  # characters of a wrong value
_EXACT = {np.dtype(np.float32): 2**24 - 1, np.dtype(np.float64): 2**53 - 1}  # integers


def parse(body: bytes) -> dict[str, Any]:
    """The JSON object of a request; NaN and Infinity are numbers, as in TF-Serving.

    Raises:
      ServingError: INVALID_ARGUMENT; it is none.
    """
    if not body:
        raise invalid("JSON Parse error: The document is empty")
    try:
        value = json.loads(body)
    except ValueError as error:
        raise invalid(f"JSON Parse error: {error}") from None
    except RecursionError:
        raise invalid("JSON Parse error: lists are nested too deeply") from None
    if not isinstance(value, dict):
        raise invalid(f"JSON Value: {_shown(value)} Is not object")
    return value


def signature_name(request: dict[str, Any]) -> str:
    """The `signature_name` of a request; "" where it has none."""
    name = request.get("signature_name", "")
    if not isinstance(name, str):
        raise invalid("'signature_name' key must be a string value.")
    return _name(name)


def inputs_of(request: dict[str, Any], definition: Any) -> tuple[Arrays, bool]:
    """The arrays of a :predict request.

    Args:
      request: what `parse` returned.
      definition: the SignatureDef that is asked.

    Returns:
      Arrays by input, and whether they came in row form ("instances").

    Raises:
      ServingError: INVALID_ARGUMENT, with what is wrong where.
    """
    if "instances" in request and "inputs" in request:
        raise invalid(
            "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist"
        )
    if "instances" in request:
        return _rows(request["instances"], definition), True
    if "inputs" in request:
        return _columns(request["inputs"], definition), False
    raise invalid("Missing 'inputs' or 'instances' key")


def answer(outputs: Arrays, *, rows: bool) -> str:
    """The body of a :predict response in row ("predictions") or column form ("outputs").

    Raises:
      ServingError: INVALID_ARGUMENT; outputs cannot be written as rows.
    """
    named = len(outputs) > 1
    if not rows:
        columns = {name: _plain(name, value) for name, value in outputs.items()}
        return json.dumps({"outputs": columns if named else next(iter(columns.values()))})
    sizes = set()
    for name, value in outputs.items():
        if not value.ndim:
            raise invalid(f"Tensor name: {name} has no shape information")
        sizes.add(len(value))
    if len(sizes) > 1:
        raise invalid(f"outputs have inconsistent batch sizes: {sorted(sizes)}")
    lists = [_plain(name, value) for name, value in outputs.items()]
    if not named:
        return json.dumps({"predictions": lists[0]})
    return json.dumps(
        {"predictions": [dict(zip(outputs, row, strict=True)) for row in zip(*lists, strict=True)]}
    )


def classification_request(request: dict[str, Any]) -> classification_pb2.ClassificationRequest:
    """The message of a :classify request, without its model_spec's name.

    Raises:
      ServingError: INVALID_ARGUMENT; `examples` are no list of objects of features.
    """
    message = classification_pb2.ClassificationRequest()
    message.model_spec.signature_name = signature_name(request)
    examples = request.get("examples")
    if examples is None:
        raise invalid("When method is classify, key 'examples' is expected and was not found")
    if not isinstance(examples, list):
        raise invalid("Expecting 'examples' value to be an list/array")
    if not examples:
        raise invalid("'examples' value is an empty array")
    if "context" in request:
        place = message.input.example_list_with_context
        _fill_example(place.context, request["context"])
    else:
        place = message.input.example_list
    for example in examples:
        _fill_example(place.examples.add(), example)
    return message


def classification_answer(result: classification_pb2.ClassificationResult) -> str:
    """The body of a :classify response."""
    rows = [[[c.label, c.score] for c in row.classes] for row in result.classifications]
    return json.dumps({"results": rows})


def _rows(instances: Any, definition: Any) -> Arrays:
    if not isinstance(instances, list):
        raise invalid("Excepting 'instances' to be an list/array")
    if not instances:
        raise invalid("No values in 'instances' array")
    names = set(definition.inputs)
    objects = isinstance(instances[0], dict) and not _is_b64(instances[0])
    if not objects:
        if len(names) > 1:
            raise invalid(
                "instances is a plain list, but expecting list of objects as multiple input "
                f"tensors required as per tensorinfo_map: {', '.join(sorted(names))}"
            )
        (name,) = names
        return {name: _array(name, instances, definition.inputs[name])}
    for place, row in enumerate(instances):
        if not isinstance(row, dict) or _is_b64(row):
            raise invalid(f"Expecting object but got list at item {place} of input list")
        if set(row) != names:
            raise invalid(
                f"Failed to process element: {place} of 'instances' list. JSON object has keys "
                f"{','.join(sorted(row))}; keys must be equal to: {','.join(sorted(names))}"
            )
    return {
        name: _array(name, [row[name] for row in instances], info)
        for name, info in definition.inputs.items()
    }


def _columns(value: Any, definition: Any) -> Arrays:
    names = sorted(definition.inputs)
    if not isinstance(value, dict) or _is_b64(value):
        if len(names) > 1:
            raise invalid(
                "inputs is a plain value/list, but expecting an object as multiple input tensors "
                f"required as per tensorinfo_map: {', '.join(names)}"
            )
        value = {names[0]: value}
    for name in names:
        if name not in value:
            raise invalid(f"Missing named input: {name} in 'inputs' object.")
    return {name: _array(name, value[name], definition.inputs[name]) for name in names}


def _array(name: str, value: Any, info: Any) -> np.ndarray:
    try:
        leaves, shape = _flatten(value)
        dtype = tf.dtypes.as_dtype(info.dtype)
        flat = _text(leaves) if dtype == tf.string else _numbers(leaves, dtype)
    except ServingError as error:
        raise invalid(f"Failed to process input: {name}. Error: {error.sentence}") from None
    check_shape(name, shape, info)
    return flat.reshape(shape)


def _flatten(value: Any) -> tuple[list[Any], tuple[int, ...]]:
    """The leaves of nested lists, and their shape; the first of every level tells its length."""
    shape: list[int] = []
    level: list[Any] = [value]
    while level and isinstance(level[0], list):
        size = len(level[0])
        for item in level:
            if not isinstance(item, list):
                raise invalid(f"JSON Value: {_shown(item)} found at incorrect level: {len(shape)}")
            if len(item) != size:
                raise invalid(
                    f"Encountered list at unexpected size: {len(item)} at level: {len(shape)} "
                    f"expected size: {size}"
                )
        shape.append(size)
        level = list(itertools.chain.from_iterable(level))
    deeper = next((item for item in level if isinstance(item, list)), None)
    if deeper is not None:
        raise invalid(f"Encountered list at unexpected level: {len(shape)}")
    return level, tuple(shape)


def _text(leaves: list[Any]) -> np.ndarray:
    values = np.empty([len(leaves)], object)
    for place, leaf in enumerate(leaves):
        if isinstance(leaf, str):
            values[place] = leaf.encode("utf-8", "surrogatepass")
        elif isinstance(leaf, dict):
            values[place] = _decoded(leaf)
        else:
            raise _wrong_type(leaf, tf.string)
    return values


def _numbers(leaves: list[Any], dtype: tf.DType) -> np.ndarray:
    wanted: tuple[type, ...] = (bool,) if dtype == tf.bool else (int,)
    wanted = (int, float) if dtype.is_floating else wanted
    if not set(map(type, leaves)) <= set(wanted):
        wrong = next(leaf for leaf in leaves if type(leaf) not in wanted)
        raise _wrong_type(wrong, dtype)
    kind = np.dtype(dtype.as_numpy_dtype)
    if dtype.is_integer:
        limits = np.iinfo(kind)
        _in_range(leaves, int(limits.min), int(limits.max), dtype)
    elif dtype.is_floating:
        most = _EXACT.get(kind, 2**8)
        _in_range([leaf for leaf in leaves if type(leaf) is int], -most, most, dtype)
        wide = np.asarray(leaves, np.float64)
        with np.errstate(over="ignore"):
            narrow = wide.astype(kind)
        lost = np.isinf(narrow.astype(np.float64)) & np.isfinite(wide)
        if lost.any():
            _lossy(leaves[int(np.argmax(lost))], dtype)
        return narrow
    return np.asarray(leaves, kind)


def _in_range(values: Iterable[int], low: int, high: int, dtype: tf.DType) -> None:
    for value in values:
        if not low <= value <= high:
            _lossy(value, dtype)


def _wrong_type(value: Any, dtype: tf.DType) -> ServingError:
    return invalid(
        f"JSON Value: {_shown(value)} Type: {_kind(value)} is not of expected type: {dtype.name}"
    )


def _lossy(value: Any, dtype: tf.DType) -> None:
    raise invalid(
        f"Cannot convert JSON value: {_shown(value)} to {dtype.name} without loss of precision."
    )


def _is_b64(value: Any) -> bool:
    return isinstance(value, dict) and set(value) == {_B64} and isinstance(value[_B64], str)


def _decoded(value: Any) -> bytes:
    if not _is_b64(value):
        raise invalid(f"JSON Value: {_shown(value)} not formatted correctly for base64 data")
    text = "".join(value[_B64].split()).rstrip("=")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise invalid("Unable to base64 decode") from None


def _fill_example(example: tf.train.Example, features: Any) -> None:
    if not isinstance(features, dict):
        raise invalid(f"Example must be JSON object but got JSON {_kind(features)}")
    for name, content in features.items():
        values = content if isinstance(content, list) else [content]
        feature = example.features.feature[_name(name)]
        kinds = set(map(type, values))
        if kinds <= {int, bool} and kinds:
            _in_range(values, -(2**63), 2**63 - 1, tf.int64)
            feature.int64_list.value.extend(map(int, values))
        elif kinds == {float}:
            feature.float_list.value.extend(_numbers(values, tf.float32).tolist())
        elif kinds and kinds <= {str, dict}:
            feature.bytes_list.value.extend(_text(values).tolist())
        elif kinds:
            raise invalid(
                f"Unexpected element type in feature: {name}; numbers with decimals, whole "
                "numbers, or text and base64 objects are needed, and only one of these."
            )


def _plain(name: str, value: np.ndarray) -> Any:
    if value.dtype == object or value.dtype.kind in "SU":
        as_bytes = name.endswith("_bytes")

        def written(item: bytes) -> Any:
            if as_bytes:
                return {_B64: base64.b64encode(item).decode()}
            return item.decode("utf-8", "replace")

        flat = np.empty([value.size], object)
        flat[:] = [written(item) for item in value.ravel().tolist()]
        return flat.reshape(value.shape).tolist()
    if value.dtype.kind not in "fiub":
        value = value.astype(np.float32)  # bfloat16
    return value.tolist()


def _kind(value: Any) -> str:
    names = {dict: "Object", list: "Array", str: "String", bool: str(value), type(None): "Null"}
    return names.get(type(value), "Number")


def _name(text: str) -> str:
    """A name that a message can hold; JSON also has halves of characters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise invalid(f"{_shown(text)} is no name: it is not valid Unicode.") from None
    return text


def _shown(value: Any) -> str:
    try:
        text = json.dumps(value)
    except RecursionError:
        return "lists that are nested too deeply"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
