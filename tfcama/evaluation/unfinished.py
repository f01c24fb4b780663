"""What a long evaluation has made so far, so that one that was killed goes on."""

from __future__ import annotations

import contextlib
import json
import shutil
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from tfcama import provenance
from tfcama.workdir import Workdir, atomic_file, write_json

Keep: TypeAlias = Callable[[str, Callable[[], np.ndarray]], np.ndarray]
"""The array of a key, made by the function unless an earlier call made it."""

_ASKED = "asked.json"


def made_anew(key: str, make: Callable[[], np.ndarray]) -> np.ndarray:
    """A Keep that keeps nothing."""
    del key
    return make()


@contextlib.contextmanager
def kept(workdir: Workdir, name: str, *, asked: Mapping[str, Any]) -> Iterator[Keep]:
    """A Keep whose arrays stay in results/<name>.unfinished/ until the block ends well.

    They serve whoever asks the same of the same sources; what was asked otherwise is dropped. What
    the block did not ask for stays: it may be another one's that was killed.

    Args:
      workdir: of the run that is evaluated.
      name: of the evaluation.
      asked: what the arrays depend on besides their keys; of what JSON can hold.
    """
    directory = workdir.results / f"{name}.unfinished"
    question = json.loads(json.dumps({**asked, "commit": provenance.commit()}))
    if _question(directory) != question:
        shutil.rmtree(directory, ignore_errors=True)

    used = []

    def keep(key: str, make: Callable[[], np.ndarray]) -> np.ndarray:
        path = directory / f"{urllib.parse.quote(key, safe='')}.npy"
        used.append(path)
        if path.exists():
            return np.load(path)
        array = make()
        if not (directory / _ASKED).exists():
            write_json(directory / _ASKED, question)
        with atomic_file(path) as file:
            np.save(file, array)
        return array

    yield keep
    for path in used:
        path.unlink(missing_ok=True)
    if not any(directory.glob("*.npy")):
        shutil.rmtree(directory, ignore_errors=True)


def _question(directory: Path) -> Any:
    """What the arrays were made for; None if that cannot be told."""
    try:
        return json.loads((directory / _ASKED).read_text())
    except (OSError, ValueError):
        return None
