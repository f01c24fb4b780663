"""A trained classifier's answers to the rows of a new table, as a table."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import rich.progress
from rich.console import Console
from scipy import special

from tfcama.data import tables
from tfcama.errors import InputError
from tfcama.evaluation.predict import Predictor, not_finite
from tfcama.evaluation.results import wilson
from tfcama.training.run import LoadedRun
from tfcama.types import Generative, InputSpec
from tfcama.workdir import atomic_file

_CHUNK_ROWS = 10_000
_BLOCK_ROWS = 1_000  # scored at once; which rows share a block does not depend on the chunks
_REPORTED_ROWS = 100_000  # a line each, off a terminal
_LISTED = 5  # values in a sentence
_UNKNOWN = -1


@dataclasses.dataclass
class Summary:
    """What was found while a table was predicted.

    Attributes:
      out: the file that was written.
      rows: predicted.
      target: name of the column that is predicted.
      known: rows whose class the table holds.
      hits: of those, how many were predicted right.
      missing: how many values of a column are missing, columns without any left out.
      unseen: how many values of a column are categories that no training row had, likewise.
      no_class: what the target's column holds that is no class, and in how many rows.
    """

    out: Path
    target: str
    rows: int = 0
    known: int = 0
    hits: int = 0
    missing: Counter[str] = dataclasses.field(default_factory=Counter)
    unseen: Counter[str] = dataclasses.field(default_factory=Counter)
    no_class: Counter[str] = dataclasses.field(default_factory=Counter)

    @property
    def lines(self) -> list[str]:
        """The same for people."""
        lines = []
        if self.missing:
            lines.append(f"missing values: {_listed(self.missing)}")
        if self.unseen:
            lines.append(
                "categories that no training row had, taken as missing: " + _listed(self.unseen)
            )
        if self.no_class:
            lines.append(
                f"{self.no_class.total()} rows whose '{self.target}' is no class of the run were "
                f"predicted and not counted: {_listed(self.no_class, most=_LISTED)}"
            )
        if self.known:
            low, high = wilson(self.hits, self.known)
            lines.append(
                f"accuracy {self.hits / self.known:.4f} (95 % interval {low:.4f} to {high:.4f}) on "
                f"{self.known} rows with '{self.target}'"
            )
        return [*lines, f"{self.rows} predictions: {self.out}"]


def predict(
    loaded: LoadedRun,
    table: Path,
    out: Path,
    *,
    chunk_rows: int = _CHUNK_ROWS,
    console: Console | None = None,
) -> Summary:
    """Writes a CSV file of predictions, whole or not at all; it replaces what was there.

    Its columns are `row`, counted from 1; `label`, the predicted class; `p(<class>)`, the
    probability of each class; and `log_px`, of generative models, their log p(x | a, c) in nats.
    Numbers have six digits.

    Args:
      loaded: a finished run on a table.
      table: CSV file with the columns that the run was trained on. If the target is among them, the
        accuracy is counted on the rows that have one of its classes.
      out: the file to write.
      chunk_rows: read at a time; changes no answer.
      console: where progress is shown; standard error by default.

    Raises:
      InputError: the run is not on a table, `out` cannot be written or is the table itself, or the
        table cannot be read, lacks a column, or holds a value that is not allowed or so far from
        the training rows that log p(x, y) is not finite.
    """
    spec = loaded.classifier.spec
    if spec.kind != "table":
        raise InputError(
            f"the run is a {loaded.config.model} of images ({loaded.config.dataset}); predictions "
            "of a table need a run that was trained on one."
        )
    _check_out(out, table)
    generative = isinstance(loaded.classifier, Generative)
    predictor = Predictor(loaded.classifier, seed=loaded.config.seed)
    summary = Summary(out, spec.target)
    progress = _progress(f"predict {table.name}", console or Console(stderr=True))
    whole = atomic_file(out, "w", encoding="utf-8", newline="")
    with whole as file, progress as advance:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            [
                *("row", "label"),
                *(f"p({name})" for name in spec.class_names),
                *(["log_px"] if generative else []),
            ]
        )
        chunks = tables.read_csv_chunks(table, rows=chunk_rows)
        for block in _blocks(_encoded(spec, chunks, summary), rows=_BLOCK_ROWS):
            log_scores = predictor.log_scores(block.x).astype(np.float64)
            _check_finite(log_scores, first=summary.rows + 1)
            labels = log_scores.argmax(axis=1)
            columns = [special.softmax(log_scores, axis=1)]
            if generative:
                columns.append(special.logsumexp(log_scores, axis=1, keepdims=True))
            for label, numbers in zip(labels, np.concatenate(columns, axis=1), strict=True):
                summary.rows += 1
                answers = (f"{number:.6g}" for number in numbers)
                writer.writerow([summary.rows, spec.class_names[label], *answers])
            summary.known += int((block.y != _UNKNOWN).sum())
            summary.hits += int((block.y == labels).sum())
            advance(summary.rows)
    return summary


class _Rows(NamedTuple):
    """Encoded rows.

    Attributes:
      x: [N, D] float32 features.
      y: [N] int32 classes, _UNKNOWN where the table does not hold them.
    """

    x: np.ndarray
    y: np.ndarray


def _encoded(spec: InputSpec, chunks: Iterable[pd.DataFrame], summary: Summary) -> Iterator[_Rows]:
    """Features and classes of frames; what they lack is added to the summary."""
    for chunk in chunks:
        x = tables.encode(spec, chunk)
        y = np.full([len(chunk)], _UNKNOWN, np.int32)
        if spec.target in chunk:
            y, no_class = tables.known_labels(spec, chunk)
            summary.no_class.update(no_class)
        missing = {column.name: tables.missing(chunk[column.name]).sum() for column in spec.columns}
        summary.missing.update({name: int(count) for name, count in missing.items() if count})
        unseen = tables.unseen(spec, chunk)
        summary.unseen.update({name: count for name, count in unseen.items() if count})
        yield _Rows(x, y)


def _blocks(chunks: Iterable[_Rows], *, rows: int) -> Iterator[_Rows]:
    """The same rows, `rows` at a time but for the last.

    How many rows share a matrix product decides the last digits of each; so no answer may depend
    on how a file happened to be cut.
    """
    kept: _Rows | None = None
    for chunk in chunks:
        kept = chunk if kept is None else _Rows(*map(np.concatenate, zip(kept, chunk, strict=True)))
        whole = len(kept.y) - len(kept.y) % rows
        for start in range(0, whole, rows):
            yield _Rows(*(part[start : start + rows] for part in kept))
        kept = _Rows(*(part[whole:] for part in kept))
    if kept is not None and len(kept.y):
        yield kept


def _check_finite(log_scores: np.ndarray, *, first: int) -> None:
    """Refuses [N, C] scores of the rows from `first` on that name no class."""
    bad = ~np.isfinite(log_scores).all(axis=1)
    if bad.any():
        raise not_finite(f"row {first + int(np.argmax(bad))}")


def _check_out(out: Path, table: Path) -> None:
    if os.path.isdir(out):
        raise InputError(f"{out} is a directory; name the file to write.")
    if not os.path.isdir(out.parent):
        raise InputError(f"{out} cannot be written: {out.parent} is not a directory.")
    if os.path.exists(out) and os.path.exists(table) and os.path.samefile(out, table):
        raise InputError(f"{out} is the table itself; name another file to write.")


@contextlib.contextmanager
def _progress(title: str, console: Console):
    """A function of the rows that are done: a bar, or now and then a line off a terminal."""
    bar = rich.progress.Progress(
        rich.progress.TextColumn("[bold]{task.description}"),
        rich.progress.SpinnerColumn(),
        rich.progress.TextColumn("{task.completed:,.0f} rows"),
        rich.progress.TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )
    task = bar.add_task(title, total=None)

    def advance(rows: int) -> None:
        bar.update(task, completed=rows)
        if not console.is_terminal and rows % _REPORTED_ROWS == 0:
            console.print(f"{title}: {rows:,} rows", soft_wrap=True, markup=False)

    with bar:
        yield advance


def _listed(counts: Counter[str], *, most: int | None = None) -> str:
    more = f" and {len(counts) - most} more" if most is not None and len(counts) > most else ""
    return ", ".join(f"{name} {count}" for name, count in [*counts.items()][:most]) + more
