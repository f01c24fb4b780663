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

from typing import Any

from absl import flags

from tfcama import config as config_lib
from tfcama.data.datasets import DATASETS
from tfcama.errors import InputError
from tfcama.models.backbone_classifier import BackboneConfig
from tfcama.models.registry import MODELS
from tfcama.networks.backbones.registry import BACKBONES
from tfcama.training import run
from tfcama.training.config import RunConfig, TrainingConfig
from tfcama.training.defences import DEFENCES
from tfcama.workdir import Workdir
from trainers import table_flags
from trainers.shared_flags import DATA_DIR, STRATEGY, WORKDIR

_MODEL = flags.DEFINE_string(
    "model",
    None,
    f"One of {', '.join(MODELS)}; cama for images, measurement_cama for tables. "
    "Example: --model=cama",
)
_BACKBONE = flags.DEFINE_string(
    "backbone",
    None,
    f"Of classifier, vib and causal_ib, with its options: one of {', '.join(BACKBONES)}; mlp. "
    "Example: --backbone=wide_resnet:depth=28:width=10:norm=group",
)
_DATASET = flags.DEFINE_string(
    "dataset", None, f"One of {', '.join(DATASETS)}; digits, or csv with --csv. Example: mnist"
)
_EPOCHS = flags.DEFINE_integer(
    "epochs", None, "How often it is validated and saved; the data set's own. Example: --epochs=15"
)
_SEED = flags.DEFINE_integer("seed", 0, "Decides every random draw. Example: --seed=0")
_AUGMENT = flags.DEFINE_string(
    "augment",
    "",
    "Also train on manipulated copies (Eq. 5). Example: --augment=vertical_shift:0.5",
)
_AUGMENT_WEIGHT = flags.DEFINE_float(
    "augment_weight", 0.5, "Their weight, 1 - lambda. Example: --augment_weight=0.5"
)
_DEFENCE = flags.DEFINE_string(
    "defence",
    "",
    f"What hardens the training step: one of {', '.join(DEFENCES)}, with its options. "
    "Example: --defence=adversarial:attack=pgd:eps=0.196:steps=20",
)
_JIT = flags.DEFINE_bool(
    "jit_compile", False, "XLA for the step; slower on CPU. Example: --jit_compile"
)
_HISTOGRAMS = flags.DEFINE_bool(
    "histograms", False, "Of all variables, to TensorBoard. Example: --histograms"
)
_SET = flags.DEFINE_multi_string(
    "set", [], "Any other key of config.json. Example: --set dim_z=32 --set batch_size=64"
)


def main() -> None:
    dataset = table_flags.dataset_name(_DATASET.value)
    made = DATASETS[dataset]
    model = _MODEL.value or {"image": "cama", "table": "measurement_cama"}[made.kind]
    config = RunConfig(
        model=model,
        dataset=dataset,
        seed=_SEED.value,
        architecture=_architecture(model),
        training=TrainingConfig(
            epochs=made.epochs if _EPOCHS.value is None else _EPOCHS.value,
            steps_per_epoch=made.steps_per_epoch,
            augment=_AUGMENT.value,
            augment_weight=_AUGMENT_WEIGHT.value,
            defence=_DEFENCE.value,
        ),
        data=table_flags.data_config(dataset),
    )
    config = config_lib.override(config, _SET.value)
    finished = run.train(
        config,
        Workdir(WORKDIR.value),
        data_dir=DATA_DIR.value,
        devices=run.Devices(
            strategy=STRATEGY.value, jit_compile=_JIT.value, histograms=_HISTOGRAMS.value
        ),
    )
    accuracy, epoch = finished.checkpoint.score[0], finished.checkpoint.epoch
    print(f"{WORKDIR.value}: best epoch {epoch}, validation accuracy {accuracy:.4f}")


def _architecture(model: str) -> Any:
    """The model's own configuration, with the backbone that was named."""
    config_class = MODELS[model].config_class
    if _BACKBONE.value is None:
        return config_class()
    if not issubclass(config_class, BackboneConfig):
        raise InputError(
            f"--backbone={_BACKBONE.value} was given; {model} has networks of its own. "
            "classifier, vib and causal_ib take one."
        )
    return config_class(backbone=_BACKBONE.value)


if __name__ == "__main__":
    app.run(main)
