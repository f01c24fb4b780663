"""Publishes a trained classifier as a SavedModel version for TF-Serving.

    python -m export.export_saved_model --workdir=runs/mnist --export_dir=runs/mnist/export/cama

writes runs/mnist/export/cama/1/, then 2/ and so on. Signature serving_default: image [B, H, W, C]
float32 in [0, 1], or of a table one input [B] a column, by name and in its own units (text of a
category; NaN or "" where missing) -> probabilities [B, classes], label [B], and for generative
models log_px [B]. The names of a table's inputs are in the version's tfcama.json.
A version is reloaded and its answers are compared before it gets its name.
"""

from trainers import app  # isort: skip  (quiets TensorFlow before anything imports it)

from pathlib import Path

from absl import flags

from tfcama.serving.publish import publish
from tfcama.training import run
from tfcama.workdir import Workdir

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "A finished run. Example: --workdir=runs/mnist", required=True
)
_EXPORT_DIR = flags.DEFINE_string(
    "export_dir",
    None,
    "The model's base path; versions are its children. Example: --export_dir=/models/cama",
    required=True,
)
_VERSION = flags.DEFINE_integer(
    "version", None, "Take this number, not the next free one. Example: --version=7"
)


def main() -> None:
    loaded = run.load(Workdir(_WORKDIR.value))
    base = Path(_EXPORT_DIR.value).expanduser()
    print(f"published {publish(loaded, base, version=_VERSION.value)}")


if __name__ == "__main__":
    app.run(main)
