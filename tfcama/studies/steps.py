"""The steps that experiments are made of; each leaves its results in a workdir."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tfcama.attacks.base import Attacked
from tfcama.evaluation import checks, curves, results, robustness, unfinished
from tfcama.evaluation.recovered import Recovered, recover
from tfcama.evaluation.results import Row
from tfcama.evaluation.subject import Subject
from tfcama.evaluation.unfinished import Keep
from tfcama.report import bottleneck, labels, pictures
from tfcama.report.pictures import slug, slugs
from tfcama.training import run
from tfcama.training.config import DREAMS, FinetuneConfig, RunConfig, default_finetuning
from tfcama.training.finetune import (
    dream,
    finetune_on_manipulation,
    is_finished,
)
from tfcama.training.methods import EQ8
from tfcama.workdir import Workdir

Progress = Callable[[str], None]

_RECOVERED = 300  # test inputs whose parameters are compared with the truth


def trained(config: RunConfig, workdir: Workdir, *, data_dir: str | None) -> None:
    """A run of `trainers.train`, unless that was finished before."""
    if not run.is_finished(workdir, config):
        run.train(config, workdir, data_dir=data_dir)


def adaptation(base: Workdir, *, mechanism: str = "", **changes: Any) -> FinetuneConfig:
    """How `base` is adapted unless told otherwise, but for `changes`; see default_finetuning."""
    default = default_finetuning(RunConfig.from_json(base.read_config()), mechanism=mechanism)
    return dataclasses.replace(default, **changes)


def finetuned_workdir(base: Workdir, config: FinetuneConfig) -> Workdir:
    """Where a fine-tuning of `base` goes unless told otherwise."""
    method = config.method if config.method != EQ8 else ""
    how = [config.mechanism, config.prior_m and f"prior_{config.prior_m}", method]
    fraction = f"{config.fraction:g}" if config.fraction else ""
    parts = [config.subject, fraction, *how, f"seed{config.seed}"]
    name = "_".join(filter(None, parts))
    return Workdir(base.root / "finetuned" / slug(name))


def finetuned(base: Workdir, config: FinetuneConfig, *, data_dir: str | None) -> Workdir:
    """`base`, adapted to its own test inputs under the manipulation `config.subject`."""
    workdir = finetuned_workdir(base, config)
    if not is_finished(workdir, config):
        finetune_on_manipulation(base, workdir, config.subject, config, data_dir=data_dir)
    return workdir


def prepared(base: Workdir, config: FinetuneConfig, *, data_dir: str | None) -> Workdir:
    """`base` after the warm-up of `config` and nothing else; adapt it without one."""
    config = dataclasses.replace(config, subject=DREAMS, fraction=0.0, steps=0, sleep=0)
    workdir = finetuned_workdir(base, config)
    if not is_finished(workdir, config):
        dream(base, workdir, config, data_dir=data_dir)
    return workdir


def evaluate(
    subject: Subject,
    manipulation: str,
    levels: Sequence[float],
    *,
    progress: Progress,
    pictured_level: float | None = None,
    draws: int = 1,
    keep: Keep | None = None,
) -> list[Row]:
    """Accuracy along a manipulation and the model's explanations, saved in the workdir.

    An interrupted call is continued at the level that it did not end.

    Args:
      subject: a finished run.
      manipulation: without its level.
      levels: of the manipulation.
      progress: called with a line after each level.
      pictured_level: of the explanations; None takes the middle one.
      draws: see manipulation_curve.
      keep: of `kept_levels`, where this is a part of more that may be interrupted.
    """
    name = slugs("manipulation", manipulation, subject.augmentation, subject.at_test)
    own = kept_levels(subject, draws=draws) if keep is None else contextlib.nullcontext(keep)
    with own as found:
        rows = curves.manipulation_curve(
            subject, manipulation, levels, draws=draws, progress=progress, keep=found
        )
        asked = curve_asked(levels, subject.limit, draws)
        results.save_rows(subject.workdir, name, rows, asked=asked)
    level = levels[len(levels) // 2] if pictured_level is None else pictured_level
    explain(subject, manipulation, level)
    return rows


def kept_levels(subject: Subject, *, draws: int = 1) -> contextlib.AbstractContextManager[Keep]:
    """What was scored of levels of manipulations until the block ends; see `unfinished.kept`."""
    asked = {
        "limit": subject.limit,
        "draws": draws,
        "epoch": subject.loaded.checkpoint.epoch,
        "answers": [subject.augmentation, subject.at_test],
    }
    return unfinished.kept(subject.workdir, "manipulations", asked=asked)


def picture_model(subject: Subject) -> None:
    """Saves in the workdir what the model shows without a manipulation: samples, codes."""
    samples = pictures.samples_by_class(subject)
    if samples is not None:
        pictures.save(subject.workdir, samples)
    for picture in bottleneck.of_model(subject):
        pictures.save(subject.workdir, picture)


def curve_asked(levels: Sequence[float], limit: int | None, draws: int = 1) -> dict[str, Any]:
    """What accuracy along levels of a manipulation, or radii, depends on: see save_rows.

    One draw is not told: rows were kept before there were several.
    """
    asked = {"levels": [float(level) for level in levels], "limit": limit}
    return asked if draws == 1 else {**asked, "draws": draws}


def is_evaluated(
    workdir: Workdir, manipulation: str, levels: Sequence[float], *, limit: int | None = None
) -> bool:
    """Whether `evaluate` was done, of the run itself and so many inputs."""
    name = f"manipulation_{slug(manipulation)}"
    return results.has_rows(workdir, name, asked=curve_asked(levels, limit))


def is_attacked(
    workdir: Workdir, attack: str, radii: Sequence[float], *, limit: int | None = None
) -> bool:
    """Whether `attack` was done, on the run itself and so many inputs."""
    name = f"attack_{slug(attack)}"
    return results.has_rows(workdir, name, asked=curve_asked(radii, limit))


def explain(subject: Subject, manipulation: str, level: float) -> list[Recovered]:
    """Saves the pictures of what a model says about a manipulation; returns what it found."""
    found = recover(subject, manipulation, level, limit=_RECOVERED)
    for picture in pictures.explanations(subject, manipulation, level, found=found):
        pictures.save(subject.workdir, picture)
    return found


def attack(
    subject: Subject,
    attack: str,
    radii: Sequence[float],
    *,
    source: Subject | None = None,
    progress: Progress,
    keep: Keep | None = None,
) -> dict[float, Attacked]:
    """Accuracy under an attack and adversarial examples, saved in the workdir.

    An interrupted call is continued at the radius that it did not end.

    Args:
      subject: a finished run.
      attack: see attack_curve.
      radii: likewise.
      source: likewise.
      progress: called with a line after each radius.
      keep: of `kept_attacks`, where this is a part of more that may be interrupted.

    Returns:
      The attacked inputs, by radius.
    """
    source_name = "" if source is None else source.named_to(subject)
    name = f"attack_{slug(f'{attack}_from_{source_name}' if source_name else attack)}"
    own = kept_attacks(subject, source=source) if keep is None else contextlib.nullcontext(keep)
    with own as crafted:
        rows, found = robustness.attack_curve(
            subject, attack, radii, source=source, progress=progress, keep=crafted
        )
        asked = curve_asked(radii, subject.limit)
        results.save_rows(subject.workdir, name, rows, asked=asked)
    shown = pictures.adversarial_examples(subject, attack, found, source=source_name)
    if shown is not None:
        pictures.save(subject.workdir, shown)
    return found


def kept_attacks(
    subject: Subject, *, source: Subject | None = None
) -> contextlib.AbstractContextManager[Keep]:
    """What was crafted until the block ends, see `unfinished.kept`; the source is of `attack`."""
    made_on = [subject] if source is None else [subject, source]
    asked = {
        "limit": subject.limit,
        "made_on": [[str(each.workdir.root), each.loaded.checkpoint.epoch] for each in made_on],
    }
    return unfinished.kept(subject.workdir, "attacks", asked=asked)


def worst_case(
    subject: Subject,
    found: Mapping[str, Mapping[float, Attacked]],
    *,
    source: Subject | None = None,
    progress: Progress,
) -> None:
    """Accuracy under the worst of several attacks, input by input, saved in the workdir.

    Args:
      subject: a finished run.
      found: what `attack` gave, by attack.
      source: of `attack`.
      progress: called with a line after each radius.
    """
    name = robustness.named(labels.worst_of(found), subject, source)
    rows = robustness.worst_case(subject, list(found.values()), attack=name)
    about = "worst" if source is None else f"worst_from_{source.named_to(subject)}"
    results.save_rows(
        subject.workdir,
        f"attack_{slug(about)}",
        rows,
        asked={"attacks": [*found], "limit": subject.limit},
    )
    for row in rows:
        progress(f"{name} eps {row.eps:g}: {results.accuracy_text(row)}")


def is_checked(workdir: Workdir, **asked: Any) -> bool:
    """Whether `check_sanity` left its checks here, asked the same.

    Args:
      workdir: of the run.
      **asked: see `sanity_asked`.
    """
    return checks.has_checks(workdir, asked=sanity_asked(**asked))


def sanity_asked(
    *,
    eps: float,
    limit: int | None,
    transferred: bool,
    steps: int = 20,
    noise_rows: int | None = None,
) -> dict[str, Any]:
    """What the saved sanity checks depend on besides the run; see `robustness.sanity_checks`.

    Args:
      eps: the radius of interest.
      limit: of the subject's test rows.
      transferred: whether there is another run for the black-box check.
      steps: of PGD.
      noise_rows: rows for the checks of a stochastic model's noise.
    """
    return {
        "eps": eps,
        "limit": limit,
        "transferred": transferred,
        "steps": steps,
        "noise_rows": noise_rows,
    }


def check_sanity(
    subject: Subject, *, transfer_from: Subject | None = None, progress: Progress, **how: Any
) -> None:
    """The sanity checks of attacks on a run, saved in its workdir.

    Args:
      subject: a finished run; on its test rows.
      transfer_from: another run, for the black-box check.
      progress: called with a line a check.
      **how: eps, steps and noise_rows, see `robustness.sanity_checks`.
    """
    progress(f"{subject.workdir.root}: sanity checks")
    found = robustness.sanity_checks(subject, transfer_from=transfer_from, **how)
    asked = sanity_asked(limit=subject.limit, transferred=transfer_from is not None, **how)
    checks.save_checks(subject.workdir, found, inputs=len(subject.test), asked=asked)
    for check in found:
        progress(f"{check.verdict}  {check.name}: {check.detail}")
