"""Adaptation when the inputs that are adapted to come from an attacker (EVALUATION.md)."""

from __future__ import annotations

import dataclasses

import numpy as np

from tfcama.attacks import registry
from tfcama.errors import InputError
from tfcama.evaluation import results, robustness
from tfcama.evaluation.results import Row
from tfcama.evaluation.subject import Subject
from tfcama.studies.steps import Progress, finetuned_workdir
from tfcama.training.config import FinetuneConfig
from tfcama.training.finetune import finetune, row_order


def static_finetuning(
    subject: Subject,
    attack: str,
    eps: float,
    config: FinetuneConfig,
    *,
    adversarial: np.ndarray,
    progress: Progress,
) -> Subject:
    """The papers' way to defend: attack the model, adapt it on all attacked inputs, score those.

    The attacker does not know of the adaptation (EVALUATION.md's "static"). Rows of the adapted
    model: "attack_static" on the attacked inputs and "attack_static_clean" on the clean ones.

    Args:
      subject: a finished run of a CAMA.
      attack: see `attacks.registry.parse`.
      eps: radius.
      config: how to adapt; fraction and subject are set here.
      adversarial: the attacked inputs, see `attack`.
      progress: called with a line at the end.

    Returns:
      The adapted model.
    """
    name = f"{attack} eps {eps:g}"
    adapted = _adapted(subject, adversarial, config, name=name)
    of_attacked, of_clean = (
        _attacked_row(adapted, x, experiment, attack, eps)
        for experiment, x in (
            ("attack_static", adversarial),
            ("attack_static_clean", subject.test.x),
        )
    )
    results.save_rows(adapted.workdir, "attack_static", [of_attacked, of_clean])
    progress(f"{name}, adapted: attacked {of_attacked.accuracy:.4f}, clean {of_clean.accuracy:.4f}")
    return adapted


def adaptive_attack(
    subject: Subject,
    attack: str,
    eps: float,
    config: FinetuneConfig,
    *,
    adversarial: np.ndarray,
    rounds: int,
    progress: Progress,
) -> float:
    """An attacker who knows of the adaptation and re-runs it (EVALUATION.md's "adaptive").

    Attack and adaptation take turns: a round attacks the model that was adapted to the round
    before, and the trained model is adapted anew to what that gave; round 0 is
    `static_finetuning`. Rows of a round's model: "attack_adaptive" on what it was adapted to, and
    "attack" on what was then made for it, its weights frozen.

    Args:
      subject: a finished run of a CAMA.
      attack: see `attacks.registry.parse`.
      eps: radius.
      config: how to adapt; fraction and subject are set here.
      adversarial: the attacked inputs, made for the subject.
      rounds: at least 1.
      progress: called with a line a round and a line at the end.

    Returns:
      The accuracy, in [0, 1], of the round that the attacker would choose, 0 among them.

    Raises:
      InputError: rounds is less than 1.
    """
    if rounds < 1:
        raise InputError(f"{rounds} adaptive rounds were asked for; it must be 1 or more.")
    made = registry.parse(attack, eps=eps)
    adapted = static_finetuning(
        subject, attack, eps, config, adversarial=adversarial, progress=progress
    )
    found = [_attacked_row(adapted, adversarial, "attack_adaptive", attack, eps).accuracy]
    for number in range(1, rounds + 1):
        x = robustness.craft(adapted, made).x
        frozen = _attacked_row(adapted, x, "attack", attack, eps)
        results.save_rows(adapted.workdir, "attack_after", [frozen])
        name = f"{attack} eps {eps:g} round {number}"
        adapted = _adapted(subject, x, config, name=name)
        row = _attacked_row(adapted, x, "attack_adaptive", attack, eps)
        results.save_rows(adapted.workdir, "attack_adaptive", [row])
        found.append(row.accuracy)
        progress(f"{name}: {frozen.accuracy:.4f} before it is adapted to, {row.accuracy:.4f} after")
    worst = int(np.argmin(found))
    progress(f"{attack} eps {eps:g}, adaptive: {found[worst]:.4f}, of round {worst}")
    return found[worst]


def malicious_inputs(
    subject: Subject,
    attack: str,
    eps: float,
    config: FinetuneConfig,
    *,
    adversarial: np.ndarray,
    share: float,
    progress: Progress,
) -> Subject:
    """What attacked inputs among those that are adapted to do to the benign ones beside them.

    Rows of the adapted model: "attack_malicious" on the attacked inputs of the batch and
    "attack_malicious_benign" on the others, which are clean.

    Args:
      subject: a finished run of a CAMA.
      attack: see `attacks.registry.parse`.
      eps: radius.
      config: how to adapt; fraction and subject are set here.
      adversarial: the attacked inputs, made for the subject.
      share: of the inputs that are attacked, in (0, 1); at least one is.
      progress: called with a line at the end.

    Returns:
      The adapted model.

    Raises:
      InputError: the share is out of range, or leaves no benign input.
    """
    count = max(1, round(share * len(adversarial)))
    if not 0.0 < share < 1.0 or count == len(adversarial):
        raise InputError(
            f"a malicious share of {share:g} of {len(adversarial)} inputs was asked for; it must "
            "be in (0, 1) and leave benign ones."
        )
    order = row_order(len(adversarial), config)
    malicious, benign = np.sort(order[:count]), np.sort(order[count:])
    batch = np.array(subject.test.x)
    batch[malicious] = adversarial[malicious]
    name = f"{share:g} of {attack} eps {eps:g}"
    adapted = _adapted(subject, batch, config, name=name)
    draws = robustness.scoring_draws(registry.parse(attack, eps=eps))
    before = robustness.attacked_hits(subject, batch, draws=draws)
    after = robustness.attacked_hits(adapted, batch, draws=draws)
    rows = [
        results.scored(after[:, chosen], **adapted.identity(experiment, attack=attack, eps=radius))
        for experiment, chosen, radius in (
            ("attack_malicious", malicious, eps),
            ("attack_malicious_benign", benign, 0.0),
        )
    ]
    results.save_rows(adapted.workdir, "attack_malicious", rows)
    progress(
        f"{name}, adapted: benign {before[:, benign].mean():.4f} before, "
        f"{rows[1].accuracy:.4f} after; attacked {before[:, malicious].mean():.4f} before, "
        f"{rows[0].accuracy:.4f} after"
    )
    return adapted


def _adapted(
    subject: Subject, unlabelled: np.ndarray, config: FinetuneConfig, *, name: str
) -> Subject:
    """The subject's model, adapted to these inputs, as a run of that name."""
    if len(unlabelled) < len(subject.dataset.test):
        name += f" on {len(unlabelled)} inputs"  # another number is another run
    config = dataclasses.replace(config, fraction=1.0, subject=name)
    workdir = finetuned_workdir(subject.workdir, config)
    loaded = finetune(
        subject.workdir, workdir, config, clean=subject.dataset.train, unlabelled=unlabelled
    )
    return dataclasses.replace(subject, workdir=workdir, loaded=loaded)


def _attacked_row(adapted: Subject, x: np.ndarray, experiment: str, attack: str, eps: float) -> Row:
    draws = robustness.scoring_draws(registry.parse(attack, eps=eps))
    return results.scored(
        robustness.attacked_hits(adapted, x, draws=draws),
        **adapted.identity(experiment, attack=attack, eps=eps),
    )
