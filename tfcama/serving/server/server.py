"""The whole server: models, gRPC, REST and the web page, from start to graceful end."""

from __future__ import annotations

from collections.abc import Callable, Collection

from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from tfcama.serving.server import web
from tfcama.serving.server.config import Batching, Limits
from tfcama.serving.server.grpc_server import GrpcServer
from tfcama.serving.server.manager import ModelManager
from tfcama.serving.server.metrics import Metrics
from tfcama.serving.server.origins import Origins
from tfcama.serving.server.request_log import RequestLog
from tfcama.serving.server.rest_server import RestServer
from tfcama.serving.server.service import Service


class Server:
    """Loads the models, then listens; a context that stops at its end.

    Args:
      config: which models.
      batching: of concurrent requests; None: each is run alone, and so answered bit by bit as
        before, whoever else asks.
      limits: of requests.
      host: address to listen at.
      port: of gRPC; 0 takes a free one.
      rest_api_port: of REST; 0 takes a free one.
      poll: seconds between looks for new versions.
      log: takes a line for each event.
      request_log: keeps requests that were answered; it is closed with the server.
      allowed_origins: of web pages that may ask besides its own, see Origins.

    Attributes:
      manager: of the models.
      grpc_port: listened at.
      rest_port: listened at.

    Raises:
      InputError: a port is taken, or an origin is none.
    """

    def __init__(
        self,
        config: ModelServerConfig,
        *,
        batching: Batching | None = None,
        limits: Limits = Limits(),
        host: str = "127.0.0.1",
        port: int = 0,
        rest_api_port: int = 0,
        poll: float = 1.0,
        log: Callable[[str], None] = lambda line: None,
        request_log: RequestLog | None = None,
        allowed_origins: Collection[str] = (),
    ):
        origins = Origins(allowed_origins)
        metrics = Metrics()
        self.manager = ModelManager(batching=batching, limits=limits, poll=poll, log=log)
        self._request_log = request_log
        service = Service(self.manager, limits, request_log=request_log)
        self.manager.start(config)
        try:
            self._grpc = GrpcServer(service, metrics, host=host, port=port)
            try:
                self._rest = RestServer(
                    service,
                    metrics,
                    host=host,
                    port=rest_api_port,
                    pages=web.pages(self.manager),
                    origins=origins,
                )
            except BaseException:
                self._grpc.stop(0.0)
                raise
        except BaseException:
            self.manager.close()
            raise
        self.grpc_port = self._grpc.port
        self.rest_port = self._rest.port

    def stop(self, grace: float = 10.0) -> None:
        """Refuses new requests, lets running ones end for at most `grace` seconds each way."""
        stopped = self._grpc.stop(grace)
        self._rest.stop(grace)
        stopped.wait()
        self.manager.close()
        if self._request_log is not None:
            self._request_log.close()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()
