r"""Serves exported models on this machine, FOR DEVELOPMENT, by TF-Serving's protocols.

    python -m export.serve --model_base_path=runs/mnist/export/cama --model_name=cama
    python -m export.serve --model_config_file=models.config --port=8500 --rest_api_port=8501

Production is tensorflow_model_server, which takes the same flags, files and requests; see BUILD.md.
gRPC (Predict, Classify, GetModelMetadata, GetModelStatus, HandleReloadConfigRequest, health) is at
--port, REST at --rest_api_port:

    curl localhost:8501/v1/models/cama
    curl localhost:8501/v1/models/cama/metadata
    curl -d '{"instances": [...]}' localhost:8501/v1/models/cama:predict
    curl localhost:8501/monitoring/prometheus/metrics

http://localhost:8501/ is a page for people: draw a digit, shift it, compare two versions. With
--request_log the inputs of answered requests are kept, for export.adapt.

New versions are picked up, a version that cannot be loaded never replaces one that can, and SIGTERM
or Ctrl-C lets running requests end.
"""

from trainers import app  # isort: skip  (quiets TensorFlow before anything imports it)

import dataclasses
import os
import signal
import sys
import time
from pathlib import Path

from absl import flags

from tfcama.errors import InputError
from tfcama.serving.errors import ServingError
from tfcama.serving.server import config, request_log
from tfcama.serving.server.grpc_server import address
from tfcama.serving.server.server import Server

_MODEL_BASE_PATH = flags.DEFINE_string(
    "model_base_path",
    None,
    "The model's base path; versions are its children. Example: --model_base_path=/models/cama",
)
_MODEL_NAME = flags.DEFINE_string(
    "model_name", "default", "Name in requests. Example: --model_name=cama"
)
_MODEL_CONFIG_FILE = flags.DEFINE_string(
    "model_config_file",
    None,
    "Several models, versions and labels: a ModelServerConfig in protobuf's text format, in place "
    "of --model_base_path. Example: --model_config_file=export/config/models.config",
)
_CONFIG_POLL = flags.DEFINE_float(
    "model_config_file_poll_wait_seconds",
    0.0,
    "Seconds between looks at --model_config_file, whose changes are then taken; 0 never looks. "
    "Example: --model_config_file_poll_wait_seconds=5",
    lower_bound=0.0,
)
_HOST = flags.DEFINE_string(
    "host",
    "127.0.0.1",
    "Address to listen at. There is no encryption and no password: anything but the loopback "
    "address lets the network in. Example: --host=0.0.0.0",
)
_ALLOWED_ORIGINS = flags.DEFINE_list(
    "allowed_origins",
    [],
    "Web pages that may ask besides the server's own, which is known by its address, localhost or "
    "this machine's name. Example: --allowed_origins=https://models.example.com",
)
_PORT = flags.DEFINE_integer(
    "port", 8500, "gRPC; 0 takes a free port. Example: --port=8500", 0, 65535
)
_REST_API_PORT = flags.DEFINE_integer(
    "rest_api_port", 8501, "REST; 0 takes a free port. Example: --rest_api_port=8501", 0, 65535
)
_REST_API_TIMEOUT = flags.DEFINE_integer(
    "rest_api_timeout_in_ms",
    30_000,
    "For one REST request. Example: --rest_api_timeout_in_ms=5000",
    lower_bound=1,
)
_POLL = flags.DEFINE_integer(
    "file_system_poll_wait_seconds",
    1,
    "Seconds between looks for new versions. Example: --file_system_poll_wait_seconds=5",
    lower_bound=1,
)
_ENABLE_BATCHING = flags.DEFINE_bool(
    "enable_batching",
    False,
    "Compute concurrent requests together: more of them a second, but answers to the same request "
    "may then differ in the last bit. Example: --enable_batching",
)
_BATCHING_PARAMETERS_FILE = flags.DEFINE_string(
    "batching_parameters_file",
    None,
    "BatchingParameters in protobuf's text format; a version's own batching_params.pbtxt wins. "
    "Example: --batching_parameters_file=export/config/batching_parameters.txt",
)
_MAX_REQUEST_MEGABYTES = flags.DEFINE_integer(
    "max_request_megabytes",
    config.Limits.request_bytes >> 20,
    "Larger requests are refused. Example: --max_request_megabytes=16",
    lower_bound=1,
    upper_bound=1024,
)
_REQUEST_LOG = flags.DEFINE_string(
    "request_log",
    None,
    "Keep the inputs of answered requests in this file, as TF-Serving's request log does; it and "
    "its older half have at most 64 MiB each and are readable by you alone. "
    "Example: --request_log=requests.tfrecord",
)
_SAMPLING_RATE = flags.DEFINE_float(
    "request_log_sampling_rate",
    1.0,
    "Share of the requests that are kept. Example: --request_log_sampling_rate=0.1",
    0.0,
    1.0,
)
_GRACE = flags.DEFINE_float(
    "shutdown_grace_seconds",
    10.0,
    "How long running requests may take to end. Example: --shutdown_grace_seconds=30",
    0.0,
    86400.0,
)
_SETTLED = 0.2  # seconds
_NOTICE = (
    "This server is for development: no encryption, no passwords, one process of Python. "
    "Production is tensorflow_model_server with the same files and flags (BUILD.md)."
)


def main() -> None:
    asked: list[int] = []  # signals; an Event's lock could be held when its own thread gets one
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: asked.append(number))
    _check_flags()
    models, batching = _models(), _batching()
    kept = _request_log()
    print(_NOTICE, file=sys.stderr, flush=True)
    server = Server(
        models,
        batching=batching,
        limits=_limits(),
        host=_HOST.value,
        port=_PORT.value,
        rest_api_port=_REST_API_PORT.value,
        poll=_POLL.value,
        log=_log,
        request_log=kept,
        allowed_origins=_ALLOWED_ORIGINS.value,
    )
    print(f"gRPC at {address(_HOST.value, server.grpc_port)}", flush=True)
    print(f"REST at http://{address(_HOST.value, server.rest_port)}", flush=True)
    watched = _Watched(server, models, name=_MODEL_CONFIG_FILE.value or "")
    looked = time.monotonic()
    while not asked:  # a wait without end may never see a signal that another thread received
        time.sleep(0.1)
        if _CONFIG_POLL.value and time.monotonic() - looked >= _CONFIG_POLL.value:
            watched.look()
            looked = time.monotonic()
    print("stopping; running requests end.", file=sys.stderr, flush=True)
    server.stop(_GRACE.value)


def _check_flags() -> None:
    """Refuses flags that nothing would come of."""
    for name, needed in (
        ("batching_parameters_file", "enable_batching"),
        ("model_config_file_poll_wait_seconds", "model_config_file"),
        ("model_name", "model_base_path"),
        ("request_log_sampling_rate", "request_log"),
    ):
        if flags.FLAGS[name].present and not flags.FLAGS[needed].value:
            raise InputError(f"--{name} was given without --{needed}.")


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class _Watched:
    """The configuration's file; a mistake in it leaves things as they are and is told once.

    Who writes a file may be half done: what is new there counts once it is the same a moment later.
    """

    def __init__(self, server: Server, models: config.ModelServerConfig, *, name: str):
        self._server, self._name = server, name
        self._models: config.ModelServerConfig | None = models
        self._told = ""

    def look(self) -> None:
        """Takes what the file says now, if that is new; what it names may come later."""
        found = _read()
        if found != self._models:
            time.sleep(_SETTLED)
            if _read() != found:
                return  # the next look finds what it became
        line = "" if found == self._models else self._taken(found)
        if line and line != self._told:
            _log(line)
        self._told = line

    def _taken(self, found: config.ModelServerConfig | str) -> str:
        """Takes it, and what there is to tell of that."""
        try:
            if isinstance(found, str):
                raise InputError(found)
            self._server.manager.reload(found)
        except InputError as error:
            return f"{self._name} was not taken: {error}"
        except ServingError as error:
            self._models = None  # perhaps a part was: whatever the file says next is news
            return f"{self._name} was not taken: {error}"
        self._models = found
        return f"took the changes of {self._name}."


def _read() -> config.ModelServerConfig | str:
    """What the file says, or what is wrong with it."""
    try:
        return _models()
    except InputError as error:
        return str(error)


def _request_log() -> request_log.RequestLog | None:
    if not _REQUEST_LOG.value:
        return None
    path = Path(_REQUEST_LOG.value).expanduser().absolute()
    return request_log.RequestLog(path, sampling_rate=_SAMPLING_RATE.value, log=_log)


def _models() -> config.ModelServerConfig:
    if bool(_MODEL_BASE_PATH.value) == bool(_MODEL_CONFIG_FILE.value):
        raise InputError("one of --model_base_path and --model_config_file is needed.")
    if _MODEL_CONFIG_FILE.value:
        return config.read_models(Path(_MODEL_CONFIG_FILE.value).expanduser())
    models = config.single_model(_MODEL_NAME.value, Path(_MODEL_BASE_PATH.value).expanduser())
    found = config.problem(models)
    if found:
        raise InputError(found)
    return models


def _batching() -> config.Batching | None:
    if not _ENABLE_BATCHING.value:
        return None
    if _BATCHING_PARAMETERS_FILE.value:
        return config.read_batching(Path(_BATCHING_PARAMETERS_FILE.value).expanduser())
    return config.Batching()


def _limits() -> config.Limits:
    size = _MAX_REQUEST_MEGABYTES.value << 20
    default = config.Limits()
    return dataclasses.replace(
        default,
        request_bytes=size,
        http_bytes=max(default.http_bytes, size),
        concurrent_runs=os.cpu_count() or 1,
        http_timeout=_REST_API_TIMEOUT.value / 1e3,
    )


if __name__ == "__main__":
    app.run(main)
