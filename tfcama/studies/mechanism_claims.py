"""What mechanisms with structure are asked to do, each a check with the numbers behind it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tfcama.evaluation.checks import Check
from tfcama.evaluation.over_seeds import OverSeeds, above, averaged
from tfcama.evaluation.results import Row
from tfcama.report import labels
from tfcama.specs import with_number
from tfcama.studies.study import finetuned_experiment
from tfcama.training.config import DREAMS

_CAMA, _DNN = "cama", "dnn"
_ADDITIVE = "additive"
_FEW = 0.01  # of the test inputs
_ABOUT_FEW = f"adapted to {100 * _FEW:g} % of the inputs, "
_CLOSE = 0.005  # clean accuracy may fall by so much


class _Key(NamedTuple):
    """Whose accuracy, on what; `how` it was adapted, empty for a CAMA by its case's mechanism."""

    model: str
    trained_on: str
    finetuned_on: str
    tested_on: str
    how: str = ""


_Accuracies = Mapping[_Key, OverSeeds]


def claims(
    rows: Sequence[Row],
    errors: Mapping[str, Sequence[float]],
    mechanisms: Mapping[str, str],
    *,
    asked: Mapping[str, float],
) -> list[Check]:
    """The checks of a study of mechanisms.

    Args:
      rows: of the study; adapted models count on the images that they did not see.
      errors: median errors of recovered parameters, one a seed, by what they are of.
      mechanisms: the one that is meant for a manipulation, by the manipulation with its level; of
        all that models are scored on.
      asked: the accuracy that is asked of a CAMA adapted to a manipulation, by the manipulation.
    """
    usual = _accuracies(rows, mechanisms, experiment="manipulation")
    few = _accuracies(rows, mechanisms, experiment=finetuned_experiment(_FEW))
    cases = sorted(
        {k.finetuned_on for k in usual if k.model == _CAMA and k.finetuned_on and not k.how}
    )
    checks = [*_thresholds(usual, asked), *_clean(usual, cases), *_won_back(usual, cases)]
    checks += [
        *_foresight(usual, cases),
        *_unseen(usual, cases, sorted(mechanisms)),
        *_dreams_alone(usual, sorted(mechanisms)),
        *_few_inputs(few, usual, cases),
        *_above_additive(few, cases, about=_ABOUT_FEW),
        *_above_additive(usual, cases),
    ]
    for name, found in errors.items():
        if "vertical_shift:0.3" in name and name.endswith("shift_y"):
            error = float(np.mean(found))
            checks.append(
                Check(f"{name}: median error at most 0.5 pixels", error <= 0.5, f"{error:.2f}")
            )
    return checks


def _accuracies(
    rows: Sequence[Row], mechanisms: Mapping[str, str], *, experiment: str
) -> _Accuracies:
    """Of an experiment."""
    found: dict[_Key, list[Row]] = defaultdict(list)
    for row in rows:
        adapted = row.finetuned_on != ""
        if row.experiment != (f"{experiment}_held_out" if adapted else experiment):
            continue
        if "mean over" in row.variant:
            continue
        model = row.model.removeprefix("measurement_")
        how = row.variant if model != _CAMA else _mechanism(row) if adapted else ""
        if how == mechanisms.get(row.finetuned_on):
            how = ""
        key = _Key(model, row.trained_on, row.finetuned_on, _tested_on(row), how)
        found[key].append(row)
    return {key: OverSeeds.of(group) for key, group in found.items()}


def _mechanism(row: Row) -> str:
    """Of a CAMA, by what its `variant` says."""
    stated = dict(part.split("=", 1) for part in row.variant.split(", ") if "=" in part)
    return stated.get("mechanism", _ADDITIVE)


def _tested_on(row: Row) -> str:
    """As `finetuned_on` names it; "clean" at level 0."""
    if "+" in row.manipulation:
        return row.manipulation
    return "clean" if row.level == 0 else with_number(row.manipulation, row.level)


def _own(case: str) -> _Key:
    return _Key(_CAMA, "clean", case, case)


def _thresholds(found: _Accuracies, asked: Mapping[str, float]) -> list[Check]:
    return [
        Check(
            f"CAMA adapted to {labels.manipulation_name(case)}: at least {100 * least:.0f} %",
            found[_own(case)].mean >= least,
            f"{found[_own(case)]} %",
        )
        for case, least in asked.items()
        if _own(case) in found
    ]


def _clean(found: _Accuracies, cases: Sequence[str]) -> list[Check]:
    before = found.get(_Key(_CAMA, "clean", "", "clean"))
    after = {
        case: found[_Key(_CAMA, "clean", case, "clean")]
        for case in cases
        if _Key(_CAMA, "clean", case, "clean") in found
    }
    if before is None or not after:
        return []
    worst = min(after, key=lambda case: after[case].mean)
    return [
        Check(
            f"clean accuracy after adaptation is within {100 * _CLOSE:.1f} points of before",
            after[worst].mean >= before.mean - _CLOSE,
            f"before {before} %; worst after {labels.manipulation_name(worst)}: {after[worst]} %",
        )
    ]


def _won_back(found: _Accuracies, cases: Sequence[str]) -> list[Check]:
    checks = []
    clean = found.get(_Key(_DNN, "clean", "", "clean"))
    for case in cases:
        hurt = found.get(_Key(_DNN, "clean", "", case))
        if clean is None or hurt is None or _own(case) not in found or clean.mean <= hurt.mean:
            continue
        share = (found[_own(case)].mean - hurt.mean) / (clean.mean - hurt.mean)
        checks.append(
            Check(
                f"{labels.manipulation_name(case)}: at least half of what the DNN loses is won "
                "back",
                share >= 0.5,
                f"{100 * share:.0f} %: DNN {hurt}, CAMA {found[_own(case)]}",
            )
        )
    return checks


def _foresight(found: _Accuracies, cases: Sequence[str]) -> list[Check]:
    checks = []
    for case in cases:
        rival = found.get(_Key(_DNN, f"clean+{case}", "", case))
        if rival is None or _own(case) not in found:
            continue
        difference = found[_own(case)].mean - rival.mean
        checks.append(
            Check(
                f"{labels.manipulation_name(case)}: within 2 points of the DNN that was trained "
                "on it with labels",
                difference >= -0.02,
                f"{100 * difference:+.1f} points: {found[_own(case)]} against {rival} %",
            )
        )
    return checks


def _unseen(found: _Accuracies, cases: Sequence[str], scored: Sequence[str]) -> list[Check]:
    """Mean over manipulations that neither was made for, each CAMA against each rival of a case."""
    mechanisms = sorted({key.how for key in found if key.model == _CAMA} - {_ADDITIVE})
    checks = []
    for case in cases:
        others = [each for each in scored if each != case]
        known = _rivals(found, case, others)
        for mechanism in mechanisms if known else ():
            ours = _over(found, _own(case)._replace(how=mechanism), others)
            if ours is None:
                continue
            best = max(known, key=lambda name: known[name].mean)
            cama = f"CAMA with {mechanism}" if mechanism else "CAMA"
            checks.append(
                Check(
                    f"made for {labels.manipulation_name(case)}, on all other manipulations: "
                    f"{cama} above every rival made for the same",
                    above(ours, known[best]),
                    f"{ours} % against {known[best]} % ({best})",
                )
            )
    return checks


def _dreams_alone(found: _Accuracies, scored: Sequence[str]) -> list[Check]:
    """A CAMA that saw no manipulated input against every rival, whatever that has seen."""
    dreamt = sorted({key._replace(tested_on="") for key in found if key.finetuned_on == DREAMS})
    known = _means(found, [key for key in found if key.model != _CAMA], scored)
    if not any(key.finetuned_on or key.trained_on != "clean" for key in known):
        return []  # who has seen nothing is no rival
    checks = []
    for key in dreamt:
        ours = _over(found, key, scored)
        if ours is None:
            continue
        best = max(known, key=lambda rival: known[rival].mean)
        checks.append(
            Check(
                f"CAMA with {key.how}, dreams alone, on all manipulations: above every rival, "
                "whatever that has seen of them",
                above(ours, known[best]),
                f"{ours} % against {known[best]} % ({_named(best)})",
            )
        )
    return checks


def _rivals(found: _Accuracies, case: str, tested_on: Sequence[str]) -> dict[str, OverSeeds]:
    """Mean accuracy of what was trained on a case, with labels, or adapted to it, by its name."""
    made = [
        key
        for key in found
        if key.model != _CAMA and (key.trained_on == f"clean+{case}" or key.finetuned_on == case)
    ]
    return {
        f"{key.model} {key.how or 'trained'}": accuracy
        for key, accuracy in _means(found, made, tested_on).items()
    }


def _named(key: _Key) -> str:
    """Who that is and what it has seen."""
    trained_on = key.trained_on.removeprefix("clean+")
    seen = key.finetuned_on or trained_on
    return f"{key.model} {key.how or 'trained'} on {labels.manipulation_name(seen)}"


def _means(
    found: _Accuracies, keys: Sequence[_Key], tested_on: Sequence[str]
) -> dict[_Key, OverSeeds]:
    """Mean accuracy over manipulations, of those that were scored on all of them."""
    over = {k: _over(found, k, tested_on) for k in sorted({k._replace(tested_on="") for k in keys})}
    return {key: accuracy for key, accuracy in over.items() if accuracy is not None}


def _over(found: _Accuracies, key: _Key, tested_on: Sequence[str]) -> OverSeeds | None:
    """Mean accuracy over manipulations; None where there are none, or one was not measured."""
    several = [found.get(key._replace(tested_on=each)) for each in tested_on]
    known = [accuracy for accuracy in several if accuracy is not None]
    return averaged(known) if known and len(known) == len(several) else None


def _few_inputs(few: _Accuracies, usual: _Accuracies, cases: Sequence[str]) -> list[Check]:
    """Adapted to few of the inputs against adapted to half of them."""
    return [
        Check(
            f"{labels.manipulation_name(case)}: {_ABOUT_FEW}within 5 points of 50 %",
            few[_own(case)].mean >= usual[_own(case)].mean - 0.05,
            f"{few[_own(case)]} against {usual[_own(case)]} %",
        )
        for case in cases
        if _own(case) in few and _own(case) in usual
    ]


def _above_additive(found: _Accuracies, cases: Sequence[str], *, about: str = "") -> list[Check]:
    additive = {case: found.get(_own(case)._replace(how=_ADDITIVE)) for case in cases}
    return [
        Check(
            f"{labels.manipulation_name(case)}: {about}its mechanism above the additive one",
            above(found[_own(case)], accuracy),
            f"{found[_own(case)]} against {accuracy} %",
        )
        for case, accuracy in additive.items()
        if accuracy is not None and _own(case) in found
    ]
