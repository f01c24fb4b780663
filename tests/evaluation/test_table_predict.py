import csv
import io

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from scipy import special

from tests.conftest import TF_DATA_IS_COMPILED
from tests.doubles import binary
from tfcama import random
from tfcama.data import tables
from tfcama.errors import InputError
from tfcama.evaluation import table_predict
from tfcama.evaluation.predict import Predictor
from tfcama.evaluation.results import wilson
from tfcama.models.discriminative import DiscriminativeConfig, measurement_dnn
from tfcama.models.measurement_cama import MeasurementCama, MeasurementCamaConfig
from tfcama.training import checkpoints, run
from tfcama.training.config import RunConfig, TrainingConfig
from tfcama.types import CHILD, COPARENT, PARENT, Column, InputSpec

# Every test asks a model of its own once or twice; to compile it takes longer.
pytestmark = [pytest.mark.usefixtures("uncompiled"), TF_DATA_IS_COMPILED]

CLASSES = ("ill, badly", "well")
COLUMNS = (
    Column("age", (PARENT,), loc=50.0, scale=10.0, indicator=True),
    Column("dose", (COPARENT,), loc=0.5, scale=0.25),
    Column("pulse", (CHILD,), loc=70.0, scale=8.0),
    Column("colour", (CHILD,), categories=("blue", "red")),
)
SPEC = InputSpec((6,), CLASSES, None, COLUMNS, "health")


def loaded_run(classifier, where, model="measurement_cama", dataset="csv"):
    config = RunConfig(
        model=model,
        dataset=dataset,
        seed=0,
        architecture=MeasurementCamaConfig(),
        training=TrainingConfig(),
        input_spec=classifier.spec,
    )
    return run.LoadedRun(config, classifier, checkpoints.Checkpoint(where, 1, (0.5, 0.0), {}))


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    random.seed_everything(0)
    classifier = MeasurementCama(SPEC, MeasurementCamaConfig(hidden=16, num_samples=2))
    return loaded_run(classifier, tmp_path_factory.mktemp("checkpoint"))


def table(size, **changed):
    """Rows of which some lack a value or have a colour that training never saw."""
    generator = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "id": [f"patient {i}" for i in range(size)],
            "colour": generator.choice(["blue", "red", "green", ""], size),
            "pulse": generator.normal(70, 8, size).round(2),
            "age": generator.normal(50, 10, size).round(1),
            "dose": generator.uniform(0, 1, size).round(3),
        }
    )
    frame.loc[::4, "age"] = np.nan
    return frame.assign(**changed)


def write(frame, tmp_path, name="new.csv"):
    path = tmp_path / name
    frame.to_csv(path, index=False)
    return path


def read(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def refused(loaded, path, out, sentence, **options):
    """Predicts, expects the sentence, and that nothing was left behind."""
    before = {p: p.read_bytes() for p in path.parent.rglob("*") if p.is_file()}
    with pytest.raises(InputError, match=sentence):
        table_predict.predict(loaded, path, out, **options)
    assert {p: p.read_bytes() for p in path.parent.rglob("*") if p.is_file()} == before


def test_a_row_gets_its_label_probabilities_and_density(loaded, tmp_path):
    frame = table(7)
    out = tmp_path / "predictions.csv"
    table_predict.predict(loaded, write(frame, tmp_path), out)
    rows = read(out)
    assert list(rows[0]) == ["row", "label", "p(ill, badly)", "p(well)", "log_px"]
    assert [row["row"] for row in rows] == list("1234567")
    scores = Predictor(loaded.classifier, seed=0).log_scores(tables.encode(SPEC, frame))
    assert [row["label"] for row in rows] == [CLASSES[i] for i in scores.argmax(axis=1)]
    for name, expected in zip(CLASSES, special.softmax(scores, axis=1).T, strict=True):
        found = [float(row[f"p({name})"]) for row in rows]
        np.testing.assert_allclose(found, expected, atol=1e-5)
    found = [float(row["log_px"]) for row in rows]
    np.testing.assert_allclose(found, special.logsumexp(scores, axis=1), rtol=1e-5)
    assert len(set(found)) == 7


@pytest.mark.parametrize("chunk_rows", [9, 1000])
def test_an_answer_does_not_depend_on_the_chunks(loaded, tmp_path, monkeypatch, chunk_rows):
    monkeypatch.setattr(table_predict, "_BLOCK_ROWS", 16)
    path = write(table(50, health="well"), tmp_path)
    whole, chunked = tmp_path / "whole.csv", tmp_path / "chunked.csv"
    one = table_predict.predict(loaded, path, whole)
    two = table_predict.predict(loaded, path, chunked, chunk_rows=chunk_rows)
    assert chunked.read_bytes() == whole.read_bytes()
    assert len(read(whole)) == 50
    assert one.lines[:-1] == two.lines[:-1]


def test_rows_are_scored_in_the_same_blocks_however_they_arrive():
    x = np.arange(50, dtype=np.float32)[:, None]
    for size in (1, 7, 16, 50):
        chunks = [
            table_predict._Rows(x[i : i + size], x[i : i + size, 0]) for i in range(0, 50, size)
        ]
        blocks = list(table_predict._blocks(chunks, rows=16))
        assert [len(block.x) for block in blocks] == [16, 16, 16, 2]
        np.testing.assert_array_equal(np.concatenate([block.x for block in blocks]), x)
        np.testing.assert_array_equal(np.concatenate([block.y for block in blocks]), x[:, 0])


def test_the_accuracy_is_that_of_the_rows_with_a_target(loaded, tmp_path):
    out = tmp_path / "predictions.csv"
    frame = table(40)
    summary = table_predict.predict(loaded, write(frame, tmp_path), out)
    assert summary.known == 0
    assert not any(line.startswith("accuracy") for line in summary.lines)
    predicted = np.array([row["label"] for row in read(out)])
    truth = np.where(np.arange(40) < 30, predicted, "well").astype(object)
    truth[:10] = None  # unknown
    hits = int((truth == predicted).sum())
    assert 20 <= hits < 30
    frame = frame.assign(health=truth)
    summary = table_predict.predict(loaded, write(frame, tmp_path), out, chunk_rows=7)
    low, high = wilson(hits, 30)
    assert (
        f"accuracy {hits / 30:.4f} (95 % interval {low:.4f} to {high:.4f}) on 30 rows with 'health'"
        in summary.lines
    )
    assert len(read(out)) == 40


def test_rows_of_no_class_are_predicted_and_told(loaded, tmp_path):
    frame = table(40, health="well").astype(object)
    frame.loc[3:5, "health"] = "dead"
    frame.loc[30, "health"] = "?"
    frame.loc[31, "health"] = None
    out = tmp_path / "predictions.csv"
    summary = table_predict.predict(loaded, write(frame, tmp_path), out, chunk_rows=4)
    assert summary.lines[-3] == (
        "4 rows whose 'health' is no class of the run were predicted and not counted: dead 3, ? 1"
    )
    assert summary.known == 35
    assert len(read(out)) == 40
    frame["health"] = [f"name {row}" for row in range(40)]
    summary = table_predict.predict(loaded, write(frame, tmp_path), out)
    assert "name 4 1 and 35 more" in summary.lines[-2]
    assert summary.known == 0


def test_missing_and_unseen_values_are_told_per_column(loaded, tmp_path):
    frame = table(8, colour=["green", "blue", "", "pink", "red", "  ", "blue", "red"])
    summary = table_predict.predict(
        loaded, write(frame, tmp_path), tmp_path / "predictions.csv", chunk_rows=3
    )
    assert summary.lines == [
        "missing values: age 2, colour 2",
        "categories that no training row had, taken as missing: colour 2",
        f"8 predictions: {tmp_path / 'predictions.csv'}",
    ]
    clean = table(8, age=50.0, colour="red")
    summary = table_predict.predict(loaded, write(clean, tmp_path), tmp_path / "clean.csv")
    assert len(summary.lines) == 1


def test_a_discriminative_model_has_no_density(tmp_path):
    random.seed_everything(0)
    loaded = loaded_run(
        measurement_dnn(SPEC, DiscriminativeConfig()), tmp_path, model="measurement_dnn"
    )
    table_predict.predict(loaded, write(table(3), tmp_path), tmp_path / "predictions.csv")
    rows = read(tmp_path / "predictions.csv")
    assert list(rows[0]) == ["row", "label", "p(ill, badly)", "p(well)"]
    total = [sum(float(row[f"p({name})"]) for name in CLASSES) for row in rows]
    np.testing.assert_allclose(total, np.ones(3), atol=1e-5)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"pulse": "fast"}, "column 'pulse', row 39: 'fast' is no number"),
        ({"age": "inf"}, "column 'age', row 39: 'inf' is infinite"),
    ],
)
def test_a_bad_row_in_a_late_chunk_leaves_nothing(loaded, tmp_path, monkeypatch, changed, sentence):
    monkeypatch.setattr(table_predict, "_BLOCK_ROWS", 8)
    frame = table(40, health="well").astype(object)
    for name, value in changed.items():
        frame.loc[38, name] = value
    path, out = write(frame, tmp_path), tmp_path / "predictions.csv"
    refused(loaded, path, out, sentence, chunk_rows=6)
    out.write_text("of yesterday")
    refused(loaded, path, out, sentence, chunk_rows=6)


def test_a_line_of_the_wrong_length_in_a_late_chunk_leaves_nothing(loaded, tmp_path):
    path = write(table(40), tmp_path)
    path.write_text(path.read_text() + "patient 40,red\n")
    refused(loaded, path, tmp_path / "out.csv", "row 41: 2 values were found", chunk_rows=6)


def test_a_row_whose_score_is_no_number_is_named_and_no_hit(loaded, tmp_path, monkeypatch):
    broken = []

    def log_scores(self, x, *, draw=0):
        scores = np.tile(np.float32([[0.0, -1.0]]), (len(x), 1))
        scores[broken[:1]] = np.nan
        return scores

    monkeypatch.setattr(Predictor, "log_scores", log_scores)
    predictor = Predictor(loaded.classifier, seed=0)
    x, y = np.zeros((3, 1)), np.zeros(3, np.int32)
    np.testing.assert_array_equal(predictor.hits(x, y)[0], [True, True, True])
    broken.append(1)
    np.testing.assert_array_equal(predictor.hits(x, y)[0], [True, False, True])
    refused(
        *(loaded, write(table(40), tmp_path), tmp_path / "out.csv"),
        "row 2: log p.x, y. is not finite, because a value is too far",
    )


def test_columns_that_differ_are_refused(loaded, tmp_path):
    path = write(table(4).rename(columns={"pulse": "Pulse"}), tmp_path)
    refused(loaded, path, tmp_path / "out.csv", "column 'pulse' is not in the table.*'Pulse'")


def test_places_that_cannot_be_written_are_refused(loaded, tmp_path):
    path = write(table(4), tmp_path)
    refused(loaded, path, tmp_path, "is a directory; name the file to write")
    refused(loaded, path, tmp_path / "none" / "out.csv", "none is not a directory")
    refused(loaded, path, path / "out.csv", "new.csv is not a directory")
    refused(loaded, path, path, "new.csv is the table itself; name another file")
    refused(loaded, path, tmp_path / ("x" * 300), "cannot be written: File name too long")
    refused(loaded, tmp_path / "absent.csv", tmp_path / "out.csv", "absent.csv cannot be read")


def test_a_run_on_images_is_refused(tmp_path):
    classifier, _ = binary()
    loaded = loaded_run(classifier, tmp_path, model="cama", dataset="digits")
    path = write(table(4), tmp_path)
    refused(loaded, path, tmp_path / "out.csv", r"the run is a cama of images \(digits\)")


def test_an_interruption_leaves_nothing(loaded, tmp_path, monkeypatch):
    path = write(table(4), tmp_path)

    def interrupted(self, x):
        raise KeyboardInterrupt

    monkeypatch.setattr(Predictor, "log_scores", interrupted)
    with pytest.raises(KeyboardInterrupt):
        table_predict.predict(loaded, path, tmp_path / "out.csv")
    assert list(tmp_path.iterdir()) == [path]


def test_long_files_report_their_progress(loaded, tmp_path, monkeypatch):
    monkeypatch.setattr(table_predict, "_BLOCK_ROWS", 10)
    monkeypatch.setattr(table_predict, "_REPORTED_ROWS", 20)
    shown = io.StringIO()
    table_predict.predict(
        loaded, write(table(45), tmp_path), tmp_path / "out.csv", console=Console(file=shown)
    )
    assert shown.getvalue().splitlines() == [
        "predict new.csv: 20 rows",
        "predict new.csv: 40 rows",
    ]
    terminal = io.StringIO()
    table_predict.predict(
        loaded,
        tmp_path / "new.csv",
        tmp_path / "out.csv",
        console=Console(file=terminal, force_terminal=True),
    )
    assert "45 rows" in terminal.getvalue()
