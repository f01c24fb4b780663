"""Which mechanism was at work? Candidates, ranked by what held-out inputs say without a label."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import special

from tfcama.data import manipulations, streams
from tfcama.errors import InputError
from tfcama.evaluation.results import Row, scored
from tfcama.evaluation.robustness import Check
from tfcama.evaluation.subject import Subject, load_subject
from tfcama.report import figures, labels
from tfcama.report.build import write_report
from tfcama.report.pictures import Picture, to_png
from tfcama.studies import steps
from tfcama.training.config import FinetuneConfig, RunConfig, default_finetuning
from tfcama.workdir import Workdir

TRAINED = "none"
_OWN = ("mechanism", "clean", "prior_m", "dreams", "p_untouched", "m_samples")  # a candidate's


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

    The labels of manipulated inputs are not used; that Eq. 6 is a lower bound in expectation, with
    the same K and z_steps for all, makes the comparison fair but for how well each q(m|x) was
    fitted.

    Args:
      base: a finished run of a CAMA that was trained on clean data.
      manipulation: `name:level[:key=value…]`, of the run's own test inputs.
      mechanisms: see make_mechanism.
      config: how to fine-tune; its mechanism, objective on clean rows, p(m), dreams, p_untouched
        and m_samples are each mechanism's own, warm_up and sleep unless given, and steps are of
        those that take Eq. 8.
      data_dir: of tensorflow-datasets.
      limit: held-out inputs are taken from the first so many test rows; None for all.
      progress: called with a line a candidate.

    Returns:
      All candidates and the model as trained, the best first.

    Raises:
      InputError: fewer than two mechanisms, one that is named twice, fraction 1, a key of `config`
        that each mechanism decides, or see `finetune`.
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
    run_config = RunConfig.from_json(base.read_config())
    adapted = {}
    for mechanism in mechanisms:
        own = default_finetuning(run_config, mechanism=mechanism)
        own = dataclasses.replace(
            config,
            **{name: getattr(own, name) for name in _OWN},
            subject=manipulation,
            steps=own.steps and config.steps,
            sleep=own.sleep and (config.sleep or own.sleep),
            warm_up=own.warm_up and (config.warm_up or own.warm_up),
        )
        adapted[mechanism] = steps.finetuned(base, own, data_dir=data_dir)
    rows = None
    scores = {}
    for mechanism, workdir in {**adapted, TRAINED: base}.items():
        subject = load_subject(workdir, data_dir=data_dir, limit=limit)
        rows = subject.held_out if rows is None else rows
        scores[mechanism] = _scores(subject, manipulation, rows)
        log_px, row = scores[mechanism]
        progress(
            f"{mechanism}: log p(x) {log_px.mean():.2f} nats on {len(log_px)} held-out inputs "
            f"(accuracy {row.accuracy:.4f})"
        )
    order = sorted(scores, key=lambda mechanism: -scores[mechanism][0].mean())
    best = scores[order[0]][0]
    return [
        Candidate(
            mechanism,
            adapted.get(mechanism, base),
            float(scores[mechanism][0].mean()),
            float((scores[mechanism][0] - best).std() / np.sqrt(len(best))),
            scores[mechanism][1],
        )
        for mechanism in order
    ]


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
    ahead = best.log_px - second.log_px
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
                Check(
                    "a mechanism explains the inputs better than the model as trained",
                    best.mechanism != TRAINED,
                    f"{best.name} is the likeliest",
                ),
                Check(
                    "the first is told from the second (more than two standard errors)",
                    ahead > 2 * second.standard_error,
                    f"{ahead:.2f} ± {second.standard_error:.2f} nats",
                ),
            ]
        },
        title=title,
        files={"ranking.json": json.dumps(lines, indent=1) + "\n"},
    )
    return target / "index.html"


def _scores(subject: Subject, manipulation: str, rows: np.ndarray | None) -> tuple[np.ndarray, Row]:
    """Log p(x) [N] nats and the accuracy of the held-out inputs."""
    moved = manipulations.parse(manipulation).fit(subject.dataset)
    split = manipulations.manipulate(subject.test, moved, seed=subject.loaded.config.seed)
    split = split if rows is None else split.take(rows)
    log_scores = subject.predictor.log_scores(split.x)
    name, level = streams.name_and_level(manipulation)
    identity = subject.identity("mechanism_choice", manipulation=name, level=level)
    hits = log_scores.argmax(axis=1) == split.y
    return special.logsumexp(log_scores, axis=1), scored(hits, **identity)
