"""report.json: one frozen schema, tfcama.report/1."""

from __future__ import annotations

import dataclasses
from typing import Any

from tfcama.errors import InputError
from tfcama.evaluation.results import Row

SCHEMA = "tfcama.report/1"
_RUN_KEYS = ("config", "commit", "versions", "seed", "seconds", "made_by")


@dataclasses.dataclass(frozen=True)
class Report:
    """A report's numbers.

    Attributes:
      config: of every run in it, by name.
      commit: of the source that wrote it.
      versions: of Python and the packages.
      seed: of the first run.
      seconds: spent training and fine-tuning, all runs together.
      rows: the results.
      made_by: commits of the sources that trained and scored each run, by name, where they are
        known.
    """

    config: dict[str, Any]
    commit: str
    versions: dict[str, str]
    seed: int
    seconds: float
    rows: tuple[Row, ...]
    made_by: dict[str, list[str]] = dataclasses.field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "run": {key: getattr(self, key) for key in _RUN_KEYS},
            "results": [dataclasses.asdict(row) for row in self.rows],
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Report:
        """The report that `to_json` wrote.

        Raises:
          InputError: another schema, or keys that are missing or unknown.
        """
        if value.get("schema") != SCHEMA:
            raise InputError(f"schema {value.get('schema')!r} was given; {SCHEMA} is read here.")
        try:
            rows = tuple(Row(**row) for row in value["results"])
            return cls(**value["run"], rows=rows)
        except (KeyError, TypeError) as error:
            raise InputError(f"this is no {SCHEMA} report ({error}).") from None
