"""How a client reaches a model server: gRPC or REST, behind one interface."""

from __future__ import annotations

import abc
import base64
import contextlib
import http.client
import json
import threading
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf import json_format
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from tfcama.errors import InputError
from tfcama.serving.errors import Code, ServingError, of_http

Arrays = dict[str, np.ndarray]
_SIGNATURES = "signature_def"
_TOO_LARGE = "larger than max"  # in what gRPC says of a message


class Target(NamedTuple):
    """Which model is asked; without version and label its latest one."""

    model: str
    version: int | None = None
    label: str | None = None

    def spec(self, signature: str = "") -> Any:
        """As a ModelSpec."""
        spec = model_pb2.ModelSpec(name=self.model, signature_name=signature)
        if self.version is not None:
            spec.version.value = self.version
        elif self.label is not None:
            spec.version_label = self.label
        return spec

    def path(self) -> str:
        """As the beginning of a REST path."""
        path = f"/v1/models/{quote(self.model, safe='')}"
        if self.version is not None:
            return f"{path}/versions/{self.version}"
        return path if self.label is None else f"{path}/labels/{quote(self.label, safe='')}"


class Transport(abc.ABC):
    """One try each; a client may use it from several threads. All methods raise ServingError."""

    @abc.abstractmethod
    def predict(
        self, target: Target, signature: str, inputs: Arrays, definition: Any, *, timeout: float
    ) -> Arrays:
        """The outputs of a signature.

        Args:
          target: model and version.
          signature: its name.
          inputs: arrays [B, ...] by name, of the signature's types.
          definition: its SignatureDef.
          timeout: in seconds.
        """

    @abc.abstractmethod
    def signatures(self, target: Target, *, timeout: float) -> dict[str, Any]:
        """The SignatureDefs of a version by name."""

    @abc.abstractmethod
    def status(self, target: Target, *, timeout: float) -> Any:
        """The GetModelStatusResponse of a model."""

    @abc.abstractmethod
    def close(self) -> None:
        """Closes the connections."""


def transport_of(endpoint: str) -> Transport:
    """REST for http://HOST:PORT or https://, else gRPC at HOST:PORT.

    Raises:
      InputError: the endpoint is neither.
    """
    with contextlib.suppress(ValueError):  # of a port that is no number
        if "://" in endpoint:
            url = urlsplit(endpoint)
            if url.scheme in ("http", "https") and url.hostname and url.path in ("", "/"):
                return RestTransport(url.scheme, url.hostname, url.port)
        else:
            url = urlsplit(f"//{endpoint}")
            if url.hostname and url.port is not None and not url.path:
                return GrpcTransport(endpoint)
    raise InputError(
        f"--endpoint={endpoint} was given; HOST:PORT (gRPC) or http://HOST:PORT (REST) is needed."
    )


class GrpcTransport(Transport):
    """PredictionService and ModelService of an endpoint HOST:PORT, without encryption."""

    def __init__(self, endpoint: str):
        self._endpoint = endpoint
        self._channel = grpc.insecure_channel(
            endpoint,
            options=[
                ("grpc.enable_retries", 0),  # Retry decides
                ("grpc.max_receive_message_length", -1),
                ("grpc.initial_reconnect_backoff_ms", 100),  # find a restarted server soon
                ("grpc.max_reconnect_backoff_ms", 1000),
            ],
        )
        self._prediction = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self._models = model_service_pb2_grpc.ModelServiceStub(self._channel)

    def predict(
        self, target: Target, signature: str, inputs: Arrays, definition: Any, *, timeout: float
    ) -> Arrays:
        request = predict_pb2.PredictRequest(model_spec=target.spec(signature))
        for name, value in inputs.items():
            request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
        response = self._call(self._prediction.Predict, request, timeout)
        return {name: tf.make_ndarray(proto) for name, proto in response.outputs.items()}

    def signatures(self, target: Target, *, timeout: float) -> dict[str, Any]:
        request = get_model_metadata_pb2.GetModelMetadataRequest(
            model_spec=target.spec(), metadata_field=[_SIGNATURES]
        )
        response = self._call(self._prediction.GetModelMetadata, request, timeout)
        found = get_model_metadata_pb2.SignatureDefMap()
        response.metadata[_SIGNATURES].Unpack(found)
        return dict(found.signature_def)

    def status(self, target: Target, *, timeout: float) -> Any:
        request = get_model_status_pb2.GetModelStatusRequest(model_spec=target.spec())
        return self._call(self._models.GetModelStatus, request, timeout)

    def close(self) -> None:
        self._channel.close()

    def _call(self, method: Any, request: Any, timeout: float) -> Any:
        try:
            return method(request, timeout=timeout)
        except grpc.RpcError as error:
            code, sentence = error.code(), error.details() or ""
            if code == Code.RESOURCE_EXHAUSTED and _TOO_LARGE in sentence:
                code = Code.OUT_OF_RANGE  # it will be too large tomorrow
            if code == Code.UNAVAILABLE:
                sentence = f"{self._endpoint} cannot be reached or is not ready ({sentence})."
            raise ServingError(code, sentence) from None


class RestTransport(Transport):
    """TF-Serving's REST API of an endpoint; one connection a thread, kept open."""

    def __init__(self, scheme: str, host: str, port: int | None):
        self._kind = (
            http.client.HTTPSConnection if scheme == "https" else http.client.HTTPConnection
        )
        self._address = (host, port)
        self._local = threading.local()

    def predict(
        self, target: Target, signature: str, inputs: Arrays, definition: Any, *, timeout: float
    ) -> Arrays:
        columns = {name: _to_json(value) for name, value in inputs.items()}
        body = json.dumps({"signature_name": signature, "inputs": columns}).encode()
        answer = self._call("POST", f"{target.path()}:predict", body, timeout)["outputs"]
        wanted = definition.outputs
        if len(wanted) == 1:
            answer = {next(iter(wanted)): answer}
        return {name: _from_json(answer[name], info.dtype) for name, info in wanted.items()}

    def signatures(self, target: Target, *, timeout: float) -> dict[str, Any]:
        answer = self._call("GET", f"{target.path()}/metadata", None, timeout)
        found = json_format.ParseDict(
            answer["metadata"][_SIGNATURES], get_model_metadata_pb2.SignatureDefMap()
        )
        return dict(found.signature_def)

    def status(self, target: Target, *, timeout: float) -> Any:
        answer = self._call("GET", target.path(), None, timeout)
        return json_format.ParseDict(answer, get_model_status_pb2.GetModelStatusResponse())

    def close(self) -> None:
        """Closes this thread's connection; those of other threads end with them."""
        self._drop()

    def _call(self, method: str, path: str, body: bytes | None, timeout: float) -> Any:
        connection = self._connection(timeout)
        try:
            try:
                connection.request(method, path, body)
            except ConnectionError:
                if connection.sock is None:
                    raise
                # The server stopped reading; it may have said why before it closed.
            response = connection.getresponse()
            status, content = response.status, response.read()
        except TimeoutError:
            self._drop()
            raise ServingError(
                Code.DEADLINE_EXCEEDED, f"no answer within {timeout:g} seconds."
            ) from None
        except (ConnectionError, http.client.HTTPException) as error:
            self._drop()
            sentence = f"{self._shown} cannot be reached or went away ({error})."
            raise ServingError(Code.UNAVAILABLE, sentence) from None
        except OSError as error:  # such as a name that nobody knows
            self._drop()
            sentence = f"{self._shown} cannot be reached ({error})."
            raise ServingError(Code.FAILED_PRECONDITION, sentence) from None
        try:
            answer = json.loads(content)
        except ValueError:
            text = content[:200].decode("utf-8", "replace")
            raise ServingError(
                Code.UNKNOWN, f"{self._shown} answered {status} and no JSON: {text}"
            ) from None
        if status != 200:
            raise of_http(status, answer.get("error", str(answer)))
        return answer

    def _connection(self, timeout: float) -> http.client.HTTPConnection:
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = self._kind(*self._address)
        connection.timeout = timeout
        if connection.sock is not None:
            connection.sock.settimeout(timeout)
        return connection

    def _drop(self) -> None:
        connection = getattr(self._local, "connection", None)
        if connection is not None:
            connection.close()
            self._local.connection = None

    @property
    def _shown(self) -> str:
        host, port = self._address
        return host if port is None else f"{host}:{port}"


def _to_json(value: np.ndarray) -> Any:
    if value.dtype != object:
        return value.tolist()
    # As base64 whatever it holds: text, files and tf.Examples arrive byte by byte.
    flat = np.empty([value.size], object)
    flat[:] = [{"b64": base64.b64encode(item).decode()} for item in value.ravel()]
    return flat.reshape(value.shape).tolist()


def _from_json(value: Any, number: int) -> np.ndarray:
    dtype = tf.dtypes.as_dtype(number)
    if dtype != tf.string:
        return np.asarray(value, dtype.as_numpy_dtype)
    found = np.asarray(value, object)
    flat = [
        base64.b64decode(item["b64"]) if isinstance(item, dict) else item.encode()
        for item in found.ravel()
    ]
    texts = np.empty([len(flat)], object)
    texts[:] = flat
    return texts.reshape(found.shape)
