"""The study of tables and its demo in miniature: all their steps, once."""

import functools
import json

import pytest

from tests.studies.conftest import untouched
from tfcama.data.measurement import MeasurementConfig
from tfcama.serving import operations
from tfcama.studies import demo as demo_lib
from tfcama.studies import measurement
from tfcama.studies.measurement import CHILDREN_UP, MeasurementStudy, Profile
from tfcama.studies.study import by_fraction

DATA = MeasurementConfig(train_rows=64, validation_rows=20, test_rows=20)
TINY = Profile(
    dnn_epochs=1,
    cama_epochs=1,
    coparents=(0.0, 2.0),
    children=(0.0, 1.0),
    finetuned={CHILDREN_UP: (1.0,)},
    fraction_level=1.0,
    fractions=(0.1,),
    finetune_steps=2,
    radii=(0.0, 0.2),
    adapted_radii=(0.2,),
    strong_radii=(),
    strong_seeds=(),
    misdeclared=(2,),
    graphs={},
    quadratic=True,
)


@pytest.fixture
def few_steps(monkeypatch):
    entry = measurement.DATASETS["measurement"]._replace(steps_per_epoch=2)
    monkeypatch.setattr(measurement, "DATASETS", {"measurement": entry})
    monkeypatch.setattr(measurement, "_ATTACKS", ("fgsm",))


@pytest.mark.long
def test_a_study_of_tables_is_done_once(tmp_path, few_steps, no_training):
    study = MeasurementStudy(
        root=tmp_path / "runs",
        dataset="measurement",
        data_dir=None,
        profile=TINY,
        precision="float32",
        progress=[].append,
        data=DATA,
    )
    page = study.run([0], tmp_path / "report")
    names = {path.stem for path in page.parent.glob("*.png")}
    assert names == {
        *("coparents_up", "coparents_down", "children_up", "children_down", "attack_fgsm"),
        *("wrong_graph_coparents_up", "wrong_graph_coparents_down", "wrong_graph_children_up"),
        *("wrong_graph_children_down", "fraction", "training"),
    }
    rows = json.loads((page.parent / "report.json").read_text())["results"]
    assert {row["model"] for row in rows} == {"measurement_dnn", "measurement_cama", "bayes"}
    assert {row["variant"] for row in rows} == {
        *("", "coparent_features=quadratic", "x1 declared coparent, x2 declared coparent"),
    }
    assert {row["experiment"] for row in rows} == {
        *("manipulation", "attack", "attack_static", "attack_static_clean", "matched"),
        *("matched_held_out", "matched_clean", "fraction_0.1", "fraction_0.1_held_out"),
    }
    ideal = [row["accuracy"] for row in rows if row["model"] == "bayes"]
    assert min(ideal) >= 0.95  # a shift of C costs the Bayes classifier nothing
    assert "Do the papers&#39; claims hold?" in page.read_text()
    before = untouched(tmp_path / "runs")
    no_training()
    study.run([0], tmp_path / "report")
    assert untouched(tmp_path / "runs") == before


@pytest.mark.long
def test_a_demo_of_a_real_table_ends_in_an_export(tmp_path, monkeypatch):
    entry = measurement.DATASETS["breast_cancer"]._replace(steps_per_epoch=2)
    monkeypatch.setattr(measurement, "DATASETS", {"breast_cancer": entry})
    monkeypatch.setattr(measurement, "_ATTACKS", ())
    monkeypatch.setattr(demo_lib, "PROFILES", {"demo": TINY._replace(misdeclared=(), fractions=())})
    call = functools.partial(
        demo_lib.demo, tmp_path, dataset="breast_cancer", data_dir=None, seed=0, epochs=1
    )
    lines = []
    page = call(progress=lines.append)
    assert {path.stem for path in page.parent.glob("*.png")} == {
        *("children_up", "children_down", "training"),
    }
    assert (tmp_path / "export" / "measurement_cama" / "1" / "saved_model.pb").exists()
    again = []
    call(progress=again.append)
    assert again == []
    call(progress=again.append, seed=1)  # another model, another version
    assert again[-1].startswith("published")
    assert operations.versions(tmp_path / "export" / "measurement_cama") == [1, 2]


def test_shares_of_rows_need_more_than_the_default():
    assert by_fraction([], manipulation="a", level=1.0) == {}
