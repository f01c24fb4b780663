r"""Prints what the settings of prediction cost on a trained CAMA, and what they change.

    python -m benchmarks.prediction --workdir=runs/demo/cama
    python -m benchmarks.prediction --workdir=runs/mnist --data_dir=~/tensorflow_datasets \
        --manipulation=vertical_shift:0.5 --limit=1000 --settings=z_steps=0,z_steps=10,z_steps=20

Test inputs; all rows are compared with the first. The default is class_margin, whose first value
leaves nothing out: prediction gives all samples only to classes that one sample puts within so
many nats of the best.
"""

from trainers import app  # isort: skip  (quiets TensorFlow before anything imports it)

import time
from pathlib import Path

import numpy as np
from absl import flags
from rich.console import Console
from rich.table import Table
from scipy.special import log_softmax, logsumexp, softmax

from tfcama.data import manipulations
from tfcama.evaluation.predict import Predictor
from tfcama.evaluation.subject import load_subject
from tfcama.training import run
from tfcama.workdir import Workdir
from trainers.shared_flags import DATA_DIR, WORKDIR

_MANIPULATION = flags.DEFINE_string(
    "manipulation", "", "Of the inputs; none unless given. Example: --manipulation=rotation:60"
)
_SETTINGS = flags.DEFINE_list(
    "settings",
    [f"class_margin={nats}" for nats in (0, 10, 20, 30, 40)],
    "What trainers.evaluate's --set takes, one a row. Example: --settings=m_samples=1,m_samples=8",
)
_LIMIT = flags.DEFINE_integer("limit", 500, "Test inputs. Example: --limit=1000")


def main() -> None:
    workdir = Workdir(Path(WORKDIR.value).expanduser())
    table = Table(title=f"{_LIMIT.value} test inputs {_MANIPULATION.value}", title_justify="left")
    for heading in (
        "setting",
        "inputs/s",
        "speed",
        "accuracy, %",
        "-log p(y|x), nats",
        "other answers",
        "largest change of p(y|x)",
        "of log p(x), nats",
    ):
        table.add_column(heading, justify="left" if heading == "setting" else "right")
    subject = load_subject(workdir, data_dir=DATA_DIR.value, limit=_LIMIT.value)
    rows, seed = subject.test, subject.loaded.config.seed
    if _MANIPULATION.value:
        move = manipulations.parse(_MANIPULATION.value).fit(subject.dataset)
        rows = manipulations.manipulate(rows, move, seed=seed)
    first, first_seconds = None, 0.0
    for setting in _SETTINGS.value:
        loaded = run.load(workdir, at_test=[setting])
        predictor = Predictor(loaded.classifier, seed=seed)
        predictor.log_scores(rows.x)  # compiles
        started = time.perf_counter()
        scores = predictor.log_scores(rows.x)
        seconds = time.perf_counter() - started
        if first is None:
            first, first_seconds = scores, seconds
        labels = scores.argmax(axis=1)
        of_truth = log_softmax(scores, axis=1)[np.arange(len(rows)), rows.y]
        table.add_row(
            setting,
            f"{len(rows) / seconds:,.0f}",
            f"{first_seconds / seconds:.2f}x",
            f"{100 * np.mean(labels == rows.y):.1f}",
            f"{-np.mean(of_truth):.3f}",
            str(np.sum(labels != first.argmax(axis=1))),
            f"{np.abs(softmax(scores, axis=1) - softmax(first, axis=1)).max():.1e}",
            f"{np.abs(logsumexp(scores, axis=1) - logsumexp(first, axis=1)).max():.1e}",
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    app.run(main)
