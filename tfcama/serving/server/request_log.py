"""A share of the answered requests, kept on disk in TF-Serving's format, for export.adapt."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow_serving.apis import classification_pb2, prediction_log_pb2

from tfcama.errors import InputError
from tfcama.serving.server.version import LoadedVersion

MAX_BYTES = 64 << 20
_OLDER = ".1"  # appended to the name of the file before
_HEADER_BYTES = 12  # of a TFRecord: its length and that one's checksum
_PRIVATE = 0o600  # clients' inputs are nobody else's business


def older(path: Path) -> Path:
    """Where a log's older half is once it was full, or its server was started again."""
    return path.with_name(f"{path.name}{_OLDER}")


class RequestLog:
    """A TFRecord file of PredictionLogs: requests without responses, and who answered them.

    Only requests that were answered are kept. A full file becomes `older(path)`, and the one that
    was there goes, so that there are never more than two and the newest requests are always there.
    One that was moved away or deleted is followed by a new one.
    Logging never fails a request: when the disk does not take more, logging ends and a line says
    so.

    Args:
      path: of the file; its directory exists.
      sampling_rate: share of the requests that are kept, in [0, 1].
      max_bytes: of one file.
      log: takes a line for each event.

    Raises:
      InputError: the rate or the size is not allowed, the directory is none, or what is at the
        path is no log of requests.
    """

    def __init__(
        self,
        path: Path,
        *,
        sampling_rate: float = 1.0,
        max_bytes: int = MAX_BYTES,
        log: Callable[[str], None] = lambda line: None,
    ):
        if not 0.0 <= sampling_rate <= 1.0:
            raise InputError(
                f"a sampling rate of {sampling_rate:g} was given; it must be in [0, 1]."
            )
        if max_bytes < 1:
            raise InputError(f"a request log of {max_bytes} bytes was asked for; take at least 1.")
        if not path.parent.is_dir():
            raise InputError(f"the request log's directory {path.parent} does not exist.")
        if path.exists() and not (path.is_file() and _is_log(path)):
            raise InputError(f"{path} is there and is no log of requests; name another file.")
        self._path = path
        self._rate = sampling_rate
        self._max_bytes = max_bytes
        self._log = log
        self._lock = threading.Lock()
        self._writer: tf.io.TFRecordWriter | None = None
        self._bytes = 0
        self._file: tuple[int, int] | None = None  # that is written to: device and inode
        self._ended = False

    def predicted(self, version: LoadedVersion, signature: str, inputs: Mapping[str, Any]) -> None:
        """Keeps, perhaps, a request for a signature; inputs by name, arrays or TensorProtos."""
        if not self._chosen():
            return
        record = prediction_log_pb2.PredictionLog()
        request = record.predict_log.request
        for name, value in inputs.items():
            request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
        self._keep(record, request.model_spec, version, signature)

    def classified(
        self,
        version: LoadedVersion,
        signature: str,
        request: classification_pb2.ClassificationRequest,
    ) -> None:
        """Keeps, perhaps, a request to classify tf.Examples."""
        if not self._chosen():
            return
        record = prediction_log_pb2.PredictionLog()
        record.classify_log.request.input.CopyFrom(request.input)
        self._keep(record, record.classify_log.request.model_spec, version, signature)

    def close(self) -> None:
        """Closes the file; nothing is kept any more."""
        with self._lock:
            self._ended = True
            self._close_file()

    def _chosen(self) -> bool:
        return not self._ended and random.random() < self._rate

    def _keep(self, record: Any, spec: Any, version: LoadedVersion, signature: str) -> None:
        spec.name, spec.signature_name = version.name, signature
        spec.version.value = version.number
        record.log_metadata.model_spec.CopyFrom(spec)
        record.log_metadata.sampling_config.sampling_rate = self._rate
        content = record.SerializeToString()
        with self._lock:
            if self._ended or len(content) > self._max_bytes:
                return
            try:
                self._write(content)
            except (OSError, tf.errors.OpError) as error:
                self._ended = True
                self._log(f"{self._path}: requests are logged no more ({error}).")

    def _write(self, content: bytes) -> None:
        if self._bytes + len(content) > self._max_bytes or self._file != self._there():
            self._close_file()
        if self._writer is None:
            if self._path.exists() and self._path.stat().st_size:
                os.replace(self._path, older(self._path))
            self._path.unlink(missing_ok=True)  # an empty one, of logrotate perhaps
            self._path.touch(_PRIVATE)
            self._writer = tf.io.TFRecordWriter(str(self._path))
            self._bytes, self._file = 0, self._there()
        self._writer.write(content)
        self._writer.flush()  # a log is there to be read while the server runs
        self._bytes += len(content)

    def _there(self) -> tuple[int, int] | None:
        """Device and inode of what is at the path; None where nothing is."""
        try:
            status = os.stat(self._path)
        except FileNotFoundError:
            return None
        return status.st_dev, status.st_ino

    def _close_file(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def is_cut_off(error: tf.errors.OpError) -> bool:
    """Whether reading TFRecords ended in one whose length is there and whose rest is not."""
    return isinstance(error, tf.errors.DataLossError) and "truncated record" in error.message


def _is_log(path: Path) -> bool:
    """Whether a file is empty or begins with a PredictionLog, which may be cut off."""
    size = path.stat().st_size
    if size < _HEADER_BYTES:  # of which TFRecordDataset says that it has no record
        return not size
    parsed = prediction_log_pb2.PredictionLog.FromString
    try:
        records = tf.data.TFRecordDataset(str(path)).take(1)
        return all(parsed(record.numpy()).WhichOneof("log_type") for record in records)
    except tf.errors.OpError as error:
        return is_cut_off(error)
    except DecodeError:
        return False
