"""The run directory: how the stages hand over to each other.

    config.json  checkpoints/  metrics.jsonl  tensorboard/  results/  report/  export/

Files are written whole or not at all: into a temporary neighbour, then renamed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from tfcama.config import differences
from tfcama.errors import InputError, unreadable

_PATIENCE = 120.0  # seconds that a machine waits for what the first one writes
_STALE = 3600.0  # seconds after which nobody on another machine still writes a temporary neighbour


class Workdir:
    """Paths inside one run directory, and its config.json; equal if of the same directory.

    Args:
      root: the directory; it need not exist yet.
    """

    def __init__(self, root: str | Path):
        self.root = Path(root).expanduser()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Workdir) and self.root.resolve() == other.root.resolve()

    def __hash__(self) -> int:
        return hash(self.root.resolve())

    @property
    def config_file(self) -> Path:
        return self.root / "config.json"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def metrics_file(self) -> Path:
        return self.root / "metrics.jsonl"

    @property
    def tensorboard(self) -> Path:
        return self.root / "tensorboard"

    @property
    def results(self) -> Path:
        return self.root / "results"

    @property
    def report(self) -> Path:
        return self.root / "report"

    def claim(
        self,
        config: dict[str, Any],
        *,
        writes: bool = True,
        read: Callable[[dict[str, Any]], dict[str, Any]] = lambda found: found,
        instead: str = "take another --workdir",
    ) -> None:
        """Makes the directory this configuration's own, or continues it.

        Args:
          config: of the run.
          writes: whether this process may; another one waits for what the first of several machines
            writes, and compares.
          read: what a configuration that was written before means, by keys that are newer.
          instead: what else could be done.

        Raises:
          InputError: it already belongs to another configuration, or to none that is known; a
            file has the name of a directory that a run needs; or nobody wrote one.
        """
        if not writes:
            self._wait_for_config()
        self.check_free(config, read=read, instead=instead)
        if not self.config_file.exists():
            write_json(self.config_file, plain(config))

    def check_free(
        self,
        config: dict[str, Any],
        *,
        read: Callable[[dict[str, Any]], dict[str, Any]] = lambda found: found,
        instead: str = "take another --workdir",
    ) -> None:
        """Raises InputError where `claim` of this configuration would; writes nothing."""
        for path in (self.checkpoints, self.tensorboard, self.results, self.report):
            if path.exists() and not path.is_dir():
                raise InputError(f"{path} is no directory; delete it, or {instead}.")
        if self.config_file.exists():
            changed = differences(plain(read(self.read_config())), plain(config))
            if changed:
                raise InputError(
                    f"{self.root} belongs to a run of another configuration "
                    f"({'; '.join(changed)}); {instead}, or give the same flags to "
                    "continue."
                )
        elif any(self.checkpoints.glob("[0-9]*")):
            raise InputError(
                f"{self.root} holds checkpoints, and no config.json that says of what; delete "
                f"them, or {instead}."
            )

    def _wait_for_config(self) -> None:
        """Until the process that writes has claimed the directory."""
        end = time.monotonic() + _PATIENCE
        while not self.config_file.exists():
            if time.monotonic() > end:
                raise InputError(
                    f"no machine wrote {self.config_file} within {_PATIENCE:g} seconds; all need "
                    "the same --workdir, on a file system that they share."
                )
            time.sleep(0.1)

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keeps other processes from writing to the directory while the block runs.

        By a lock on the directory, which ends with the process. Where the file system has none,
        nobody is kept.

        Raises:
          InputError: another process is writing, or the directory cannot be made.
        """
        with _writing(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            directory = os.open(self.root, os.O_RDONLY)
        try:
            try:
                fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(
                    f"another process is writing to {self.root}; wait for it, or stop it."
                ) from None
            except OSError:
                pass
            yield
        finally:
            os.close(directory)

    def read_config(self) -> dict[str, Any]:
        """config.json.

        Raises:
          InputError: the directory holds no run, or its config.json cannot be read.
        """
        if not self.config_file.exists():
            raise InputError(
                f"{self.root} holds no run: config.json is missing; "
                "name the --workdir of a finished `trainers.train`."
            )
        try:
            found = json.loads(self.config_file.read_text())
        except OSError as error:
            raise unreadable(self.config_file, error) from None
        except ValueError as error:
            raise InputError(f"{self.config_file} is not JSON ({error}).") from None
        if not isinstance(found, dict):
            raise InputError(f"{self.config_file} is no configuration: no JSON object is in it.")
        return found


def plain(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration as config.json holds it: tuples become lists."""
    return json.loads(json.dumps(config))


@contextlib.contextmanager
def atomic_directory(target: Path, *, replace: bool = True) -> Iterator[Path]:
    """A temporary directory beside `target` that takes its name when the block ends well.

    An error inside, or a kill, leaves `target` as it was. What `target` held before is replaced,
    or, if it may not be, stays and FileExistsError is raised. A link stays one: what it leads to is
    replaced.

    Raises:
      InputError: `target` cannot be written, or is the current directory.
    """
    target = target.resolve()
    if target == Path.cwd():
        raise InputError(f"{target} is the current directory; name another one to be written.")
    _clear(target)
    temporary = _beside(target)
    replaced = temporary.with_name(f"{temporary.name}-replaced")
    shutil.rmtree(temporary, ignore_errors=True)
    with _writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
    try:
        yield temporary
        with _writing(target):
            if replace and target.exists():
                os.replace(target, replaced)
            try:
                os.rename(temporary, target)
            except OSError:
                if replace or not target.exists():
                    raise
        if temporary.exists():  # somebody else was first
            raise FileExistsError(str(target))
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)


@contextlib.contextmanager
def atomic_file(target: Path, mode: str = "wb", **options: Any) -> Iterator[IO[Any]]:
    """A file beside `target` that takes its name when the block ends well, for what is streamed.

    Args:
      target: what it held before is replaced; of a link, what it leads to.
      mode: of `open`.
      **options: of `open`.

    Raises:
      InputError: `target` cannot be written, or is there and no file, as /dev/stdout.
    """
    with _writing(target):
        replaceable = target.is_file() or not target.exists()
    if not replaceable:
        kind = "a directory" if target.is_dir() else "no regular file"
        raise InputError(f"{target} cannot be written: it is {kind}.")
    target = target.resolve()
    _clear(target)
    temporary = _beside(target)
    with _writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        file = temporary.open(mode, **options)
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def entries(directory: Path, *, what: str) -> list[Path]:
    """What is in a directory, in order; nothing where there is none yet.

    Args:
      directory: for something to be written.
      what: it is, in the error.

    Raises:
      InputError: it is a file, or cannot be read.
    """
    if directory.exists() and not directory.is_dir():
        raise InputError(f"{directory} is a file; name a directory for the {what}.")
    try:
        return sorted(directory.iterdir()) if directory.exists() else []
    except OSError as error:
        raise unreadable(directory, error) from None


def _beside(target: Path) -> Path:
    """A hidden name of this process in the same directory, from which it is one rename."""
    return target.with_name(f".{target.name}-{os.getpid()}")


def clear_unfinished(directory: Path, *, of: Callable[[str], bool]) -> None:
    """Removes what processes that were killed left beside what they were to write.

    What is younger than an hour stays: it may be a process's on another machine.

    Args:
      directory: nothing is done where it does not exist.
      of: whether to do so for the name of a file or directory that was to be written.
    """
    for path in directory.glob(".*-*"):
        left = re.fullmatch(r"\.(.+)-(\d+)(-replaced)?", path.name)
        if left is None or not of(left[1]):
            continue
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime < _STALE or _runs(int(left[2])):
                continue
            if left[3] and not path.with_name(left[1]).exists():
                continue  # killed in between: it is all that is left
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _clear(target: Path) -> None:
    """Removes what processes that were killed left beside `target`."""
    clear_unfinished(target.parent, of=lambda name: name == target.name)


def _runs(pid: int) -> bool:
    """Whether there is such a process on this machine."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # somebody else's
    return True


@contextlib.contextmanager
def _writing(target: Path) -> Iterator[None]:
    """Says of a path that it cannot be written, unless the disk is full."""
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            raise
        raise InputError(f"{target} cannot be written: {error.strerror}.") from error


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all."""
    with atomic_file(path) as file:
        file.write(content)


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Writes JSON whole or not at all."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def is_disk_full(error: BaseException) -> bool:
    """Whether an error, TensorFlow's included, says that the device has no space left."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return "No space left on device" in str(error)
