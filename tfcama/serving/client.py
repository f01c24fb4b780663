"""A client of exported models, for TF-Serving's own server and the local one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import get_model_status_pb2

from tfcama.errors import unknown_name
from tfcama.serving.errors import Code, ServingError, invalid
from tfcama.serving.inputs import CLASSIFIER, EXAMPLES
from tfcama.serving.retry import Retry
from tfcama.serving.transports import Arrays, Target, transport_of

_BATCH = 64


class Client:
    """Asks one model of one endpoint; may be used from several threads, and as a context.

    Requests are tried again, see Retry, only after errors that pass: UNAVAILABLE,
    RESOURCE_EXHAUSTED and lost connections. Answers do not depend on how rows are batched.

    Args:
      endpoint: HOST:PORT of gRPC, or http://HOST:PORT of REST.
      model: its name.
      version: a number; None: the latest.
      label: such as "canary", in place of a version.
      timeout: seconds for one request with all its retries.
      retry: when and how often to try again.

    Raises:
      InputError: the endpoint is neither.

    Example:
      with Client("localhost:8500", model="cama") as client:
          answer = client.predict({"image": images})
          print(answer["label"], answer["probabilities"])
    """

    def __init__(
        self,
        endpoint: str,
        *,
        model: str = "default",
        version: int | None = None,
        label: str | None = None,
        timeout: float = 30.0,
        retry: Retry = Retry(),
    ):
        self._transport = transport_of(endpoint)
        self._target = Target(model, version, label)
        self._timeout = timeout
        self._retry = retry
        self._signatures: dict[str, Any] | None = None

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._transport.close()

    def signatures(self) -> dict[str, Any]:
        """The model's SignatureDefs by name; asked once.

        Raises:
          ServingError: the server's, or it could not be reached.
        """
        if self._signatures is None:
            found = self._retry.call(
                lambda left: self._transport.signatures(self._target, timeout=left),
                timeout=self._timeout,
            )
            self._signatures = {name: s for name, s in found.items() if not name.startswith("__")}
        return self._signatures

    def signature(self, name: str) -> Any:
        """The SignatureDef of that name.

        Raises:
          InputError: there is none.
          ServingError: see `signatures`.
        """
        found = self.signatures()
        if name not in found:
            raise unknown_name("signature", name, found)
        return found[name]

    def predict(
        self,
        inputs: Mapping[str, Any],
        *,
        signature: str = "serving_default",
        batch_size: int = _BATCH,
        timeout: float | None = None,
    ) -> Arrays:
        """The outputs of a signature, [N, ...] each.

        Args:
          inputs: what becomes an array [N, ...] of the signature's type, by name; text may be str
            or bytes.
          signature: its name.
          batch_size: rows of one request.
          timeout: seconds for each request with its retries; None: the client's.

        Raises:
          InputError: the signature is unknown.
          ServingError: INVALID_ARGUMENT, the inputs are not the signature's; or what the server
            answered, or that it could not be reached.
        """
        definition = self.signature(signature)
        if set(inputs) != set(definition.inputs):
            raise invalid(
                f"inputs {', '.join(sorted(inputs))} were given; signature '{signature}' takes "
                f"{', '.join(sorted(definition.inputs))}."
            )
        if batch_size < 1:
            raise invalid(f"batch_size={batch_size} was given; it must be at least 1.")
        arrays = {
            name: _array(name, value, definition.inputs[name]) for name, value in inputs.items()
        }
        rows = {len(value) for value in arrays.values() if value.ndim}
        if len(rows) != 1 or not all(value.ndim for value in arrays.values()):
            raise invalid("all inputs need the same number of rows, in front.")
        (size,) = rows
        parts = [
            self._ask(
                signature,
                {name: value[start : start + batch_size] for name, value in arrays.items()},
                definition,
                self._timeout if timeout is None else timeout,
            )
            for start in range(0, max(1, size), batch_size)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def class_names(self, inputs: Mapping[str, Any]) -> list[str] | None:
        """The classes' names in the order of labels; None if the export does not classify.

        Args:
          inputs: valid ones of serving_default; the first row is sent.
        """
        if CLASSIFIER not in self.signatures():
            return None
        definition = self.signature("serving_default")
        example = tf.train.Example()
        for name, value in inputs.items():
            row = _array(name, value, definition.inputs[name])[:1]
            feature = example.features.feature[name]
            if row.dtype == object:
                feature.bytes_list.value.extend(row.ravel().tolist())
            else:
                feature.float_list.value.extend(row.ravel().tolist())
        answer = self.predict({EXAMPLES: [example.SerializeToString()]}, signature=CLASSIFIER)
        return [name.decode() for name in answer["classes"][0]]

    def ready(self) -> bool:
        """Whether a version of the model can be asked; False also if the server is away."""
        try:
            status = self._transport.status(self._target, timeout=self._timeout)
        except ServingError as error:
            if error.code in (Code.UNAVAILABLE, Code.NOT_FOUND, Code.DEADLINE_EXCEEDED):
                return False
            raise
        available = get_model_status_pb2.ModelVersionStatus.AVAILABLE
        return any(version.state == available for version in status.model_version_status)

    def _ask(self, signature: str, inputs: Arrays, definition: Any, timeout: float) -> Arrays:
        return self._retry.call(
            lambda left: self._transport.predict(
                self._target, signature, inputs, definition, timeout=left
            ),
            timeout=timeout,
        )


def _array(name: str, value: Any, info: Any) -> np.ndarray:
    """An input as its signature's type; ServingError where that would make another value of it."""
    dtype = tf.dtypes.as_dtype(info.dtype)
    if dtype == tf.string:
        texts = np.asarray(value, object)
        if not all(isinstance(item, str | bytes) for item in texts.ravel()):
            raise invalid(f"'{name}' takes text, '' where it is missing; something else was given.")
        flat = np.empty([texts.size], object)
        flat[:] = [item.encode() if isinstance(item, str) else item for item in texts.ravel()]
        return flat.reshape(texts.shape)
    try:
        found = np.asarray(value, dtype.as_numpy_dtype)
        same = not dtype.is_integer or np.array_equal(found, np.asarray(value))
    except (TypeError, ValueError, OverflowError) as error:
        raise invalid(f"'{name}' takes {dtype.name} numbers ({error}).") from None
    if not same:
        raise invalid(f"'{name}' takes whole numbers of {dtype.name}; others were given.")
    return found
