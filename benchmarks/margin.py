r"""Prints what class_margin is worth on a trained CAMA, and what it changes.

    python -m benchmarks.margin --workdir=runs/demo/cama
    python -m benchmarks.margin --workdir=runs/mnist --data_dir=~/tensorflow_datasets \
        --manipulation=vertical_shift:0.5 --limit=1000

Prediction gives all samples only to classes that one sample puts within so many nats of the best.
Test inputs; the first row, margin 0, leaves nothing out, and the others are compared with it.
"""

from trainers import app  # isort: skip  (quiets TensorFlow before anything imports it)

import time
from pathlib import Path

import numpy as np
from absl import flags
from rich.console import Console
from rich.table import Table
from scipy.special import logsumexp, softmax

from tfcama import specs
from tfcama.data import manipulations
from tfcama.evaluation.predict import Predictor
from tfcama.evaluation.subject import load_subject
from tfcama.training import run
from tfcama.workdir import Workdir
from trainers.shared_flags import DATA_DIR, WORKDIR

_MANIPULATION = flags.DEFINE_string(
    "manipulation", "", "Of the inputs; none unless given. Example: --manipulation=rotation:60"
)
_MARGINS = flags.DEFINE_string("margins", "10,20,30,40", "In nats. Example: --margins=20,30")
_LIMIT = flags.DEFINE_integer("limit", 500, "Test inputs. Example: --limit=1000")


def main() -> None:
    workdir = Workdir(Path(WORKDIR.value).expanduser())
    table = Table(title=f"{_LIMIT.value} test inputs {_MANIPULATION.value}", title_justify="left")
    for heading in (
        "margin, nats",
        "inputs/s",
        "speed",
        "accuracy, %",
        "other answers",
        "largest change of p(y|x)",
        "of log p(x), nats",
    ):
        table.add_column(heading, justify="right")
    subject = load_subject(workdir, data_dir=DATA_DIR.value, limit=_LIMIT.value)
    rows, seed = subject.test, subject.loaded.config.seed
    if _MANIPULATION.value:
        move = manipulations.parse(_MANIPULATION.value).fit(subject.dataset)
        rows = manipulations.manipulate(rows, move, seed=seed)
    exact, slowest = None, 0.0
    for margin in (0.0, *specs.parse_range(_MARGINS.value, flag="--margins")):
        loaded = run.load(workdir, at_test=[f"class_margin={margin:g}"])
        predictor = Predictor(loaded.classifier, seed=seed)
        predictor.log_scores(rows.x)  # compiles
        started = time.perf_counter()
        scores = predictor.log_scores(rows.x)
        seconds = time.perf_counter() - started
        if exact is None:
            exact, slowest = scores, seconds
        labels = scores.argmax(axis=1)
        table.add_row(
            f"{margin:g}",
            f"{len(rows) / seconds:,.0f}",
            f"{slowest / seconds:.2f}x",
            f"{100 * np.mean(labels == rows.y):.1f}",
            str(np.sum(labels != exact.argmax(axis=1))),
            f"{np.abs(softmax(scores, axis=1) - softmax(exact, axis=1)).max():.1e}",
            f"{np.abs(logsumexp(scores, axis=1) - logsumexp(exact, axis=1)).max():.1e}",
        )
    Console(width=110).print(table)


if __name__ == "__main__":
    app.run(main)
