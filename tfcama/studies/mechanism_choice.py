"""Which mechanism was at work? Candidates, ranked by what held-out inputs say without a label."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

from tfcama.data import manipulations
from tfcama.errors import InputError
from tfcama.evaluation.subject import Subject, load_subject
from tfcama.studies import steps
from tfcama.training.config import FinetuneConfig, RunConfig, default_finetuning
from tfcama.workdir import Workdir

TRAINED = "none"


class Candidate(NamedTuple):
    """A mechanism, fitted.

    Attributes:
      mechanism: its name; TRAINED for the model as it was trained, without an adaptation.
      workdir: of the adapted run.
      log_px: mean log p(x) of the held-out inputs, by Eq. 6, nats.
      standard_error: of the difference to the best candidate's mean, over inputs; 0 for the best.
      accuracy: on the same inputs, for a reader who has their labels; it plays no part.
    """

    mechanism: str
    workdir: Workdir
    log_px: float
    standard_error: float
    accuracy: float


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
    the same K for all, makes the comparison fair but for how well each q(m|x) was fitted.

    Args:
      base: a finished run of a CAMA that was trained on clean data.
      manipulation: `name:level[:key=value…]`, of the run's own test inputs.
      mechanisms: see make_mechanism.
      config: how to fine-tune; its mechanism, objective on clean rows and dreams are each
        mechanism's own.
      data_dir: of tensorflow-datasets.
      limit: held-out inputs are taken from the first so many test rows; None for all.
      progress: called with a line a candidate.

    Returns:
      All candidates and the model as trained, the best first.

    Raises:
      InputError: fewer than two mechanisms, one that is named twice, fraction 1, or see `finetune`.
    """
    if len(mechanisms) < 2 or len(set(mechanisms)) < len(mechanisms):
        raise InputError(
            f"mechanisms {', '.join(mechanisms) or '(none)'} were given; two or more different "
            "ones are needed to choose from."
        )
    if config.fraction >= 1.0:
        raise InputError("fraction=1 was given; inputs must be left over to compare on.")
    run_config = RunConfig.from_json(base.read_config())
    adapted = {}
    for mechanism in mechanisms:
        own = default_finetuning(run_config, mechanism=mechanism)
        own = dataclasses.replace(
            config,
            subject=manipulation,
            mechanism=mechanism,
            clean=own.clean,
            dreams=own.dreams,
        )
        adapted[mechanism] = steps.finetuned(base, own, data_dir=data_dir)
    rows = None
    scores = {}
    for mechanism, workdir in {**adapted, TRAINED: base}.items():
        subject = load_subject(workdir, data_dir=data_dir, limit=limit)
        rows = subject.held_out if rows is None else rows
        scores[mechanism] = _scores(subject, manipulation, rows)
        log_px, hits = scores[mechanism]
        progress(
            f"{mechanism}: log p(x) {log_px.mean():.2f} nats on {len(log_px)} held-out inputs "
            f"(accuracy {hits.mean():.4f})"
        )
    order = sorted(scores, key=lambda mechanism: -scores[mechanism][0].mean())
    best = scores[order[0]][0]
    return [
        Candidate(
            mechanism,
            adapted.get(mechanism, base),
            float(scores[mechanism][0].mean()),
            float((scores[mechanism][0] - best).std() / np.sqrt(len(best))),
            float(scores[mechanism][1].mean()),
        )
        for mechanism in order
    ]


def _scores(
    subject: Subject, manipulation: str, rows: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Log p(x) [N] nats and hits [N] bool of the held-out inputs."""
    moved = manipulations.parse(manipulation).fit(subject.dataset)
    split = manipulations.manipulate(subject.test, moved, seed=subject.loaded.config.seed)
    split = split if rows is None else split.take(rows)
    log_scores = subject.predictor.log_scores(split.x)
    return special.logsumexp(log_scores, axis=1), log_scores.argmax(axis=1) == split.y
