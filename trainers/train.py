r"""Trains a classifier.

    python -m trainers.train --model=cama --dataset=digits --workdir=runs/digits
    python -m trainers.train --model=cama --dataset=mnist --data_dir=../shared/tfds \
        --workdir=runs/mnist --epochs=15 --seed=0 --set precision=mixed_bfloat16
    python -m trainers.train --model=dnn --dataset=mnist --workdir=runs/dnn \
        --augment=vertical_shift:0.5 --augment_weight=0.5
    python -m trainers.train --model=causal_ib --backbone=mlp --dataset=fashion_mnist \
        --workdir=runs/causal_ib --set alpha=0.05 --set beta=0.05
    python -m trainers.train --model=vib --dataset=mnist --workdir=runs/vib_at \
        --defence=adversarial:attack=pgd:eps=0.196:steps=20
    python -m trainers.train --dataset=measurement --workdir=runs/scm
    python -m trainers.train --workdir=runs/table --csv=data.csv --target=y --parents=a1,a2 \
        --children=x1,x2 --coparents=c1
    python -m trainers.train --workdir=runs/table --csv=data.csv --target=y --dag=graph.dot

A killed run continues where it was: run the same command again.
"""

from trainers import app  # isort: skip  (quiets TensorFlow before anything imports it)

from absl import flags

from tfcama.training import run
from tfcama.training.trainer import ROBUST_ACCURACY
from tfcama.workdir import Workdir
from trainers import run_flags
from trainers.shared_flags import DATA_DIR, STRATEGY, WORKDIR

_JIT = flags.DEFINE_bool(
    "jit_compile", False, "XLA for the step; slower on CPU. Example: --jit_compile"
)
_HISTOGRAMS = flags.DEFINE_bool(
    "histograms", False, "Of all variables, to TensorBoard. Example: --histograms"
)
_SHOWN = ("val_accuracy", f"val_{ROBUST_ACCURACY}")


def main() -> None:
    finished = run.train(
        run_flags.run_config(),
        Workdir(WORKDIR.value),
        data_dir=DATA_DIR.value,
        devices=run.Devices(
            strategy=STRATEGY.value, jit_compile=_JIT.value, histograms=_HISTOGRAMS.value
        ),
    )
    kept = finished.checkpoint
    found = [f"{key} {kept.logs[key]:.4f}" for key in _SHOWN if key in kept.logs]
    print(f"{WORKDIR.value}: epoch {kept.epoch} is kept, {', '.join(found)}")


if __name__ == "__main__":
    app.run(main)
