"""The studies in miniature: all their steps, once, and a second call that repeats none."""

import contextlib
import functools
import json

import numpy as np
import pytest

from tests.doubles import ROW, binary, subject_of
from tests.studies.conftest import untouched
from tfcama.data.base import Split
from tfcama.evaluation import curves, results, robustness
from tfcama.evaluation.checks import Check
from tfcama.evaluation.predict import Predictor
from tfcama.serving import publish
from tfcama.studies import demo as demo_lib
from tfcama.studies import shift, steps
from tfcama.studies.study import of_first_seed
from tfcama.training.config import FinetuneConfig
from tfcama.workdir import Workdir

TINY = functools.partial(FinetuneConfig, steps=2, batch_size=4)


@pytest.mark.long
def test_a_shift_study_is_done_once(tmp_path, bars_everywhere, monkeypatch, no_training):
    monkeypatch.setattr(shift, "FinetuneConfig", TINY)
    profile = shift.Profile(
        epochs={"dnn": 1, "cama": 1},
        ranges=(0.0, 0.2),
        augmented={"dnn": (shift.HORIZONTAL,), "cama": (shift.VERTICAL,)},
        augmented_ranges=(0.2,),
        finetuned={shift.VERTICAL: (0.2,)},
        finetuned_augmented=(0.2,),
        fractions=(0.1,),
        limit=6,
    )
    lines = []
    study = shift.ShiftStudy(
        root=tmp_path / "runs",
        dataset="digits",
        data_dir=None,
        profile=profile,
        precision="float32",
        progress=lines.append,
    )
    page = study.run([0], tmp_path / "report")
    names = {path.stem for path in page.parent.glob("*.png")}
    assert names == {
        *("figure1_vertical", "figure1_horizontal", "figure7_vertical", "figure7_horizontal"),
        *("figure10_vertical", "figure10_horizontal", "figure8"),
    }
    assert "Do the papers&#39; orderings hold?" in page.read_text()
    rows = json.loads((page.parent / "report.json").read_text())["results"]
    assert {row["trained_on"] for row in rows} == {
        *("clean", "clean+vertical_shift:0.5", "clean+horizontal_shift:0.5"),
    }
    assert {row["finetuned_on"] for row in rows} == {"", "vertical_shift:0.2"}
    assert {row["experiment"] for row in rows} == {
        *("manipulation", "matched", "matched_held_out", "fraction_0.1", "fraction_0.1_held_out"),
    }
    before, _ = untouched(tmp_path / "runs"), no_training()
    study.run([0], tmp_path / "report")
    assert untouched(tmp_path / "runs") == before


def test_the_figures_of_larger_networks_show_them_apart():
    rows = [
        results.scored(
            np.arange(100) < 50,
            **{**ROW, "model": model, "trained_on": trained, "level": level},
        )
        for model in ("dnn", "dnn_large", "cnn")
        for trained in ("clean", "clean+vertical_shift:0.5", "clean+zca_whitening:1")
        for level in (0.0, 0.2)
        if model == "cnn" or "zca" not in trained
    ]
    found = {p.name: p.title for p in shift.shift_figures(rows, chance=0.1)}
    assert found == {
        "figure1_vertical": "DNNs on vertical shifts",
        "figure16_vertical": "CNNs on vertical shifts",
        "figure17_vertical": "large DNNs on vertical shifts",
        "figure18_vertical": "CNNs that were trained on whitened images, on vertical shifts",
    }


def test_larger_networks_are_trained_as_their_profile_says(tmp_path, asked_to_train):
    study = shift.ShiftStudy(
        root=tmp_path,
        dataset="digits",
        data_dir=None,
        profile=shift.PROFILES["networks"],
        precision="float32",
        progress=lambda line: None,
    )
    asked = {
        name: (how["model"], how["training"].epochs, how["training"].augment)
        for name, how in asked_to_train(study).items()
    }
    assert len(asked) == 10
    assert asked["dnn_large"] == ("dnn_large", 20, "")
    assert asked["dnn_vertical_shift"] == ("dnn", 20, "vertical_shift:0.5")
    assert asked["cnn_zca_whitening"] == ("cnn", 5, "zca_whitening:1")


def test_rows_of_another_profile_are_scored_again(tmp_path, bars, monkeypatch):
    study = shift.ShiftStudy(
        root=tmp_path,
        dataset="digits",
        data_dir=None,
        profile=None,
        precision="float32",
        progress=lambda line: None,
    )
    classifier, _ = binary(shape=bars.spec.shape)
    subject = subject_of(classifier, bars, path=tmp_path)
    monkeypatch.setattr(shift.ShiftStudy, "subject", lambda *a: subject)
    sizes = []

    def score(subject):
        sizes.append(len(subject.test))
        return []

    for limit, levels in ((4, [0.1]), (4, [0.1]), (5, [0.1]), (None, [0.1]), (None, [0.1, 0.2])):
        study.once(subject.workdir, "a", score, limit=limit, levels=levels)
    assert sizes == [4, 5, len(bars.test), len(bars.test)]


@contextlib.contextmanager
def killed_at_the_second(target, name):
    """Lets a function be called once in the block; the second call is a kill."""
    calls, original = [], getattr(target, name)

    def called(*arguments, **options):
        calls.append(arguments)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return original(*arguments, **options)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(target, name, called)
        yield


def test_a_killed_evaluation_goes_on_at_its_level(tmp_path, bars):
    classifier, _ = binary(shape=bars.spec.shape)
    subject = subject_of(classifier, bars, path=tmp_path)
    levels, said = [0.0, 0.3], []
    with killed_at_the_second(Predictor, "hits"), pytest.raises(KeyboardInterrupt):
        steps.evaluate(subject, "vertical_shift", levels, progress=said.append)
    assert len(said) == 1
    assert not steps.is_evaluated(subject.workdir, "vertical_shift", levels)
    with killed_at_the_second(Predictor, "hits"):
        rows = steps.evaluate(subject, "vertical_shift", levels, progress=said.append)
    assert said[1] == said[0]  # it is told, and not scored
    assert rows == curves.manipulation_curve(subject, "vertical_shift", levels)
    assert steps.is_evaluated(subject.workdir, "vertical_shift", levels)


def test_a_killed_attack_goes_on_at_its_radius(tmp_path, bars):
    classifier, _ = binary(shape=bars.spec.shape)
    two = bars._replace(test=Split(bars.test.x, bars.test.y % 2))
    subject = subject_of(classifier, two, path=tmp_path)
    asked = (subject, "fgsm", [0.1, 0.2])
    with killed_at_the_second(robustness, "craft"), pytest.raises(KeyboardInterrupt):
        steps.attack(*asked, progress=lambda line: None)
    with killed_at_the_second(robustness, "craft"):
        found = steps.attack(*asked, progress=lambda line: None)
    _, whole = robustness.attack_curve(*asked)
    for eps in (0.1, 0.2):
        for mine, theirs in zip(found[eps], whole[eps], strict=True):
            np.testing.assert_array_equal(mine, theirs)


@pytest.mark.long
def test_a_demo_is_done_once(tmp_path, bars_everywhere, monkeypatch, no_training):
    monkeypatch.setattr(demo_lib, "_WARM_UP", 2)
    monkeypatch.setattr(demo_lib, "_SLEEP", 2)
    monkeypatch.setattr(demo_lib, "_MOVED", ("vertical_shift",))
    monkeypatch.setattr(demo_lib, "_SHIFTS", (0.0, 0.2))
    monkeypatch.setattr(demo_lib, "_RADII", (0.0, 0.1))
    monkeypatch.setattr(demo_lib, "_ATTACKED_ROWS", 4)
    monkeypatch.setattr(demo_lib, "_CHECKED_ROWS", 4)
    monkeypatch.setattr(demo_lib, "_PGD", "pgd:steps=2")
    # What these do is tested beside them, and takes a minute and a half.
    checked = [Check("gradients are not zero", True, "0 %")]
    monkeypatch.setattr(robustness, "sanity_checks", lambda *a, **k: checked)
    monkeypatch.setattr(publish, "_compare", lambda *a: None)
    call = functools.partial(
        demo_lib.demo, tmp_path, dataset="digits", data_dir=None, seed=0, epochs=1
    )
    lines = []
    page = call(progress=lines.append)
    rows = json.loads((page.parent / "report.json").read_text())["results"]
    assert {(row["model"], bool(row["finetuned_on"])) for row in rows} == {
        *(("dnn", False), ("cama", False), ("cama", True)),
    }
    assert (tmp_path / "export" / "cama" / "1" / "saved_model.pb").exists()
    assert any(line.startswith(("pass", "FAIL")) for line in lines)
    before, _ = untouched(tmp_path), no_training()
    again = []
    call(progress=again.append)
    assert untouched(tmp_path) == before
    assert again == []


def test_the_first_seed_is_the_directory_of_the_first_run(tmp_path):
    names = ("seed1/cama/finetuned/shift", "seed1/cama", "seed0/cama", "seed10/cama")
    workdirs = [Workdir(tmp_path / name) for name in names]
    assert of_first_seed(workdirs) == workdirs[:2]
    assert of_first_seed(workdirs[1:]) == workdirs[1:2]
