"""What TensorFlow's model server and its surroundings are told to serve an export.

    models.config             which versions, and which of them are called stable and canary
    batching_parameters.txt   for models without batching_params.pbtxt of their own, and threads
    monitoring.config         Prometheus' metrics
    prometheus.yaml           how Prometheus finds them
    docker-compose.yaml       the official image with these, on one machine
    kubernetes.yaml           the same as ConfigMap, Deployment and Service
    deployment.json           what all of these were made from, for the next change

A version goes its way by labels alone: it comes as `canary`, is promoted to `stable`, and the one
before stays loaded as `previous`, so that rolling back needs no loading and no numbers.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from pathlib import Path

import jinja2
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from tfcama.errors import InputError
from tfcama.serving import batching, description
from tfcama.workdir import write_text

STABLE, CANARY, PREVIOUS = "stable", "canary", "previous"
MODELS = "models.config"
STATE = "deployment.json"
_TEMPLATES = ("prometheus.yaml", "docker-compose.yaml", "kubernetes.yaml")
_DEFAULT_ROWS = 64
_METRICS_PATH = "/monitoring/prometheus/metrics"
_MONITORING = f'prometheus_config {{ enable: true path: "{_METRICS_PATH}" }}\n'
_NAME = re.compile("[a-z]([a-z0-9_-]{0,61}[a-z0-9])?")  # a Kubernetes Service's, and "_"
_IMAGE = re.compile(r"\w[\w./:@-]*", re.ASCII)
_QUANTITY = re.compile("[1-9][0-9]*(Mi|Gi)")


@dataclasses.dataclass(frozen=True)
class Deployment:
    """How one model is served.

    Attributes:
      name: of the model, in requests.
      stable: version that is served under the label `stable`.
      canary: version under the label `canary`; None for none.
      previous: version that was stable before, under the label `previous`; None for none.
      models: directory of base paths as the server sees it.
      image: the server's. Exports load in every TensorFlow from `ops.OLDEST` on.
      cores: that one server may use.
      memory: of one server, e.g. "2Gi".
      replicas: servers.
      rows: executed together, where a version does not say it itself.
      base: the model's base path where this was written, if it was known; "" for not. Servers may
        see another.

    Raises:
      InputError: a value that is not allowed.
    """

    name: str
    stable: int
    canary: int | None = None
    previous: int | None = None
    models: str = "/models"
    image: str = "tensorflow/serving:2.19.1"
    cores: int = 2
    memory: str = "2Gi"
    replicas: int = 2
    rows: int = _DEFAULT_ROWS
    base: str = ""

    def __post_init__(self):
        if not _NAME.fullmatch(self.name):
            raise InputError(
                f"the model's name '{self.name}' was given; small letters, digits, '-' and "
                "'_' are allowed, at most 63, the first a letter."
            )
        for label, version in self.labels.items():
            if not 1 <= version < 2**63:
                raise InputError(
                    f"version {version} cannot be {label}; it must be at least 1 and below 2^63."
                )
        if self.stable in (self.canary, self.previous):
            label = CANARY if self.canary == self.stable else PREVIOUS
            raise InputError(f"version {self.stable} cannot be stable and {label} at once.")
        if not self.models.startswith("/") or self.models.rstrip("/") in ("", "/config"):
            raise InputError(
                f"models={self.models} was given; an absolute path is needed, but neither / nor "
                "/config."
            )
        if not _IMAGE.fullmatch(self.image):
            raise InputError(
                f"image={self.image} was given; one like {Deployment.image} is needed."
            )
        if not _QUANTITY.fullmatch(self.memory):
            raise InputError(f"memory={self.memory} was given; a number of Mi or Gi is needed.")
        for field in ("cores", "replicas", "rows"):
            if getattr(self, field) < 1:
                raise InputError(f"{field}={getattr(self, field)} was given; at least 1 is needed.")

    @property
    def resource(self) -> str:
        """What Kubernetes and the network call the server: the name, without "_"."""
        return self.name.replace("_", "-")

    @property
    def path(self) -> Path:
        """The model's base path, as far as this machine can know."""
        return Path(self.base or f"{self.models}/{self.name}")

    @property
    def labels(self) -> dict[str, int]:
        """Version of every label."""
        labels = {STABLE: self.stable, CANARY: self.canary, PREVIOUS: self.previous}
        return {label: version for label, version in labels.items() if version is not None}

    def with_canary(self, version: int) -> Deployment:
        """A version has become the canary.

        Raises:
          InputError: another one is. A server moves labels before it loads versions, and refuses
            to move one that it knows to a version that is not loaded.
        """
        if self.canary not in (None, version):
            raise InputError(
                f"version {self.canary} is canary; --rollback it and wait until servers have taken "
                f"that (30 s), then take {version}."
            )
        return dataclasses.replace(self, canary=version)

    def promoted(self) -> Deployment:
        """The canary has become stable.

        Raises:
          InputError: there is none.
        """
        if self.canary is None:
            raise InputError(
                f"{self.name} has no canary to promote; version {self.stable} is stable."
            )
        return dataclasses.replace(self, stable=self.canary, canary=None, previous=self.stable)

    def rolled_back(self) -> Deployment:
        """The newest step is undone: the canary is gone or, without one, the previous is stable.

        Raises:
          InputError: there is neither.
        """
        if self.canary is not None:
            return dataclasses.replace(self, canary=None)
        if self.previous is None:
            raise InputError(
                f"{self.name} has neither a canary nor a previous version to go back to; "
                f"version {self.stable} stays stable."
            )
        return dataclasses.replace(self, stable=self.previous, previous=None)

    @property
    def arguments(self) -> list[str]:
        """Of tensorflow_model_server, besides ports; its configuration lies in /config."""
        return [
            f"--model_config_file=/config/{MODELS}",
            "--model_config_file_poll_wait_seconds=30",
            # Labels are read with the versions, which are loaded only afterwards.
            "--allow_version_labels_for_unavailable_models=true",
            "--enable_batching=true",
            "--enable_per_model_batching_parameters=true",
            "--batching_parameters_file=/config/batching_parameters.txt",
            "--monitoring_config_file=/config/monitoring.config",
            f"--tensorflow_intra_op_parallelism={self.cores}",
            f"--tensorflow_inter_op_parallelism={self.cores}",
            "--rest_api_timeout_in_ms=30000",
        ]


def versions(base: Path) -> list[int]:
    """The whole versions that a model's base path has, in ascending order."""
    found = (description.number(path.parent.name) for path in base.glob(f"*/{description.FILE}"))
    return sorted(number for number in found if number is not None)


def absolute(base: Path) -> Path:
    """A model's base path from the root, links as they are named: its last part is the name."""
    return Path(os.path.abspath(base))


def check_version(base: Path, version: int) -> None:
    """Raises InputError unless a model's base path has this whole version."""
    known = versions(base)
    if version not in known:
        if (base / str(version)).is_dir():
            raise InputError(
                f"{base}: version {version} has no {description.FILE}; "
                "export.export_saved_model makes it."
            )
        found = ", ".join(map(str, known)) or "none"
        raise InputError(f"{base} has no version {version}; it has {found}.")


def deployment(base: Path, *, stable: int | None, canary: int | None, **options) -> Deployment:
    """The deployment of the versions that a model's base path has.

    Args:
      base: has the versions.
      stable: None takes the highest that is not the canary.
      canary: None for none.
      **options: further fields of Deployment.

    Raises:
      InputError: there is no such version.
    """
    if stable is None:
        stable = max((v for v in versions(base) if v != canary), default=None)
    for version in (stable, canary):
        if version is not None:
            check_version(base, version)
    if stable is None:
        raise InputError(f"{base} has no version that could be stable; export one first.")
    (limits,) = description.require(base / str(stable), "limits")
    return Deployment(
        absolute(base).name,
        stable,
        canary,
        rows=limits["rows_together"],
        base=str(absolute(base)),
        **options,
    )


def models_config(deployments: list[Deployment]) -> model_server_config_pb2.ModelServerConfig:
    """Which models, versions and labels a server has."""
    config = model_server_config_pb2.ModelServerConfig()
    for served in deployments:
        model = config.model_config_list.config.add(
            name=served.name,
            base_path=f"{served.models}/{served.name}",
            model_platform="tensorflow",
        )
        model.model_version_policy.specific.versions.extend(sorted(set(served.labels.values())))
        for label, version in served.labels.items():
            model.version_labels[label] = version
    return config


def files(served: Deployment) -> dict[str, str]:
    """Every file's text, by name."""
    configuration = {
        MODELS: text_format.MessageToString(models_config([served])),
        "batching_parameters.txt": batching.parameters(served.rows, threads=served.cores),
        "monitoring.config": _MONITORING,
    }
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tfcama.serving", "templates"),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return configuration | {
        name: environment.get_template(f"{name}.j2").render(
            served=served, configuration=configuration, metrics_path=_METRICS_PATH
        )
        for name in _TEMPLATES
    }


def write(served: Deployment, directory: Path) -> list[Path]:
    """Writes every file, each whole or not at all; returns their paths.

    deployment.json is the last: who was interrupted does the same again.
    """
    written = []
    state = json.dumps(dataclasses.asdict(served), indent=1) + "\n"
    for name, text in (files(served) | {STATE: state}).items():
        write_text(directory / name, text)
        written.append(directory / name)
    return written


def read(directory: Path) -> Deployment:
    """The deployment that `write` wrote.

    Raises:
      InputError: there is none, or its deployment.json cannot be read.
    """
    path = directory / STATE
    if not path.exists():
        raise InputError(
            f"{directory} holds no {STATE}; name the --out of `python -m export.config`."
        )
    try:
        return Deployment(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path} cannot be read ({error}).") from None
