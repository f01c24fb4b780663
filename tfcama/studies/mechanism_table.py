"""The accuracy of every model under every manipulation, over seeds."""

from __future__ import annotations

from collections.abc import Sequence

from tfcama.evaluation.over_seeds import OverSeeds
from tfcama.evaluation.results import Row
from tfcama.report import labels
from tfcama.report.matrix import seeds
from tfcama.specs import with_number
from tfcama.studies.mechanism_profiles import Case


def matrix(
    rows: Sequence[Row], cases: Sequence[Case]
) -> tuple[list[str], list[str], list[list[OverSeeds]]]:
    """Accuracy of every model under clean images and every case.

    Args:
      rows: of the study; of adapted models those on images that they did not see are taken.
      cases: the columns after "clean".

    Returns:
      Names of the models, with the number of seeds where others have more; names of the columns;
      and by model and column the accuracy, of no seed where there is none.
    """
    columns = [("clean", 0.0), *((case.manipulation, case.level or 1.0) for case in cases)]
    places = {column: place for place, column in enumerate(columns)}
    found: dict[str, list[dict[int, float]]] = {}
    for row in rows:
        adapted = row.finetuned_on != ""
        if row.attack or adapted != row.experiment.endswith("_held_out"):
            continue
        place = places.get(("clean" if row.level == 0 else row.manipulation, row.level))
        if place is not None:
            name = labels.line_of(row)._replace(held_out=False).label
            found.setdefault(name, [{} for _ in columns])[place][row.seed] = row.accuracy
    named = [
        "clean"
        if level == 0
        else labels.manipulation_name(with_number(name, level))
        if case is None or case.level is not None
        else "all at once"
        for (name, level), case in zip(columns, (None, *cases), strict=True)
    ]
    cells = [[OverSeeds(cell) for cell in line] for line in found.values()]
    numbers = [seeds(line) for line in cells]
    names = [
        name if number == max(numbers) else f"{name}, {number} of {max(numbers)} seeds"
        for name, number in zip(found, numbers, strict=True)
    ]
    return names, named, cells
