r"""What every binary shares: quiet start-up, and one clear sentence for bad input."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import NoReturn


@contextlib.contextmanager
def _quiet_native_stderr() -> Iterator[None]:
    """Hides what C++ prints at import before it reads TF_CPP_MIN_LOG_LEVEL."""
    sys.stderr.flush()
    saved = os.dup(2)
    with open(os.devnull, "w") as null:
        os.dup2(null.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
with _quiet_native_stderr():
    import tensorflow

from absl import app, flags, logging

from tfcama.errors import InputError
from tfcama.workdir import is_disk_full

logging.set_verbosity(logging.ERROR)  # here: processes that a binary starts import it, too
INPUT_ERROR_STATUS = 2
INTERRUPTED_STATUS = 130
_GONE = (
    tensorflow.errors.UnavailableError,
    tensorflow.errors.AbortedError,
    tensorflow.errors.CancelledError,
    tensorflow.errors.DeadlineExceededError,
)


def run(main: Callable[[], None]) -> None:
    """Parses the flags and runs `main`; bad input ends in a sentence and a non-zero status."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a log is read while the job goes on
        sys.stdout.reconfigure(line_buffering=True)
    _explain_shared_flags(sys.modules["__main__"])
    app.run(lambda argv: _guarded(main, argv), flags_parser=_parse)


def _explain_shared_flags(module: ModuleType) -> None:
    """Lets --help tell of shared flags that a module uses, too; alone it tells of its own."""
    found = flags.FLAGS.get_flags_for_module(module.__name__)
    for value in vars(module).values():
        if isinstance(value, flags.FlagHolder):
            found.append(flags.FLAGS[value.name])
        elif isinstance(value, ModuleType) and value.__name__.startswith("trainers."):
            _explain_shared_flags(value)
    for flag in found:
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)


def _parse(argv: list[str]) -> list[str]:
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        _fail(f"{error}; --help explains every flag.")


def _guarded(main: Callable[[], None], argv: list[str]) -> None:
    if len(argv) > 1:
        _fail(f"flags are needed, '{argv[1]}' was given; --help explains every flag.")
    try:
        main()
    except (InputError, FloatingPointError) as error:
        _fail(str(error))
    except (OSError, tensorflow.errors.OpError) as error:
        if "TF_CONFIG" in os.environ and isinstance(error, _GONE):
            _fail(
                "another machine of TF_CONFIG has ended or cannot be reached; the same command on "
                "all of them continues."
            )
        if not is_disk_full(error):
            raise
        said = str(error).strip().splitlines()[-1]
        _fail(f"the disk is full ({said}); checkpoints are whole. Free space and run it again.")
    except KeyboardInterrupt:
        print("stopped; give the same command again.", file=sys.stderr)
        sys.exit(INTERRUPTED_STATUS)


def _fail(sentence: str) -> NoReturn:
    print(f"error: {sentence}", file=sys.stderr)
    sys.exit(INPUT_ERROR_STATUS)
