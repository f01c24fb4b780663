"""What evaluation produces: rows of numbers, kept under `workdir/results/` until a report."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from tfcama import provenance
from tfcama.errors import InputError
from tfcama.training import checkpoints
from tfcama.workdir import Workdir, write_json

_CONFIDENCE = 0.95
_ROWS = "{}.rows.json"


@dataclasses.dataclass(frozen=True)
class Row:
    """One accuracy and everything it depends on.

    Attributes:
      experiment: what was asked, e.g. "manipulation", "manipulation_held_out", "attack".
      model: registry name.
      dataset: registry name.
      trained_on: "clean", or "clean+" and the augmentation.
      finetuned_on: what it was adapted to, see RunConfig.adapted_to; "" for none.
      manipulation: of the inputs, without its level; "" for none.
      level: of the manipulation.
      attack: its specification; "" for none.
      eps: of the attack.
      seed: of the run; the draws of an evaluation follow from it.
      n: inputs scored.
      accuracy: in [0, 1]; of a stochastic model the mean over the draws that scored it.
      low, high: Wilson 95 % interval for `accuracy` of n inputs.
      variant: how the model differs from its defaults, see RunConfig.variant, and what its answers
        are means over, see Subject.augmentation; "" for neither.
      draws: of a stochastic model's noise, independent of one another, that scored it.
      spread: standard deviation of the accuracy over these draws; None for one.
    """

    experiment: str
    model: str
    dataset: str
    trained_on: str
    finetuned_on: str
    manipulation: str
    level: float
    attack: str
    eps: float
    seed: int
    n: int
    accuracy: float
    low: float
    high: float
    variant: str = ""
    draws: int = 1
    spread: float | None = None


def wilson(hits: float, n: int) -> tuple[float, float]:
    """The Wilson 95 % interval of a share.

    Args:
      hits: successes among n; may be fractional, a mean over draws, and is rounded then.
      n: positive.

    Example:
      >>> low, high = wilson(95, 100)
      >>> round(low, 3), round(high, 3)
      (0.888, 0.978)
    """
    interval = stats.binomtest(round(hits), n).proportion_ci(_CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)


def scored(hits: np.ndarray, **identity: Any) -> Row:
    """A row from what was hit, [N] or [R draws, N] bool; the identity fills the other fields."""
    hits = np.atleast_2d(hits)
    draws, n = hits.shape
    if not n:
        raise InputError("an accuracy of no inputs was asked for.")
    accuracy = float(hits.mean())
    low, high = wilson(accuracy * n, n)
    spread = float(hits.mean(axis=1).std(ddof=1)) if draws > 1 else None
    return Row(**identity, n=n, accuracy=accuracy, low=low, high=high, draws=draws, spread=spread)


def accuracy_text(row: Row) -> str:
    """A row's accuracy as a line of text: "accuracy 0.7500 ± 0.0353 over 10 draws"."""
    over = "" if row.spread is None else f" ± {row.spread:.4f} over {row.draws} draws"
    return f"accuracy {row.accuracy:.4f}{over}"


def save_rows(
    workdir: Workdir, name: str, rows: list[Row], *, asked: Mapping[str, Any] | None = None
) -> Path:
    """Writes rows to results/<name>.rows.json, replacing what that experiment left before.

    Args:
      workdir: of the run that was scored.
      name: of the experiment.
      rows: what it gave.
      asked: what the rows depend on and the name does not tell, e.g. levels and limit; of what JSON
        can hold.
    """
    path = _rows_file(workdir, name)
    kept = [dataclasses.asdict(row) for row in rows]
    write_json(path, {"asked": asked or {}, "commit": provenance.commit(), "rows": kept})
    return path


def commits(workdir: Workdir) -> list[str]:
    """Of the sources that made a run's checkpoints and rows, as far as that was kept, sorted.

    Raises:
      InputError: a file that is no list of rows, or a checkpoint that cannot be read.
    """
    of_rows = {_read(path)["commit"] for path in workdir.results.glob(_ROWS.format("*"))}
    of_checkpoints = {checkpoint.commit for checkpoint in checkpoints.listed(workdir.checkpoints)}
    return sorted(filter(None, of_rows | of_checkpoints))


def has_rows(workdir: Workdir, name: str, *, asked: Mapping[str, Any] | None = None) -> bool:
    """Whether `save_rows` left this experiment here, asked the same: it need not be done again.

    Raises:
      InputError: a file that holds no rows.
    """
    path = _rows_file(workdir, name)
    return path.exists() and _read(path)["asked"] == json.loads(json.dumps(asked or {}))


def is_scored(workdir: Workdir) -> bool:
    """Whether `load_rows` would find any, without reading them."""
    return any(workdir.results.glob(_ROWS.format("*")))


def load_rows(workdir: Workdir, name: str = "*") -> list[Row]:
    """Rows that evaluation left in a workdir.

    Args:
      workdir: of the run that was scored.
      name: of the experiment, as in save_rows; "*" for all.

    Raises:
      InputError: a file that is no list of rows.
    """
    paths = sorted(workdir.results.glob(_ROWS.format(name)))
    return [row for path in paths for row in _read(path)["rows"]]


def _read(path: Path) -> dict[str, Any]:
    """What `save_rows` wrote; before it wrote what was asked, it wrote a list."""
    try:
        found = json.loads(path.read_text())
        if isinstance(found, list):
            found = {"asked": None, "rows": found}
        rows = [Row(**row) for row in found["rows"]]
        return {"asked": found["asked"], "commit": found.get("commit", ""), "rows": rows}
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path} holds no rows of results ({error}); delete it.") from None


def _rows_file(workdir: Workdir, name: str) -> Path:
    return workdir.results / _ROWS.format(name)


def one_a_seed(rows: Iterable[Row]) -> list[Row]:
    """Of the rows of one number, one a seed: of those that were scored apart, of most inputs."""
    found: dict[int, Row] = {}
    for row in rows:
        if row.seed not in found or row.n > found[row.seed].n:
            found[row.seed] = row
    return list(found.values())
