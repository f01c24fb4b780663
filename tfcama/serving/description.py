"""tfcama.json: what a version says of itself, and whether its graph is still what was published.

Variables carry checksums of their own (TensorFlow's); saved_model.pb, which holds the graph and its
constants, has none.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from tfcama.errors import InputError

FILE = "tfcama.json"
SAVED_MODEL = "saved_model.pb"
CHECKSUM = "saved_model_sha256"  # key of tfcama.json


def number(name: str) -> int | None:
    """The version that a directory of this name is; None for one that is none.

    A version has one name. TensorFlow Serving takes 007 for 7 as well, where two could be meant.

    Example:
      >>> [number(name) for name in ("7", "007", "7-old", str(2**63))]
      [7, None, None, None]
    """
    if not (name.isascii() and name.isdecimal() and str(int(name)) == name):
        return None
    return int(name) if int(name) < 2**63 else None  # no message holds a higher one


def read(version: Path) -> dict[str, Any] | None:
    """A version directory's tfcama.json; None where there is none, as others' exports have none.

    Raises:
      InputError: it cannot be read, or is no JSON object.
    """
    path = version / FILE
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}).") from None
    if not isinstance(found, dict):
        raise InputError(f"{path} cannot be read (no JSON object is in it).")
    return found


def require(version: Path, *keys: str) -> list[Any]:
    """What a version's tfcama.json says under these keys.

    Raises:
      InputError: it is not there, cannot be read or, of an early export or damaged, lacks one.
    """
    described = read(version)
    if described is None:
        raise InputError(f"{version} has no {FILE}; export.export_saved_model makes it.")
    missing = [key for key in keys if key not in described]
    if missing:
        raise InputError(f"{version / FILE} lacks '{missing[0]}'; export the run again.")
    return [described[key] for key in keys]


def checksum(version: Path) -> str:
    """sha256 of a version directory's saved_model.pb."""
    return hashlib.sha256((version / SAVED_MODEL).read_bytes()).hexdigest()


def check(version: Path) -> None:
    """Holds saved_model.pb against what tfcama.json says of it, where it says something.

    Raises:
      InputError: it is another file than the one that was published.
    """
    described = read(version)
    if described is None or CHECKSUM not in described:
        return
    if checksum(version) != described[CHECKSUM]:
        raise InputError(
            f"{version / SAVED_MODEL} is not the file that was published (its sha256 differs from "
            f"{FILE}'s); copy the version again."
        )
