"""TRAINERS: which training step a model family takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tfcama.data import manipulations
from tfcama.errors import InputError
from tfcama.models.base import ClassifierModel
from tfcama.registry import Registry
from tfcama.training.bottleneck import CausalIbTrainer, VibTrainer
from tfcama.training.cama import CamaTrainer
from tfcama.training.ciiv import CiivTrainer
from tfcama.training.config import TrainingConfig
from tfcama.training.discriminative import DiscriminativeTrainer
from tfcama.training.trainer import Trainer

MakeTrainer = Callable[[Any, TrainingConfig, int, np.ndarray], Trainer]
"""(classifier, config, rows of the global batch, seed) -> trainer."""


def _cama(model: Any, config: TrainingConfig, num_rows: int, seed: np.ndarray) -> Trainer:
    if config.augment_m == "known" and model.dim_m < manipulations.parse(config.augment).code_size:
        raise InputError(
            f"augment_m=known was given; m has {model.dim_m} coordinates, what "
            f"{config.augment} did more. Give a larger dim_m, or take unknown."
        )
    return CamaTrainer(
        model,
        num_rows=num_rows,
        seed=seed,
        augmented=bool(config.augment),
        m_known=config.augment_m == "known",
    )


def _plain(kind: type[Trainer]) -> MakeTrainer:
    """Of a trainer that takes nothing from the configuration, of a model without M."""

    def make(
        model: ClassifierModel, config: TrainingConfig, num_rows: int, seed: np.ndarray
    ) -> Trainer:
        if config.augment_m == "known":
            raise InputError(f"augment_m=known was given; {model.name} has no m. Take unknown.")
        return kind(model, num_rows=num_rows, seed=seed)

    return make


TRAINERS: Registry[MakeTrainer] = Registry(
    "model family",
    {
        "cama": _cama,
        "discriminative": _plain(DiscriminativeTrainer),
        "vib": _plain(VibTrainer),
        "causal_ib": _plain(CausalIbTrainer),
        "ciiv": _plain(CiivTrainer),
    },
)
