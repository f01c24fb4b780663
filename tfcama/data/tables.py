"""Tables: a pandas frame of measured columns becomes float32 features [N, D], and back.

What the features mean is fitted on the training rows alone and kept in the data set's promise, an
InputSpec, so that a later table is encoded the same way. A value is missing where pandas says so
and where it is blank text. How missing values are treated follows the causal graph:

- A child X is modelled, p(x | y, ...), so a missing one is NaN in its features and models
  marginalise it: the likelihood has no factor for it.
- A parent or co-parent is only conditioned on, so there is no density to sum over: a missing one is
  imputed by its mean, zero once standardised (no category, where it is categorical), and an
  indicator feature is 1 there if values were missing in the training rows, too.

A category that no training row had counts as missing; `unseen` tells how many there are.

Rows in error messages are data rows, counted from 1; the header is none. They are counted by the
frame's index where that is of integers, so that a chunk of a file or a part of a frame names the
whole's row.
"""

from __future__ import annotations

import csv
import difflib
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from tfcama.data.graphs import Roles
from tfcama.errors import InputError, unknown_name, unreadable
from tfcama.types import CHILD, FARTHEST, Column, InputSpec

_MISSING, _UNSEEN = -1, -2  # codes of values without a category
_CHUNK = 100_000  # rows
_ABSENT = (  # the cells that pandas.read_csv takes for missing, too
    *("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN"),
    *("<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"),
)
_DECIMAL_COMMA = re.compile(r"[-+]?\d+,\d+")
_FEW_CATEGORIES = 20  # of which a small table may have one a row
_MAX_CATEGORIES = 1_000  # a feature each; names and free text have more


def read_csv(path: str | os.PathLike[str]) -> pd.DataFrame:
    """A comma-separated file as text, NaN where a cell is empty or says NA, null, None and such.

    Spaces around a cell or a column's name do not count.

    Raises:
      InputError: the file is missing or empty, has no rows or no UTF-8 text, its header names a
        column twice, or a row has more or fewer values than the header has columns.
    """
    return pd.concat(list(read_csv_chunks(path, rows=_CHUNK)))


def read_csv_chunks(path: str | os.PathLike[str], rows: int) -> Iterator[pd.DataFrame]:
    """As read_csv, in frames of at most `rows` rows; their index goes on from frame to frame.

    Raises:
      InputError: as read_csv, once the chunk with the fault is asked for.
    """
    if rows < 1:
        raise InputError(f"rows={rows} was given; a chunk has at least one row.")
    try:
        with open(os.path.expanduser(path), newline="", encoding="utf-8-sig") as file:
            yield from _chunks(path, csv.reader(file, skipinitialspace=True, strict=True), rows)
    except OSError as error:
        raise unreadable(path, error) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} cannot be read: it is no UTF-8 text.") from error
    except csv.Error as error:
        raise InputError(f"{path} is no valid CSV file: {error}.") from error


def check_stays(path: str | os.PathLike[str]) -> None:
    """Refuses a pipe, of which nothing is left when a run is continued or evaluated.

    Raises:
      InputError: there is something of that name, and it is no file.
    """
    path = os.path.expanduser(path)
    if os.path.exists(path) and not os.path.isfile(path):
        raise InputError(f"{path} is no regular file; a file is needed, which is read again later.")


def _chunks(
    path: str | os.PathLike[str], lines: Iterator[list[str]], rows: int
) -> Iterator[pd.DataFrame]:
    """Frames of a file's lines."""
    header = next((cells for cells in lines if "".join(cells).strip()), None)
    if header is None:
        raise InputError(f"{path} is empty; a header and at least one row are needed.")
    names = [name.strip() for name in header]
    for i, name in enumerate(names):
        if name in names[:i]:
            raise InputError(f"{path}: the header names column '{name}' twice; rename one.")
    done = 0
    filled = _rows(path, lines, width=len(names))
    while found := list(itertools.islice(filled, rows)):
        frame = pd.DataFrame(
            found, columns=names, dtype="str", index=range(done, done + len(found))
        )
        yield frame.mask(frame.isin(_ABSENT))
        done += len(found)
    if not done:
        raise InputError(f"{path} has a header and no rows; at least one row is needed.")


def _rows(
    path: str | os.PathLike[str], lines: Iterator[list[str]], *, width: int
) -> Iterator[list[str]]:
    """The lines that are no blank ones, each of `width` cells."""
    number = 0
    for cells in lines:
        if not cells or (len(cells) == 1 < width and not cells[0].strip()):
            continue
        number += 1
        if len(cells) != width:
            raise InputError(
                f"{path}, row {number}: {len(cells)} values were found, where the header "
                f"names {width} columns."
            )
        yield [cell.strip() for cell in cells]


def fit(frame: pd.DataFrame, roles: Roles, training_rows: np.ndarray) -> InputSpec:
    """The promise of a table's features; only class names depend on rows not trained on.

    A column is categorical if roles say so, if it holds booleans or is of pandas' category type, or
    if less than half of its values in the training rows read as numbers. Numeric columns are
    standardised by mean and population standard deviation. Whole numbers are written alike in
    categories, 1 for 1.0, so that a CSV file and a frame of floats agree.

    Args:
      frame: the whole table, of text or of numbers.
      roles: of its columns.
      training_rows: int [.] places of the rows to fit on, or bool [N].

    Returns:
      A spec of D features, of columns in the order of `roles.columns`; its classes are the target's
      different values in numeric order, or alphabetical unless all are numbers.

    Raises:
      InputError: a column of the roles or a node of their DAG is not in the table; the target is
        missing in a row, has one value only or one that no training row has; a column has, in the
        training rows, one value or none, infinity, numbers and text at once, too many categories,
        or hardly two rows of one that the roles do not call categorical.
    """
    _check_names(frame, roles)
    if not pd.api.types.is_integer_dtype(frame.index):
        frame = frame.reset_index(drop=True)
    training = frame[[roles.target, *roles.columns]].iloc[training_rows]
    if training.empty:
        raise InputError("the table has no training rows; at least one of every class is needed.")
    class_names = _classes(frame[roles.target], training[roles.target])
    columns = tuple(_fit_column(training[name], roles) for name in roles.columns)
    return InputSpec(
        shape=(sum(column.width for column in columns),),
        class_names=class_names,
        bounds=None,
        columns=columns,
        target=roles.target,
    )


def encode(spec: InputSpec, frame: pd.DataFrame) -> np.ndarray:
    """Features of a table's rows; how missing values are treated is said on top of this file.

    Args:
      spec: from fit.
      frame: has the spec's columns in any order; others are ignored.

    Returns:
      float32 [N, D]; NaN only in the features of children.

    Raises:
      InputError: a column is missing, or a numeric one holds text or infinity.
    """
    _check_columns(spec, frame)
    x = np.zeros([len(frame), *spec.shape], np.float32)
    start = 0
    for column in spec.columns:
        _encode_column(column, frame[column.name], x[:, start : start + column.width])
        start += column.width
    return x


def unlabelled_csv(spec: InputSpec, path: str | os.PathLike[str]) -> np.ndarray:
    """Features [N, D] of a file's rows, for a model to adapt to; a target in it is not read.

    Raises:
      InputError: as read_csv and encode; or no row has a category of some column that training rows
        had, so that nothing of that column would be left.
    """
    frame = read_csv(path)
    lost = [name for name, count in unseen(spec, frame).items() if count == len(frame)]
    if lost:
        raise InputError(
            f"{path}: no row has a category of {', '.join(lost)} that training rows had; check how "
            "they are written."
        )
    return encode(spec, frame)


def unseen(spec: InputSpec, frame: pd.DataFrame) -> dict[str, int]:
    """How many rows of each categorical column have a value that no training row had.

    Raises:
      InputError: a column is missing.
    """
    _check_columns(spec, frame)
    return {
        column.name: int((_codes(frame[column.name], column.categories) == _UNSEEN).sum())
        for column in spec.columns
        if not column.numeric
    }


def imputed(spec: InputSpec, frame: pd.DataFrame) -> dict[str, int]:
    """How many rows lack a parent or co-parent that no training row lacked, by column.

    It has no indicator, so that the features cannot say it: they have the mean.

    Raises:
      InputError: a column is missing.
    """
    _check_columns(spec, frame)
    return {
        column.name: int(missing(frame[column.name]).sum())
        for column in spec.columns
        if column.numeric and CHILD not in column.roles and not column.indicator
    }


def missing(series: pd.Series) -> np.ndarray:
    """Where a column has no value or blank text, bool [N]."""
    return (series.isna() | series.astype(str).str.strip().eq("")).to_numpy(bool)


def labels(spec: InputSpec, frame: pd.DataFrame) -> np.ndarray:
    """Classes of a table's rows, int32 [N].

    Raises:
      InputError: the target is not in the table, or missing or no class in a row.
    """
    _require(frame, [spec.target])
    series = frame[spec.target]
    codes = _codes(series, spec.class_names)
    _check_target(series, codes == _MISSING)
    if (codes == _UNSEEN).any():
        place = int(np.argmax(codes == _UNSEEN))
        raise InputError(
            f"column '{spec.target}', row {_row(series, place)}: '{series.iloc[place]}' is no "
            f"class; the classes are {', '.join(spec.class_names)}."
        )
    return codes.astype(np.int32)


def known_labels(spec: InputSpec, frame: pd.DataFrame) -> tuple[np.ndarray, dict[str, int]]:
    """As `labels`, where not every row's class has to be known.

    Returns:
      Classes, int32 [N], -1 where none is known; and what else than classes and missing values the
      target's column holds, and in how many rows.
    """
    _require(frame, [spec.target])
    series = frame[spec.target]
    codes = _codes(series, spec.class_names)
    others = series[codes == _UNSEEN].map(_as_text).value_counts()
    return np.maximum(codes, -1).astype(np.int32), {text: int(n) for text, n in others.items()}


def decode(spec: InputSpec, x: np.ndarray) -> pd.DataFrame:
    """Features as the columns they came from, in the user's units; the inverse of encode.

    Args:
      spec: from fit.
      x: [N, D]. The largest feature of a categorical column names its category.

    Returns:
      N rows: numeric columns are float64, NaN where missing, categorical ones text, None where
      missing. A value is missing where its indicator is above 1/2, a feature is NaN, or all of its
      categories are zero. A missing parent or co-parent that has no indicator reads as its mean.

    Raises:
      InputError: the features are not as many as the spec's.
    """
    x = np.asarray(x)
    if x.ndim != 2 or x.shape[1:] != tuple(spec.shape):
        raise InputError(
            f"features: shape {list(x.shape)} was given, [rows, {spec.shape[0]}] is needed."
        )
    decoded = {}
    start = 0
    for column in spec.columns:
        decoded[column.name] = _decode_column(column, x[:, start : start + column.width])
        start += column.width
    return pd.DataFrame(decoded)


def _fit_column(series: pd.Series, roles: Roles) -> Column:
    name = series.name
    numbers, text = _numbers(series)
    column = Column(name, roles.roles_of(name))
    if name in roles.categorical or _looks_categorical(series, numbers, text):
        codes, texts = _factorize(series)
        if name not in roles.categorical:
            _refuse_decimal_commas(name, texts)
        missing = codes == _MISSING
        column = column._replace(categories=_categories(name, texts))
        if name not in roles.categorical:
            _refuse_one_a_row(column, rows=int((~missing).sum()))
    else:
        _refuse_cells(series, numbers, text)
        missing = np.isnan(numbers)
        loc, scale = _standardisation(name, numbers[~missing])
        column = column._replace(loc=loc, scale=scale)
    return column._replace(indicator=CHILD not in column.roles and bool(missing.any()))


def _categories(name: str, texts: np.ndarray) -> tuple[str, ...]:
    """The categories among a column's different values."""
    categories = _sorted(texts)
    if not categories:
        raise _empty(name)
    if len(categories) == 1:
        raise _constant(name, categories[0])
    if len(categories) > _MAX_CATEGORIES:
        raise InputError(
            f"column '{name}' has {len(categories)} categories in the training rows, more than "
            f"{_MAX_CATEGORIES}; leave it out or merge rare ones."
        )
    return categories


def _refuse_one_a_row(column: Column, *, rows: int) -> None:
    """Refuses what looks categorical and is not: 1,234.5 and 3 mg, dates, names."""
    different = len(column.categories)
    if different > _FEW_CATEGORIES and 2 * different > rows:
        raise InputError(
            f"column '{column.name}' has {different} different texts in {rows} training rows, "
            f"such as '{column.categories[0]}', so that a later row has hardly one of them. Write "
            "plain numbers, leave it out, or name it in `categorical` if it is meant so."
        )


def _standardisation(name: str, numbers: np.ndarray) -> tuple[float, float]:
    """Mean and population standard deviation."""
    if not numbers.size:
        raise _empty(name)
    if numbers.min() == numbers.max():
        raise _constant(name, _as_text(float(numbers[0])))
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        loc, scale = float(np.mean(numbers)), float(np.std(numbers))
    if not 0.0 < scale < np.inf:
        raise InputError(
            f"column '{name}' has values from {numbers.min():g} to {numbers.max():g}, whose "
            f"standard deviation is {scale:g}; give it in other units."
        )
    return loc, scale


def _encode_column(column: Column, series: pd.Series, x: np.ndarray) -> None:
    """Fills the features of one column, x [N, width], which are zero."""
    if column.numeric:
        with np.errstate(over="ignore"):
            value = (_checked_numbers(series) - column.loc) / column.scale
        missing = np.isnan(value)
        far = np.abs(np.where(missing, 0.0, value)) > FARTHEST
        if far.any():
            why = f"is over {FARTHEST:g} standard deviations from the training rows' mean"
            raise _bad_cell(series, far, f"{why}; check its units")
        x[:, 0] = np.where(missing, 0.0, value)
    else:
        codes = _codes(series, column.categories)
        missing = codes < 0
        known = np.flatnonzero(~missing)
        x[known, codes[known]] = 1.0
    if CHILD in column.roles:
        x[missing] = np.nan
    elif column.indicator:
        x[missing, -1] = 1.0


def _decode_column(column: Column, x: np.ndarray) -> pd.Series:
    values = x[:, :-1] if column.indicator else x
    missing = np.isnan(values).any(axis=1)
    if column.indicator:
        missing |= x[:, -1] > 0.5
    if column.numeric:
        number = values[:, 0].astype(np.float64) * column.scale + column.loc
        return pd.Series(np.where(missing, np.nan, number))
    missing |= (values == 0.0).all(axis=1)
    best = np.where(missing, len(column.categories), np.nan_to_num(values).argmax(axis=1))
    return pd.Series(np.array([*column.categories, None], object)[best], dtype=object)


def _looks_categorical(series: pd.Series, numbers: np.ndarray, text: np.ndarray) -> bool:
    """True for booleans, pandas' categories, and text of which less than half reads as numbers."""
    if pd.api.types.is_bool_dtype(series) or isinstance(series.dtype, pd.CategoricalDtype):
        return True
    return int((~np.isnan(numbers)).sum()) < int(text.sum())


def _refuse_decimal_commas(name: str, texts: np.ndarray) -> None:
    """Refuses numbers of another locale, which would count as categories."""
    found = [text for text in texts if _DECIMAL_COMMA.fullmatch(text.strip())]
    if 2 * len(found) > len(texts):
        raise InputError(
            f"column '{name}' has values like '{found[0]}', which are no numbers here; write a "
            "decimal point, or name the column in `categorical` if it is meant so."
        )


def _checked_numbers(series: pd.Series) -> np.ndarray:
    """A numeric column's values, float64 [N], NaN where missing.

    Raises:
      InputError: text or infinity, with its row.
    """
    numbers, text = _numbers(series)
    _refuse_cells(series, numbers, text)
    return numbers


def _refuse_cells(series: pd.Series, numbers: np.ndarray, text: np.ndarray) -> None:
    """Refuses text and infinity in a numeric column."""
    if text.any():
        raise _bad_cell(
            series,
            text,
            "is no number; leave a missing value empty, or name the column in `categorical` if it "
            "is meant so",
        )
    if np.isinf(numbers).any():
        raise _bad_cell(series, np.isinf(numbers), "is infinite; finite numbers are needed")


def _numbers(series: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Values as numbers, and where they are text.

    Returns:
      float64 [N], NaN where missing or text, and bool [N], True where neither number nor missing.
    """
    boolean = pd.api.types.is_bool_dtype(series)
    if pd.api.types.is_numeric_dtype(series) and not boolean:
        return series.to_numpy(np.float64, na_value=np.nan), np.zeros(len(series), bool)
    if pd.api.types.infer_dtype(series, skipna=True) != "string":
        codes, texts = _factorize(series)
        series = pd.Series(np.array([*texts, None], object)[codes], dtype=object)
    numbers = pd.to_numeric(series, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    text = np.isnan(numbers) & series.notna().to_numpy()
    places = np.flatnonzero(text)
    if len(places):
        text[places] = series.iloc[places].str.strip().ne("").to_numpy(bool)
    return numbers, text


def _codes(series: pd.Series, categories: Sequence[str]) -> np.ndarray:
    """Which category each value is, int64 [N]; _MISSING or _UNSEEN if none."""
    codes, texts = _factorize(series)
    place = {category: i for i, category in enumerate(categories)}
    places = [place.get(text, _UNSEEN) for text in texts]
    return np.array([*places, _MISSING], np.int64)[codes]  # the code -1 picks the last


def _factorize(series: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Values as canonical text.

    Returns:
      Int [N], which of the texts each value is, -1 where it is missing; and the texts, object [.],
      among which some may be alike.
    """
    codes, values = pd.factorize(series)
    texts = [_as_text(value) for value in values.tolist()]
    blank = np.array([not text.strip() for text in texts], bool)
    codes = np.where(np.append(blank, True)[codes], _MISSING, codes)
    return codes, np.array([*texts, None], object)[:-1]


def _as_text(value: Any) -> str:
    """Text of a category or class; whole numbers lose their decimals."""
    text = str(value)
    whole = re.fullmatch(r"(-?\d+)\.0+", text)
    return whole.group(1) if whole else text


def _sorted(texts: np.ndarray) -> tuple[str, ...]:
    """The different texts that are not blank; in the order of numbers if all are."""
    names = sorted({text for text in texts if text.strip()})
    numbers = pd.to_numeric(pd.Series(names, dtype=object), errors="coerce").to_numpy(np.float64)
    if np.isnan(numbers).any():
        return tuple(names)
    return tuple(names[i] for i in np.argsort(numbers, kind="stable"))


def _classes(series: pd.Series, training: pd.Series) -> tuple[str, ...]:
    codes, texts = _factorize(series)
    _check_target(series, codes == _MISSING)
    names = _sorted(texts)
    if len(names) < 2:
        raise InputError(
            f"target '{series.name}' is '{names[0]}' in every row; at least two classes are needed."
        )
    trained = set(_factorize(training)[1])
    for name in names:
        if name not in trained:
            raise InputError(
                f"class '{name}' of target '{series.name}' has no training row; each of its "
                f"{len(names)} classes needs at least one."
            )
    return names


def _check_target(series: pd.Series, missing: np.ndarray) -> None:
    if missing.any():
        raise InputError(
            f"target '{series.name}' is missing in row {_row(series, int(np.argmax(missing)))}; "
            "every row needs its class."
        )


def _check_names(frame: pd.DataFrame, roles: Roles) -> None:
    """Holds the roles' names against the table's."""
    given = [name for name in frame.columns if isinstance(name, str)]
    places = {
        "target": [roles.target],
        "parent": roles.parents,
        "co-parent": roles.coparents,
        "child": roles.children,
        "categorical": roles.categorical,
        "DAG node": roles.nodes,
    }
    for place, names in places.items():
        for name in names:
            if name not in given:
                kind = place if place == "DAG node" else f"{place} column"
                raise unknown_name(kind, name, given)
    _require(frame, [roles.target, *roles.columns])


def _check_columns(spec: InputSpec, frame: pd.DataFrame) -> None:
    """Refuses images' specs and tables without the spec's columns."""
    if not spec.columns:
        raise InputError("a table was given; the spec is of images and has no columns.")
    _require(frame, [column.name for column in spec.columns])


def _require(frame: pd.DataFrame, names: Sequence[str]) -> None:
    """Refuses a table that lacks a column or has it twice."""
    given = [name for name in frame.columns if isinstance(name, str)]
    lacking = [name for name in names if name not in given]
    if lacking:
        spare = [name for name in given if name not in names]
        hints = [(near, name) for name in lacking for near in _nearest(name, spare)]
        guess = (
            f"; did you mean {', '.join(f'{a!r} for {b!r}' for a, b in hints)}?" if hints else "."
        )
        raise InputError(
            f"column{'s' * (len(lacking) > 1)} {', '.join(map(repr, lacking))} "
            f"{'are' if len(lacking) > 1 else 'is'} not in the table, which has "
            f"{', '.join(given) or 'none'}{guess}"
        )
    for name in names:
        if given.count(name) > 1:
            raise InputError(f"the table has column '{name}' twice; rename one.")


def _nearest(name: str, candidates: Sequence[str]) -> list[str]:
    """The candidate nearest to a name, capitals aside, or none."""
    plain = {candidate.lower(): candidate for candidate in candidates}
    near = difflib.get_close_matches(name.lower(), plain, n=1, cutoff=0.6)
    return [plain[found] for found in near]


def _empty(name: str) -> InputError:
    return InputError(f"column '{name}' has no value in the training rows; leave it out.")


def _constant(name: str, value: str) -> InputError:
    return InputError(f"column '{name}' is {value} in every training row; leave it out.")


def _bad_cell(series: pd.Series, bad: np.ndarray, why: str) -> InputError:
    """The error for the first bad value of a column."""
    place = int(np.argmax(bad))
    return InputError(
        f"column '{series.name}', row {_row(series, place)}: '{series.iloc[place]}' {why}."
    )


def _row(series: pd.Series, place: int) -> int:
    """The number of a row in error messages."""
    index = series.index
    return 1 + int(index[place] if pd.api.types.is_integer_dtype(index) else place)
