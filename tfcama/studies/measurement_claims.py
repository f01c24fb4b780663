"""Do the papers' claims about tables hold? Each a check with the numbers behind it.

All accuracies are means over seeds, on all test rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tfcama.evaluation.checks import Check
from tfcama.evaluation.over_seeds import mean_curve
from tfcama.evaluation.results import Row
from tfcama.report import labels

_DNN, _CAMA = "measurement_dnn", "measurement_cama"
_QUADRATIC = "coparent_features=quadratic"
_BROKEN = 0.70  # the DNN has failed below this accuracy
_MARGIN = 0.15  # there CAMA is above it by this much
_ADAPTED = 0.95  # fine-tuned CAMA's accuracy at the largest shift of the children
_CLEAN_LOSS = 0.01  # that fine-tuning may cost on clean rows
_SLACK = 0.005  # half a point is within the noise of 500 test rows
_FEW = 2  # wrongly declared children that CAMA should bear

_Curve = dict[float, float]


def claims(rows: Sequence[Row]) -> list[Check]:
    """The claims for which there are rows.

    Args:
      rows: of a study of tables.
    """
    rows = [row for row in rows if row.trained_on == "clean"]
    makers = (_clean, _coparents, _children, _largest, _attacks, _wrong_graph, _quadratic)
    return [check for maker in makers for check in maker(rows)]


def _trained(rows: Sequence[Row], model: str, manipulation: str, variant: str = "") -> _Curve:
    return mean_curve(
        rows,
        model=model,
        manipulation=manipulation,
        variant=variant,
        experiment="manipulation",
        finetuned_on="",
    )


def _clean(rows: Sequence[Row]) -> list[Check]:
    dnn, cama = (_trained(rows, model, "children_shift") for model in (_DNN, _CAMA))
    if 0.0 not in dnn or 0.0 not in cama:
        return []
    return [
        Check(
            "clean: CAMA is at least the DNN",
            cama[0.0] >= dnn[0.0],
            f"CAMA {_percent(cama[0.0])}, DNN {_percent(dnn[0.0])}",
        )
    ]


def _coparents(rows: Sequence[Row]) -> list[Check]:
    checks = []
    for manipulation in ("coparents_shift", "coparents_shift:direction=down"):
        dnn, cama = (_trained(rows, model, manipulation) for model in (_DNN, _CAMA))
        broken = [level for level in dnn if dnn[level] < _BROKEN and level in cama]
        if broken:
            level = broken[0]
            about = f"{labels.manipulation_name(manipulation)} {level:g}"
            checks.append(
                Check(
                    f"co-parents: 15 points above the DNN where that falls below 70 % ({about})",
                    cama[level] >= dnn[level] + _MARGIN,
                    f"CAMA {_percent(cama[level])}, DNN {_percent(dnn[level])}; all levels, CAMA "
                    f"minus DNN: {_differences(cama, dnn)}",
                )
            )
    return checks


def _children(rows: Sequence[Row]) -> list[Check]:
    checks = []
    for manipulation in ("children_shift", "children_shift:direction=down"):
        about = labels.manipulation_name(manipulation)
        dnn, cama = (_trained(rows, model, manipulation) for model in (_DNN, _CAMA))
        adapted = mean_curve(rows, model=_CAMA, manipulation=manipulation, experiment="matched")
        if len(dnn) > 1 and len(cama) > 1:
            shared = [level for level in cama if level > 0 and level in dnn]
            checks.append(
                Check(
                    f"{about}: CAMA is at least the DNN at every level",
                    all(cama[level] >= dnn[level] - _SLACK for level in shared),
                    f"CAMA minus DNN: {_differences(cama, dnn)}",
                )
            )
        if adapted:
            checks.append(
                Check(
                    f"{about}: fine-tuned CAMA is above CAMA at every level",
                    all(adapted[level] > cama.get(level, 0.0) for level in adapted),
                    f"gain: {_differences(adapted, cama)}",
                )
            )
    return checks


def _largest(rows: Sequence[Row]) -> list[Check]:
    adapted = mean_curve(rows, model=_CAMA, manipulation="children_shift", experiment="matched")
    after = mean_curve(
        rows, model=_CAMA, manipulation="children_shift", experiment=labels.MATCHED_CLEAN
    )
    before = _trained(rows, _CAMA, "children_shift")
    if not adapted or not after or 0.0 not in before:
        return []
    level = max(adapted)
    loss = before[0.0] - min(after.values())
    return [
        Check(
            f"fine-tuned CAMA reaches 95 % at the largest shift ({level:g})",
            adapted[level] >= _ADAPTED,
            f"{_percent(adapted[level])}",
        ),
        Check(
            "fine-tuning costs at most one point on clean rows",
            loss <= _CLEAN_LOSS,
            f"before {_percent(before[0.0])}, after, by level: "
            + ", ".join(f"{place:g}: {_percent(value)}" for place, value in after.items()),
        ),
    ]


def _attacks(rows: Sequence[Row]) -> list[Check]:
    checks = []
    for attack in dict.fromkeys(row.attack for row in rows if row.attack):
        about = labels.attack_name(attack)
        own = {"attack": attack, "experiment": "attack", "variant": ""}
        dnn, cama = (mean_curve(rows, "eps", model=model, **own) for model in (_DNN, _CAMA))
        shared = [eps for eps in cama if eps > 0 and eps in dnn]
        if not shared:
            continue
        checks.append(
            Check(
                f"{about}: CAMA is above the DNN at every eps",
                all(cama[eps] > dnn[eps] for eps in shared),
                f"CAMA minus DNN: {_differences(cama, dnn)}",
            )
        )
        adapted = mean_curve(rows, "eps", model=_CAMA, attack=attack, experiment="attack_static")
        if adapted:
            checks.append(
                Check(
                    f"{about}: fine-tuning on the attacked rows makes it no worse",
                    all(adapted[eps] >= cama[eps] - _SLACK for eps in adapted if eps in cama),
                    f"gain: {_differences(adapted, cama)}",
                )
            )
    return checks


def _wrong_graph(rows: Sequence[Row]) -> list[Check]:
    manipulation = "children_shift"
    dnn, right = (_trained(rows, model, manipulation) for model in (_DNN, _CAMA))
    wrong = {}
    for variant in dict.fromkeys(row.variant for row in rows):
        parts = variant.split(", ")
        if variant and all(part.endswith("declared coparent") for part in parts):
            wrong[len(parts)] = _trained(rows, _CAMA, manipulation, variant)
    if not wrong or len(dnn) < 2:
        return []
    means = {count: _mean(curve, dnn) for count, curve in sorted({0: right, **wrong}.items())}
    bar = _mean(dnn, right)
    few = [mean for count, mean in means.items() if 0 < count <= _FEW]
    counts = list(means)
    return [
        Check(
            "children declared co-parents: never clearly better than the right graph, and worse "
            "with more of them",
            all(means[count] <= means[0] + _SLACK for count in counts)
            and means[counts[-1]] < means[0],
            f"mean over the shifts of the children: "
            f"{', '.join(f'{count}: {_percent(mean)}' for count, mean in means.items())}",
        ),
        Check(
            f"with at most {_FEW} of them CAMA is still above the DNN",
            all(mean > bar for mean in few),
            f"DNN {_percent(bar)}; {', '.join(_percent(mean) for mean in few)}",
        ),
    ]


def _quadratic(rows: Sequence[Row]) -> list[Check]:
    gains = []
    for manipulation in ("coparents_shift", "coparents_shift:direction=down"):
        usual = _trained(rows, _CAMA, manipulation)
        better = _trained(rows, _CAMA, manipulation, _QUADRATIC)
        if 3.0 in usual and 3.0 in better:
            gains.append((manipulation, usual[3.0], better[3.0]))
    if not gains:
        return []
    return [
        Check(
            "a quadratic NNpC extrapolates further in C (levels +3 and -3)",
            all(better > usual for _, usual, better in gains),
            "; ".join(
                f"{labels.manipulation_name(about)} 3: {_percent(usual)} to {_percent(better)}"
                for about, usual, better in gains
            ),
        )
    ]


def _mean(curve: _Curve, other: _Curve) -> float:
    """Over the levels above 0 that both have."""
    return float(np.mean([value for level, value in curve.items() if level > 0 and level in other]))


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _differences(one: _Curve, other: _Curve) -> str:
    shared = [place for place in one if place > 0 and place in other]
    return ", ".join(f"{place:g}: {100 * (one[place] - other[place]):+.1f}" for place in shared)
