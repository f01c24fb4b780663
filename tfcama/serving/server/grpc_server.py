"""The gRPC side: TF-Serving's two services and the standard health service."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent import futures
from typing import Any, NoReturn

import grpc
from tensorflow_serving.apis import (
    model_service_pb2_grpc,
    prediction_service_pb2_grpc,
)

from tfcama.errors import InputError
from tfcama.serving.errors import Code, ServingError
from tfcama.serving.server import messages
from tfcama.serving.server.metrics import Metrics
from tfcama.serving.server.service import Service

_HEALTH = "grpc.health.v1.Health"
_FOREVER = 1e6  # seconds
_SERVICES = (
    "",
    "tensorflow.serving.PredictionService",
    "tensorflow.serving.ModelService",
    _HEALTH,
)


def address(host: str, port: int) -> str:
    """host:port; an address of IPv6 in brackets.

    Example:
      >>> address("::1", 8500)
      '[::1]:8500'
    """
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class GrpcServer:
    """Listens from its construction on.

    Args:
      service: that answers.
      metrics: that count.
      host: address to listen at.
      port: 0 takes a free one.

    Attributes:
      port: listened at.

    Raises:
      InputError: the port is taken or not allowed.
    """

    def __init__(self, service: Service, metrics: Metrics, *, host: str, port: int):
        limits = service.limits
        calls = _Calls(metrics, service)
        self._server = grpc.server(
            futures.ThreadPoolExecutor(limits.grpc_requests, thread_name_prefix="grpc"),
            options=[
                ("grpc.max_receive_message_length", limits.request_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),  # else a second server would share the port unnoticed
            ],
            maximum_concurrent_rpcs=limits.grpc_requests,
        )
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
            _PredictionService(service, calls), self._server
        )
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(
            _ModelService(service, calls), self._server
        )
        self._health = _Health()
        self._server.add_generic_rpc_handlers((self._health.handler(),))
        try:
            self.port = self._server.add_insecure_port(address(host, port))
        except RuntimeError:
            raise InputError(
                f"--port={port} cannot be listened at on {host}; take another, or end the server "
                "that has it."
            ) from None
        self._server.start()

    def stop(self, grace: float) -> threading.Event:
        """Refuses new requests and cancels running ones after `grace` seconds.

        Returns:
          Set when all have ended.
        """
        self._health.serving = False
        return self._server.stop(grace)


class _Calls:
    """Turns exceptions into codes, and counts."""

    def __init__(self, metrics: Metrics, service: Service):
        self._metrics = metrics
        self._service = service

    def answer(
        self, api: str, request: Any, context: grpc.ServicerContext, work: Callable[[], Any]
    ) -> Any:
        started = time.perf_counter()
        failed: ServingError | None = None
        try:
            return work()
        except ServingError as error:
            failed = error
        except Exception as error:  # a defect here must not look like the client's
            failed = ServingError(Code.INTERNAL, f"the server failed ({error!r}).")
        finally:
            name = request.model_spec.name if hasattr(request, "model_spec") else ""
            self._metrics.record(
                model=name if name in self._service.manager.names() else "",
                api=api,
                entrypoint="GRPC",
                status=(failed.code if failed is not None else Code.OK).name,
                seconds=time.perf_counter() - started,
            )
        return context.abort(failed.code, failed.sentence)


class _PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, service: Service, calls: _Calls):
        self._service = service
        self._calls = calls

    def Predict(self, request, context):  # noqa: N802
        deadline = _deadline(context)
        return self._calls.answer(
            "Predict", request, context, lambda: self._service.predict(request, deadline=deadline)
        )

    def Classify(self, request, context):  # noqa: N802
        deadline = _deadline(context)
        return self._calls.answer(
            "Classify", request, context, lambda: self._service.classify(request, deadline=deadline)
        )

    def GetModelMetadata(self, request, context):  # noqa: N802
        return self._calls.answer(
            "GetModelMetadata", request, context, lambda: self._service.metadata(request)
        )

    def Regress(self, request, context):  # noqa: N802
        return self._calls.answer("Regress", request, context, lambda: _unimplemented("Regress"))

    def MultiInference(self, request, context):  # noqa: N802
        return self._calls.answer(
            "MultiInference", request, context, lambda: _unimplemented("MultiInference")
        )


class _ModelService(model_service_pb2_grpc.ModelServiceServicer):
    def __init__(self, service: Service, calls: _Calls):
        self._service = service
        self._calls = calls

    def GetModelStatus(self, request, context):  # noqa: N802
        return self._calls.answer(
            "GetModelStatus", request, context, lambda: self._service.status(request)
        )

    def HandleReloadConfigRequest(self, request, context):  # noqa: N802
        return self._calls.answer(
            "HandleReloadConfigRequest", request, context, lambda: self._service.reload(request)
        )


class _Health:
    """grpc.health.v1: whether the process answers; GetModelStatus tells about models."""

    def __init__(self) -> None:
        self.serving = True

    def handler(self) -> grpc.GenericRpcHandler:
        check = grpc.unary_unary_rpc_method_handler(
            self._check,
            request_deserializer=messages.HealthCheckRequest.FromString,
            response_serializer=lambda response: response.SerializeToString(),
        )
        return grpc.method_handlers_generic_handler(_HEALTH, {"Check": check})

    def _check(self, request: Any, context: grpc.ServicerContext) -> Any:
        if request.service not in _SERVICES:
            context.abort(Code.NOT_FOUND, f"unknown service {request.service}.")
        kind = messages.HealthCheckResponse.ServingStatus
        return messages.HealthCheckResponse(
            status=kind.Value("SERVING" if self.serving else "NOT_SERVING")
        )


def _deadline(context: grpc.ServicerContext) -> float | None:
    left = context.time_remaining()
    # Without a deadline gRPC says None or the end of time.
    return None if left is None or left > _FOREVER else time.monotonic() + left


def _unimplemented(api: str) -> NoReturn:
    raise ServingError(
        Code.UNIMPLEMENTED,
        f"{api} is not offered by this server for development; use Predict or Classify.",
    )
