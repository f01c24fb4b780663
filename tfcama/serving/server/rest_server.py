"""The REST side: TF-Serving's paths, bodies and errors, and metrics for Prometheus."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

from google.protobuf import json_format
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
)

from tfcama.errors import InputError
from tfcama.serving.errors import Code, ServingError, invalid
from tfcama.serving.server.metrics import Metrics
from tfcama.serving.server.origins import Origins
from tfcama.serving.server.page import Page
from tfcama.serving.server.service import Service

METRICS_PATH = "/monitoring/prometheus/metrics"
_VERSION = r"(?:/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?"
_POST = re.compile(
    rf"/v1/models/(?P<model>[^/:]+){_VERSION}:(?P<api>classify|regress|predict)", re.IGNORECASE
)
_GET = re.compile(
    rf"/v1/models(?:/(?P<model>[^/:]+))?{_VERSION}(?P<metadata>/metadata)?", re.IGNORECASE
)
_JSON = "application/json"
_INT64 = 2**63
_LINGER = 1.0  # seconds for which the rest of a refused body is read, so that the answer arrives
_IDLE = 60.0  # seconds until a silent connection is closed


class RestServer:
    """Listens from its construction on, one thread a connection.

    Args:
      service: that answers.
      metrics: that count.
      host: address to listen at.
      port: 0 takes a free one.
      pages: other GET paths, and what makes their bodies.
      origins: of web pages that may ask.

    Attributes:
      port: listened at.

    Raises:
      InputError: the port is taken or not allowed.
    """

    def __init__(
        self,
        service: Service,
        metrics: Metrics,
        *,
        host: str,
        port: int,
        pages: Mapping[str, Callable[[], Page]],
        origins: Origins,
    ):
        try:
            self._server = _HttpServer((host, port), service, metrics, pages, origins)
        except OSError as error:
            raise InputError(
                f"--rest_api_port={port} cannot be listened at on {host} ({error.strerror}); take "
                "another, or end the server that has it."
            ) from None
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, name="rest"
        )
        self._thread.start()

    def stop(self, grace: float) -> None:
        """Refuses new requests and waits for running ones, but no longer than `grace` seconds."""
        self._server.stopping = True
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._server.wait_idle(grace)


class _HttpServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # an idle connection would hold the server up
    request_queue_size = 128

    def __init__(
        self,
        address: tuple[str, int],
        service: Service,
        metrics: Metrics,
        pages: Mapping[str, Callable[[], Page]],
        origins: Origins,
    ):
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.service = service
        self.metrics = metrics
        self.pages = pages
        self.origins = origins
        self.stopping = False
        self._connections = threading.Semaphore(service.limits.http_connections)
        self._changed = threading.Condition()
        self._running = 0
        self._bytes = 0
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._connections.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._connections.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: a request's errors were answered, and a client that is gone is none."""

    @contextlib.contextmanager
    def request(self) -> Iterator[None]:
        """A request that `wait_idle` waits for."""
        with self._changed:
            if self.stopping:
                raise ServingError(Code.UNAVAILABLE, "the server is shutting down.")
            self._running += 1
        try:
            yield
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    @contextlib.contextmanager
    def memory(self, size: int, *, deadline: float) -> Iterator[None]:
        """Room for a body of so many bytes; waits until others are done."""
        most = self.service.limits.http_bytes
        with self._changed:
            free = self._changed.wait_for(
                lambda: self._bytes == 0 or self._bytes + size <= most,
                timeout=max(0.0, deadline - time.monotonic()),
            )
            if not free:
                raise ServingError(
                    Code.UNAVAILABLE, "too many large requests are being answered; try again later."
                )
            self._bytes += size
        try:
            yield
        finally:
            with self._changed:
                self._bytes -= size
                self._changed.notify_all()

    def wait_idle(self, grace: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._running == 0, timeout=grace)


class _HttpError(ServingError):
    """An error of HTTP's own, which no gRPC code stands for."""

    def __init__(self, status: int, code: Code, sentence: str):
        super().__init__(code, sentence)
        self._status = status

    @property
    def http_status(self) -> int:
        return self._status


class _Handler(BaseHTTPRequestHandler):
    server: _HttpServer
    protocol_version = "HTTP/1.1"
    server_version = "tfcama"
    sys_version = ""
    timeout = _IDLE
    disable_nagle_algorithm = True
    wbufsize = 1 << 16  # head and body leave together
    _unread = 0  # bytes of the body

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are counted, not printed."""

    def handle_expect_100(self) -> bool:
        try:
            self._length()
        except ServingError:
            return True  # do_POST refuses the body before the client sends it
        return super().handle_expect_100()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What http.server itself refuses, in the API's form."""
        self.close_connection = True
        # What could not be parsed would get an answer of HTTP/0.9, which has no status.
        self.request_version = self.protocol_version
        self._send(code, Page(_JSON, _error(f"Malformed request: {message or code}")))

    def _answer(self, work: Callable[[float], Page]) -> None:
        """Runs a handler under the request's deadline, then counts and sends its answer.

        In this order, so that who has an answer finds it counted.
        """
        started = time.monotonic()
        self._model = self._api = ""
        self._unread = int(self.headers.get("Content-Length", 0) or 0) if self._has_length() else 0
        code, status, page = Code.OK, 200, None
        with contextlib.ExitStack() as running:
            try:
                running.enter_context(self.server.request())
                page = work(started + self.server.service.limits.http_timeout)
            except OSError:  # the client is gone, or too slow
                code = Code.CANCELLED
                self.close_connection = True
            except Exception as error:
                if not isinstance(error, ServingError):  # a defect must not look like the client's
                    error = ServingError(Code.INTERNAL, f"the server failed ({error!r}).")
                code, status = error.code, error.http_status
                page = Page(_JSON, _error(error.sentence))
            self._count(code, started)
            if page is not None:
                try:
                    self._send(status, page)
                except OSError:
                    self.close_connection = True

    def _count(self, code: Code, started: float) -> None:
        if self._api:
            served = self._model in self.server.service.manager.names()
            self.server.metrics.record(
                model=self._model if served else "",
                api=self._api,
                entrypoint="REST",
                status=code.name,
                seconds=time.monotonic() - started,
            )

    def _get(self, deadline: float) -> Page:
        path = urlsplit(self.path).path
        if path == METRICS_PATH:
            return Page("text/plain; version=0.0.4", self.server.metrics.page().encode())
        if path in self.server.pages:
            return self.server.pages[path]()
        found = _GET.fullmatch(path)
        if found is None:
            raise self._malformed(path)
        if not found["model"]:
            raise invalid("Missing model name in request.")
        spec = _spec(found)
        self._model = spec.name
        if found["metadata"]:
            self._api = "GetModelMetadata"
            return Page(_JSON, self._metadata(spec).encode())
        self._api = "GetModelStatus"
        request = get_model_status_pb2.GetModelStatusRequest(model_spec=spec)
        return Page(_JSON, _to_json(self.server.service.status(request)).encode())

    def _metadata(self, spec: Any) -> str:
        request = get_model_metadata_pb2.GetModelMetadataRequest(
            model_spec=spec, metadata_field=["signature_def"]
        )
        response = self.server.service.metadata(request)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        response.metadata["signature_def"].Unpack(signatures)
        return json.dumps(
            {
                "model_spec": json.loads(_to_json(response.model_spec)),
                "metadata": {"signature_def": json.loads(_to_json(signatures))},
            }
        )

    def _post(self, deadline: float) -> Page:
        path = urlsplit(self.path).path
        found = _POST.fullmatch(path)
        if found is None:
            raise self._malformed(path)
        self._check_origin()
        spec = _spec(found)
        self._model, self._api = spec.name, found["api"].capitalize()
        service = self.server.service
        size, packed = self._length(), self._packed()
        room = service.limits.request_bytes if packed else size
        with self.server.memory(room, deadline=deadline):
            body = self._body(packed, deadline)
            if self._api == "Predict":
                answer = service.predict_json(spec, body, deadline=deadline)
            elif self._api == "Classify":
                answer = service.classify_json(spec, body, deadline=deadline)
            else:
                raise ServingError(
                    Code.UNIMPLEMENTED,
                    "regress is not offered by this server for development; use predict or "
                    "classify.",
                )
        return Page(_JSON, answer.encode())

    def _malformed(self, path: str) -> ServingError:
        sentence = f"Malformed request: {self.command} {path}"
        if path.lower().startswith("/v1/"):
            return invalid(sentence)
        return ServingError(Code.NOT_FOUND, sentence)

    def _check_origin(self) -> None:
        """Refuses what a browser sends for another site's page; nobody asked its user."""
        origin, host = self.headers.get("Origin"), self.headers.get("Host", "")
        if not self.server.origins.may_ask(origin, host):
            raise _HttpError(
                403,
                Code.PERMISSION_DENIED,
                f"pages of {str(origin)[:100]} may not ask this server; its own at / may, by the "
                "server's address or name, and those of --allowed_origins.",
            )

    def _has_length(self) -> bool:
        given = self.headers.get("Content-Length", "")
        return given.isascii() and given.isdecimal() and len(given) < 20

    def _length(self) -> int:
        """Bytes of the body, as its header says."""
        if not self._has_length():
            self.close_connection = True  # nobody knows where the next request begins
            raise _HttpError(411, Code.INVALID_ARGUMENT, "a Content-Length is needed.")
        size, most = int(self.headers["Content-Length"]), self.server.service.limits.request_bytes
        if size > most:
            raise self._too_large(size, most)
        return size

    def _too_large(self, size: int | str, most: int) -> ServingError:
        return _HttpError(
            413,
            Code.RESOURCE_EXHAUSTED,
            f"the request has {size} bytes; at most {most} are answered. Send fewer rows at once.",
        )

    def _packed(self) -> bool:
        encoding = self.headers.get("Content-Encoding", "identity").lower()
        if encoding not in ("identity", "gzip"):
            sentence = f"Content-Encoding {encoding} is not known; gzip and identity are."
            raise _HttpError(415, Code.INVALID_ARGUMENT, sentence)
        return encoding == "gzip"

    def _read(self, deadline: float) -> bytes:
        """The whole body, which must be there by the deadline."""
        parts = []
        try:
            while self._unread:
                left = deadline - time.monotonic()
                if left <= 0.0:
                    raise TimeoutError
                self.connection.settimeout(min(_IDLE, left))
                parts.append(self.rfile.read1(min(self._unread, 1 << 16)))
                if not parts[-1]:
                    raise ConnectionError("the client closed the connection in mid-request.")
                self._unread -= len(parts[-1])
        except TimeoutError:
            sentence = "the request's body did not arrive in time."
            raise ServingError(Code.DEADLINE_EXCEEDED, sentence) from None
        finally:
            self.connection.settimeout(_IDLE)
        return b"".join(parts)

    def _body(self, packed: bool, deadline: float) -> bytes:
        body = self._read(deadline)
        if not packed:
            return body
        most = self.server.service.limits.request_bytes
        unpacker = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
        try:
            plain = unpacker.decompress(body, most + 1)
        except zlib.error as error:
            raise invalid(f"the body is not gzip ({error}).") from None
        if len(plain) > most:
            raise self._too_large(f"more than {most} unpacked", most)
        if not unpacker.eof:
            raise invalid("the body is not gzip (it ends too early).")
        return plain

    def _send(self, status: int, page: Page) -> None:
        if self.server.stopping or self._unread:
            self.close_connection = True
        self.send_response(status)
        self.send_header("Content-Type", page.content_type)
        self.send_header("Content-Length", str(len(page.content)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(page.content)
        self.wfile.flush()
        if self._unread:
            self._discard()

    def _discard(self) -> None:
        """Reads on for a moment: a client that is still sending would never see the answer."""
        until = time.monotonic() + _LINGER
        self.connection.settimeout(_LINGER)
        with contextlib.suppress(OSError):
            while self._unread > 0 and time.monotonic() < until:
                read = len(self.rfile.read1(min(self._unread, 1 << 16)))
                if not read:
                    break
                self._unread -= read


def _spec(found: re.Match[str]) -> Any:
    spec = model_pb2.ModelSpec(name=unquote(found["model"]))
    if found["version"]:
        number = int(found["version"]) if len(found["version"]) < 20 else _INT64
        if number >= _INT64:
            raise invalid(f"Failed to convert version: {found['version'][:30]} to numeric.")
        spec.version.value = number
    elif found["label"]:
        spec.version_label = unquote(found["label"])
    return spec


def _to_json(message: Any) -> str:
    return json_format.MessageToJson(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def _error(sentence: str) -> bytes:
    return json.dumps({"error": sentence}).encode()
