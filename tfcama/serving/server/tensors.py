"""Tensors of gRPC messages to arrays and back, as TF-Serving writes them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfcama.serving.errors import invalid
from tfcama.serving.server.batching import Arrays

# Clients read `float_val` and its like directly, and the model server fills those.
_FIELDS = {
    tf.float32: "float_val",
    tf.float64: "double_val",
    tf.int32: "int_val",
    tf.int16: "int_val",
    tf.int8: "int_val",
    tf.uint8: "int_val",
    tf.int64: "int64_val",
    tf.bool: "bool_val",
    tf.uint32: "uint32_val",
    tf.uint64: "uint64_val",
    tf.string: "string_val",
}


def inputs_of(definition: Any, given: Mapping[str, Any], *, most_bytes: int) -> Arrays:
    """The arrays of a request's TensorProtos.

    Args:
      definition: the SignatureDef that is asked.
      given: TensorProtos by the input's name.
      most_bytes: that an input may have; a message of a few bytes can stand for terabytes.

    Raises:
      ServingError: INVALID_ARGUMENT; inputs are missing or too many, or one has another type or
        shape than the signature's.
    """
    check_names(definition, given)
    return {
        name: _array(name, given[name], info, most_bytes)
        for name, info in definition.inputs.items()
    }


def check_names(definition: Any, given: Mapping[str, Any]) -> None:
    """Refuses inputs that are not exactly the signature's."""
    extra, missing = set(given) - set(definition.inputs), set(definition.inputs) - set(given)
    if extra or missing:
        raise invalid(
            f"input size does not match signature: {len(given)}!={len(definition.inputs)} "
            f"len({_set(given)}) != len({_set(definition.inputs)}). Sent extra: {_set(extra)}. "
            f"Missing but required: {_set(missing)}."
        )


def check_shape(name: str, shape: tuple[int, ...], info: Any) -> None:
    """Refuses a shape that the signature's TensorInfo does not allow."""
    wanted = tf.TensorShape(info.tensor_shape)
    if not wanted.is_compatible_with(shape):
        asked = "any" if wanted.rank is None else [d if d is not None else "?" for d in wanted]
        shown = str(asked).replace("'", "")
        raise invalid(f"input {name} has shape {list(shape)}; the signature needs {shown}.")


def to_proto(array: np.ndarray) -> Any:
    """The TensorProto of an output."""
    dtype = tf.dtypes.as_dtype(array.dtype) if array.dtype != object else tf.string
    field = _FIELDS.get(dtype)
    if field is None:
        return tf.make_tensor_proto(array)
    proto = tf.make_tensor_proto(np.zeros([0], array.dtype), dtype=dtype)
    proto.ClearField("tensor_content")
    proto.tensor_shape.CopyFrom(tf.TensorShape(array.shape).as_proto())
    getattr(proto, field).extend(array.ravel().tolist())
    return proto


def _array(name: str, proto: Any, info: Any, most_bytes: int) -> np.ndarray:
    if proto.dtype != info.dtype:
        given, needed = _type_name(proto.dtype), _type_name(info.dtype)
        raise invalid(f"input {name} is {given}; the signature needs {needed}.")
    if proto.tensor_shape.unknown_rank or any(d.size < 0 for d in proto.tensor_shape.dim):
        raise invalid(f"tensor parsing error: {name}: its shape is not known.")
    shape = tuple(dim.size for dim in proto.tensor_shape.dim)
    check_shape(name, shape, info)
    dtype = tf.dtypes.as_dtype(proto.dtype)
    size = math.prod(shape) * max(1, dtype.size or 1)
    if size > most_bytes:
        raise invalid(
            f"tensor parsing error: {name} has {size} bytes; at most {most_bytes} may be."
        )
    try:
        return tf.make_ndarray(proto)
    except (ValueError, TypeError) as error:
        raise invalid(f"tensor parsing error: {name}: {error}") from None


def _type_name(number: int) -> str:
    try:
        return tf.dtypes.as_dtype(number).name
    except TypeError:
        return f"of the unknown type {number}"


def _set(names: Any) -> str:
    return "{" + ",".join(sorted(names)) + "}"
