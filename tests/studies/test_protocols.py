"""Both protocols in miniature, and the arithmetic of their table."""

import csv
import dataclasses
import json

import pytest

from tests.doubles import ROW
from tfcama.attacks.registry import STRONG, parse
from tfcama.evaluation import robustness
from tfcama.evaluation.checks import Check
from tfcama.evaluation.over_seeds import OverSeeds
from tfcama.evaluation.results import save_rows, scored
from tfcama.studies import protocols
from tfcama.studies.causal_ib_methods import METHODS, SETTINGS, setting
from tfcama.studies.protocols import PROFILES, Column, Depth, ProtocolStudy, claims, table
from tfcama.workdir import Workdir

WORST = "worst of pgd_eot+square+transfer"
EPS = 25 / 255  # half of the paper's


def study(root, **changes):
    profile = PROFILES["quick"]._replace(steps_per_epoch=1, limit=4, **changes)
    return ProtocolStudy(
        root=root / "runs",
        dataset="mnist",
        data_dir=None,
        profile=profile,
        precision="float32",
        progress=lambda text: None,
    )


def test_the_study_is_done_once_and_shows_both_protocols(
    tmp_path, bars_everywhere, monkeypatch, no_training
):
    few = ("pgd_eot:steps=2:draws=2", "square:queries=4")
    monkeypatch.setattr(ProtocolStudy, "methods", ("baseline", "vib", "at_pgd20"))
    monkeypatch.setattr(protocols, "_TRANSFERRED", "pgd:steps=3")
    tiny = {"backbone": "mlp:units=8:layers=1"}
    small = {**tiny, "dim_z": 4, "head_hidden": 0}
    monkeypatch.setitem(
        SETTINGS, "mnist", dataclasses.replace(setting("mnist"), plain=tiny, bottleneck=small)
    )
    asked = []

    def checked(subject, **how):
        asked.append((subject.workdir.root.name, len(subject.test), how["transfer_from"]))
        return [Check("gradients are not zero", True, "0.0 % of inputs have none")]

    monkeypatch.setattr(robustness, "sanity_checks", checked)
    made = study(
        tmp_path,
        plain=Depth(few, (0.5, 1.0), 3),
        bottleneck=Depth(few, (0.5, 1.0), 2),
        nearest="cw:steps=2:searches=1:checks=1",
    )
    page = made.run([0], tmp_path / "report")
    assert {path.stem for path in page.parent.glob("*.png")} == {
        *("table", "strong", "nearest", "training"),
    }
    assert [(name, n) for name, n, _ in asked] == [("baseline", 3), ("vib", 2), ("at_pgd20", 3)]
    assert [source is None for _, _, source in asked] == [True, False, False]
    assert "Sanity of the attacks: VIB" in page.read_text()
    assert "adversarial training keeps more than any other, strong, 0.098" in page.read_text()
    with (page.parent / "table.csv").open() as file:
        lines = {line["model"]: line for line in csv.DictReader(file)}
    assert set(lines) == {"no defence", "VIB", "AT (PGD-20)"}
    for line in lines.values():  # no cell is empty, and one seed has no spread
        assert all(bool(value) is not name.endswith(" std") for name, value in line.items())
    rows = json.loads((page.parent / "report.json").read_text())["results"]
    n = {(row["attack"], row["n"]) for row in rows if row["model"] == "vib" and row["attack"]}
    assert n == {
        *(("fgsm", 4), ("pgd:steps=20:step_size=0.01", 4), ("cw:steps=2:searches=1:checks=1", 2)),
        *((attack, 2) for attack in (*few, WORST)),
        ("pgd:steps=3 from classifier (backbone=mlp:units=8:layers=1; baseline)", 2),
    }
    at_half = {r["attack"]: r for r in rows if r["model"] == "vib" and r["eps"] == EPS}
    single = [at_half[attack]["accuracy"] for attack in few]
    assert at_half[WORST]["accuracy"] <= min(single) + 1e-9 + at_half[WORST]["spread"] * 3
    assert at_half[WORST]["draws"] == 10
    no_training()
    monkeypatch.setattr(robustness, "attack_curve", lambda *a, **k: pytest.fail("attacked again"))
    made.run([0], tmp_path / "again")
    assert len(asked) == 3


def test_the_cama_is_attacked_as_deep_as_its_own_profile_says(tmp_path):
    pieces = study(tmp_path).pieces(0)
    strong = [name for name in pieces if "_strong_" in name and name.startswith(("vib", "cama"))]
    assert strong == ["vib_strong_0.5", "vib_strong_1", "cama_strong_0.5"]
    assert pieces["vib_strong_1"].after == ("vib", "baseline")  # it is attacked from there, too
    assert pieces["baseline_sanity"].after == ("baseline",)


def test_profiles_name_attacks_that_exist_and_full_is_the_whole_protocol():
    for profile in PROFILES.values():
        for depth in (profile.plain, profile.bottleneck, profile.cama):
            for attack in depth.strong:
                assert parse(attack, eps=0.1).protocol == "strong"
            assert set(depth.shares) <= set(profile.shares)
        assert parse(profile.nearest, eps=1.0).nearest
    full, core = PROFILES["full"], PROFILES["core"]
    assert {full.plain.strong, full.bottleneck.strong, full.cama.strong} == {STRONG}
    assert core.plain.strong == core.bottleneck.strong == STRONG
    assert {*ProtocolStudy.methods} - {"cama"} <= set(METHODS)


def test_the_table_finds_the_rows_of_a_column_over_seeds(tmp_path):
    columns = [Column("clean", "", 0.0), Column("strong", WORST, EPS), Column("other", WORST, 0.3)]
    workdirs = [Workdir(tmp_path / f"seed{seed}" / "vib") for seed in (0, 1)]
    for seed, workdir in enumerate(workdirs):
        own = {**ROW, "manipulation": "", "level": 0.0, "seed": seed}
        rows = [
            scored([True] * (3 + seed) + [False] * (1 - seed), **own),
            scored(
                [True] * (1 + seed) + [False] * (3 - seed), **{**own, "attack": WORST, "eps": EPS}
            ),
        ]
        save_rows(workdir, "all", rows)
    (line,) = table(workdirs, columns).values()
    assert [cell.by_seed for cell in line] == [{0: 0.75, 1: 1.0}, {0: 0.25, 1: 0.5}, {}]


@pytest.mark.parametrize(("control", "passed"), [(0.4, True), (0.3, False)])
def test_the_control_must_keep_more_than_any_other(control, passed):
    columns = [Column("clean", "", 0.0), Column("strong, 0.1", "worst of all", 0.1)]
    found = {
        name: [OverSeeds({0: 1.0}), OverSeeds({0: left})]
        for name, left in {"at_pgd20": control, "vib": 0.3, "cama": 0.1}.items()
    }
    found["causal_ib"] = [OverSeeds({0: 1.0}), OverSeeds({})]  # not attacked so far
    (check,) = claims(found, worst="worst of all", columns=columns)
    assert check.passed is passed
    assert check.detail == f"{control:.3f} against VIB 0.300, CAMA 0.100"
    assert claims({"vib": found["vib"]}, worst="worst of all", columns=columns) == []
