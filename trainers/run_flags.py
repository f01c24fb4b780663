r"""Flags that say what is trained and how: those of `trainers.train` and `trainers.sweep`."""

from typing import Any

from absl import flags

from tfcama import config as config_lib
from tfcama.data.datasets import DATASETS
from tfcama.data.transforms import TRANSFORMS
from tfcama.errors import InputError
from tfcama.models.backbone_classifier import BackboneConfig
from tfcama.models.registry import MODELS
from tfcama.networks.backbones.registry import BACKBONES
from tfcama.training.config import RunConfig, TrainingConfig
from tfcama.training.defences import DEFENCES
from trainers import table_flags

_ON_BACKBONES = [
    name for name, entry in MODELS.items() if issubclass(entry.config_class, BackboneConfig)
]

_MODEL = flags.DEFINE_string(
    "model",
    None,
    f"One of {', '.join(MODELS)}; cama for images, measurement_cama for tables. "
    "Example: --model=cama",
)
_BACKBONE = flags.DEFINE_string(
    "backbone",
    None,
    f"Of {', '.join(_ON_BACKBONES)}, with its options: one of {', '.join(BACKBONES)}; mlp. "
    "Example: --backbone=wide_resnet:depth=28:width=10:norm=group",
)
_DATASET = flags.DEFINE_string(
    "dataset", None, f"One of {', '.join(DATASETS)}; digits, or csv with --csv. Example: mnist"
)
_EPOCHS = flags.DEFINE_integer(
    "epochs", None, "How often it is validated and saved; the data set's own. Example: --epochs=15"
)
_SEED = flags.DEFINE_integer("seed", 0, "Decides every random draw. Example: --seed=0")
_TRANSFORM = flags.DEFINE_string(
    "transform",
    "",
    f"What clean training images go through: of {', '.join(TRANSFORMS)}, joined by +. "
    "Example: --transform=crop:pixels=4+flip",
)
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
_SET = flags.DEFINE_multi_string(
    "set", [], "Any other key of config.json. Example: --set dim_z=32 --set batch_size=64"
)


def run_config() -> RunConfig:
    """The run that the flags ask for.

    Raises:
      InputError: unknown names or keys, values out of range, flags that do not go together.
    """
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
            transform=_TRANSFORM.value,
            augment=_AUGMENT.value,
            augment_weight=_AUGMENT_WEIGHT.value,
            defence=_DEFENCE.value,
        ),
        data=table_flags.data_config(dataset),
    )
    return config_lib.override(config, _SET.value)


def _architecture(model: str) -> Any:
    """The model's own configuration, with the backbone that was named."""
    config_class = MODELS[model].config_class
    if _BACKBONE.value is None:
        return config_class()
    if not issubclass(config_class, BackboneConfig):
        raise InputError(
            f"--backbone={_BACKBONE.value} was given; {model} has networks of its own. "
            f"Models that take one: {', '.join(_ON_BACKBONES)}."
        )
    return config_class(backbone=_BACKBONE.value)
