r"""Trains a DNN and a CAMA, adapts, attacks, explains and exports them, and writes one report.

    python -m trainers.demo --workdir=runs/demo
    python -m trainers.demo --workdir=runs/demo_mnist --dataset=mnist --epochs=15 \
        --data_dir=../shared/tfds
    python -m trainers.demo --workdir=runs/demo_tables --dataset=measurement

With the default, the handwritten digits inside scikit-learn, it takes minutes and downloads
nothing. Stopped half-way, it continues when run again.
"""

from trainers import app  # isort: skip  (quiets TensorFlow before anything imports it)

from pathlib import Path

from absl import flags

from tfcama.data.datasets import DATASETS
from tfcama.studies.demo import demo
from trainers import table_flags
from trainers.shared_flags import DATA_DIR, WORKDIR

_DATASET = flags.DEFINE_string(
    "dataset", None, f"One of {', '.join(DATASETS)}; digits, or csv with --csv. Example: mnist"
)
_EPOCHS = flags.DEFINE_integer("epochs", None, "The data set's own. Example: --epochs=15")
_SEED = flags.DEFINE_integer("seed", 0, "Decides every random draw. Example: --seed=0")


def main() -> None:
    dataset = table_flags.dataset_name(_DATASET.value)
    page = demo(
        Path(WORKDIR.value).expanduser(),
        dataset=dataset,
        data=table_flags.data_config(dataset),
        data_dir=DATA_DIR.value,
        seed=_SEED.value,
        epochs=_EPOCHS.value,
        progress=print,
    )
    print(f"report: {page}")


if __name__ == "__main__":
    app.run(main)
