"""Writes what tensorflow_model_server needs to serve an export: see tfcama/serving/operations.py.

    python -m export.config --model_base_path=/models/cama --out=deploy
    python -m export.config --model_base_path=/models/cama --out=deploy --stable=3 --canary=4

The files beside this one are those of the demo's model, whose version 1 is stable:

    python -m export.config --model_base_path=runs/demo/export/cama --out=export/config

Afterwards `python -m export.rollout` moves the labels; given again, with other resources say, this
command leaves each where it is, unless it names its version. What was stable before another version
is `previous`. A running server reads models.config again every 30 seconds.
"""

from trainers import app  # isort: skip  (quiets TensorFlow before anything imports it)

from pathlib import Path

from absl import flags

from tfcama.serving import operations

_BASE = flags.DEFINE_string(
    "model_base_path",
    None,
    "The model's base path; its last part is the model's name. "
    "Example: --model_base_path=/models/cama",
    required=True,
)
_OUT = flags.DEFINE_string("out", None, "Where to. Example: --out=deploy", required=True)
_STABLE = flags.DEFINE_integer(
    "stable",
    None,
    "Version under the label `stable`; default: that of --out or, where nothing is yet, the "
    "highest. Example: --stable=3",
)
_CANARY = flags.DEFINE_integer(
    "canary",
    None,
    "Version under the label `canary`; default: that of --out, or none. Example: --canary=4",
)
_MODELS = flags.DEFINE_string(
    "models",
    operations.Deployment.models,
    "Directory of base paths as the server sees it; for a server on this machine the parent of "
    "--model_base_path. Example: --models=/models",
)
_IMAGE = flags.DEFINE_string(
    "image", operations.Deployment.image, "The server's. Example: --image=tensorflow/serving:2.19.1"
)
_CORES = flags.DEFINE_integer(
    "cores", operations.Deployment.cores, "That one server may use. Example: --cores=4"
)
_MEMORY = flags.DEFINE_string(
    "memory", operations.Deployment.memory, "Of one server. Example: --memory=2Gi"
)
_REPLICAS = flags.DEFINE_integer(
    "replicas", operations.Deployment.replicas, "Servers, on Kubernetes. Example: --replicas=3"
)


def main() -> None:
    base, out = Path(_BASE.value).expanduser(), Path(_OUT.value).expanduser()
    served = operations.deployment(
        base,
        **_versions(base, out),
        models=_MODELS.value.rstrip("/") or "/",
        image=_IMAGE.value,
        cores=_CORES.value,
        memory=_MEMORY.value,
        replicas=_REPLICAS.value,
    )
    for path in operations.write(served, out):
        print(path)
    here = served.path.parent
    if str(here) != served.models:
        print(
            f"note: servers look for {served.models}/{served.name}: mount {here} as "
            f"{served.models}, or, for a server on this machine, add --models={here}."
        )


def _versions(base: Path, out: Path) -> dict[str, int | None]:
    """The version of every label: the flags', else those of --out if it is of this model."""
    stable, canary, previous = _STABLE.value, _CANARY.value, None
    if (out / operations.STATE).exists():
        before = operations.read(out)
        if before.name == operations.absolute(base).name:
            stable = before.stable if stable is None else stable
            if canary is None and before.canary != stable:  # else it has become stable
                canary = before.canary
            previous = before.previous
            if stable != before.stable:
                known = before.stable in operations.versions(base)
                previous = before.stable if known else None
    return {operations.STABLE: stable, operations.CANARY: canary, operations.PREVIOUS: previous}


if __name__ == "__main__":
    app.run(main)
