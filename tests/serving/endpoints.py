"""Small models to serve, and servers to ask: the local one and tensorflow_model_server."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from typing import NamedTuple

import tensorflow as tf
from google.protobuf import text_format
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from tests.binaries import ROOT, command
from tfcama.serving.client import Client

MODEL_SERVER = shutil.which("tensorflow_model_server") or os.environ.get("TFCAMA_MODEL_SERVER")
# As on a machine that sets nothing, but for the threads that its tests share.
_ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
LABELS = {"stable": 1, "canary": 2}


class Endpoint(NamedTuple):
    """A server that runs."""

    grpc: str
    rest: str


class Tiny(tf.Module):
    """y = factor * x for x in [-1, 1], and what else a server must cope with."""

    def __init__(self, factor):
        super().__init__()
        self.factor = tf.Variable(float(factor))

    @tf.function(input_signature=[tf.TensorSpec([None, 3], name="x")])
    def serve(self, x):
        check = tf.debugging.Assert(
            tf.reduce_all(tf.abs(x) <= 1.0), ["x: every value must be in [-1, 1]."]
        )
        with tf.control_dependencies([check]):
            return {"y": x * self.factor}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="inputs")])
    def classify(self, inputs):
        features = {"x": tf.io.FixedLenFeature([3], tf.float32)}
        scores = tf.io.parse_example(inputs, features)["x"] * self.factor
        names = tf.tile(tf.constant([["a", "b", "c"]]), [tf.shape(scores)[0], 1])
        return {"classes": names, "scores": scores}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="text")])
    def echo(self, text):
        return {
            "length": tf.strings.length(text),
            "same_bytes": text,
            "upper": tf.strings.upper(text),
        }

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32, name="steps")])
    def slow(self, steps):
        """Adds up as many random numbers one after the other; 100,000 take about 0.2 s."""
        total = tf.zeros([])
        for step in tf.range(tf.reduce_max(steps)):
            total += tf.random.stateless_uniform([], [step, 0])
        return {"total": tf.fill(tf.shape(steps), total)}


def save_tiny(path, factor):
    """Writes a version directory at `path` whose answers tell which it is."""
    tiny = Tiny(factor)
    signatures = {
        "serving_default": tiny.serve,
        "classify": tiny.classify,
        "echo": tiny.echo,
        "slow": tiny.slow,
    }
    temporary = path.with_name(f"temp-{path.name}")
    tf.saved_model.save(tiny, str(temporary), signatures=signatures)
    temporary.rename(path)
    return path


def config(*models):
    """A ModelServerConfig of (name, base path, text of further fields)."""
    text = "".join(
        f'config {{ name: "{name}" base_path: "{base}" model_platform: "tensorflow" {more} }} '
        for name, base, more in models
    )
    return text_format.Parse(f"model_config_list {{ {text} }}", ModelServerConfig())


def ask(endpoint, path, body=None, headers=None, *, method=None):
    """Status and JSON (or text) of one REST request; body is JSON unless it is bytes."""
    host = endpoint.rest.removeprefix("http://")
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode()
    with contextlib.closing(http.client.HTTPConnection(host, timeout=60)) as connection:
        connection.request(method or ("GET" if body is None else "POST"), path, body, headers or {})
        response = connection.getresponse()
        text = response.read().decode()
        if response.getheader("Content-Type") == "application/json":
            return response.status, json.loads(text)
        return response.status, text


def until(condition, seconds=20.0):
    """Waits until it is true; fails after so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def free_port():
    """A port that nobody listens at; taken a moment later, if one is unlucky."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def model_server(file):
    """An Endpoint of tensorflow_model_server with a --model_config_file."""
    grpc_port, rest_port = free_port(), free_port()
    command = [
        MODEL_SERVER,
        f"--port={grpc_port}",
        f"--rest_api_port={rest_port}",
        f"--model_config_file={file}",
        "--allow_version_labels_for_unavailable_models=true",
    ]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        endpoint = Endpoint(f"127.0.0.1:{grpc_port}", f"http://127.0.0.1:{rest_port}")
        try:
            for name in ("cama", "tiny"):
                with Client(endpoint.rest, model=name) as client:
                    until(client.ready, 120.0)
            yield endpoint
        finally:
            process.kill()


class ServeProcess:
    """`python -m export.serve` with further flags; its lines are in `lines`."""

    def __init__(self, *flags):
        self.lines = []
        self.process = subprocess.Popen(
            command("export.serve", *flags),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
            env=_ENVIRONMENT,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        for line in self.process.stdout:
            self.lines.append(line.strip())

    def wait_ready(self):
        """Its Endpoint, once it listens."""
        until(lambda: any("REST at" in line for line in self.lines) or self.process.poll(), 60.0)
        found = dict(line.split(" at ") for line in self.lines if " at " in line)
        return Endpoint(found["gRPC"], found["REST"])

    def wait(self):
        """Its exit status."""
        status = self.process.wait(30.0)
        self._reader.join()
        self.process.stdout.close()
        return status

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.process.kill()
        self.wait()
