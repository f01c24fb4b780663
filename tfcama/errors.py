"""The one exception that means: the input was wrong, not the program."""

import difflib
import os
from collections.abc import Iterable


class InputError(ValueError):
    """Bad input: one sentence that names what was given and what is allowed.

    Binaries print it without a traceback and exit with a non-zero status; every other exception is
    a defect of tfcama and keeps its traceback.
    """


def unknown_name(kind: str, given: str, known: Iterable[str]) -> InputError:
    """The error for a name that is in no list: names the list and the nearest entry.

    Example:
      >>> str(unknown_name("model", "camma", ["cama", "dnn"]))
      "unknown model 'camma'; did you mean 'cama'? Valid names: cama, dnn"
    """
    names = sorted(known)
    # A dotted name is also found by its last part: dimz is near architecture.dim_z.
    parts = {name.rpartition(".")[2]: name for name in names} | {name: name for name in names}
    near = [parts[part] for part in difflib.get_close_matches(given, parts, n=1, cutoff=0.4)]
    hint = f"; did you mean '{near[0]}'?" if near else "."
    return InputError(f"unknown {kind} '{given}'{hint} Valid names: {', '.join(names)}")


def unreadable(path: str | os.PathLike[str], error: OSError) -> InputError:
    """The error for a file that cannot be opened; says where it was looked for."""
    where = "" if os.path.isabs(os.path.expanduser(path)) else f" in {os.getcwd()}"
    return InputError(f"{path} cannot be read: {error.strerror}{where}.")
