"""Adaptation when the inputs that are adapted to come from an attacker."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from tfcama.attacks import registry
from tfcama.attacks.base import Attack
from tfcama.errors import InputError
from tfcama.evaluation import results, robustness
from tfcama.evaluation.results import Row
from tfcama.evaluation.subject import Subject
from tfcama.evaluation.unfinished import Keep, made_anew
from tfcama.studies.steps import Progress, finetuned_workdir
from tfcama.training.config import FinetuneConfig, check_free
from tfcama.training.finetune import adapted_config, finetune, is_finished, row_order
from tfcama.workdir import Workdir

_SCORED = ("attack_static", "attack_adaptive", "attack_malicious")  # whatever it was adapted to


def adapted_runs(base: Workdir) -> list[Workdir]:
    """The runs that were adapted to attacked inputs of `base`, of all that were adapted."""
    scored = [
        p for name in _SCORED for p in base.root.glob(f"finetuned/*/results/{name}.rows.json")
    ]
    return [Workdir(root) for root in sorted({path.parent.parent for path in scored})]


def malicious_rows(share: float, size: int) -> int:
    """How many of so many inputs are attacked; at least one is.

    Raises:
      InputError: the share is not in (0, 1), or leaves no benign input.
    """
    count = max(1, round(share * size)) if 0.0 < share < 1.0 else size
    if count == size:
        raise InputError(
            f"a malicious share of {share:g} of {size} inputs was asked for; it must be in "
            "(0, 1) and leave benign ones."
        )
    return count


def static_once(
    subject: Subject, attack: str, eps: float, config: FinetuneConfig, *, progress: Progress
) -> Workdir:
    """Attacks a run and adapts it to all that came of it, unless that was done before.

    Args:
      subject: see AttackedAdaptation.
      attack: likewise.
      eps: likewise.
      config: likewise.
      progress: likewise.

    Returns:
      The adapted run, with the rows of `AttackedAdaptation.static`.
    """
    clean = subject.test.x  # as many as will be attacked
    adaptation = AttackedAdaptation(subject, attack, eps, config, clean, progress)
    workdir, finetuning = adaptation.planned()
    if not (is_finished(workdir, finetuning) and results.has_rows(workdir, "attack_static")):
        attacked = robustness.craft(subject, registry.parse(attack, eps=eps)).x
        dataclasses.replace(adaptation, adversarial=attacked).static()
    return workdir


@dataclasses.dataclass(frozen=True)
class AttackedAdaptation:
    """A CAMA that adapts to attacked inputs; every adapted model is a run with rows of its own.

    Attributes:
      subject: a finished run of a CAMA.
      attack: see `attacks.registry.parse`.
      eps: radius.
      config: how to adapt; fraction and subject are set here.
      adversarial: the attacked inputs, made for the subject or another run.
      progress: called with lines of text.
      source: the name of that other run's Subject; "" for the subject's own.
      keep: what `adaptive` crafted, where an earlier call was interrupted.
    """

    subject: Subject
    attack: str
    eps: float
    config: FinetuneConfig
    adversarial: np.ndarray
    progress: Progress
    source: str = ""
    keep: Keep = made_anew

    def static(self) -> tuple[Subject, Row]:
        """The papers' way to defend: attack the model, adapt to all attacked inputs, score those.

        The attacker does not know of the adaptation ("static"). Rows of the adapted model:
        "attack_static" on the attacked inputs and "attack_static_clean" on the clean ones.

        Returns:
          The adapted model, and its row on the attacked inputs.
        """
        adapted = self._adapted(self.adversarial, self._name)
        attacked = self._row(adapted, self.adversarial, "attack_static", self._attack)
        clean = self._row(adapted, self.subject.test.x, "attack_static_clean", self._attack)
        results.save_rows(adapted.workdir, "attack_static", [attacked, clean])
        self.progress(
            f"{self._name}, adapted: attacked {attacked.accuracy:.4f}, clean {clean.accuracy:.4f}"
        )
        return adapted, attacked

    def adaptive(self, rounds: int) -> float:
        """An attacker who knows of the adaptation and re-runs it ("adaptive").

        Attack and adaptation take turns: a round attacks the model that was adapted to the round
        before, and the trained model is adapted anew to what that gave; round 0 is `static`. Rows
        of a round's model: "attack_adaptive" on what it was adapted to, "attack_adaptive_clean" on
        the clean inputs, and "attack" on what was then made for it, its weights frozen.

        Args:
          rounds: at least 1.

        Returns:
          The accuracy, in [0, 1], of the round that the attacker would choose, 0 among them, by
          other draws of a stochastic model's noise than those that score it.

        Raises:
          InputError: rounds is less than 1.
        """
        if rounds < 1:
            raise InputError(f"{rounds} adaptive rounds were asked for; it must be 1 or more.")
        adapted, attacked = self.static()
        found = [(self._judged(adapted, self.adversarial), attacked.accuracy)]
        for number in range(1, rounds + 1):
            x = self.keep(f"made on {adapted.workdir.root.name}", self._crafting(adapted))
            frozen = self._row(adapted, x, "attack", self.attack)
            results.save_rows(adapted.workdir, "attack_after", [frozen])
            name = f"{self._name} round {number}"
            adapted = self._adapted(x, name)
            row = self._row(adapted, x, "attack_adaptive", self.attack)
            clean = self._row(adapted, self.subject.test.x, "attack_adaptive_clean", self.attack)
            results.save_rows(adapted.workdir, "attack_adaptive", [row, clean])
            found.append((self._judged(adapted, x), row.accuracy))
            self.progress(
                f"{name}: {frozen.accuracy:.4f} before it is adapted to, {row.accuracy:.4f} after, "
                f"clean {clean.accuracy:.4f}"
            )
        worst = int(np.argmin([judged for judged, _ in found]))
        _, accuracy = found[worst]
        self.progress(f"{self._name}, adaptive: {accuracy:.4f}, of round {worst}")
        return accuracy

    def malicious(self, share: float) -> None:
        """What attacked inputs among those that are adapted to do to the benign ones beside them.

        Rows of the adapted model: "attack_malicious" on the attacked inputs of the batch and
        "attack_malicious_benign" on the others, which are clean.

        Args:
          share: of the inputs that are attacked, in (0, 1); at least one is.

        Raises:
          InputError: the share is out of range, or leaves no benign input.
        """
        size = len(self.adversarial)
        count = malicious_rows(share, size)
        order = row_order(size, self.config)
        malicious, benign = np.sort(order[:count]), np.sort(order[count:])
        batch = np.array(self.subject.test.x)
        batch[malicious] = self.adversarial[malicious]
        name = self._malicious_name(share)
        adapted = self._adapted(batch, name)
        before, after = self._hits(self.subject, batch), self._hits(adapted, batch)
        rows = [
            results.scored(
                after[:, chosen], **adapted.identity(experiment, attack=self._attack, eps=eps)
            )
            for experiment, chosen, eps in (
                ("attack_malicious", malicious, self.eps),
                ("attack_malicious_benign", benign, 0.0),
            )
        ]
        results.save_rows(adapted.workdir, "attack_malicious", rows)
        self.progress(
            f"{name}, adapted: benign {before[:, benign].mean():.4f} before, "
            f"{rows[1].accuracy:.4f} after; attacked {before[:, malicious].mean():.4f} before, "
            f"{rows[0].accuracy:.4f} after"
        )

    def check(self, *, share: float = 0.0) -> None:
        """Refuses before anything is attacked what could not be adapted afterwards.

        Args:
          share: see `malicious`; 0 for `static` and `adaptive`.

        Raises:
          InputError: the share is out of range, or it was adapted otherwise before.
        """
        name = self._name
        if share:
            malicious_rows(share, len(self.adversarial))
            name = self._malicious_name(share)
        workdir, config = self.planned(name)
        check_free(workdir, adapted_config(self.subject.loaded, config))

    def _malicious_name(self, share: float) -> str:
        return f"{share:g} of {self._name}"

    def _crafting(self, subject: Subject) -> Callable[[], np.ndarray]:
        return lambda: robustness.craft(subject, self._made).x

    @property
    def _attack(self) -> str:
        return f"{self.attack} from {self.source}" if self.source else self.attack

    @property
    def _name(self) -> str:
        return f"{self._attack} eps {self.eps:g}"

    @property
    def _made(self) -> Attack:
        return registry.parse(self.attack, eps=self.eps)

    def planned(self, name: str = "") -> tuple[Workdir, FinetuneConfig]:
        """Where and how the subject's model is adapted to inputs of that name, `static`'s or so."""
        name = name or self._name
        size = len(self.adversarial)
        if size < len(self.subject.dataset.test):
            name += f" on {size} inputs"  # another number is another run
        config = dataclasses.replace(self.config, fraction=1.0, subject=name)
        return finetuned_workdir(self.subject.workdir, config), config

    def _adapted(self, unlabelled: np.ndarray, name: str) -> Subject:
        """The subject's model, adapted to these inputs, as a run of that name."""
        base, (workdir, config) = self.subject, self.planned(name)
        loaded = finetune(
            base.workdir, workdir, config, clean=base.dataset.train, unlabelled=unlabelled
        )
        return dataclasses.replace(base, workdir=workdir, loaded=loaded)

    @property
    def _draws(self) -> int:
        """That score what was attacked."""
        return robustness.SCORING_DRAWS if self.source else robustness.scoring_draws(self._made)

    def _hits(self, subject: Subject, x: np.ndarray) -> np.ndarray:
        return robustness.attacked_hits(subject, x, draws=self._draws)

    def _judged(self, subject: Subject, x: np.ndarray) -> float:
        """The accuracy that an attacker sees, by draws that do not score; if there are any."""
        hits = subject.predictor.hits(
            x, subject.test.y, draws=robustness.SCORING_DRAWS, first=self._draws
        )
        return float(hits.mean())

    def _row(self, adapted: Subject, x: np.ndarray, experiment: str, attack: str) -> Row:
        identity = adapted.identity(experiment, attack=attack, eps=self.eps)
        return results.scored(self._hits(adapted, x), **identity)
