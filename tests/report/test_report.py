import dataclasses
import io
import json
import re
import shutil

import numpy as np
import pytest
from matplotlib import image as mpl_image

from tests.conftest import TF_DATA_IS_COMPILED, eagerly
from tests.doubles import ROW
from tfcama import provenance
from tfcama.errors import InputError
from tfcama.evaluation import results, robustness
from tfcama.evaluation.checks import Check, save_checks
from tfcama.evaluation.subject import load_subject
from tfcama.models.registry import MODELS
from tfcama.report import build as build_lib
from tfcama.report import figures, labels, pictures
from tfcama.report.build import _summary, build
from tfcama.report.schema import Report
from tfcama.studies import steps
from tfcama.studies.attacked_adaptation import AttackedAdaptation, adapted_runs, malicious_rows
from tfcama.training import run
from tfcama.training.config import FinetuneConfig, RunConfig, TrainingConfig
from tfcama.training.finetune import finetune_on_manipulation
from tfcama.workdir import Workdir

pytestmark = TF_DATA_IS_COMPILED


def row(**changes):
    return results.scored(np.array([True, True, False, True]), **{**ROW, **changes})


@pytest.mark.parametrize(
    ("changes", "label"),
    [
        ({}, "CAMA"),
        ({"model": "dnn"}, "DNN"),
        ({"finetuned_on": "vertical_shift:0.2"}, "CAMA, fine-tuned on vertical shift 0.2"),
        (
            {"finetuned_on": "shift:0.2, then pgd:steps=9 eps 0.1", "experiment": "attack_static"},
            "CAMA, fine-tuned on shift 0.2, then PGD (steps=9) of each eps",
        ),
        (
            {"experiment": "matched", "finetuned_on": "vertical_shift:0.2"},
            "CAMA, fine-tuned on vertical shift of each range",
        ),
        (
            {"experiment": "manipulation_held_out", "finetuned_on": "rotation:30"},
            "CAMA, fine-tuned on rotation 30 (unseen inputs)",
        ),
        ({"trained_on": "clean+vertical_shift:0.5"}, "CAMA trained on vertical shift 0.5"),
        (
            {"experiment": "attack_static", "finetuned_on": "pgd:steps=9 eps 0.1"},
            "CAMA, fine-tuned on PGD (steps=9) of each eps",
        ),
        (
            {"experiment": "attack_static_clean", "finetuned_on": "fgsm eps 0.1"},
            "CAMA, fine-tuned on FGSM of each eps (clean inputs)",
        ),
        (
            {"experiment": "fraction_0.01_held_out", "finetuned_on": "rotation:30"},
            "CAMA, fine-tuned on rotation 30, 1 % of inputs (unseen inputs)",
        ),
        (
            {"experiment": "attack_adaptive", "finetuned_on": "pgd:steps=9 eps 0.1 round 1"},
            "CAMA, fine-tuned on PGD (steps=9) eps 0.1 round 1, what it adapted to",
        ),
        (
            {"experiment": "attack_adaptive_clean", "finetuned_on": "fgsm eps 0.1 round 1"},
            "CAMA, fine-tuned on FGSM eps 0.1 round 1 (clean inputs)",
        ),
        (
            {
                "experiment": "attack_malicious",
                "finetuned_on": "0.05 of fgsm from cnn eps 0.1 on 40 inputs",
            },
            "CAMA, fine-tuned on 0.05 of FGSM from CNN eps 0.1 on 40 inputs",
        ),
        ({"experiment": "stream_as_it_came"}, "CAMA, as it came"),
        ({"model": "measurement_dnn", "variant": "hidden=16"}, "DNN (hidden=16)"),
        (
            {"model": "measurement_cama", "variant": "coparent_features=quadratic"},
            "CAMA (quadratic NNpC)",
        ),
        ({"variant": "x1 declared coparent"}, "CAMA (x1 declared coparent)"),
        (
            {"variant": ", ".join(f"x{i} declared coparent" for i in range(4))},
            "CAMA (4 children declared co-parents)",
        ),
        (
            {"experiment": "matched_clean", "finetuned_on": "children_shift:3:direction=down"},
            "CAMA, fine-tuned on children shift down of each range (clean inputs)",
        ),
        (
            {"finetuned_on": "children_shift:3:column=x1"},
            "CAMA, fine-tuned on children shift 3 of x1",
        ),
        (
            {"finetuned_on": "children_shift:3:column=an eps b"},
            "CAMA, fine-tuned on children shift 3 of an eps b",
        ),
    ],
)
def test_curves_are_named_for_people(changes, label):
    assert labels.line_of(row(**changes)).label == label


def test_attacks_are_named_for_people():
    assert labels.attack_name("pgd:steps=20:step_size=0.1") == "PGD (steps=20, step_size=0.1)"
    assert labels.attack_name("fgsm from dnn") == "FGSM from DNN"
    assert labels.attack_name("fgsm from dnn (seed 1)") == "FGSM from DNN (seed 1)"
    assert labels.attack_name("worst of fgsm+pgd from dnn") == "worst of FGSM, PGD, from DNN"


def test_one_seed_shows_wilson_and_several_their_spread():
    one = figures.curve_points([row()], "level")
    (points,) = one.values()
    assert points[0].low == row().low
    several = [dataclasses.replace(row(seed=s), accuracy=a) for s, a in enumerate((0.5, 0.7, 0.9))]
    (points,) = figures.curve_points(several, "level").values()
    assert points[0].mean == pytest.approx(0.7)
    assert points[0].high == pytest.approx(0.9)  # standard deviation 0.2
    high = [dataclasses.replace(row(seed=s), accuracy=a) for s, a in enumerate((0.8, 1.0, 1.0))]
    (points,) = figures.curve_points(high, "level").values()
    assert points[0].high == 1.0  # no accuracy is above


def test_a_seed_that_was_scored_twice_is_one_point_of_most_inputs():
    few = results.scored(np.zeros(2, bool), **ROW)
    for rows in ([few, row()], [row(), few]):
        (points,) = figures.curve_points(rows, "level").values()
        assert points == [figures.Point(row().level, row().accuracy, row().low, row().high)]


@pytest.fixture(scope="module")
def studied(tmp_path_factory, bars):
    """A DNN, a CAMA and its fine-tuning, evaluated and attacked on `bars`."""
    patch = pytest.MonkeyPatch()
    patch.setattr(run, "load_data", lambda config, *, data_dir: bars)
    with eagerly():
        made = _studied(tmp_path_factory.mktemp("studied"))
    yield made
    patch.undo()


def _studied(root):
    workdirs = []
    lines = []
    for model in ("dnn", "cama"):
        config = RunConfig(
            model=model,
            dataset="digits",
            seed=0,
            architecture=MODELS[model].config_class(),
            training=TrainingConfig(epochs=2, batch_size=32),
        )
        workdirs.append(Workdir(root / model))
        run.train(config, workdirs[-1])
    adaptation = FinetuneConfig(subject="vertical_shift:0.2", steps=2, batch_size=4)
    workdirs.append(steps.finetuned_workdir(workdirs[1], adaptation))
    finetune_on_manipulation(
        workdirs[1], workdirs[2], "vertical_shift:0.2", adaptation, data_dir=None
    )
    found = []
    for workdir in workdirs:
        subject = load_subject(workdir, data_dir=None, limit=None)
        steps.evaluate(subject, "vertical_shift", [0.0, 0.3], progress=lines.append)
        steps.picture_model(subject)
        few = load_subject(workdir, data_dir=None, limit=4)
        found.append(steps.attack(few, "fgsm", [0.0, 0.1], progress=lines.append))
    few = load_subject(workdirs[1], data_dir=None, limit=4)
    adaptation = FinetuneConfig(steps=2, batch_size=4)
    attacked = AttackedAdaptation(
        few, "fgsm", 0.1, adaptation, adversarial=found[1][0.1].x, progress=lines.append
    )
    attacked.adaptive(rounds=2)
    attacked.malicious(share=0.25)
    checked = [Check("good", True, "1"), Check("bad", False, "2"), Check("near", None, "3")]
    save_checks(workdirs[1], checked, inputs=25, asked={"eps": 0.1})
    return root, workdirs, lines


def test_runs_are_named_by_what_tells_them_apart(tmp_path):
    one, other = Workdir(tmp_path / "x" / "a"), Workdir(tmp_path / "x" / "b" / "c")
    assert [build_lib._name(workdir, [one, other]) for workdir in (one, other)] == ["a", "b/c"]
    assert build_lib._name(other, [other]) == "c"


def test_every_curve_has_a_colour_of_its_own():
    rows = [row(model="dnn"), row()]
    for name in ("vertical_shift:0.2", "horizontal_shift:0.2", "shift:0.2"):
        rows += [row(experiment=e, finetuned_on=name) for e in ("matched", "matched_held_out")]
    curves = figures.curve_points(rows, "level")
    figure = figures.accuracy_curves(rows, axis="level", xlabel="x", title="t", chance=0.1)
    drawn = dict(zip(curves, figure.axes[0].lines, strict=False))
    whole = [line.get_color() for key, line in drawn.items() if not key.held_out]
    assert len(set(whole)) == 5
    for key, line in drawn.items():
        if key.held_out:
            assert line.get_color() == drawn[key._replace(held_out=False)].get_color()


@pytest.mark.parametrize("name", ["rotation:60", "rotation:30+zoom:0.3+shift:0.15+contrast:0.5"])
def test_a_legend_of_long_names_stands_beside_the_curves(name):
    rows = [row(model="dnn"), row(experiment="matched", finetuned_on=name)]
    figure = figures.accuracy_curves(rows, axis="level", xlabel="x", title="t", chance=0.1)
    pictures.to_png(figure)  # lays it out
    (axes,) = figure.axes
    legend, curves = axes.get_legend().get_window_extent(), axes.get_window_extent()
    assert (legend.x0 >= curves.x1) == ("+" in name)
    assert legend.x0 >= curves.x0
    assert legend.x1 <= figure.bbox.x1
    assert curves.width > 0.4 * figure.bbox.width


def test_a_matrix_has_room_for_long_names():
    """A figure whose names squeeze its cells to nothing is a warning, and so an error here."""
    columns = ["clean", "rotation 30, then zoom 0.3, then shift 0.15, then contrast 0.5"]
    rows = ["CAMA (additive) fine-tuned on children shift 2 down, 10 % of inputs"]
    cells = np.array([[0.5, np.nan]])
    figure = figures.accuracy_matrix(cells, rows=rows, columns=columns, title="Accuracy")
    pictures.to_png(figure)
    assert figure.axes[0].get_window_extent().width > 150 * 0.72 * len(columns) / 2


def test_a_dollar_in_a_name_is_no_formula():
    figure = figures.accuracy_matrix(
        np.array([[0.5]]), rows=["under 5$ a $piece\\frac$"], columns=["$_x"], title="a$^$"
    )
    pictures.to_png(figure)


def test_every_step_reports_its_progress(studied):
    _, _, lines = studied
    assert sum("vertical_shift 0.3: accuracy" in line for line in lines) == 3
    assert any(re.search(r"fgsm eps 0.1, adapted: attacked (0\.\d+|1\.0)", line) for line in lines)


def test_static_fine_tuning_reports_attacked_and_clean(studied):
    root, _, _ = studied
    adapted = Workdir(root / "cama" / "finetuned" / "fgsm-eps-0.1-on-4-inputs_1_seed0")
    rows = results.load_rows(adapted)
    assert [r.experiment for r in rows] == ["attack", "attack_static", "attack_static_clean"]
    assert {r.finetuned_on for r in rows} == {"fgsm eps 0.1 on 4 inputs"}


def test_an_adaptive_attacker_re_runs_the_adaptation(studied):
    root, _, lines = studied
    kept = [
        results.load_rows(Workdir(root / "cama" / "finetuned" / name))
        for name in (f"fgsm-eps-0.1-round-{n}-on-4-inputs_1_seed0" for n in (1, 2))
    ]
    # What was made for a round's model is scored before it is adapted to; nothing was for the last.
    assert [[row.experiment for row in rows] for rows in kept] == [
        ["attack_adaptive", "attack_adaptive_clean", "attack"],
        ["attack_adaptive", "attack_adaptive_clean"],
    ]
    (said,) = [line for line in lines if ", adaptive: " in line]
    (static,) = [line for line in lines if line.startswith("fgsm eps 0.1, adapted: attacked")]
    found = [float(static.split("attacked ")[1].split(",")[0])]
    found += [rows[0].accuracy for rows in kept]
    assert said == (f"fgsm eps 0.1, adaptive: {min(found):.4f}, of round {int(np.argmin(found))}")


def test_malicious_inputs_are_told_from_the_benign_ones_beside_them(studied):
    root, _, _ = studied
    name = "0.25-of-fgsm-eps-0.1-on-4-inputs_1_seed0"
    rows = {r.experiment: r for r in results.load_rows(Workdir(root / "cama" / "finetuned" / name))}
    assert {e: (r.n, r.eps) for e, r in rows.items()} == {
        "attack_malicious": (1, 0.1),
        "attack_malicious_benign": (3, 0.0),
    }


def test_runs_that_were_adapted_to_attacked_inputs_are_told_from_others(studied):
    _, workdirs, _ = studied
    found = adapted_runs(workdirs[1])
    assert [workdir.root.name for workdir in found] == [
        "0.25-of-fgsm-eps-0.1-on-4-inputs_1_seed0",
        "fgsm-eps-0.1-on-4-inputs_1_seed0",
        "fgsm-eps-0.1-round-1-on-4-inputs_1_seed0",
        "fgsm-eps-0.1-round-2-on-4-inputs_1_seed0",
    ]
    assert workdirs[2].root.parent == found[0].root.parent  # which has rows of attacks, too


def test_what_was_adapted_otherwise_is_refused_before_it_is_attacked(studied):
    _, workdirs, _ = studied
    few = load_subject(workdirs[1], data_dir=None, limit=4)
    same = AttackedAdaptation(
        few, "fgsm", 0.1, FinetuneConfig(steps=2, batch_size=4), few.test.x, print
    )
    same.check()
    same.check(share=0.25)
    other = dataclasses.replace(same, config=FinetuneConfig(steps=3, batch_size=4))
    for share in (0.0, 0.25):
        with pytest.raises(InputError, match="belongs to a run of another configuration"):
            other.check(share=share)
    dataclasses.replace(other, eps=0.2).check()
    dataclasses.replace(other, source="dnn").check(share=0.25)
    assert not list(workdirs[1].root.glob("finetuned/*dnn*"))
    with pytest.raises(InputError, match="leave benign ones"):
        same.check(share=1.0)


@pytest.mark.parametrize("share", [0.0, 1.0, 0.9, -0.1, float("nan")])
def test_a_share_of_malicious_inputs_leaves_benign_ones(share):
    with pytest.raises(InputError, match=r"must be in \(0, 1\) and leave benign ones"):
        malicious_rows(share, 4)
    assert [malicious_rows(s, 40) for s in (0.001, 0.25, 0.97)] == [1, 10, 39]


def test_what_is_made_for_another_run_is_scored_by_as_many_draws_adapted_or_not(monkeypatch):
    asked = []
    monkeypatch.setattr(
        robustness, "attacked_hits", lambda subject, x, *, draws: asked.append(draws)
    )
    for source in ("", "dnn"):
        study = AttackedAdaptation(None, "fgsm", 0.1, FinetuneConfig(), None, print, source)
        study._hits(None, None)
    assert asked == [1, robustness.SCORING_DRAWS]


def test_a_report_takes_nothing_away_but_an_earlier_report(studied, tmp_path):
    _, workdirs, _ = studied
    target = tmp_path / "page"
    for left in ("thesis.txt", "runs/config.json", "results.csv"):
        (target / left).parent.mkdir(parents=True, exist_ok=True)
        (target / left).write_text("mine")
        with pytest.raises(InputError, match=r"page holds what is no report \("):
            build(workdirs[:1], target, title="t")
        assert (target / left).read_text() == "mine"
        shutil.rmtree(target)
    target.write_text("mine")
    with pytest.raises(InputError, match="page is a file"):
        build(workdirs[:1], target, title="t")
    target.unlink()
    build(workdirs[:1], target, title="first")
    (target / ".DS_Store").write_text("")
    build(workdirs[:1], target, title="second")
    assert "second" in (target / "index.html").read_text()
    (target / "notes").mkdir()
    with pytest.raises(InputError, match=r"holds what is no report \(notes\)"):
        build(workdirs[:1], target, title="third")


def test_clean_images_of_a_static_fine_tuning_stand_under_clean():
    attacked = {"attack": "fgsm", "eps": 0.1, "finetuned_on": "fgsm eps 0.1"}
    rows = [row(level=0.0), row(experiment="attack_static_clean", **attacked)]
    rows.append(
        results.scored(np.zeros(4, bool), **{**ROW, **attacked, "experiment": "attack_static"})
    )
    summary = _summary(rows)
    adapted = summary["lines"]["CAMA, fine-tuned on FGSM of each eps"]
    assert {column: cell["accuracy"] for column, cell in adapted.items()} == {
        ("clean", 0.0): 0.75,
        ("FGSM eps", 0.1): 0.0,
    }


def test_clean_images_are_shown_after_the_adaptation_that_costs_them_most():
    """One for every eps; whichever comes first."""
    rows = [
        results.scored(
            np.arange(4) < hits,
            **{**ROW, "experiment": "attack_static_clean", "finetuned_on": f"fgsm eps {eps:g}"},
        )
        for eps, hits in ((0.1, 4), (0.2, 2), (0.3, 3))
    ]
    for ordered in (rows, rows[::-1]):
        (line,) = _summary(ordered)["lines"].values()
        cell = line["clean", 0.0]
        assert cell["accuracy"] == 0.5
        assert cell["small"].startswith("lowest of 3, ")


def test_a_cell_is_of_the_largest_test_set():
    few = results.scored(np.zeros(2, bool), **{**ROW, "level": 0.0})
    cell = _summary([few, row(level=0.0)])["lines"]["CAMA"]["clean", 0.0]
    assert cell == {"accuracy": 0.75, "small": "30.1–95.4, n = 4"}
    again = results.scored(np.zeros(4, bool), **{**ROW, "level": 0.0})
    assert _summary([row(level=0.0), again])["lines"]["CAMA"]["clean", 0.0] == cell


def test_a_cell_says_how_far_draws_are_apart():
    hits = np.array([[True, True, True, True], [True, True, True, False]])
    cell = _summary([results.scored(hits, **{**ROW, "level": 0.0})])["lines"]["CAMA"]["clean", 0.0]
    low, high = results.wilson(round(0.875 * 4), 4)
    assert cell["small"] == f"{100 * low:.1f}–{100 * high:.1f}, ± 17.7 by draw, n = 4"


def test_a_manipulation_that_tells_its_levels_is_headed_by_its_name_alone():
    both = row(manipulation="rotation:30+zoom:0.3", level=1.0)
    one = row(manipulation="rotation", level=30.0)
    columns = _summary([both, one])["columns"]
    assert set(columns) == {("rotation", 30.0), ("rotation 30 and zoom 0.3", 0.0)}


def test_the_table_shows_the_strongest_and_what_seeds_say():
    rows = [row(level=level) for level in (0.0, 0.1, 0.2, 0.3, 0.9)]
    rows.append(results.scored(np.zeros(4, bool), **{**ROW, "level": 0.9, "seed": ROW["seed"] + 1}))
    summary = _summary(rows)
    about = labels.manipulation_name(ROW["manipulation"])
    assert summary["columns"] == [("clean", 0.0), (about, 0.1), (about, 0.3), (about, 0.9)]
    cell = summary["lines"]["CAMA"][about, 0.9]
    assert cell == {"accuracy": 0.375, "small": "± 53.0, 2 seeds, n = 4"}


def test_a_caption_says_what_its_bands_are():
    one, two = row(), row(seed=1)
    assert figures.band_caption([one]) == "Bands: Wilson 95 % intervals."
    both = "Lines: means over 2 seeds; bands: one standard deviation"
    assert figures.band_caption([one, two]) == f"{both}."
    mixed = figures.band_caption([one, two, row(model="dnn")])
    assert mixed == f"{both}, Wilson 95 % intervals where there is one seed."


def test_lines_can_be_told_apart():
    lines = [labels.line_of(row(finetuned_on=f"rotation:{level}")) for level in range(15)]
    lines += [labels.line_of(row(model=model)) for model in ("dnn", "cama")]
    styles = figures._styles(lines)
    assert len(set(styles.values())) == len(lines)
    unseen = [line._replace(held_out=True) for line in lines]
    assert list(figures._styles(lines + unseen).values()) == 2 * list(styles.values())


def test_a_report_holds_json_pictures_and_a_page(studied, tmp_path):
    _, workdirs, _ = studied
    target = tmp_path / "report"
    build(workdirs, target, title="Bars & <stripes>")
    value = json.loads((target / "report.json").read_text())
    assert value["schema"] == "tfcama.report/1"
    assert set(value) == {"schema", "run", "results"}
    assert set(value["run"]) == {"config", "commit", "versions", "seed", "seconds", "made_by"}
    for made_by in value["run"]["made_by"].values():
        assert made_by == [provenance.commit()]
    assert value["run"]["made_by"].keys() == value["run"]["config"].keys()
    assert set(value["run"]["config"]) == {
        "dnn",
        "cama",
        "cama/finetuned/vertical_shift-0.2_0.5_seed0",
    }
    assert value["run"]["seconds"] > 0
    assert len(value["results"]) == 3 * 2 + 2 + 3 * 2
    for line in value["results"]:
        assert set(line) == {field.name for field in dataclasses.fields(results.Row)}
        assert 0.0 <= line["low"] <= line["accuracy"] <= line["high"] <= 1.0
    assert Report.from_json(value).to_json() == value

    names = {path.stem for path in target.glob("*.png")}
    assert {"accuracy_vertical_shift", "attack_fgsm", "training"} <= names
    assert {"cama_do_m0_vertical_shift", "cama_samples", "dnn_adversarial_fgsm"} <= names
    assert "dnn_samples" not in names  # a DNN has nothing to sample
    for path in target.glob("*.png"):
        pixels = mpl_image.imread(io.BytesIO(path.read_bytes()))
        assert pixels.shape[0] > 100
        assert pixels[..., :3].std() > 0.01  # not a blank sheet

    page = (target / "index.html").read_text()
    assert "Bars &amp; &lt;stripes&gt;" in page
    assert "CAMA, fine-tuned on vertical shift 0.2" in page
    assert page.count("data:image/png;base64,") == len(names)
    assert not re.search(r'(src|href)="(?!data:)', page)  # self-contained
    assert ">FAIL<" in page
    assert ">pass<" in page


def test_a_failed_report_leaves_the_old_one(studied, tmp_path, monkeypatch):
    _, workdirs, _ = studied
    target = tmp_path / "report"
    build(workdirs[:1], target, title="old")
    monkeypatch.setattr("tfcama.report.build._html", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        build(workdirs[:1], target, title="new")
    assert "old" in (target / "index.html").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


def test_a_run_without_results_is_no_report(tmp_path, bars_everywhere):
    config = RunConfig(
        model="dnn",
        dataset="digits",
        seed=0,
        architecture=MODELS["dnn"].config_class(),
        training=TrainingConfig(epochs=1, batch_size=32),
    )
    run.train(config, Workdir(tmp_path))
    with pytest.raises(InputError, match=r"run trainers\.evaluate or trainers\.attack first"):
        build([Workdir(tmp_path)], tmp_path / "report", title="x")


def test_another_schema_is_refused():
    with pytest.raises(InputError, match=r"schema 'tfcama\.report/0' was given"):
        Report.from_json({"schema": "tfcama.report/0"})
    with pytest.raises(InputError, match=r"no tfcama\.report/1 report"):
        Report.from_json({"schema": "tfcama.report/1", "run": {}})


def test_words_without_a_picture_are_named(tmp_path):
    workdir = Workdir(tmp_path)
    pictures.save(workdir, pictures.Picture("a", "model", "t", "c", b"png"))
    (workdir.results / "a.png").unlink()
    with pytest.raises(InputError, match="do not make a picture"):
        pictures.load_all(workdir)


def test_provenance_is_there():
    assert re.fullmatch(r"[0-9a-f]{40}(\+changes)?|unknown", provenance.commit())
    assert provenance.versions()["tensorflow"].startswith("2.")
