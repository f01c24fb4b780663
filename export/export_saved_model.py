"""Publishes a trained classifier as a SavedModel version for TF-Serving.

    python -m export.export_saved_model --workdir=runs/mnist --export_dir=runs/mnist/export/cama

writes runs/mnist/export/cama/1/, then 2/ and so on. Signature serving_default: image [B, H, W, C]
float32 in [0, 1], or of a table one input [B] a column, by name and in its own units (text of a
category; NaN or "" where missing) -> probabilities [B, classes], label [B], entropy [B], and for
generative models log_px [B]. `predict_seeded`, `classify`, `predict_png`, `detect`, `reconstruct`
and `counterfactual` are there where the model can answer them: tfcama/serving/module.py lists them,
and the version's tfcama.json names their inputs and outputs.
`detect` compares with the run's validation split, so the data are needed (--data_dir), unless
--detect=false leaves it out; a split that is too small for it leaves it out, too, and that is said.
A version is reloaded, and its answers are compared, before it gets its name.
"""

from trainers import app  # isort: skip  (quiets TensorFlow before anything imports it)

from pathlib import Path

from absl import flags

from tfcama.errors import InputError
from tfcama.serving.detector import FALSE_ALARMS
from tfcama.serving.publish import held_out, publish
from tfcama.training.phases import load_finished
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
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Of tensorflow-datasets. Example: --data_dir=../shared/tfds"
)
_DETECT = flags.DEFINE_bool(
    "detect",
    True,
    "Score the run's validation split, so that there is a `detect`. Example: --detect=false",
)
_FALSE_ALARMS = flags.DEFINE_float(
    "false_alarms",
    FALSE_ALARMS,
    "Share of clean inputs that `detect` may call manipulated. Example: --false_alarms=0.01",
)


def main() -> None:
    if flags.FLAGS["false_alarms"].present and not _DETECT.value:
        raise InputError("--false_alarms was given with --detect=false; it is of `detect` alone.")
    loaded = load_finished(Workdir(_WORKDIR.value), before="published")
    base = Path(_EXPORT_DIR.value).expanduser()
    clean = None
    if _DETECT.value:
        clean = held_out(
            loaded, data_dir=_DATA_DIR.value, false_alarms=_FALSE_ALARMS.value, progress=print
        )
    version = publish(
        loaded, base, version=_VERSION.value, clean=clean, false_alarms=_FALSE_ALARMS.value
    )
    print(f"published {version}")


if __name__ == "__main__":
    app.run(main)
