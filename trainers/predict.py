r"""Predicts the rows of a new table with a trained classifier.

    python -m trainers.predict --workdir=runs/mine --csv=new.csv --out=predictions.csv

predictions.csv has a line a row: `row` (from 1), `label`, `p(<class>)` of every class, and of deep
CAMA `log_px`, log p(x | a, c) in nats. If new.csv holds the target, the accuracy is printed, too.
"""

from trainers import app  # isort: skip  (quiets TensorFlow before anything imports it)

from pathlib import Path

from absl import flags

from tfcama.evaluation import table_predict
from tfcama.training.phases import load_finished
from tfcama.workdir import Workdir
from trainers.shared_flags import WORKDIR

_CSV = flags.DEFINE_string(
    "csv",
    None,
    "The table, with the columns of the training table; the target may be left out. "
    "Example: --csv=new.csv",
    required=True,
)
_OUT = flags.DEFINE_string(
    "out", None, "The file of predictions to write. Example: --out=predictions.csv", required=True
)


def main() -> None:
    loaded = load_finished(Workdir(WORKDIR.value), before="asked")
    table, out = Path(_CSV.value).expanduser(), Path(_OUT.value).expanduser()
    print(*table_predict.predict(loaded, table, out).lines, sep="\n")


if __name__ == "__main__":
    app.run(main)
