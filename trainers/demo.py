r"""Trains a DNN and a CAMA, adapts, attacks, explains and exports them, and writes one report.

    python -m trainers.demo --workdir=runs/demo
    python -m trainers.demo --workdir=runs/demo_mnist --dataset=mnist --epochs=15 \
        --data_dir=../shared/tfds

With the default, the handwritten digits inside scikit-learn, it takes minutes and downloads
nothing. Stopped half-way, it continues when run again.
"""

from trainers import app  # isort: skip  (quiets TensorFlow before anything imports it)

from pathlib import Path

from absl import flags

from tfcama.studies.demo import demo
from trainers.shared_flags import DATA_DIR, WORKDIR

_DATASET = flags.DEFINE_string("dataset", "digits", "An image data set. Example: --dataset=mnist")
_EPOCHS = flags.DEFINE_integer("epochs", 60, "Of both models. Example: --epochs=15")
_SEED = flags.DEFINE_integer("seed", 0, "Decides every random draw. Example: --seed=0")


def main() -> None:
    page = demo(
        Path(WORKDIR.value).expanduser(),
        dataset=_DATASET.value,
        data_dir=DATA_DIR.value,
        seed=_SEED.value,
        epochs=_EPOCHS.value,
        progress=print,
    )
    print(f"report: {page}")


if __name__ == "__main__":
    app.run(main)
