r"""Prints how fast export.serve answers, what a large request costs it, and that it does not grow.

    python -m benchmarks.serving
    python -m benchmarks.serving --only=endurance --requests=10000
    python -m benchmarks.serving --only=load --transport=rest --seconds=10

Deep CAMA with MNIST's shape and nets, untrained, served by another process of this machine over
loopback; a request has one image. The clients run here and take their share of the processor. Every
class gets all its samples, which a trained model leaves out for most of them (class_margin).
"""

from trainers import app  # isort: skip  (quiets TensorFlow before anything imports it)

import contextlib
import itertools
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import flags
from rich.console import Console
from rich.table import Table

from tfcama import random
from tfcama.models.cama import CamaConfig
from tfcama.serving.client import Client
from tfcama.serving.errors import ServingError
from tfcama.serving.publish import publish
from tfcama.serving.retry import Retry
from tfcama.training import checkpoints, run
from tfcama.training.config import RunConfig, TrainingConfig
from tfcama.types import Bounds, InputSpec

_ONLY = flags.DEFINE_list("only", [], "Blocks to run; all by default. Example: --only=load")
_SECONDS = flags.DEFINE_float("seconds", 5.0, "Of load for each row.", lower_bound=0.1)
_REQUESTS = flags.DEFINE_integer("requests", 10_000, "Of the endurance block.", lower_bound=10)
_TRANSPORT = flags.DEFINE_enum("transport", "grpc", ["grpc", "rest"], "Of the clients.")
_SPEC = InputSpec((28, 28, 1), tuple("0123456789"), Bounds(0.0, 1.0))
_SAMPLES = (1, 10)
_CONCURRENCY = (1, 8, 32)
_ROWS = (1, 16, 64, 256, 1024)


class _Server(NamedTuple):
    """A server that runs: where, and as which process."""

    endpoint: str
    process: int


class _Load(NamedTuple):
    """What clients saw: seconds of each answer, errors, and how long it took in all."""

    seconds: list[float]
    errors: list[ServingError]
    wall: float


def _export(base: Path, samples: int) -> Path:
    """A base path with version 1 of an untrained CAMA."""
    random.seed_everything(0)
    config = RunConfig(
        model="cama",
        dataset="digits",
        seed=0,
        architecture=CamaConfig(num_samples=samples, class_margin=0.0),
        training=TrainingConfig(),
        input_spec=_SPEC,
    )
    checkpoint = checkpoints.Checkpoint(base / "none", 1, (0.0, 0.0), {})
    path = base / f"k{samples}"
    publish(run.LoadedRun(config, run.build(config), checkpoint), path)
    return path


@contextlib.contextmanager
def _serving(base: Path, *, batching: bool = False) -> Iterator[_Server]:
    command = [
        *(sys.executable, "-m", "export.serve", f"--model_base_path={base}"),
        *("--port=0", "--rest_api_port=0", f"--enable_batching={str(batching).lower()}"),
    ]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            lines = [process.stdout.readline().strip() for _ in range(2)]  # gRPC, REST
            place = lines[("grpc", "rest").index(_TRANSPORT.value)].partition(" at ")[2]
            yield _Server(place, process.pid)
        finally:
            process.terminate()


def _clients(server: _Server, number: int, more: Callable[[], bool]) -> _Load:
    """Load of so many clients, each asking one image after the other while there is `more`."""
    seconds: list[float] = []
    errors: list[ServingError] = []

    def work(place: int) -> None:
        image = np.random.default_rng(place).uniform(size=(1, *_SPEC.shape)).astype(np.float32)
        with Client(server.endpoint, timeout=120.0, retry=Retry(attempts=1)) as client:
            client.predict({"image": image})  # connects
            ready.wait()
            while more():
                started = time.perf_counter()
                try:
                    client.predict({"image": image})
                except ServingError as error:
                    errors.append(error)
                else:
                    seconds.append(time.perf_counter() - started)

    ready = threading.Barrier(number + 1)
    threads = [threading.Thread(target=work, args=(place,)) for place in range(number)]
    for thread in threads:
        thread.start()
    ready.wait()
    started = time.perf_counter()
    for thread in threads:
        thread.join()
    return _Load(seconds, errors, time.perf_counter() - started)


def load(exports: dict[int, Path]) -> Table:
    """Requests a second and latency, without and with batching, K posterior samples."""
    table = _table(load, "K", "batching", "clients", "requests/s", "p50, ms", "p99, ms", "errors")
    for samples, batching in itertools.product(_SAMPLES, (False, True)):
        with _serving(exports[samples], batching=batching) as server:
            for number in _CONCURRENCY:
                end = time.perf_counter() + _SECONDS.value
                found = _clients(server, number, lambda end=end: time.perf_counter() < end)
                p50, p99 = np.percentile(1e3 * np.array(found.seconds), [50, 99])
                table.add_row(
                    str(samples),
                    "yes" if batching else "no",
                    str(number),
                    f"{len(found.seconds) / found.wall:,.0f}",
                    f"{p50:.1f}",
                    f"{p99:.1f}",
                    str(len(found.errors)),
                )
    return table


def memory(exports: dict[int, Path]) -> Table:
    """Peak memory of the server while it answers one request, K = 10."""
    table = _table(memory, "rows", "request, MiB", "peak, MiB", "more than before, MiB", "images/s")
    with _serving(exports[10]) as server, Client(server.endpoint, timeout=300.0) as client:
        for rows in _ROWS:
            images = np.random.default_rng(0).uniform(size=(rows, *_SPEC.shape)).astype(np.float32)
            # Since the last peak was forgotten; needs the right to write there, which owners have.
            Path(f"/proc/{server.process}/clear_refs").write_text("5")
            before = _memory(server, "VmRSS")
            started = time.perf_counter()
            client.predict({"image": images}, batch_size=rows)
            seconds = time.perf_counter() - started
            peak = _memory(server, "VmHWM")
            table.add_row(
                f"{rows:,}",
                f"{images.nbytes / 2**20:.2f}",
                f"{peak:,.0f}",
                f"{peak - before:,.0f}",
                f"{rows / seconds:,.0f}",
            )
    return table


def endurance(exports: dict[int, Path]) -> Table:
    """Many requests of 8 clients, K = 1, batching: errors, and memory after each tenth."""
    table = _table(endurance, "requests", "errors", "requests/s", "memory, MiB")
    with _serving(exports[1], batching=True) as server:
        done = wrong = 0
        for _ in range(10):
            places = iter(range(_REQUESTS.value // 10))
            lock = threading.Lock()

            def more(places=places, lock=lock) -> bool:
                with lock:
                    return next(places, None) is not None

            found = _clients(server, 8, more)
            done += len(found.seconds) + len(found.errors)
            wrong += len(found.errors)
            table.add_row(
                f"{done:,}",
                str(wrong),
                f"{len(found.seconds) / found.wall:,.0f}",
                f"{_memory(server, 'VmRSS'):,.0f}",
            )
    return table


def _memory(server: _Server, key: str) -> float:
    """A number of /proc/PID/status, MiB."""
    lines = Path(f"/proc/{server.process}/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{key}:"))
    return int(line.split()[1]) / 1024.0


def _table(block: Callable, *headings: str) -> Table:
    table = Table(title=block.__doc__, title_justify="left", title_style="bold")
    for heading in headings:
        table.add_column(heading, justify="right")
    return table


_BLOCKS = {"load": load, "memory": memory, "endurance": endurance}


def main() -> None:
    console = Console(width=110)
    with tempfile.TemporaryDirectory() as directory:
        exports = {samples: _export(Path(directory), samples) for samples in _SAMPLES}
        for name, block in _BLOCKS.items():
            if not _ONLY.value or name in _ONLY.value:
                console.print(block(exports))


if __name__ == "__main__":
    app.run(main)
