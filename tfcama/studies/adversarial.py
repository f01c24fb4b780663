"""The papers' adversarial figures of images: Figure 11, and on CIFAR-binary ICLR's Figure 12.

A discriminative network and a CAMA that saw clean images alone (on CIFAR-binary also such with
noise, objective (5)) meet FGSM and PGD, and the CAMA is fine-tuned on what was made for it. Every
attack comes twice: on cross-entropy, as CleverHans, which the papers used, has it, whose gradient
float32 rounds away where log-odds are hundreds of nats, and on the log-odds themselves.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple

import numpy as np

from tfcama.evaluation import curves, over_seeds
from tfcama.evaluation.checks import Check, together
from tfcama.evaluation.over_seeds import OverSeeds, above
from tfcama.evaluation.results import Row
from tfcama.evaluation.subject import load_spec
from tfcama.registry import Registry
from tfcama.report import labels
from tfcama.report.build import training_pictures
from tfcama.report.pictures import Picture, curve_pictures, slug
from tfcama.studies import steps
from tfcama.studies.attacked_adaptation import static_once
from tfcama.studies.side_by_side import Piece
from tfcama.studies.study import Study, of_first_seed
from tfcama.training.config import TrainingConfig
from tfcama.workdir import Workdir

CAMA = "cama"
_CLEAN = "clean"
_PAPERS = ":loss=cross_entropy"
_SLACK = 0.01  # "unchanged" accuracy on clean images


class Task(NamedTuple):
    """What the papers do on a data set.

    Attributes:
      rival: the discriminative network, a key of MODELS.
      augment: what the CAMA is trained on besides clean images; "" for nothing.
      architecture: what differs of the CAMA from its defaults.
      gain: that fine-tuning is said to bring, in [0, 1].
      clean: of all test images, by model, that the papers have; in [0, 1].
    """

    rival: str
    augment: str
    architecture: Mapping[str, str]
    gain: tuple[float, float]
    clean: Mapping[str, float]


_MNIST = Task("dnn", "", {}, (0.2, 0.4), {})
TASKS = Registry(
    "data set of this study",
    {
        "mnist": _MNIST,
        "fashion_mnist": _MNIST,
        "digits": _MNIST,
        "cifar_binary": Task(
            "cnn_binary",
            "gaussian_noise:0.1",
            {"likelihood": "l2"},  # of Li et al., whom the paper follows here
            (0.05, 0.08),
            {CAMA: 0.8885, "cnn_binary": 0.956},
        ),
    },
)


class Profile(NamedTuple):
    """How much of the study is run.

    Attributes:
      rival_epochs, cama_epochs: of training.
      steps_per_epoch: 0 for all training rows.
      attacks: on the log-odds; each is also run on CleverHans' own loss.
      radii: of the attacks.
      adapted_radii: at which the CAMA is fine-tuned on the attacked images.
      finetune_steps: of Eq. 8.
      limit: test images that are attacked and fine-tuned on; None for all.
    """

    rival_epochs: int
    cama_epochs: int
    steps_per_epoch: int
    attacks: tuple[str, ...]
    radii: tuple[float, ...]
    adapted_radii: tuple[float, ...]
    finetune_steps: int
    limit: int | None


_FULL = Profile(
    rival_epochs=20,
    cama_epochs=15,
    steps_per_epoch=0,
    attacks=("fgsm", "pgd:steps=40"),
    radii=(0.0, 0.1, 0.2, 0.3, 0.4, 0.5),
    adapted_radii=(0.1, 0.2, 0.3, 0.4, 0.5),
    finetune_steps=600,
    limit=None,
)
PROFILES = {
    "full": _FULL,
    "core": _FULL._replace(
        attacks=("fgsm", "pgd:steps=20"), adapted_radii=(0.1, 0.2, 0.3), limit=500
    ),
    "hour": _FULL._replace(
        attacks=("fgsm", "pgd:steps=20"),
        radii=(0.0, 0.1, 0.2, 0.3),
        adapted_radii=(0.1, 0.2),
        limit=100,
    ),
    "quick": Profile(
        rival_epochs=1,
        cama_epochs=1,
        steps_per_epoch=60,
        attacks=("fgsm", "pgd:steps=5"),
        radii=(0.0, 0.1, 0.3),
        adapted_radii=(0.1,),
        finetune_steps=50,
        limit=50,
    ),
}


@dataclasses.dataclass(frozen=True)
class AdversarialStudy(Study):
    """FGSM and PGD on a discriminative network and a CAMA, before and after fine-tuning."""

    PROFILES: ClassVar[Mapping[str, Profile]] = PROFILES
    default_dataset: ClassVar[str] = "mnist"

    def __post_init__(self):
        _ = self.task  # a data set that the papers say nothing of costs no work

    @property
    def title(self) -> str:
        figure = "Figure 11" if not self.task.clean else "Figure 12 (ICLR)"
        return f"FGSM and PGD on {self.dataset}: deep CAMA's {figure}"

    @property
    def task(self) -> Task:
        return TASKS[self.dataset]

    @property
    def attacks(self) -> list[str]:
        """Each on the log-odds, then on cross-entropy."""
        return [attack + loss for attack in self.profile.attacks for loss in ("", _PAPERS)]

    def pieces(self, seed: int) -> dict[str, Piece]:
        """Each model as trained, and attacked; each fine-tuning."""
        partial = functools.partial
        found = {}
        for model in (self.task.rival, CAMA):
            found[model] = Piece(partial(self._trained, model, seed))
            for attack in self.attacks:
                name = f"{model}_{slug(attack)}"
                found[name] = Piece(partial(self._attacked, model, attack, seed), (model,))
        for attack, eps in itertools.product(self.attacks, self.profile.adapted_radii):
            adapting = partial(self._adapted, attack, eps, seed)
            found[f"{CAMA}_to_{slug(attack)}_{eps:g}"] = Piece(adapting, (CAMA,))
        return found

    def _trained(self, model: str, seed: int) -> Workdir:
        cama = model == CAMA
        training = TrainingConfig(
            epochs=self.profile.cama_epochs if cama else self.profile.rival_epochs,
            steps_per_epoch=self.profile.steps_per_epoch,
            augment=self.task.augment if cama else "",
            precision=self.precision if cama else "float32",
        )
        architecture = self.task.architecture if cama else {}
        workdir = self.trained(
            model, seed, model=model, training=training, architecture=architecture
        )
        self.once(workdir, _CLEAN, lambda subject: [curves.clean(subject, _CLEAN)])
        return workdir

    def _attacked(self, model: str, attack: str, seed: int) -> Workdir:
        workdir = self._trained(model, seed)
        self.attack_once(workdir, attack, self.profile.radii, limit=self.profile.limit)
        return workdir

    def _adapted(self, attack: str, eps: float, seed: int) -> Workdir:
        cama = self._trained(CAMA, seed)
        config = steps.adaptation(cama, steps=self.profile.finetune_steps, seed=seed)
        subject = self.subject(cama).first(self.profile.limit)
        return static_once(subject, attack, eps, config, progress=self.progress)

    # --- report --------------------------------------------------------------------------------

    def pictures(
        self, rows: Sequence[Row], workdirs: Sequence[Workdir], *, chance: float
    ) -> list[Picture]:
        pictures: list[Picture] = []
        eps = labels.eps_label(load_spec(workdirs[0]))
        for attack in self.attacks:
            group = [row for row in rows if row.attack == attack]
            how = (
                "On cross-entropy, as CleverHans, which the papers used, has it."
                if attack.endswith(_PAPERS)
                else "On the log-odds, which float32 does not round away."
            )
            pictures += curve_pictures(
                f"attack_{slug(attack)}",
                group,
                axis="eps",
                xlabel=eps,
                title=f"{labels.attack_name(attack)} on {self.dataset}",
                caption=how,
                chance=chance,
            )
        return pictures + training_pictures(of_first_seed(workdirs))

    def checks(self, rows: Sequence[Row], workdirs: Sequence[Workdir]) -> dict[str, list[Check]]:
        del workdirs
        found = claims(rows, task=self.task, attacks=self.attacks)
        return {"Do the papers' claims hold?": found} if found else {}


def claims(rows: Sequence[Row], *, task: Task, attacks: Sequence[str]) -> list[Check]:
    """What the papers say of their figures, attack by attack, as far as there are rows.

    Args:
      rows: of any number of seeds.
      task: which figure.
      attacks: that were run.
    """
    curve = functools.partial(over_seeds.curve, rows, "eps")
    checks = []
    for model, papers in task.clean.items():
        for ours in curve(model=model, experiment=_CLEAN).values():
            about = f"clean: {labels.model_name(model)} has the papers' {100 * papers:g} %"
            checks.append(Check(about, ours.mean >= papers - _SLACK, f"{ours} %"))
    for attack in attacks:
        about = labels.attack_name(attack)
        cama, rival = (
            curve(model=model, experiment="attack", attack=attack) for model in (CAMA, task.rival)
        )
        adapted, after = (
            curve(model=CAMA, experiment=experiment, attack=attack)
            for experiment in ("attack_static", labels.STATIC_CLEAN)
        )
        both = [eps for eps in cama if eps and eps in rival]
        if both:
            checks.append(
                Check(
                    f"{about}: CAMA is above the {labels.model_name(task.rival)} at every eps",
                    together(above(cama[eps], rival[eps]) for eps in both),
                    _each({eps: (cama[eps], rival[eps]) for eps in both}, "against"),
                )
            )
        shared = [eps for eps in adapted if eps in cama]
        if shared:
            low, high = task.gain
            gains = [adapted[eps].mean - cama[eps].mean for eps in shared]
            checks.append(
                Check(
                    f"{about}: fine-tuning on the attacked images wins {100 * low:.0f} to "
                    f"{100 * high:.0f} points in the mean, or more",
                    float(np.mean(gains)) >= low,
                    _each({eps: (cama[eps], adapted[eps]) for eps in shared}, "to"),
                )
            )
        if after and 0.0 in cama:
            checks.append(
                Check(
                    f"{about}: fine-tuning costs clean images nothing",
                    all(value.mean >= cama[0.0].mean - _SLACK for value in after.values()),
                    _each({eps: (cama[0.0], value) for eps, value in after.items()}, "to"),
                )
            )
    return checks


def _each(pairs: Mapping[float, tuple[OverSeeds, OverSeeds]], word: str) -> str:
    """The two accuracies at every eps, in words."""
    return "; ".join(f"eps {eps:g}: {one} {word} {other} %" for eps, (one, other) in pairs.items())
