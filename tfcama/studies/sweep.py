"""A grid of configurations, each a resumable run, and one table of what came of them."""

from __future__ import annotations

import csv
import dataclasses
import functools
import io
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tfcama import config as config_lib
from tfcama.attacks import registry
from tfcama.errors import InputError
from tfcama.evaluation import curves, results, robustness
from tfcama.evaluation.results import Row
from tfcama.evaluation.subject import Subject, load_subject
from tfcama.report import figures, labels
from tfcama.report.build import write_report
from tfcama.report.pictures import Picture, slug, to_png
from tfcama.studies import steps
from tfcama.studies.side_by_side import Piece, run_side_by_side
from tfcama.studies.steps import Progress
from tfcama.training import checkpoints
from tfcama.training.config import RunConfig
from tfcama.workdir import Workdir

CLEAN = "clean"
_SCORES = "sweep"


class Cell(NamedTuple):
    """One place of the grid.

    Attributes:
      values: by key of the grid, as text.
      config: the run.
      workdir: where it lives.
    """

    values: dict[str, str]
    config: RunConfig
    workdir: Workdir

    @property
    def about(self) -> str:
        """For people."""
        return ", ".join(f"{key}={value}" for key, value in self.values.items())

    def named(self, row: Row) -> Row:
        """The row, which says in its `variant` where in the grid it is; seeds it has anyway."""
        keys = {key.rpartition(".")[2] for key in self.values}
        others = [t for t in row.variant.split(", ") if t and t.partition("=")[0] not in keys]
        own = [f"{key}={value}" for key, value in self.values.items() if key != "seed"]
        return dataclasses.replace(row, variant=", ".join([*others, *own]))


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Trains and scores every combination of the grid's values; what was done is not done again.

    Attributes:
      root: a run directory a cell.
      base: what all cells share.
      grid: key of config.json -> values, as `--set` takes them; also "seed".
      attacks: on every run, see `attacks.registry.parse`.
      eps: radii; every attack at every one of them.
      limit: test rows that are scored; None for all.
      data_dir: of tensorflow-datasets.
      progress: called with lines of text.
    """

    root: Path
    base: RunConfig
    grid: Mapping[str, Sequence[str]]
    attacks: Sequence[str]
    eps: Sequence[float]
    limit: int | None
    data_dir: str | None
    progress: Progress

    def run(self, target: Path, *, jobs: int = 1) -> Path:
        """Fills the grid, then writes a report: results.csv and a heat map a score besides.

        A cell whose training fails is reported as such, and the others go on.

        Args:
          target: where the report goes; replaced as a whole.
          jobs: cells that are computed at once, see run_side_by_side.

        Returns:
          The report's index.html.

        Raises:
          InputError: the grid is empty or repeats itself, a key or value is unknown, an attack or
            a radius; or no cell could be trained.
        """
        cells = self.cells()  # bad input before any work
        for attack, eps in self._scores.values():
            if attack:
                registry.parse(attack, eps=eps)
        if jobs > 1:
            pieces = {
                cell.workdir.root.name: Piece(functools.partial(self._line, cell)) for cell in cells
            }
            found = run_side_by_side(pieces, jobs=jobs, logs=self.root / "logs")
            lines = [found[cell.workdir.root.name] for cell in cells]
            for cell, line in zip(cells, lines, strict=True):
                self._tell(cell, line)
        else:
            lines = [self._line(cell) for cell in cells]
        scored_cells = [cell for cell, line in zip(cells, lines, strict=True) if not line["error"]]
        if not scored_cells:
            raise InputError(f"no cell of the sweep could be trained: {lines[0]['error']}")
        model = labels.model_name(self.base.model)
        write_report(
            [cell.workdir for cell in scored_cells],
            target,
            rows=[cell.named(row) for cell in scored_cells for row in self._rows(cell).values()],
            pictures=[self._heat_map(lines, score) for score in self._scores],
            checks={},
            title=f"{model} on {self.base.dataset}: a sweep over {', '.join(self.grid)}",
            files={"results.csv": _csv(lines)},
        )
        return target / "index.html"

    def cells(self) -> list[Cell]:
        """Every combination, the last key's values varying fastest."""
        if not self.grid:
            raise InputError("a sweep needs a grid, as in --grid=alpha=0.01,0.05; none was given.")
        cells = []
        for combination in itertools.product(*self.grid.values()):
            values = dict(zip(self.grid, combination, strict=True))
            assignments = [f"{key}={value}" for key, value in values.items()]
            config = config_lib.override(self.base, assignments)
            workdir = Workdir(self.root / "runs" / slug(",".join(assignments)))
            cells.append(Cell(values, config, workdir))
        configs = [json.dumps(cell.config.to_json()) for cell in cells]  # 0.1 and 1e-1 are the same
        roots = {cell.workdir.root for cell in cells}
        if len(roots) < len(cells) or len(set(configs)) < len(cells):
            raise InputError(
                "the grid names the same value, or one key by two names, twice; every value is "
                "needed once."
            )
        return cells

    @functools.cached_property
    def _scores(self) -> dict[str, tuple[str, float]]:
        """Column -> attack and radius; "" for none."""
        found = {CLEAN: ("", 0.0)}
        for eps, attack in itertools.product(self.eps, self.attacks):
            found[attack if len(self.eps) == 1 else f"{attack} eps {eps:g}"] = (attack, eps)
        return found

    def _experiment(self, score: str) -> str:
        """What rows are called that were scored so; others in the workdir are not ours."""
        attack, eps = self._scores[score]
        what = f"{eps:g}_{self.limit or 'all'}_{slug(attack)}" if attack else self.limit or "all"
        return f"{_SCORES}_{what}"

    def _rows(self, cell: Cell) -> dict[str, Row]:
        """What was scored of the cell so far, by column."""
        found = {row.experiment: row for row in results.load_rows(cell.workdir)}
        names = {score: self._experiment(score) for score in self._scores}
        return {score: found[name] for score, name in names.items() if name in found}

    def _line(self, cell: Cell) -> dict[str, Any]:
        """The cell's numbers, by column."""
        try:
            steps.trained(cell.config, cell.workdir, data_dir=self.data_dir)
        except FloatingPointError as error:
            line: dict[str, Any] = {**cell.values, "error": str(error)}
            self._tell(cell, line)
            return line
        done = self._rows(cell)
        missing = [score for score in self._scores if score not in done]
        if missing:
            subject = load_subject(cell.workdir, data_dir=self.data_dir, limit=self.limit)
            for score in missing:
                name = self._experiment(score)
                results.save_rows(cell.workdir, name, [self._score(subject, score)])
        found = {score: row.accuracy for score, row in self._rows(cell).items()}
        epoch = checkpoints.best(cell.workdir.checkpoints).epoch
        line = {**cell.values, **found, "best_epoch": epoch, "error": ""}
        self._tell(cell, line)
        return line

    def _tell(self, cell: Cell, line: Mapping[str, Any]) -> None:
        scores = [f"{score} {line[score]:.4f}" for score in self._scores if score in line]
        self.progress(f"{cell.about}: {line['error'] or ', '.join(scores)}")

    def _score(self, subject: Subject, score: str) -> Row:
        attack, eps = self._scores[score]
        if not attack:
            return curves.clean(subject, self._experiment(score))
        (row,), _ = robustness.attack_curve(subject, attack, [eps])
        return dataclasses.replace(row, experiment=self._experiment(score))

    def _heat_map(self, lines: Sequence[Mapping[str, Any]], score: str) -> Picture:
        """A row a combination of all keys but the last, a column a value of the last."""
        *others, last = self.grid
        rows = list(itertools.product(*(self.grid[key] for key in others)))
        accuracies = np.array([line.get(score, np.nan) for line in lines], np.float64)
        attack, eps = self._scores[score]
        shown = f"{labels.attack_name(attack)}, eps {eps:g}" if attack else CLEAN
        model = labels.model_name(self.base.model)
        figure = figures.accuracy_matrix(
            accuracies.reshape(len(rows), len(self.grid[last])),
            rows=[", ".join(f"{k}={v}" for k, v in zip(others, row, strict=True)) for row in rows],
            columns=[f"{last}={value}" for value in self.grid[last]],
            title=f"{model} on {self.base.dataset}: {shown} (%)",
        )
        return Picture(
            f"heatmap_{slug(score)}",
            "attack" if attack else "model",
            f"Accuracy: {shown}",
            f"Percent of {'the first ' + str(self.limit) if self.limit else 'all'} test rows; each "
            f"cell is a run, by its {self.base.training.keep} epoch.",
            to_png(figure),
        )


def _csv(lines: Sequence[Mapping[str, Any]]) -> str:
    columns = list(dict.fromkeys(key for line in lines for key in line))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()
