import numpy as np
import pytest

from tests.doubles import ROW
from tfcama.evaluation import results
from tfcama.studies.measurement_claims import claims

DNN, CAMA = "measurement_dnn", "measurement_cama"
C, X = "coparents_shift", "children_shift"


def row(hits, **changes):
    fields = {**ROW, "model": CAMA, "manipulation": X, "level": 0.0, **changes}
    return results.scored(np.arange(1000) < hits, **fields)


def curve(model, manipulation, hits, **changes):
    return [
        row(number, model=model, manipulation=manipulation, level=level, **changes)
        for level, number in hits.items()
    ]


def found(rows, part):
    (check,) = [check for check in claims(rows) if part in check.name]
    return check


def test_there_are_no_claims_without_rows():
    assert claims([]) == []


def test_clean_accuracy_is_compared_over_seeds():
    rows = curve(DNN, X, {0.0: 980}) + curve(CAMA, X, {0.0: 970}) + curve(CAMA, X, {0.0: 1000})
    assert found(rows, "clean: CAMA").passed
    assert "CAMA 98.5 %, DNN 98.0 %" in found(rows, "clean: CAMA").detail


@pytest.mark.parametrize(("cama", "passed"), [(840, True), (830, False)])
def test_the_margin_counts_where_the_dnn_first_falls_below_70_percent(cama, passed):
    rows = curve(DNN, C, {0.0: 990, 2.0: 800, 3.0: 690, 4.0: 400})
    rows += curve(CAMA, C, {0.0: 990, 2.0: 800, 3.0: cama, 4.0: 990})
    check = found(rows, "15 points above the DNN")
    assert "coparents shift 3" in check.name
    assert check.passed == passed


def test_every_level_of_the_childrens_shift_counts():
    rows = curve(DNN, X, {0.0: 990, 1.0: 700, 3.0: 300})
    rows += curve(CAMA, X, {0.0: 990, 1.0: 800, 3.0: 280})
    check = found(rows, "CAMA is at least the DNN at every level")
    assert not check.passed
    assert check.detail == "CAMA minus DNN: 1: +10.0, 3: -2.0"
    rows += curve(CAMA, X, {1.0: 950, 3.0: 960}, experiment="matched", finetuned_on=f"{X}:1")
    assert found(rows, "fine-tuned CAMA is above CAMA").passed
    rows += curve(CAMA, X, {1.0: 985, 3.0: 979}, experiment="matched_clean")
    assert found(rows, "reaches 95 % at the largest shift (3)").passed
    assert not found(rows, "at most one point on clean rows").passed


def test_attacks_are_compared_at_every_eps():
    def attacked(model, hits, experiment="attack"):
        return [
            row(n, model=model, manipulation="", attack="fgsm", eps=eps, experiment=experiment)
            for eps, n in hits.items()
        ]

    rows = attacked(DNN, {0.0: 990, 0.1: 500, 0.3: 200})
    rows += attacked(CAMA, {0.0: 980, 0.1: 600, 0.3: 200})
    assert not found(rows, "FGSM: CAMA is above the DNN").passed
    rows += attacked(CAMA, {0.1: 610, 0.3: 190}, "attack_static")
    assert not found(rows, "makes it no worse").passed


def test_a_wrong_graph_is_worse_the_more_is_wrong():
    rows = curve(DNN, X, {0.0: 990, 1.0: 500}) + curve(CAMA, X, {0.0: 990, 1.0: 800})
    for count, hits in ((1, 790), (8, 400)):
        variant = ", ".join(f"x{i + 1} declared coparent" for i in range(count))
        rows += curve(CAMA, X, {0.0: 990, 1.0: hits}, variant=variant)
    assert found(rows, "declared co-parents").passed
    assert found(rows, "still above the DNN").detail == "DNN 50.0 %; 79.0 %"


def test_a_quadratic_nnpc_is_compared_at_three():
    rows = curve(CAMA, C, {3.0: 700})
    rows += curve(CAMA, C, {3.0: 900}, variant="coparent_features=quadratic")
    assert found(rows, "quadratic NNpC").passed
