"""What CausalIB's Tables 1 and 2 compare: data sets, methods, attacks, and the paper's numbers.

Networks, optimiser and attacks are the authors': for MNIST and Fashion-MNIST mlp, Adam 1e-4,
batches of 100, eps 50/255, PGD of 20 steps of 0.01; for CIFAR-10 AlexNet and eps 8/255 (of steps,
learning rate and augmentation the paper says nothing: ours are 2/255, 1e-3 with a cosine, crops and
flips). Losses are on logits.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from importlib import resources
from typing import Any, NamedTuple

from tfcama.training.checkpoints import BEST, LAST
from tfcama.training.config import TrainingConfig
from tfcama.training.defences import DEFENCES, AttackingDefence


class Attack(NamedTuple):
    """A column of the table.

    Attributes:
      spec: see `attacks.registry.parse`.
      label: for people.
      eps: the radius.
      few: it costs so much that profiles attack fewer images.
    """

    spec: str
    label: str
    eps: float
    few: bool = False


CLEAN = "clean"
FGSM, PGD, FGSM_HALF, PGD_HALF = "fgsm", "pgd20", "fgsm_half", "pgd20_half"
STRONGEST = "pgd100_eot10"  # of those that are run on all attacked images


@dataclasses.dataclass(frozen=True)
class Setting:
    """What the paper does on a data set.

    Attributes:
      table: the paper's, a key of causalib.json; "" where it has none.
      columns: column -> that table's.
      fraction: the radius in words.
      eps: the radius, max norm, of inputs in [0, 1].
      step_size: of PGD-20.
      plain: architecture of models without a bottleneck.
      bottleneck: architecture of models with one.
      training: of all, over TrainingConfig's defaults.
    """

    table: str
    columns: Mapping[str, str]
    fraction: str
    eps: float
    step_size: float
    plain: Mapping[str, Any]
    bottleneck: Mapping[str, Any]
    training: Mapping[str, Any]

    @property
    def attacks(self) -> dict[str, Attack]:
        """Column -> attack: the paper's two, the same at half the radius, then what we ask."""
        step, half = f"step_size={self.step_size:g}", f"step_size={self.step_size / 2:g}"
        return {
            FGSM: Attack("fgsm", "FGSM", self.eps),
            PGD: Attack(f"pgd:steps=20:{step}", "PGD-20", self.eps),
            FGSM_HALF: Attack("fgsm", "FGSM, half eps", self.eps / 2),
            PGD_HALF: Attack(f"pgd:steps=20:{half}", "PGD-20, half eps", self.eps / 2),
            "fgsm_double_softmax": Attack(
                "fgsm:loss=double_softmax", "FGSM, double softmax", self.eps
            ),
            "pgd20_double_softmax": Attack(
                f"pgd:steps=20:{step}:loss=double_softmax", "PGD-20, double softmax", self.eps
            ),
            "pgd20_eot1": Attack("pgd_eot:steps=20:draws=1", "PGD-20, EOT 1", self.eps),
            "pgd20_eot20": Attack("pgd_eot:steps=20:draws=20", "PGD-20, EOT 20", self.eps),
            STRONGEST: Attack("pgd_eot:steps=100:draws=10", "PGD-100, EOT 10", self.eps),
            "pgd100_eot20_10_starts": Attack(
                "pgd_eot:steps=100:draws=20:restarts=10",
                "PGD-100, EOT 20, 10 starts",
                self.eps,
                few=True,
            ),
        }

    def training_of(self, method: Method) -> dict[str, Any]:
        """How a method is trained, for TrainingConfig.

        By the last epoch, as the paper trains 50 and says no more: the best by clean validation
        accuracy, flat since the twentieth, is any of thirty, and accuracy under attack rises all
        the while. Where training attacks, by the epoch that resists best on validation rows.
        """
        step = f"step_size={self.step_size:g}"
        defence = method.defence.format(ball=f"eps={self.eps:.6f}", step=step)
        return {**self.training, "defence": defence, "keep": BEST if method.attacks else LAST}

    def column(self, attack: str, eps: float) -> str | None:
        """Which column an accuracy belongs to; None for an attack that the table has not."""
        if not attack:
            return CLEAN
        return next(
            (
                column
                for column, known in self.attacks.items()
                if known.spec == attack and math.isclose(known.eps, eps)
            ),
            None,
        )


def _columns(prefix: str, attacks: str) -> dict[str, str]:
    """Which of the paper's columns is which of ours; its radius is on [0, 1], as its code says."""
    return {CLEAN: f"{prefix}clean", FGSM: f"{attacks}fgsm", PGD: f"{attacks}pgd20"}


_MLP = Setting(
    table="",
    columns={},
    fraction="50/255",
    eps=50 / 255,
    step_size=0.01,
    plain={"hidden": 256},
    bottleneck={},
    training={"learning_rate": 1e-4, "schedule": "constant", "batch_size": 100},
)
SETTINGS = {
    "mnist": dataclasses.replace(_MLP, table="table1", columns=_columns("mnist_", "mnist_")),
    "fashion_mnist": dataclasses.replace(
        _MLP, table="table1", columns=_columns("fashion_", "fashion_")
    ),
    "cifar10": Setting(
        table="table2",
        columns=_columns("", "white_"),
        fraction="8/255",
        eps=8 / 255,
        step_size=2 / 255,
        plain={"backbone": "alexnet"},
        bottleneck={"backbone": "alexnet"},
        training={"transform": "crop:pixels=4+flip", "batch_size": 100},
    ),
}


def setting(dataset: str) -> Setting:
    """The paper's for the data set; Table 1's, without its numbers, for one that it has not."""
    return SETTINGS.get(dataset, _MLP)


class Method(NamedTuple):
    """A row of the table.

    Attributes:
      label: for people.
      model: a key of MODELS.
      bottleneck: what differs from the model's defaults; None for models without a bottleneck.
      defence: of training, see DEFENCES, {ball} and {step} for the setting's; "" for none.
      smoothed: answers are means over noisy copies.
      costly: training takes many times as long; profiles give it epochs of its own.
      many: an answer is itself a mean over some thirty; profiles attack fewer images.
    """

    label: str
    model: str
    bottleneck: Mapping[str, Any] | None = None
    defence: str = ""
    smoothed: bool = False
    costly: bool = False
    many: bool = False

    @property
    def attacks(self) -> bool:
        """Whether training attacks its own inputs."""
        name = self.defence.partition(":")[0]
        return name in DEFENCES and issubclass(DEFENCES[name], AttackingDefence)

    def architecture(self, where: Setting) -> dict[str, Any]:
        """What differs from the model's defaults on a data set."""
        if self.bottleneck is None:
            return dict(where.plain)
        return {**where.bottleneck, **self.bottleneck}


_VIB = {"alpha": 0.01, "unit": "bits"}
_CAUSAL = {"alpha": 0.05, "beta": 0.05, "unit": "bits"}
_VIB_LIKE_CAUSAL = {**_VIB, "alpha": _CAUSAL["alpha"]}  # CausalIB without its regulariser
_PGD_TRAINING = "adversarial:attack=pgd:{ball}:steps=20:{step}"
_RAMPED_TRAINING = f"{_PGD_TRAINING}:ramp=1000"  # a bottleneck does not start to learn without

METHODS = {
    "baseline": Method("no defence", "classifier"),
    "mixup": Method("mixup", "classifier", defence="mixup:alpha=1"),
    "randomized_smoothing": Method(
        "randomized smoothing", "classifier", defence="noise:sigma=0.25", smoothed=True, many=True
    ),
    "vib": Method("VIB", "vib", _VIB),
    "vib_same_alpha": Method("VIB, CausalIB's alpha", "vib", _VIB_LIKE_CAUSAL),
    "causal_ib": Method("CausalIB", "causal_ib", _CAUSAL),
    "at_fgsm": Method("AT (FGSM)", "classifier", defence="adversarial:attack=fgsm:{ball}"),
    "at_pgd20": Method("AT (PGD-20)", "classifier", defence=_PGD_TRAINING, costly=True),
    "trades": Method("TRADES", "classifier", defence="trades:beta=6:{ball}:steps=10", costly=True),
    "vib_at_pgd20": Method("VIB + AT (PGD-20)", "vib", _VIB, _RAMPED_TRAINING, costly=True),
    "causal_ib_at_pgd20": Method(
        "CausalIB + AT (PGD-20)", "causal_ib", _CAUSAL, _RAMPED_TRAINING, costly=True
    ),
    "ciiv": Method("CiiV", "ciiv", {}, costly=True, many=True),
}


def run_of(
    name: str,
    dataset: str,
    *,
    epochs: int,
    costly_epochs: int,
    steps_per_epoch: int,
    precision: str = "float32",
) -> dict[str, Any]:
    """How a method is trained on a data set, as `Study.trained` takes it.

    Args:
      name: a key of METHODS.
      dataset: a key of DATASETS.
      epochs: of training.
      costly_epochs: the same of methods that are costly.
      steps_per_epoch: 0 for all training rows.
      precision: see TrainingConfig.
    """
    method, where = METHODS[name], setting(dataset)
    return {
        "model": method.model,
        "architecture": method.architecture(where),
        "training": TrainingConfig(
            epochs=costly_epochs if method.costly else epochs,
            steps_per_epoch=steps_per_epoch,
            precision=precision,
            **where.training_of(method),
        ),
    }


def published(name: str, dataset: str) -> dict[str, float]:
    """The paper's numbers for a method, by column, in [0, 1]; empty where it has none."""
    where = setting(dataset)
    text = resources.files("tfcama.studies").joinpath("causalib.json").read_text()
    row = json.loads(text).get(where.table, {"rows": {}})["rows"].get(name, {})
    found = {ours: row.get(theirs) for ours, theirs in where.columns.items()}
    return {column: cell["mean"] / 100 for column, cell in found.items() if cell is not None}


ATTACKS = tuple(_MLP.attacks)
"""Columns beside CLEAN; the first two are the paper's, the last is the strong protocol's."""


def label(column: str) -> str:
    """A column, for people."""
    return column if column == CLEAN else _MLP.attacks[column].label
