"""What the server is told: models, batching and limits."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from tfcama.errors import InputError
from tfcama.serving.server import messages

PLATFORM = "tensorflow"
BATCHING_FILE = "batching_params.pbtxt"  # in a version's directory


@dataclasses.dataclass(frozen=True)
class Batching:
    """How concurrent requests to one signature become one batch.

    Attributes:
      max_batch_size: rows of a batch; a larger request is a batch of its own.
      timeout: seconds that a request waits for others; 0 takes those that wait already.
      max_enqueued_batches: full batches that may wait; more are refused as UNAVAILABLE.
      threads: batches of a version that are computed at once.
    """

    max_batch_size: int = 64
    timeout: float = 0.0
    max_enqueued_batches: int = 64
    threads: int = 2


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a client may ask of the server.

    Attributes:
      request_bytes: of a request, also after decompression.
      http_bytes: bodies of all REST requests that are being read or answered; others wait.
      http_connections: open at once; others are closed.
      grpc_requests: being answered or waiting at once; others get RESOURCE_EXHAUSTED.
      concurrent_runs: calls of TensorFlow at once, per process.
      http_timeout: seconds for one REST request.
    """

    request_bytes: int = 32 << 20
    http_bytes: int = 64 << 20
    http_connections: int = 256
    grpc_requests: int = 64
    concurrent_runs: int = 2
    http_timeout: float = 30.0


def single_model(name: str, base_path: Path) -> ModelServerConfig:
    """The configuration of one model, its latest version."""
    config = ModelServerConfig()
    config.model_config_list.config.add(
        name=name, base_path=str(base_path), model_platform=PLATFORM
    )
    return config


def read_models(path: Path) -> ModelServerConfig:
    """A --model_config_file.

    Raises:
      InputError: it cannot be read, or is not valid, see `problem`.
    """
    config = _read(path, ModelServerConfig(), "a ModelServerConfig")
    found = problem(config)
    if found:
        raise InputError(f"{path}: {found}")
    return config


def read_batching(path: Path) -> Batching:
    """A --batching_parameters_file; of its numbers only those of `Batching` matter here.

    A batch has at most max_execution_batch_size rows where that is given. Larger requests are not
    split but run alone: an export cuts them in blocks itself.

    Raises:
      InputError: it cannot be read, or a number is not possible.
    """
    given = _read(path, messages.BatchingParameters(), "BatchingParameters")
    default = Batching()

    def number(name: str, otherwise: int, least: int) -> int:
        value = getattr(given, name).value if given.HasField(name) else otherwise
        if value < least:
            raise InputError(f"{path}: {name} is {value}; it must be at least {least}.")
        return value

    rows = number("max_batch_size", default.max_batch_size, 1)
    return Batching(
        number("max_execution_batch_size", rows, 1),
        number("batch_timeout_micros", 0, 0) / 1e6,
        number("max_enqueued_batches", default.max_enqueued_batches, 1),
        number("num_batch_threads", default.threads, 1),
    )


def problem(config: ModelServerConfig) -> str | None:
    """The sentence that says why models cannot be served as asked, or None."""
    if config.WhichOneof("config") != "model_config_list":
        return "a model_config_list is needed; nothing else can be served."
    names = [model.name for model in config.model_config_list.config]
    for model in config.model_config_list.config:
        if not model.name or "/" in model.name or ":" in model.name:
            return f"'{model.name}' is no model's name; one without '/' and ':' is needed."
        if names.count(model.name) > 1:
            return f"model '{model.name}' is listed more than once."
        if not model.base_path:
            return f"model '{model.name}' has no base_path."
        if model.model_platform != PLATFORM:
            return (
                f"model '{model.name}' has model_platform '{model.model_platform}'; it must be "
                f"'{PLATFORM}'."
            )
        if not Path(model.base_path).is_dir():
            return f"model '{model.name}': base_path {model.base_path} is no directory."
    return None


def _read(path: Path, message: Any, kind: str) -> Any:
    try:
        return text_format.Parse(path.read_text(), message)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error}).") from None
    except text_format.ParseError as error:
        raise InputError(f"{path} is not {kind} in protobuf's text format ({error}).") from None
