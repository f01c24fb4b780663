"""What was checked, and how it came out; the sanity checks that a run keeps."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tfcama.workdir import Workdir, write_json

_FILE = "sanity.json"


@dataclasses.dataclass(frozen=True)
class Check:
    """One sanity check of an attack (Carlini et al., 2019), or one claim about results.

    Attributes:
      name: what is checked.
      passed: whether it holds; None where the numbers cannot tell.
      detail: the numbers it rests on.
    """

    name: str
    passed: bool | None
    detail: str

    @property
    def verdict(self) -> str:
        """For people: pass, FAIL or open."""
        return {True: "pass", False: "FAIL", None: "open"}[self.passed]


def together(verdicts: Iterable[bool | None]) -> bool | None:
    """Whether all of several hold: False if one does not, else None if one cannot be told."""
    found = list(verdicts)
    return False if False in found else None if None in found else True


def save_checks(
    workdir: Workdir, checks: Sequence[Check], *, inputs: int, asked: Mapping[str, Any]
) -> None:
    """Writes results/sanity.json.

    Args:
      workdir: of the run that was checked.
      checks: how they came out.
      inputs: how many were attacked.
      asked: eps, and what else they depend on; of what JSON can hold.
    """
    kept = [dataclasses.asdict(check) for check in checks]
    write_json(workdir.results / _FILE, {"inputs": inputs, "asked": asked, "checks": kept})


def has_checks(workdir: Workdir, *, asked: Mapping[str, Any]) -> bool:
    """Whether `save_checks` left checks here that were asked the same."""
    return _read(workdir)["asked"] == json.loads(json.dumps(asked))


def load_checks(workdir: Workdir, *, of: str) -> dict[str, list[Check]]:
    """The sanity checks that were run on a workdir under a heading; none is an empty dict.

    Args:
      workdir: of the run.
      of: its name, for people.
    """
    saved = _read(workdir)
    if not saved["checks"]:
        return {}
    about = f"{saved['inputs']} inputs, eps {saved['asked']['eps']:.3g}"
    checks = [Check(**check) for check in saved["checks"]]
    return {f"Sanity of the attacks: {of}, {about}": checks}


def _read(workdir: Workdir) -> dict[str, Any]:
    path = workdir.results / _FILE
    return json.loads(path.read_text()) if path.exists() else {"asked": {}, "checks": []}
