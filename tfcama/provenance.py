"""Where a number comes from: commit and versions."""

from __future__ import annotations

import functools
import importlib.metadata
import platform
import subprocess
from pathlib import Path

_PACKAGES = (
    "tensorflow",
    "keras",
    "tensorflow-probability",
    "cleverhans",
    "tensorflow-datasets",
    "numpy",
    "scikit-learn",
)


@functools.cache
def commit() -> str:
    """The git commit of the source, with "+changes" where files differ from it; or "unknown".

    As it was when a process asked first: later edits are not what runs.
    """
    here = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "*.py")
        return git("rev-parse", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def versions() -> dict[str, str]:
    """Version of Python and of every package that a result depends on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        found[package] = importlib.metadata.version(package)
    return found
