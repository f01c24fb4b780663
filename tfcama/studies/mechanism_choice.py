"""Which mechanism was at work? Candidates, ranked by what held-out inputs say without a label."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tfcama.data import manipulations, streams
from tfcama.errors import InputError
from tfcama.evaluation.checks import Check
from tfcama.evaluation.predict import gain, hits_of, mean_log_px, scores_by_group
from tfcama.evaluation.results import Row, accuracy_text, scored
from tfcama.evaluation.subject import Subject, load_subject
from tfcama.report import figures, labels
from tfcama.report.build import write_report
from tfcama.report.pictures import Picture, to_png
from tfcama.studies import steps
from tfcama.training import run
from tfcama.training.config import (
    FinetuneConfig,
    RunConfig,
    check_free,
    comparable,
    default_finetuning,
)
from tfcama.training.finetune import adapted_config, check_has_m, seen_rows
from tfcama.workdir import Workdir

TRAINED = "none"
_OWN = ("mechanism", "clean", "prior_m", "dreams", "p_untouched", "m_samples", "z_steps")
"""What each candidate has as trainers.finetune gives it."""


class Candidate(NamedTuple):
    """A mechanism, fitted.

    Attributes:
      mechanism: its name; TRAINED for the model as it was trained, without an adaptation.
      workdir: of the adapted run.
      log_px: mean log p(x) of the held-out inputs, by Eq. 6, nats.
      standard_error: of the difference to the best candidate's mean, over inputs; 0 for the best.
      row: accuracy on the same inputs, for a reader who has their labels; it plays no part.
    """

    mechanism: str
    workdir: Workdir
    log_px: float
    standard_error: float
    row: Row

    @property
    def name(self) -> str:
        """For people."""
        return "(as trained)" if self.mechanism == TRAINED else self.mechanism


def rank_mechanisms(
    base: Workdir,
    manipulation: str,
    mechanisms: Sequence[str],
    *,
    config: FinetuneConfig,
    data_dir: str | None,
    limit: int | None,
    progress: steps.Progress,
) -> list[Candidate]:
    """Fine-tunes a CAMA with every mechanism on the same inputs and compares log p(x) on others.

    The labels of manipulated inputs are not used. Candidates are what `trainers.finetune` makes of
    the same flags, in the same place. All are compared with as many samples of z and of m and
    without a search, see training.config.comparable: fair but for how well each q(m|x) was fitted.

    Args:
      base: a finished run of a CAMA that was trained on clean data.
      manipulation: `name:level[:key=value…]`, of the run's own test inputs.
      mechanisms: see make_mechanism.
      config: how to fine-tune; its mechanism, objective on clean rows, p(m), dreams, p_untouched,
        m_samples and z_steps are each mechanism's own, warm_up and sleep unless given, and steps
        are of those that take Eq. 8.
      data_dir: of tensorflow-datasets.
      limit: held-out inputs are taken from the first so many test rows; None for all.
      progress: called with a line a candidate.

    Returns:
      All candidates and the model as trained, the best first.

    Raises:
      InputError: fewer than two mechanisms, one that is named twice or does not fit, fraction 1, a
        key of `config` that each mechanism decides, fewer than two inputs to compare on, or see
        `finetune`.
    """
    if len(mechanisms) < 2 or len(set(mechanisms)) < len(mechanisms):
        raise InputError(
            f"mechanisms {', '.join(mechanisms) or '(none)'} were given; two or more different "
            "ones are needed to choose from."
        )
    if config.fraction >= 1.0:
        raise InputError("fraction=1 was given; inputs must be left over to compare on.")
    for name in ("subject", *_OWN):
        if getattr(config, name) != getattr(FinetuneConfig, name):
            raise InputError(
                f"{name}={getattr(config, name)} was given; the subject is the manipulation here, "
                f"and every mechanism has its own {', '.join(_OWN)}; trainers.finetune takes any."
            )
    trained = load_subject(base, data_dir=data_dir, limit=limit)
    check_has_m(trained.loaded, base)
    planned = _planned(trained, manipulation, mechanisms, config)
    seen = seen_rows(len(trained.dataset.test), trained.loaded.config.adapted(config))
    rows = np.setdiff1d(np.arange(len(trained.test)), seen)
    if len(rows) < 2:
        raise InputError(
            f"{len(rows)} of {len(trained.test)} inputs would be left over that no candidate was "
            "adapted to; two or more are needed to compare on. Give a smaller fraction, or a "
            "larger limit."
        )
    adapted = {
        mechanism: steps.finetuned(base, own, data_dir=data_dir)
        for mechanism, (own, _) in planned.items()
    }
    at_test = comparable(trained.loaded.config, *(after for _, after in planned.values()))
    scores = {}
    for mechanism, workdir in {**adapted, TRAINED: base}.items():
        subject = load_subject(workdir, data_dir=data_dir, limit=limit, at_test=at_test)
        scores[mechanism] = _scores(subject, manipulation, rows)
        by_group, row = scores[mechanism]
        progress(
            f"{mechanism}: log p(x) {mean_log_px(by_group):.2f} nats on {row.n} held-out inputs "
            f"({accuracy_text(row)})"
        )
    log_px = {name: mean_log_px(by_group) for name, (by_group, _) in scores.items()}
    order = sorted(scores, key=lambda name: -log_px[name])
    best, _ = scores[order[0]]
    return [
        Candidate(
            name,
            adapted.get(name, base),
            log_px[name],
            gain(scores[name][0], best)[1],
            scores[name][1],
        )
        for name in order
    ]


def _planned(
    trained: Subject, manipulation: str, mechanisms: Sequence[str], config: FinetuneConfig
) -> dict[str, tuple[FinetuneConfig, RunConfig]]:
    """How each candidate is made, and what run it becomes; refuses what would not do, at once."""
    found = {}
    for mechanism in mechanisms:
        try:
            own = default_finetuning(trained.loaded.config, mechanism=mechanism)
            own = dataclasses.replace(
                config,
                **{name: getattr(own, name) for name in _OWN},
                subject=manipulation,
                steps=own.steps and config.steps,
                sleep=own.sleep and (config.sleep or own.sleep),
                warm_up=own.warm_up and (config.warm_up or own.warm_up),
            )
            after = adapted_config(trained.loaded, own)
            run.build(after)
            check_free(steps.finetuned_workdir(trained.workdir, own), after)
        except InputError as error:
            raise InputError(f"candidate '{mechanism}': {error}") from None
        found[mechanism] = own, after
    return found


def write_ranking(ranking: Sequence[Candidate], manipulation: str, target: Path) -> Path:
    """The ranking as a report: ranking.json and a picture besides the accuracies.

    Args:
      ranking: of rank_mechanisms.
      manipulation: that was ranked for.
      target: replaced as a whole.

    Returns:
      Its index.html.
    """
    best, second = ranking[:2]
    trained = next(found for found in ranking if found.mechanism == TRAINED)
    title = f"Which mechanism? {labels.manipulation_name(manipulation)}, {best.row.dataset}"
    figure = figures.ranking(
        [found.log_px for found in ranking],
        errors=[found.standard_error for found in ranking],
        names=[f"{found.name}: {100 * found.row.accuracy:.1f} %" for found in ranking],
        xlabel=f"log p(x) of {best.row.n} inputs that none of them saw, nats",
        title=title,
    )
    lines = [
        {
            "mechanism": found.mechanism,
            "log_px": found.log_px,
            "standard_error": found.standard_error,
            "accuracy": found.row.accuracy,
        }
        for found in ranking
    ]
    write_report(
        [found.workdir for found in ranking],
        target,
        rows=[found.row for found in ranking],
        pictures=[
            Picture(
                "ranking",
                "shift",
                "Candidates, likeliest first",
                "Bars: standard errors of the difference to the best. Percent: accuracy on the "
                "same inputs, of which the ranking knows nothing.",
                to_png(figure),
            )
        ],
        checks={
            "What the ranking says": [
                _check("the likeliest is told from the model as trained", best, trained),
                _check("the likeliest is told from the second", best, second),
            ]
        },
        title=title,
        files={"ranking.json": json.dumps(lines, indent=1) + "\n"},
    )
    return target / "index.html"


def _check(name: str, best: Candidate, other: Candidate) -> Check:
    ahead = best.log_px - other.log_px
    return Check(
        f"{name} (more than two standard errors)",
        ahead > 2 * other.standard_error,
        f"{best.name}: {ahead:.2f} ± {other.standard_error:.2f} nats above {other.name}",
    )


def _scores(subject: Subject, manipulation: str, rows: np.ndarray) -> tuple[list[np.ndarray], Row]:
    """Log p(x, y = c) of the held-out inputs, see scores_by_group, and their accuracy."""
    moved = manipulations.parse(manipulation).fit(subject.dataset)
    split = manipulations.manipulate(subject.test, moved, seed=subject.loaded.config.seed)
    split = split.take(rows)
    by_group = scores_by_group(subject.predictor, split.x)
    name, level = streams.name_and_level(manipulation)
    identity = subject.identity("mechanism_choice", manipulation=name, level=level)
    return by_group, scored(hits_of(np.concatenate(by_group), split.y), **identity)
