"""MODELS: every model by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from tfcama.models.backbone_classifier import BackboneClassifier, ClassifierConfig
from tfcama.models.base import ClassifierModel
from tfcama.models.batch_norm_classifier import cnn_bn
from tfcama.models.cama import Cama, CamaConfig
from tfcama.models.causal_ib import CausalIb, CausalIbConfig
from tfcama.models.ciiv import Ciiv, CiivConfig
from tfcama.models.discriminative import (
    DiscriminativeConfig,
    cnn,
    cnn_binary,
    dnn,
    dnn_large,
    measurement_dnn,
)
from tfcama.models.measurement_cama import MeasurementCama, MeasurementCamaConfig
from tfcama.models.stn_cnn import stn_cnn
from tfcama.models.vib import Vib, VibConfig
from tfcama.registry import Registry
from tfcama.types import InputSpec


class ModelEntry(NamedTuple):
    """How to make a model.

    Attributes:
      build: (spec, config) -> model, its variables created.
      config_class: dataclass of the model's own choices.
      family: which training step it takes, a key of training's TRAINERS.
    """

    build: Callable[[InputSpec, Any], ClassifierModel]
    config_class: type
    family: str


MODELS: Registry[ModelEntry] = Registry(
    "model",
    {
        "cama": ModelEntry(Cama, CamaConfig, "cama"),
        "measurement_cama": ModelEntry(MeasurementCama, MeasurementCamaConfig, "cama"),
        "measurement_dnn": ModelEntry(measurement_dnn, DiscriminativeConfig, "discriminative"),
        "dnn": ModelEntry(dnn, DiscriminativeConfig, "discriminative"),
        "dnn_large": ModelEntry(dnn_large, DiscriminativeConfig, "discriminative"),
        "cnn": ModelEntry(cnn, DiscriminativeConfig, "discriminative"),
        "cnn_bn": ModelEntry(cnn_bn, DiscriminativeConfig, "discriminative"),
        "stn_cnn": ModelEntry(stn_cnn, DiscriminativeConfig, "discriminative"),
        "cnn_binary": ModelEntry(cnn_binary, DiscriminativeConfig, "discriminative"),
        "classifier": ModelEntry(BackboneClassifier, ClassifierConfig, "discriminative"),
        "vib": ModelEntry(Vib, VibConfig, "vib"),
        "causal_ib": ModelEntry(CausalIb, CausalIbConfig, "causal_ib"),
        "ciiv": ModelEntry(Ciiv, CiivConfig, "ciiv"),
    },
)
