r"""Explains one row of a table: its class, which children were moved, what it would have been.

    python -m trainers.explain --workdir=runs/x --csv=new.csv --row=3 --out=runs/x/explain
    python -m trainers.explain --workdir=runs/x --test_row=3 --other=benign

Rows count from 1. explanation.json and explanation.png go to --out; the JSON says what is in it.
"""

from trainers import app  # isort: skip  (quiets TensorFlow before anything imports it)

from pathlib import Path

from absl import flags

from tfcama.data import tables
from tfcama.errors import InputError
from tfcama.evaluation import explain
from tfcama.report import explanation as report
from tfcama.training import run
from tfcama.training.phases import load_finished
from tfcama.workdir import Workdir
from trainers.shared_flags import DATA_DIR, WORKDIR

_CSV = flags.DEFINE_string(
    "csv", None, "A table with the run's columns and a header. Example: --csv=new.csv"
)
_ROW = flags.DEFINE_integer("row", None, "Which row of --csv, from 1. Example: --row=3")
_TEST_ROW = flags.DEFINE_integer(
    "test_row", None, "Which row of the run's own test split, from 1. Example: --test_row=3"
)
_OTHER = flags.DEFINE_string(
    "other",
    None,
    "Class of the second counterfactual; the second most probable unless given. "
    "Example: --other=benign",
)
_OUT = flags.DEFINE_string(
    "out", None, "Directory; <workdir>/explain unless given. Example: --out=runs/x/explain"
)


def main() -> None:
    if (_CSV.value is None) == (_TEST_ROW.value is None):
        raise InputError(
            "exactly one of --csv and --test_row is needed, to say which row to explain."
        )
    if (_CSV.value is None) != (_ROW.value is None):
        raise InputError(
            "--csv and --row go together; for a row of the test split take --test_row."
        )
    workdir = Workdir(WORKDIR.value)
    out = Path(_OUT.value).expanduser() if _OUT.value else workdir.root / "explain"
    report.check_target(out)
    loaded = load_finished(workdir, before="asked")
    classifier = explain.explainable(loaded.classifier)
    spec = classifier.spec
    other = None if _OTHER.value is None else explain.class_of(spec, _OTHER.value)
    imputed: list[str] = []
    if _CSV.value is None:
        test = run.load_data(loaded.config, data_dir=DATA_DIR.value).test
        x = test.x[explain.check_number(_TEST_ROW.value, len(test), what="the test split")]
    else:
        frame = tables.read_csv(_CSV.value)
        place = explain.check_number(_ROW.value, len(frame), what=_CSV.value)
        frame = frame.iloc[[place]]
        (x,) = tables.encode(spec, frame)
        for column in (name for name, number in tables.unseen(spec, frame).items() if number):
            value = frame[column].iloc[0]
            print(f"note: no training row had {column} = '{value}'; it counts as missing.")
        imputed = [name for name, number in tables.imputed(spec, frame).items() if number]
        for column in imputed:
            print(f"note: {column} is missing, as in no training row; its mean stands in for it.")
    found = explain.explain(classifier, x, seed=loaded.config.seed, other=other, imputed=imputed)
    report.save(out, found)
    print("\n".join([*found.summary(), f"explanation: {out / 'explanation.png'} and .json"]))


if __name__ == "__main__":
    app.run(main)
