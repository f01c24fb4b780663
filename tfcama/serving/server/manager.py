"""Models and their versions: found on disk, loaded, served, unloaded."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from tensorflow_serving.apis import get_model_status_pb2
from tensorflow_serving.config.model_server_config_pb2 import ModelConfig, ModelServerConfig

from tfcama.serving import description
from tfcama.serving.errors import Code, ServingError, invalid
from tfcama.serving.server import inference
from tfcama.serving.server.config import Batching, Limits, problem
from tfcama.serving.server.version import LoadedVersion

State = get_model_status_pb2.ModelVersionStatus.State


@dataclasses.dataclass
class _Entry:
    """A version that the manager knows of.

    Attributes:
      files: that it had when loading began.
      state: of ModelVersionStatus.
      error: why it could not be loaded.
      loaded: while it can be asked.
      requests: that are using it.
    """

    files: tuple[Any, ...]
    state: int
    error: ServingError | None = None
    loaded: LoadedVersion | None = None
    requests: int = 0


@dataclasses.dataclass
class _Model:
    """A model of the configuration; config is None once it was taken out of it."""

    config: ModelConfig | None
    entries: dict[int, _Entry] = dataclasses.field(default_factory=dict)
    labels: dict[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class VersionStatus:
    """A version's number, state and, where it could not be loaded, why."""

    number: int
    state: int
    error: ServingError | None


class ModelManager:
    """Loads what a ModelServerConfig asks for and what appears on disk later.

    A version goes only when another one that is asked for can be served, so an unfinished or
    damaged one never takes the place of a good one. Requests hold the version that they use.

    Args:
      batching: of versions that do not say it themselves; None: no batching.
      limits: see there.
      poll: seconds between looks at the disk.
      log: takes a line for each event.
    """

    def __init__(
        self,
        *,
        batching: Batching | None,
        limits: Limits,
        poll: float,
        log: Callable[[str], None],
    ):
        self._batching = batching
        self._limits = limits
        self._poll_seconds = poll
        self._log = log
        self._models: dict[str, _Model] = {}
        self._lock = threading.Lock()  # of _models and all in it
        self._changing = threading.Lock()  # one reload or look at the disk at a time
        self._runs = threading.Semaphore(limits.concurrent_runs)
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, config: ModelServerConfig) -> None:
        """Loads the models, then looks for new versions until `close`.

        A model without a version that can be loaded is no error: one may come.
        """
        with self._changing:
            self._apply(config)
        for model in config.model_config_list.config:
            if not self._available(model.name):
                self._log(f"{model.name}: no version can be served yet; waiting for one.")
        self._thread = threading.Thread(target=self._watch, name="versions", daemon=True)
        self._thread.start()

    def reload(self, config: ModelServerConfig) -> None:
        """Takes another configuration: models come, go, or change their versions and labels.

        Raises:
          ServingError: INVALID_ARGUMENT, or FAILED_PRECONDITION, a label would move to a version
            that is not loaded: nothing was changed; UNKNOWN, a new model has no version that can
            be loaded.
        """
        found = problem(config)
        if found:
            raise invalid(found)
        with self._changing:
            wrong = [w for model in config.model_config_list.config for w in self._stuck(model)]
            if wrong:
                raise ServingError(Code.FAILED_PRECONDITION, " ".join(wrong))
            new = {model.name for model in config.model_config_list.config} - self.names()
            self._apply(config)
            missing = sorted(name for name in new if not self._available(name))
        if missing:
            sentence = f"Some models did not become available: {', '.join(missing)}."
            raise ServingError(Code.UNKNOWN, sentence)

    def names(self) -> set[str]:
        """The models of the configuration."""
        with self._lock:
            return {name for name, model in self._models.items() if model.config is not None}

    def labels(self, name: str) -> dict[str, int]:
        """The version of every label of a model; {} for an unknown one."""
        with self._lock:
            return dict(self._models[name].labels) if name in self._models else {}

    @contextlib.contextmanager
    def version(self, spec: Any) -> Iterator[LoadedVersion]:
        """The version that a ModelSpec asks for; it stays loaded inside the block.

        Raises:
          ServingError: INVALID_ARGUMENT, the model has no name or the label is unknown; NOT_FOUND.
        """
        with self._lock:
            entry = self._find(spec)
            entry.requests += 1
            loaded = entry.loaded
        try:
            yield loaded  # type: ignore[misc]
        finally:
            with self._lock:
                entry.requests -= 1
            self._finish(entry)

    def status(self, spec: Any) -> list[VersionStatus]:
        """The states of the versions that a ModelSpec names, highest first.

        Raises:
          ServingError: INVALID_ARGUMENT or NOT_FOUND, as `version`.
        """
        with self._lock:
            model = self._models.get(spec.name)
            number = self._number(spec, model)
            entries = {} if model is None else model.entries
            if number is not None and number not in entries:
                sentence = f"Could not find version {number} of model {spec.name}"
                raise ServingError(Code.NOT_FOUND, sentence)
            if not entries:
                sentence = f"Could not find any versions of model {spec.name}"
                raise ServingError(Code.NOT_FOUND, sentence)
            return [
                VersionStatus(n, e.state, e.error)
                for n, e in sorted(entries.items(), reverse=True)
                if number in (None, n)
            ]

    def close(self) -> None:
        """Stops looking for versions and unloads all, each when its last request is answered."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()
        with self._changing:
            for model in self._models.values():
                for entry in model.entries.values():
                    self._unload(entry)

    def poll(self) -> None:
        """Looks at the disk once: loads what is new, unloads what nobody asks for."""
        with self._changing:
            for name in list(self._models):
                self._update(name)

    def _watch(self) -> None:
        while not self._stopped.wait(self._poll_seconds):
            try:
                self.poll()
            except Exception as error:  # the server goes on with what it has
                self._log(f"looking for new versions failed: {error!r}")

    def _apply(self, config: ModelServerConfig) -> None:
        """Moves the labels, then loads and unloads versions; `_changing` is held."""
        given = {model.name: model for model in config.model_config_list.config}
        left: list[_Entry] = []
        with self._lock:
            for name in given.keys() | self._models.keys():
                model = self._models.setdefault(name, _Model(None))
                old, model.config = model.config, given.get(name)
                model.labels = {} if model.config is None else dict(model.config.version_labels)
                if old and model.config and old.base_path != model.config.base_path:
                    left += model.entries.values()  # the same numbers are other versions now
                    model.entries = {}
        for entry in left:
            self._unload(entry)
        for name in list(self._models):
            self._update(name)

    def _update(self, name: str) -> None:
        model = self._models[name]
        config = model.config
        wanted: set[int] = set()
        if config is not None:
            try:
                found = version_directories(Path(config.base_path))
            except OSError as error:  # gone for a while, perhaps: what is loaded stays
                self._log(f"{name}: {config.base_path} cannot be listed ({error}).")
                return
            wanted = aspired(config.model_version_policy, found)
            for number in sorted(wanted):
                self._load(name, number, found[number])
        with self._lock:
            served = {n for n, e in model.entries.items() if e.state == State.AVAILABLE}
        if not wanted or wanted & served:
            for number in served - wanted:
                self._unload(model.entries[number])
                self._log(f"{name}/{number}: unloaded.")

    def _load(self, name: str, number: int, path: Path) -> None:
        """Loads a version unless it is, or failed and has not changed since."""
        files = _files(path)
        model = self._models[name]
        with self._lock:
            old = model.entries.get(number)
            if old is not None and old.state in (State.AVAILABLE, State.UNLOADING):
                return
            if old is not None and old.error is not None and old.files == files:
                return
            entry = model.entries[number] = _Entry(files, State.LOADING)
        started = time.perf_counter()
        loaded, error, records = None, None, 0
        try:
            loaded = LoadedVersion(name, number, path, runs=self._runs, batching=self._batching)
            records = inference.warm_up(loaded, most_bytes=self._limits.request_bytes)
        except ServingError as caught:
            error = caught
        except Exception as caught:
            error = ServingError(Code.UNKNOWN, f"{path} cannot be loaded ({caught!r}).")
        if error is not None and loaded is not None:
            loaded.close()
        with self._lock:
            if error is None:
                entry.loaded, entry.state = loaded, State.AVAILABLE
            else:
                entry.error, entry.state = error, State.END
        if error is None:
            seconds = time.perf_counter() - started
            self._log(f"{name}/{number}: loaded in {seconds:.1f} s, {records} warm-up records.")
        else:
            self._log(f"{name}/{number}: not loaded: {error.sentence}")

    def _unload(self, entry: _Entry) -> None:
        with self._lock:
            if entry.state == State.AVAILABLE:
                entry.state = State.UNLOADING
        self._finish(entry)

    def _finish(self, entry: _Entry) -> None:
        """Closes an unloading version that no request uses any more."""
        with self._lock:
            if entry.state != State.UNLOADING or entry.requests or entry.loaded is None:
                return
            loaded, entry.loaded = entry.loaded, None
        loaded.close()
        with self._lock:
            entry.state = State.END

    def _find(self, spec: Any) -> _Entry:
        if not spec.name:
            raise invalid("ModelSpec has no name specified.")
        model = self._models.get(spec.name)
        number = self._number(spec, model)
        entries = {} if model is None or model.config is None else model.entries
        served = {n: e for n, e in entries.items() if e.state == State.AVAILABLE}
        if served and number is None:
            return served[max(served)]
        if number in served:
            return served[number]
        asked = f"Latest({spec.name})" if number is None else f"Specific({spec.name}, {number})"
        offered = ", ".join(
            f"{name}/{n}"
            for name, other in sorted(self._models.items())
            for n, e in sorted(other.entries.items())
            if e.state == State.AVAILABLE
        )
        sentence = f"Servable not found for request: {asked}; served are: {offered or 'none'}."
        raise ServingError(Code.NOT_FOUND, sentence)

    def _number(self, spec: Any, model: _Model | None) -> int | None:
        choice = spec.WhichOneof("version_choice")
        if choice == "version":
            return spec.version.value
        if choice == "version_label":
            labels = {} if model is None else model.labels
            if spec.version_label not in labels:
                known = ", ".join(sorted(labels)) or "none"
                raise invalid(
                    f"Unrecognized servable version label: {spec.version_label}; known are: "
                    f"{known}."
                )
            return labels[spec.version_label]
        return None

    def _available(self, name: str) -> list[int]:
        with self._lock:
            entries = self._models[name].entries
            return [n for n, entry in entries.items() if entry.state == State.AVAILABLE]

    def _stuck(self, config: ModelConfig) -> list[str]:
        """The labels that would move to a version that is not loaded, a sentence each."""
        known = self.labels(config.name)
        return [
            f"Request to assign label '{label}' to version {number} of model {config.name}, "
            "which is not currently available for inference."
            for label, number in sorted(config.version_labels.items())
            if known.get(label, number) != number and number not in self._available(config.name)
        ]


def version_directories(base: Path) -> dict[int, Path]:
    """The children of a base path that are versions: directories named by an int64."""
    numbered = {description.number(child.name): child for child in base.iterdir()}
    return {n: child for n, child in numbered.items() if n is not None and child.is_dir()}


def aspired(policy: Any, found: Iterable[int]) -> set[int]:
    """The versions that a ServableVersionPolicy asks for, of those on disk.

    Example:
      >>> sorted(aspired(ModelConfig().model_version_policy, [1, 2, 10]))
      [10]
    """
    numbers = sorted(found)
    choice = policy.WhichOneof("policy_choice")
    if choice == "all":
        return set(numbers)
    if choice == "specific":
        return set(numbers) & set(policy.specific.versions)
    return set(numbers[-max(1, policy.latest.num_versions) :])


def _files(path: Path) -> tuple[Any, ...]:
    """What tells that a directory's files changed: names, sizes and times."""
    found = []
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):  # renamed meanwhile: the next look sees it
                status = os.stat(os.path.join(folder, name))
                found.append((folder, name, status.st_size, status.st_mtime_ns))
    return tuple(sorted(found))
