"""`csv`: a user's own table with a causal graph around the column that is to be predicted."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
import pandas as pd
from sklearn import model_selection

from tfcama.data import graphs, tables
from tfcama.data.base import DataConfig, Request, Source, Split, held_out_rows
from tfcama.data.graphs import Roles
from tfcama.errors import InputError

_LISTED = 5  # classes in a sentence
_RARE = 50  # classes of one row; more are no classes


@dataclasses.dataclass(frozen=True)
class CsvConfig(DataConfig):
    """Where the table is, and who causes whom.

    Exactly one of three says so: the lists with `target`; a `roles` file; a `dag` file with
    `target`, whose Markov blanket is taken.

    Attributes:
      csv: path of the table, with a header.
      target: column that is predicted.
      parents: columns that cause it.
      coparents: columns that also cause its effects.
      children: columns that it causes.
      categorical: columns whose numbers are codes of categories.
      roles: path of a YAML file with these keys.
      dag: path of a DOT file, or of a list of edges `cause effect`.
      test_csv: path of the test rows; "" takes `test_fraction` of the table.
      test_fraction: in (0, 1), chosen with each class in proportion, always the same rows.
    """

    csv: str = ""
    target: str = ""
    parents: tuple[str, ...] = ()
    coparents: tuple[str, ...] = ()
    children: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    roles: str = ""
    dag: str = ""
    test_csv: str = ""
    test_fraction: float = 0.25

    def __post_init__(self):
        if not 0.0 < self.test_fraction < 1.0:
            raise InputError(
                f"test_fraction={self.test_fraction:g} was given; it must be inside (0, 1)."
            )
        if self.roles and (self.target or self.categorical):
            given = f"target={self.target}" if self.target else "categorical"
            raise InputError(
                f"roles={self.roles} and {given} were given; the file of roles says both, so "
                "write them there."
            )
        listed = bool(self.parents or self.coparents or self.children)
        if listed + bool(self.roles) + bool(self.dag) > 1:
            raise InputError(
                "the graph was given twice; --roles=FILE, --dag=FILE, or --parents, --coparents "
                "and --children: one of the three is needed."
            )

    def read_roles(self) -> Roles:
        """The roles of the columns.

        Raises:
          InputError: they were not given, or the file that holds them is no such file.
        """
        if self.roles:
            return graphs.from_yaml(self.roles)
        if not self.target:
            raise InputError("--target is missing: name the column that is to be predicted.")
        if self.dag:
            return graphs.from_dag(self.dag, self.target, self.categorical)
        return graphs.from_lists(
            self.target, self.parents, self.coparents, self.children, self.categorical
        )


def load(config: CsvConfig, request: Request) -> Source:
    """The table's rows, standardised by its training rows."""
    if not config.csv:
        raise InputError("--csv is missing: name the table to learn from.")
    roles = config.read_roles()
    for path in filter(None, (config.csv, config.test_csv)):
        tables.check_stays(path)
    frame = tables.read_csv(config.csv)
    test = tables.read_csv(config.test_csv) if config.test_csv else None
    made = source(frame, roles, request, test=test, test_fraction=config.test_fraction)
    used = [part[[roles.target, *roles.columns]] for part in (frame, test) if part is not None]
    return made._replace(rows_sha256=_sha256(used))


def _sha256(frames: list[pd.DataFrame]) -> str:
    """Of tables of text, however their files end lines and order columns."""
    digest = hashlib.sha256()
    for frame in frames:
        digest.update(frame.to_csv(index=False, lineterminator="\n").encode())
    return digest.hexdigest()


def source(
    frame: pd.DataFrame,
    roles: Roles,
    request: Request,
    *,
    test: pd.DataFrame | None = None,
    test_fraction: float = 0.25,
) -> Source:
    """Splits a table, fits its columns on the training rows, and encodes all rows.

    Args:
      frame: the table, or its training part.
      roles: of the columns.
      request: see Request.
      test: test rows; None takes `test_fraction` of the table, stratified by class.
      test_fraction: in (0, 1).
    """
    fitted = np.arange(len(frame))
    if test is None:
        fitted, held = _stratified(frame, roles.target, test_fraction)
        frame, test = frame.iloc[np.concatenate([fitted, held])], frame.iloc[held]
    known = roles.target in frame.columns  # else tables.fit says so
    labels = pd.factorize(frame[roles.target])[0][: len(fitted)] if known else None
    kept, validation = held_out_rows(
        len(fitted), fraction=request.validation_fraction, seed=request.seed, labels=labels
    )
    spec = tables.fit(frame, roles, kept)
    frame = frame.iloc[: len(fitted)]

    def split(part: pd.DataFrame) -> Split:
        return Split(tables.encode(spec, part), tables.labels(spec, part))

    whole = split(frame)
    return Source(
        spec=spec,
        train=whole.take(kept),
        validation=whole.take(validation),
        test=split(test),
    )


def _stratified(frame: pd.DataFrame, target: str, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Training and test rows with every class in proportion, always the same."""
    rows = np.arange(len(frame))
    # What is wrong with the target, tables.fit says better.
    known = target in frame.columns and bool(frame[target].notna().all())
    if known:
        _check_classes(frame[target])
    try:
        train, test = model_selection.train_test_split(
            rows, test_size=fraction, random_state=0, stratify=frame[target] if known else None
        )
    except ValueError as error:
        raise InputError(
            f"{len(frame)} rows cannot be split with test_fraction={fraction:g}: {error} "
            "Name test rows with test_csv, or leave rare classes out."
        ) from None
    return np.sort(train), np.sort(test)


def _check_classes(target: pd.Series) -> None:
    """Refuses classes of one row, which cannot be in both parts."""
    counts = target.value_counts()
    rare = [str(name) for name, count in counts.items() if count == 1]
    if rare and len(counts) > 1:
        numbers = " It looks like a number; classes are needed." if len(rare) > _RARE else ""
        more = f" and {len(rare) - _LISTED} more" if len(rare) > _LISTED else ""
        raise InputError(
            f"target '{target.name}' has {len(counts)} classes in {len(target)} rows, of which "
            f"{', '.join(rare[:_LISTED])}{more} have one row, which cannot be split into training "
            f"and test rows.{numbers} Leave rare classes out, or name test rows with test_csv."
        )
