"""CausalIB's Table 1 in miniature, its arithmetic, and sweeps."""

import csv
import dataclasses
import json

import numpy as np
import pytest

from tests.doubles import ROW
from tfcama.attacks.registry import parse
from tfcama.errors import InputError
from tfcama.evaluation.results import save_rows, scored
from tfcama.models.registry import MODELS
from tfcama.studies import causal_ib
from tfcama.studies import causal_ib_methods as methods
from tfcama.studies.causal_ib import CausalIbStudy, Profile
from tfcama.studies.causal_ib_methods import (
    ATTACKS,
    CLEAN,
    FGSM_HALF,
    METHODS,
    SETTINGS,
    setting,
)
from tfcama.studies.sweep import Sweep
from tfcama.training import run
from tfcama.training.config import RunConfig, TrainingConfig
from tfcama.workdir import Workdir, write_text

TINY = {"backbone": "mlp:units=8:layers=1"}
SMALL = {**TINY, "dim_z": 4, "head_hidden": 0}


def test_the_study_is_done_once_and_shows_both_numbers(
    tmp_path, bars_everywhere, monkeypatch, no_training
):
    tiny = dataclasses.replace(SETTINGS["mnist"], plain=TINY, bottleneck=SMALL)
    monkeypatch.setitem(SETTINGS, "mnist", tiny)
    costly = {**tiny.attacks, FGSM_HALF: tiny.attacks[FGSM_HALF]._replace(few=True)}
    monkeypatch.setattr(methods.Setting, "attacks", costly)
    monkeypatch.setattr(causal_ib, "STRONGEST", "fgsm")  # the real one takes minutes
    profile = Profile(
        epochs=1,
        costly_epochs=1,
        steps_per_epoch=1,
        methods=("randomized_smoothing", "vib", "causal_ib", "at_fgsm"),
        attacks=("fgsm", FGSM_HALF),
        limit=4,
        few=2,
    )
    study = CausalIbStudy(
        root=tmp_path / "runs",
        dataset="mnist",
        data_dir=None,
        profile=profile,
        precision="float32",
        progress=lambda text: None,
    )
    page = study.run([0], tmp_path / "report")
    assert {path.stem for path in page.parent.glob("*.png")} == {
        *("table", "trade_off", "training", "latent_pca_vib", "latent_pca_causal_ib"),
        *("information_plane_vib", "side_by_side_pgd-steps-20-step_size-0.01_vib"),
    }
    with (page.parent / "table.csv").open() as file:
        lines = {line["method"]: line for line in csv.DictReader(file)}
    assert lines["CausalIB"]["clean paper"] == "98.85"
    assert lines["CausalIB"]["FGSM paper"] == "81.07"
    assert lines["CausalIB"]["FGSM, half eps paper"] == ""
    assert lines["AT (FGSM)"]["epochs"] == "1"
    assert "within 5 points of the paper" in page.read_text()
    rows = json.loads((page.parent / "report.json").read_text())["results"]
    assert {row["eps"] for row in rows if row["attack"]} == {50 / 255, 25 / 255}
    attacked = {("smoothed" in r["variant"], r["eps"], r["n"]) for r in rows if r["attack"]}
    whole, half = 50 / 255, 25 / 255
    assert attacked == {(True, whole, 2), (False, whole, 4), (True, half, 2), (False, half, 2)}
    assert {row["n"] for row in rows if not row["attack"]} == {30}
    variants = {row["variant"] for row in rows if row["model"] == "classifier"}
    assert any(variant.endswith("noise:sigma=0.25, smoothed over 32") for variant in variants)
    no_training()
    assert study.run([0], tmp_path / "again").read_text()


def test_seeds_after_the_first_run_what_the_profile_repeats(tmp_path, monkeypatch):
    ran = []

    def method(self, name, seed):
        ran.append((name, seed))
        return Workdir(self.root / f"seed{seed}" / name)

    monkeypatch.setattr(CausalIbStudy, "_method", method)
    study = CausalIbStudy(
        root=tmp_path,
        dataset="mnist",
        data_dir=None,
        profile=causal_ib.PROFILES["core"],
        precision="float32",
        progress=print,
    )
    assert len(study.all_seeds([2, 0])) == len(ran)
    assert [name for name, seed in ran if seed == 2] == list(METHODS)
    again = [name for name, seed in ran if seed == 0]
    cheap = ("baseline", "mixup", "randomized_smoothing", "vib", "vib_same_alpha", "causal_ib")
    assert again == list(cheap)


def test_the_profiles_name_what_exists():
    for profile in causal_ib.PROFILES.values():
        assert set(profile.methods) <= set(METHODS)
        assert set(profile.repeated) <= set(METHODS)
        assert set(profile.attacks) <= set(ATTACKS)
    for where in SETTINGS.values():
        for method in METHODS.values():
            MODELS[method.model].config_class(**method.architecture(where))
            TrainingConfig(**where.training_of(method))
        for attack in where.attacks.values():
            parse(attack.spec, eps=attack.eps)


def test_the_last_column_is_the_strong_protocols():
    for where in SETTINGS.values():
        attack = where.attacks[ATTACKS[-1]]
        strong = parse(attack.spec, eps=attack.eps)
        assert attack.few
        assert (strong.draws >= 20, strong.restarts >= 10) == (True, True)


def test_epochs_are_chosen_only_where_training_attacks():
    kept = {name: setting("mnist").training_of(method)["keep"] for name, method in METHODS.items()}
    attacking = {"at_fgsm", "at_pgd20", "trades", "vib_at_pgd20", "causal_ib_at_pgd20"}
    assert {name for name, keep in kept.items() if keep == "best"} == attacking


def test_a_row_finds_its_column_and_a_foreign_one_none():
    for where in SETTINGS.values():
        for column, attack in where.attacks.items():
            assert where.column(attack.spec, attack.eps) == column
        assert where.column("", 0.0) == CLEAN
        assert where.column("square", where.eps) is None
        assert where.column("fgsm", 0.3) is None


def test_published_numbers_are_the_papers():
    assert methods.published("causal_ib", "mnist") == pytest.approx(
        {
            CLEAN: 0.9885,
            "fgsm": 0.8107,
            "pgd20": 0.5371,
        }
    )
    assert methods.published("vib", "fashion_mnist")["fgsm"] == pytest.approx(0.2588)
    assert methods.published("vib", "cifar10")["pgd20"] == pytest.approx(0.2281)
    assert methods.published("trades", "mnist") == {}
    assert methods.published("vib", "digits") == {}
    assert setting("cifar10").eps == pytest.approx(8 / 255)


def test_the_table_is_means_over_seeds(tmp_path):
    workdirs = []
    for seed, hits in enumerate((3, 4)):
        workdir = Workdir(tmp_path / f"seed{seed}" / "vib")
        identity = {**ROW, "model": "vib", "manipulation": "", "level": 0.0, "seed": seed}
        save_rows(workdir, "clean", [scored(np.arange(4) < hits, **identity)])
        by_hand = {**identity, "manipulation": "rotation", "level": 30.0}
        save_rows(workdir, "manipulation_rotation", [scored(np.zeros(4, bool), **by_hand)])
        write_text(workdir.metrics_file, '{"seconds": 2.0}\n{"seconds": 4.0}\n')
        workdirs.append(workdir)
    (line,) = causal_ib.table(workdirs, dataset="mnist")
    assert line.mean == {CLEAN: 0.875}
    assert line.spread[CLEAN] == pytest.approx(np.std([0.75, 1.0], ddof=1))
    assert (line.seeds, line.epochs, line.seconds) == (2, 2, 6.0)
    assert line.name_in_full == "VIB, 2 epochs, 2 seeds"
    assert line.shown(CLEAN) == "0.875 ± 0.177"
    (line,) = causal_ib.table(workdirs[:1], dataset="mnist")
    assert line.spread == {}
    assert line.name_in_full == "VIB, 2 epochs, 1 seed"
    assert line.shown(CLEAN) == "0.750"
    with pytest.raises(InputError, match="has no results"):
        causal_ib.table([Workdir(tmp_path / "seed0" / "mixup")], dataset="mnist")


def test_claims_say_what_the_numbers_say():
    def line(name, clean, fgsm):
        paper = methods.published(name, "mnist")
        return causal_ib.TableRow(
            name, METHODS[name].label, {CLEAN: clean, "fgsm": fgsm}, {}, paper, 1, 1, 1.0
        )

    lines = {
        "baseline": line("baseline", 0.985, 0.1),
        "vib": line("vib", 0.98, 0.05),
        "vib_same_alpha": line("vib_same_alpha", 0.98, 0.81),
        "causal_ib": line("causal_ib", 0.99, 0.8),
    }
    found = causal_ib.claims(lines, dataset="mnist")
    passed = {check.name: check.passed for check in found}
    for clean, expected in ((0.976, True), (0.974, False)):
        lines["causal_ib"] = line("causal_ib", clean, 0.8)
        (kept,) = [
            check.passed
            for check in causal_ib.claims(lines, dataset="fashion_mnist")
            if "keeps clean accuracy (within 1 point" in check.name
        ]
        assert kept is expected
    assert passed["CausalIB keeps clean accuracy (98.5 % on MNIST)"]
    assert passed["CausalIB is more robust than VIB: FGSM"]
    assert not passed["CausalIB is more robust than VIB, CausalIB's alpha: FGSM"]
    assert passed["CausalIB, FGSM: within 5 points of the paper"]
    assert not passed["VIB, FGSM: within 5 points of the paper"]


def base():
    return RunConfig(
        model="causal_ib",
        dataset="digits",
        seed=0,
        architecture=MODELS["causal_ib"].config_class(**SMALL),
        training=TrainingConfig(epochs=1, steps_per_epoch=1),
    )


def sweep(root, grid, *, attacks=("fgsm",), eps=(0.1,), lines=None):
    """The directory of its report."""
    made = Sweep(
        root=root,
        base=base(),
        grid=grid,
        attacks=attacks,
        eps=eps,
        limit=5,
        data_dir=None,
        progress=(lines if lines is not None else []).append,
    )
    return made.run(root / "report").parent


def test_a_sweep_fills_its_grid_once_and_grows(tmp_path, bars_everywhere, no_training):
    grid = {"beta": ("0.0", "0.05"), "norm": ("l1",)}
    report = sweep(tmp_path, grid)
    with (report / "results.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [(line["beta"], line["norm"]) for line in lines] == [("0.0", "l1"), ("0.05", "l1")]
    assert all(0.0 <= float(line["fgsm"]) <= float(line["clean"]) + 0.21 for line in lines)
    assert {path.name for path in report.glob("*.png")} == {
        "heatmap_clean.png",
        "heatmap_fgsm.png",
    }
    rows = json.loads((report / "report.json").read_text())["results"]
    assert [(row["attack"], row["n"]) for row in rows] == [("", 5), ("fgsm", 5)] * 2
    assert [row["variant"].split(", ")[-2:] for row in rows[::2]] == [
        ["beta=0.0", "norm=l1"],
        ["beta=0.05", "norm=l1"],
    ]
    no_training()
    before = (report / "results.csv").read_text()
    assert (sweep(tmp_path, grid) / "results.csv").read_text() == before
    more = sweep(tmp_path, grid, eps=(0.05, 0.1))
    with (more / "results.csv").open() as file:
        again = list(csv.DictReader(file))
    assert [line["fgsm eps 0.1"] for line in again] == [line["fgsm"] for line in lines]
    assert all(line["fgsm eps 0.05"] >= line["fgsm eps 0.1"] for line in again)


def test_cells_are_told_apart_by_what_is_no_part_of_the_model(tmp_path, bars_everywhere):
    report = sweep(tmp_path, {"learning_rate": ("1e-3", "1e-2"), "seed": ("1",)}, attacks=())
    rows = json.loads((report / "report.json").read_text())["results"]
    ends = [(row["variant"].rpartition(", ")[2], row["seed"]) for row in rows]
    rates = ("learning_rate=1e-3", "learning_rate=1e-2")
    assert ends == [(rate, 1) for rate in rates]
    page = (report / "index.html").read_text()
    assert all(rate.replace("_", " ") in page for rate in rates)


def test_a_cell_that_fails_is_reported_and_the_others_go_on(tmp_path, bars_everywhere, monkeypatch):
    train = run.train

    def fails_at_one(config, workdir, **how):
        if config.architecture.beta == 1.0:
            raise FloatingPointError("loss became NaN")
        return train(config, workdir, **how)

    monkeypatch.setattr(run, "train", fails_at_one)
    lines = []
    report = sweep(tmp_path, {"beta": ("1", "0.5")}, attacks=(), lines=lines)
    with (report / "results.csv").open() as file:
        failed, fine = csv.DictReader(file)
    assert failed["error"] == "loss became NaN"
    assert failed["clean"] == ""
    assert float(fine["clean"]) >= 0
    assert lines[0] == "beta=1: loss became NaN"
    with pytest.raises(InputError, match="no cell of the sweep could be trained: loss became NaN"):
        sweep(tmp_path, {"beta": ("1",)}, attacks=())


@pytest.mark.parametrize(
    ("grid", "attacks", "sentence"),
    [
        ({}, (), "a sweep needs a grid"),
        ({"beta": ("0.1", "1e-1")}, (), "the grid names the same value, or one key by two names"),
        (
            {"epochs": ("1", "2"), "training.epochs": ("3",)},
            (),
            "the grid names the same value, or one key by two names",
        ),
        ({"betta": ("1",)}, (), "did you mean 'architecture.beta'"),
        ({"beta": ("1", "-1")}, (), "beta=-1 was given; it must be at least 0"),
        ({"beta": ("1", "1")}, (), "names the same value, or"),
        ({"beta": ("1",)}, ("fgms",), "did you mean 'fgsm'"),
    ],
)
def test_bad_sweeps_are_refused_before_any_work(tmp_path, grid, attacks, sentence):
    with pytest.raises(InputError, match=sentence):
        sweep(tmp_path, grid, attacks=attacks)
    assert list(tmp_path.iterdir()) == []
