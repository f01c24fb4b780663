"""Accuracies over seeds by model and column, as a picture and as a file."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from tfcama.evaluation.over_seeds import OverSeeds
from tfcama.report import figures


def to_figure(
    names: Sequence[str],
    columns: Sequence[str],
    cells: Sequence[Sequence[OverSeeds]],
    *,
    title: str,
) -> Figure:
    """The matrix as numbers and colours, see figures.accuracy_matrix."""
    return figures.accuracy_matrix(
        np.array([[cell.mean for cell in line] for line in cells]),
        rows=names,
        columns=columns,
        title=title,
        spread=np.array([[cell.spread for cell in line] for line in cells]),
    )


def to_csv(
    names: Sequence[str], columns: Sequence[str], cells: Sequence[Sequence[OverSeeds]]
) -> str:
    """The matrix for programs: percent, each column with its standard deviation over seeds."""
    table = pd.DataFrame(index=pd.Index(names, name="model"))
    table["seeds"] = [seeds(line) for line in cells]
    for column, accuracies in zip(columns, zip(*cells, strict=True), strict=True):
        table[column] = [100 * cell.mean for cell in accuracies]
        table[f"{column} std"] = [100 * cell.spread for cell in accuracies]
    return table.to_csv(float_format="%.2f", lineterminator="\n")


def seeds(line: Sequence[OverSeeds]) -> int:
    """How many stand behind the cell of a model that has most."""
    return max(len(cell.by_seed) for cell in line)
