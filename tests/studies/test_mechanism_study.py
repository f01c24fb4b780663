"""The study of mechanisms in miniature, its claims, and the choice of a mechanism."""

import dataclasses
import io
import json
import pickle

import numpy as np
import pandas as pd
import pytest
from scipy import special, stats

from tests.studies.conftest import untouched
from tfcama.errors import InputError
from tfcama.evaluation.results import Row, wilson
from tfcama.report.matrix import to_csv
from tfcama.studies import mechanism_choice, mechanisms
from tfcama.studies.mechanism_choice import TRAINED, rank_mechanisms, write_ranking
from tfcama.studies.mechanism_claims import claims
from tfcama.studies.mechanism_profiles import Case, Profile
from tfcama.studies.mechanism_table import matrix
from tfcama.training.config import FinetuneConfig, RunConfig, TrainingConfig, asked_finetuning
from tfcama.training.finetune import adapted_rows
from tfcama.workdir import Workdir

IMAGES = Profile(
    kind="image",
    cama_epochs=1,
    dnn_epochs=1,
    cnn_epochs=1,
    warm_up=2,
    sleep=2,
    steps=0,
    additive_steps=3,
    cases=(Case("rotation", 30.0, "rotation"), Case("zoom", 0.4, "zoom")),
    adapted=1,
    foresighted=1,
    augmentation="rotation:30+zoom:0.4",
    additive=0,
    general=0,
    fractions=(),
    limit=10,
    cross_limit=8,
    attacked=0,
    attacked_again=0,
)
TABLES = IMAGES._replace(
    kind="table",
    cnn_epochs=0,
    steps=2,
    augmentation="",
    cases=(Case("children_shift:direction=down", 2.0, "location_scale"),),
    additive=1,
    fractions=(0.1,),
    attacked=4,
)


@pytest.fixture
def study(tmp_path, bars_everywhere):
    return make_study(tmp_path, "digits", IMAGES)


def make_study(path, dataset, profile):
    return mechanisms.MechanismStudy(
        root=path / "runs",
        dataset=dataset,
        data_dir=None,
        profile=profile,
        precision="float32",
        progress=quiet,
    )


def quiet(text):
    del text


def results_of(page):
    return json.loads((page.parent / "report.json").read_text())["results"]


@pytest.mark.long
def test_a_study_of_images_is_done_once_piece_by_piece(study, tmp_path, no_training):
    pieces = study.pieces(0)
    assert {name: piece.after for name, piece in pieces.items()} == {
        "cama": (),
        "dreams_rotation": ("cama",),
        "rotation_to_rotation-30_0.5": ("dreams_rotation",),
        "dnn": (),
        "dnn_rotation-30": (),
        "dnn_rotation-30-zoom-0.4": (),
        "stn_cnn": (),
        "cnn_bn": (),
        "cnn_bn_batch_norm_rotation-30": ("cnn_bn",),
        "cnn_bn_tent_rotation-30": ("cnn_bn",),
        "cnn_rotation-30": (),
        "cnn_zoom-0.4": (),
        "cnn_rotation-30-zoom-0.4": (),
    }
    with pytest.raises(InputError, match=r"holds no scored run of seed 0; without --finished"):
        study.report_finished([0], tmp_path / "early")
    for name in reversed(pieces):  # what comes last makes what it goes on from
        sent = pickle.loads(pickle.dumps(pieces[name]))  # as to another process
        assert sent.call().root.is_relative_to(study.root / "seed0")
        if name == "dnn":
            rows = results_of(study.report_finished([0], tmp_path / "early"))
            assert {row["model"] for row in rows} == {"dnn", "cnn", "cnn_bn", "stn_cnn"}
    no_training()
    page = study.run([0], tmp_path / "report")
    names = {path.stem for path in page.parent.glob("*.png")}
    assert {"accuracy_matrix", "recovered_rotation-30_of_rotation-30_rotation"} <= names
    rows = results_of(page)
    assert {row["model"] for row in rows} == {"cama", "dnn", "cnn", "cnn_bn", "stn_cnn"}
    assert {row["variant"] for row in rows if row["model"] == "cama"} == {"", "mechanism=rotation"}
    adapted = {row["finetuned_on"] for row in rows} - {""}
    assert adapted == {"rotation:30", "dreams"}
    assert {row["manipulation"] for row in rows} == {"rotation", "zoom", IMAGES.augmentation}
    assert "Does it do what was asked of it?" in page.read_text()
    table = pd.read_csv(page.parent / "table.csv", index_col="model")
    found = next(r for r in rows if (r["model"], r["level"]) == ("stn_cnn", 30.0))
    shown = table.loc["spatial-transformer CNN"]
    assert shown["rotation 30"] == pytest.approx(100 * found["accuracy"], abs=0.01)
    before = untouched(tmp_path / "runs")
    study.run([0], tmp_path / "report")
    assert untouched(tmp_path / "runs") == before


@pytest.mark.long
def test_a_study_of_tables_compares_with_the_additive_mechanism(tmp_path, monkeypatch):
    monkeypatch.setattr(mechanisms, "_ATTACKS", ("fgsm",))
    monkeypatch.setattr(mechanisms, "_RADII", (0.0, 0.1))
    page = make_study(tmp_path, "measurement", TABLES).run([0], tmp_path / "report")
    rows = results_of(page)
    assert len({json.dumps(row) for row in rows}) == len(rows)  # no run is reported twice
    down = "children_shift:2:direction=down"
    assert {row["model"] for row in rows} == {"measurement_cama", "measurement_dnn"}
    adapted = {row["variant"] for row in rows if row["finetuned_on"] == down}
    assert adapted == {"", "mechanism=location_scale"}
    assert {row["experiment"] for row in rows} >= {"fraction_0.1_held_out", "manipulation_held_out"}
    attacked = {(row["attack"], row["finetuned_on"]) for row in rows if row["attack"]}
    assert attacked == {("fgsm", ""), ("fgsm", down), ("fgsm from measurement_cama", down)}
    assert (page.parent / "attack_fgsm-from-cama.png").exists()
    text = page.read_text()
    assert "children shift 2 down: its mechanism above the additive one" in text


def test_seeds_after_the_first_are_attacked_if_the_profile_says_so(tmp_path):
    for again in (0, 3):
        profile = IMAGES._replace(attacked=5, attacked_again=again)
        study = make_study(tmp_path, "digits", profile)
        assert study.repeated.profile == IMAGES._replace(attacked=again, attacked_again=again)
        assert study.repeated.root == study.root


def test_a_profile_is_for_inputs_of_its_kind(tmp_path):
    with pytest.raises(InputError, match=r"measurement holds tables, the profile is for images"):
        make_study(tmp_path, "measurement", IMAGES).run([0], tmp_path / "report")


def row(accuracy, *, trained_on="clean", finetuned_on="", on="clean", model="cama", **fields):
    name, _, level = on.partition(":")
    defaults = {
        "experiment": "manipulation_held_out" if finetuned_on else "manipulation",
        "manipulation": "vertical_shift" if on == "clean" else name,
        "level": float(level or 0),
        "seed": 0,
        "variant": "mechanism=translation" if finetuned_on and model == "cama" else "",
    }
    n = 1_000_000
    low, high = wilson(accuracy * n, n)
    return Row(
        model=model,
        dataset="mnist",
        trained_on=trained_on,
        finetuned_on=finetuned_on,
        attack="",
        eps=0.0,
        n=n,
        accuracy=accuracy,
        low=low,
        high=high,
        **{**defaults, **fields},
    )


def test_claims_say_what_holds():
    shift, turn, unseen = "vertical_shift:0.5", "rotation:60", "zoom:0.4"
    rows = [
        row(0.99),
        row(0.99, model="dnn"),
        row(0.30, model="dnn", on=shift),
        row(0.50, model="dnn", on=turn),
        row(0.95, model="dnn", on=shift, trained_on=f"clean+{shift}"),
        row(0.40, model="dnn", on=turn, trained_on=f"clean+{shift}"),
        row(0.80, model="dnn", on=unseen, trained_on=f"clean+{shift}"),
        row(0.88, finetuned_on=shift, on=shift),
        row(0.10, finetuned_on=shift, on=shift, variant=""),
        row(0.20, finetuned_on=shift, on=turn, variant=""),
        row(0.45, finetuned_on=shift, on=turn, variant="mechanism=affine+photometric"),
        row(0.74, finetuned_on=shift, on=unseen, variant="mechanism=affine+photometric"),
        row(0.984, finetuned_on=shift),
        row(0.60, finetuned_on=shift, on=turn),
        row(0.70, finetuned_on=shift, on=unseen),
        row(0.70, finetuned_on=turn, on=turn),
        row(0.99, finetuned_on=turn),
        row(0.80, finetuned_on=shift, on=shift, experiment="fraction_0.01_held_out"),
        row(0.81, finetuned_on=shift, on=shift, experiment="fraction_0.01_held_out", variant=""),
        *(row(0.72, finetuned_on="dreams", on=each) for each in (shift, turn, unseen)),
        *(
            row(accuracy, finetuned_on="dreams", on=each, variant="mechanism=affine+photometric")
            for each, accuracy in ((shift, 0.90), (turn, 0.60), (unseen, 0.60))
        ),
        row(0.99, finetuned_on="dreams", on=shift, variant="mechanism=rotation"),  # of one only
    ]
    found = {
        check.name: check
        for check in claims(
            rows,
            {"x on vertical_shift:0.3: shift_y": [0.6]},
            {shift: "translation", turn: "translation", unseen: "zoom"},
            asked={shift: 0.87},
        )
    }
    expected = {
        "CAMA adapted to vertical shift 0.5: at least 87 %": True,
        "clean accuracy after adaptation is within 0.5 points of before": False,
        "vertical shift 0.5: at least half of what the DNN loses is won back": True,
        "rotation 60: at least half of what the DNN loses is won back": False,
        "vertical shift 0.5: within 2 points of the DNN that was trained on it with labels": False,
        "made for vertical shift 0.5, on all other manipulations: CAMA above every rival made for "
        "the same": True,
        "made for vertical shift 0.5, on all other manipulations: CAMA with affine+photometric "
        "above every rival made for the same": False,
        "CAMA with translation, dreams alone, on all manipulations: above every rival, whatever "
        "that has seen of them": True,
        "CAMA with affine+photometric, dreams alone, on all manipulations: above every rival, "
        "whatever that has seen of them": False,
        "vertical shift 0.5: adapted to 1 % of the inputs, within 5 points of 50 %": False,
        "vertical shift 0.5: adapted to 1 % of the inputs, its mechanism above the additive one": (
            False
        ),
        "vertical shift 0.5: its mechanism above the additive one": True,
        "x on vertical_shift:0.3: shift_y: median error at most 0.5 pixels": False,
    }
    assert {name: check.passed for name, check in found.items()} == expected
    assert (
        "84 %"
        in found["vertical shift 0.5: at least half of what the DNN loses is won back"].detail
    )
    dreamt = next(
        check for name, check in found.items() if name.startswith("CAMA with translation")
    )
    assert dreamt.detail == "72.0 % against 71.7 % (dnn trained on vertical shift 0.5)"


def test_every_rival_counts_by_itself():
    """Two ways to adapt one model are two rivals, whatever the order of their rows."""
    shift, unseen = "vertical_shift:0.5", "zoom:0.4"
    tent = {"model": "cnn_bn", "finetuned_on": shift, "on": unseen, "variant": "tent"}
    rows = [
        row(0.9, finetuned_on=shift, on=shift),
        row(0.7, finetuned_on=shift, on=unseen),
        row(0.8, **tent),
        row(0.4, **{**tent, "variant": "batch_norm"}),
        row(0.6, model="dnn", trained_on=f"clean+{shift}", on=unseen),
    ]
    for ordered in (rows, rows[::-1]):
        found = claims(ordered, {}, {shift: "translation", unseen: "zoom"}, asked={})
        (check,) = (check for check in found if check.name.startswith("made for"))
        assert (check.passed, check.detail) == (False, "70.0 % against 80.0 % (cnn_bn tent)")


@pytest.mark.parametrize(("seen", "claimed"), [("", 0), ("+zoom:0.4", 1)])
def test_who_has_seen_nothing_is_no_rival_of_dreams(seen, claimed):
    rows = [row(0.9, finetuned_on="dreams", on="zoom:0.4")]
    rows.append(row(0.3, model="dnn", trained_on=f"clean{seen}", on="zoom:0.4"))
    found = claims(rows, {}, {"zoom:0.4": "zoom"}, asked={})
    assert len([check for check in found if "dreams alone" in check.name]) == claimed


def test_numbers_over_seeds_stand_with_their_spread():
    shift = Case("vertical_shift", 0.5, "translation")
    made = {"finetuned_on": shift.text, "on": shift.text}
    rows = [
        row(0.99, model="dnn"),
        row(0.80, seed=0, **made),
        row(0.90, seed=1, **made),
        row(0.94, seed=2, **made),
        row(0.50, seed=0, **made, experiment="manipulation"),  # also what it adapted to: not shown
    ]
    (check,) = (
        check
        for check in claims(rows, {}, {shift.text: shift.mechanism}, asked={shift.text: 0.87})
        if check.name.startswith("CAMA adapted to")
    )
    assert (check.passed, check.detail) == (True, "88.0 ± 7.2 %")
    names, columns, cells = matrix(rows, [shift])
    assert columns == ["clean", "vertical shift 0.5"]
    table = pd.read_csv(io.StringIO(to_csv(names, columns, cells)), index_col="model")
    shown = ["seeds", "clean", "clean std", "vertical shift 0.5", "vertical shift 0.5 std"]
    assert list(table.columns) == shown
    assert table.index[0].endswith(", 1 of 3 seeds")
    assert "seeds" not in table.index[1]
    dnn, cama = table.to_numpy()
    np.testing.assert_allclose(dnn, [1, 99.0, np.nan, np.nan, np.nan])
    np.testing.assert_allclose(cama, [3, np.nan, np.nan, 88.0, 7.21])


@pytest.mark.long
def test_mechanisms_are_ranked_by_unseen_inputs(study, tmp_path, bars_everywhere, monkeypatch):
    asked, compared, scored, scores = [], [], {}, mechanism_choice._scores

    def noted(subject, manipulation, rows):
        found = scores(subject, manipulation, rows)
        finetuned = subject.loaded.config.finetuned
        log_px = special.logsumexp(np.concatenate(found[0]), axis=1)  # 15 rows are 15 groups
        scored[TRAINED if finetuned is None else finetuned.mechanism] = log_px
        asked.append(subject.at_test)
        compared.append(rows)
        return found

    monkeypatch.setattr(mechanism_choice, "_scores", noted)
    base = study.trained("cama", 0, model="cama", training=TrainingConfig(epochs=1))
    config = FinetuneConfig(steps=2, batch_size=4, warm_up=1, sleep=1)
    lines = []
    ranking = rank_mechanisms(
        base,
        "rotation:30",
        ["additive", "rotation"],
        config=config,
        data_dir=None,
        limit=None,
        progress=lines.append,
    )
    assert {found.mechanism for found in ranking} == {"additive", "rotation", TRAINED}
    scores = [found.log_px for found in ranking]
    assert scores == sorted(scores, reverse=True)
    assert ranking[0].standard_error == 0.0
    assert "on 15 held-out inputs" in lines[0]
    page = write_ranking(ranking, "rotation:30", tmp_path / "ranking")
    assert "Which mechanism? rotation 30" in page.read_text()
    written = json.loads((page.parent / "ranking.json").read_text())
    assert [line["log_px"] for line in written] == scores
    rows = json.loads((page.parent / "report.json").read_text())["results"]
    assert [row["accuracy"] for row in rows] == [line["accuracy"] for line in written]
    assert (page.parent / "ranking.png").exists()
    # All were compared by as many samples, without a search, on inputs that none saw.
    assert set(asked) == {"num_samples=10,m_samples=8,z_steps=0,m_starts=0,m_steps=0"}
    for found in ranking:
        log_px, behind = scored[found.mechanism], scored[found.mechanism] - scored[ranking[0][0]]
        assert found.log_px == pytest.approx(log_px.mean(), rel=1e-5)
        assert found.standard_error == pytest.approx(stats.sem(behind), rel=1e-3, abs=1e-6)
    seen = adapted_rows(30, config)
    np.testing.assert_array_equal(compared, [np.setdiff1d(np.arange(30), seen)] * 3)
    # A candidate is what trainers.finetune makes of the same flags.
    adapted = {found.mechanism: found.workdir for found in ranking}
    kept = RunConfig.from_json(adapted["rotation"].read_config()).finetuned
    trained = RunConfig.from_json(base.read_config())
    changes = {"subject": "rotation:30", "batch_size": 4, "warm_up": 1, "sleep": 1}
    assert kept == asked_finetuning(trained, [], mechanism="rotation", **changes)
    # Bad input costs no fine-tuning.
    for bad, limit, sentence in (
        (["rotation"], None, "two or more different ones"),
        (["rotation", "rotation"], None, "two or more different ones"),
        (["zoom", "rotaton"], None, "unknown mechanism 'rotaton'"),
        (["zoom", "location_scale"], None, "location_scale"),
        (["zoom", "rotation"], 2, "two or more are needed to compare on"),
        (["zoom", "rotation"], 0, "at least 1"),
    ):
        with pytest.raises(InputError, match=sentence):
            rank_mechanisms(
                base,
                "rotation:30",
                bad,
                config=config,
                data_dir=None,
                limit=limit,
                progress=lines.append,
            )
    with pytest.raises(InputError, match=r"candidate 'rotation': .* belongs to a run of another"):
        rank_mechanisms(
            base,
            "rotation:30",
            ["zoom", "rotation"],
            config=dataclasses.replace(config, learning_rate=0.5),
            data_dir=None,
            limit=None,
            progress=lines.append,
        )
    assert not list(base.root.glob("finetuned/*zoom*"))
    for change, sentence in (
        ({"fraction": 1.0}, "inputs must be left over"),
        ({"m_samples": 3}, "m_samples=3 was given; .* every mechanism has its own"),
    ):
        with pytest.raises(InputError, match=sentence):
            rank_mechanisms(
                Workdir(tmp_path / "none"),
                "rotation:30",
                ["additive", "rotation"],
                config=dataclasses.replace(config, **change),
                data_dir=None,
                limit=None,
                progress=lines.append,
            )
