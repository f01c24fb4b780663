"""One of two machines in test_strategies, or without TF_CONFIG the only one: trains a CAMA."""

import json
import os
import sys
from pathlib import Path

import numpy as np

from tfcama.data import datasets
from tfcama.models.cama import CamaConfig
from tfcama.training import run
from tfcama.training.config import RunConfig, TrainingConfig
from tfcama.workdir import Workdir


def main(root: Path) -> None:
    task = os.environ.get("TF_CONFIG")

    def few_digits(config, *, data_dir):
        digits = datasets.load("digits")
        train, validation = digits.train.take(slice(48)), digits.validation.take(slice(12))
        return digits._replace(train=train, validation=validation)

    run.load_data = few_digits
    config = RunConfig(
        model="cama",
        dataset="digits",
        seed=0,
        architecture=CamaConfig(num_samples=1),
        training=TrainingConfig(epochs=2, batch_size=16),
    )
    if task is None:
        run.train(config, Workdir(root / "alone"))
        return
    loaded = run.train(config, Workdir(root / "run"), devices=run.Devices(strategy="multi_worker"))
    index = json.loads(task)["task"]["index"]
    np.savez(root / f"weights{index}.npz", *[np.asarray(v) for v in loaded.classifier.variables])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
