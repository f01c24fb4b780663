"""A grid of configurations, each a resumable run, and one table of what came of them."""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tfcama import config as config_lib
from tfcama.attacks import registry
from tfcama.errors import InputError
from tfcama.evaluation import results, robustness
from tfcama.evaluation.results import Row, scored
from tfcama.evaluation.subject import Subject, load_subject
from tfcama.report import figures, labels
from tfcama.report.pictures import slug, to_png
from tfcama.studies.steps import Progress
from tfcama.training import run
from tfcama.training.config import RunConfig
from tfcama.workdir import Workdir, write_bytes, write_json, write_text

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


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Trains and scores every combination of the grid's values; what was done is not done again.

    Attributes:
      root: a run directory a cell, and the results.
      base: what all cells share.
      grid: key of config.json -> values, as `--set` takes them; also "seed".
      attacks: on every run, see `attacks.registry.parse`.
      eps: radius of all of them.
      limit: test rows that are scored; None for all.
      data_dir: of tensorflow-datasets.
      progress: called with lines of text.
    """

    root: Path
    base: RunConfig
    grid: Mapping[str, Sequence[str]]
    attacks: Sequence[str]
    eps: float
    limit: int | None
    data_dir: str | None
    progress: Progress

    def run(self) -> Path:
        """Fills the grid, then writes results.csv, results.json and a heat map a score.

        A cell whose training fails is reported as such, and the others go on.

        Returns:
          results.csv.

        Raises:
          InputError: the grid is empty or repeats itself, a key or value is unknown, or an attack.
        """
        cells = self.cells()  # bad input before any work
        for attack in self.attacks:
            registry.parse(attack, eps=self.eps)
        lines = [self._line(cell) for cell in cells]
        write_json(
            self.root / "results.json",
            {"base": self.base.to_json(), "eps": self.eps, "limit": self.limit, "cells": lines},
        )
        for score in (CLEAN, *self.attacks):
            write_bytes(self.root / f"heatmap_{slug(score)}.png", self._heat_map(lines, score))
        target = self.root / "results.csv"
        write_text(target, _csv(lines))
        return target

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
        if len({cell.workdir.root for cell in cells}) < len(cells):
            raise InputError("the grid names the same value twice; every value is needed once.")
        return cells

    @property
    def _experiment(self) -> str:
        """What rows are called that were scored so; others in the workdir are not ours."""
        return f"{_SCORES}_{self.eps:g}_{self.limit or 'all'}"

    def _line(self, cell: Cell) -> dict[str, Any]:
        """The cell's numbers, by column."""
        about = ", ".join(f"{key}={value}" for key, value in cell.values.items())
        try:
            finished = run.train(cell.config, cell.workdir, data_dir=self.data_dir)
        except FloatingPointError as error:
            self.progress(f"{about}: {error}")
            return {**cell.values, "error": str(error)}
        name = self._experiment
        parts = {attack: f"{name}_{slug(attack or CLEAN)}" for attack in ("", *self.attacks)}
        missing = [a for a, part in parts.items() if not results.has_rows(cell.workdir, part)]
        if missing:
            subject = load_subject(cell.workdir, data_dir=self.data_dir, limit=self.limit)
            for attack in missing:
                results.save_rows(cell.workdir, parts[attack], [self._score(subject, attack)])
        found = {
            row.attack or CLEAN: row.accuracy
            for row in results.load_rows(cell.workdir)
            if row.experiment == name
        }
        scores = {score: found[score] for score in (CLEAN, *self.attacks)}
        self.progress(f"{about}: " + ", ".join(f"{k} {v:.4f}" for k, v in scores.items()))
        return {**cell.values, **scores, "best_epoch": finished.checkpoint.epoch, "error": ""}

    def _score(self, subject: Subject, attack: str) -> Row:
        if not attack:
            hits = subject.predictor.hits(subject.test.x, subject.test.y)
            return scored(hits, **subject.identity(self._experiment))
        (row,), _ = robustness.attack_curve(subject, attack, [self.eps])
        return dataclasses.replace(row, experiment=self._experiment)

    def _heat_map(self, lines: Sequence[Mapping[str, Any]], score: str) -> bytes:
        """A row a combination of all keys but the last, a column a value of the last."""
        *others, last = self.grid
        rows = list(itertools.product(*(self.grid[key] for key in others)))
        accuracies = np.array([line.get(score, np.nan) for line in lines], np.float64)
        shown = CLEAN
        if score != CLEAN:
            shown = f"{labels.attack_name(score)}, eps {self.eps:g}"
        model = labels.model_name(self.base.model)
        figure = figures.accuracy_matrix(
            accuracies.reshape(len(rows), len(self.grid[last])),
            rows=[", ".join(f"{k}={v}" for k, v in zip(others, row, strict=True)) for row in rows],
            columns=[f"{last}={value}" for value in self.grid[last]],
            title=f"{model} on {self.base.dataset}: {shown} (%)",
        )
        return to_png(figure)


def _csv(lines: Sequence[Mapping[str, Any]]) -> str:
    columns = list(dict.fromkeys(key for line in lines for key in line))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()
