"""Moves the labels of a deployment: a canary in, a canary promoted, the newest step undone.

    python -m export.rollout --config=deploy --canary=4
    python -m export.rollout --config=deploy --promote
    python -m export.rollout --config=deploy --rollback

--rollback drops the canary; where there is none, the version that was stable before is stable
again. All files of --config (see export.config) are written anew. A server of docker compose reads
models.config within 30 seconds; Kubernetes gets it by `kubectl apply -f deploy/kubernetes.yaml`.
Let servers take one step before the next: they move a label only to a version that is loaded.
"""

from trainers import app  # isort: skip  (quiets TensorFlow before anything imports it)

from pathlib import Path

from absl import flags

from tfcama.errors import InputError
from tfcama.serving import operations

_CONFIG = flags.DEFINE_string(
    "config", None, "What export.config wrote. Example: --config=deploy", required=True
)
_CANARY = flags.DEFINE_integer(
    "canary", None, "Serve this version as canary beside the stable one. Example: --canary=4"
)
_PROMOTE = flags.DEFINE_bool("promote", False, "The canary becomes stable. Example: --promote")
_ROLLBACK = flags.DEFINE_bool("rollback", False, "The newest step is undone. Example: --rollback")


def main() -> None:
    if (_CANARY.value is not None) + _PROMOTE.value + _ROLLBACK.value != 1:
        raise InputError("one of --canary, --promote and --rollback is needed.")
    directory = Path(_CONFIG.value).expanduser()
    before = operations.read(directory)
    if _PROMOTE.value:
        after = before.promoted()
    elif _ROLLBACK.value:
        after = before.rolled_back()
    else:
        after = before.with_canary(_CANARY.value)
    if after.path.is_dir():
        for version in after.labels.values():
            operations.check_version(after.path, version)
    elif not _ROLLBACK.value:  # what is gone back to was served before
        label = operations.STABLE if _PROMOTE.value else operations.CANARY
        looked_for = f"version {after.labels[label]}"
        print(f"note: {after.path} is not on this machine; nobody looked for {looked_for}.")
    operations.write(after, directory)
    print(f"{after.name}: {_labels(before)}  ->  {_labels(after)}")


def _labels(served: operations.Deployment) -> str:
    return ", ".join(f"{label} {version}" for label, version in served.labels.items())


if __name__ == "__main__":
    app.run(main)
