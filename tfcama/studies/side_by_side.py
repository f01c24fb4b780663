"""Pieces of an experiment in several processes at once; what they leave, it then finds done."""

from __future__ import annotations

import concurrent.futures
import contextlib
import graphlib
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

import rich.progress
from rich.console import Console

from tfcama.errors import InputError

_THREADS = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")


class Piece(NamedTuple):
    """Work that is done by itself, once what it goes on from is done.

    Attributes:
      call: does it, and leaves what it made in a workdir; can be pickled.
      after: names of the pieces that it goes on from.
    """

    call: Callable[[], Any]
    after: tuple[str, ...] = ()


def run_side_by_side(
    pieces: Mapping[str, Piece],
    *,
    jobs: int,
    logs: Path,
    console: Console | None = None,
) -> dict[str, Any]:
    """Calls every piece in a process of its own or of those before it; they share the processor.

    A piece that fails stops none that has begun; those that have not are left for the next time.

    Args:
      pieces: by name.
      jobs: processes at a time; the cores are divided among them.
      logs: directory of what the pieces print, a file each, which grows.
      console: where to tell what is done; standard error by default.

    Returns:
      What the pieces returned, by name; it can be pickled.

    Raises:
      InputError: fewer than one process, one that was killed, or what the first piece that failed
        says.
    """
    if jobs < 1:
        raise InputError(f"{jobs} jobs were given; at least 1 is needed.")
    console = console or Console(stderr=True)
    columns = rich.progress.Progress.get_default_columns()
    bar = rich.progress.Progress(
        *columns,
        rich.progress.MofNCompleteColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    with (
        bar,
        _threads(max(1, (os.cpu_count() or 1) // jobs)),
        concurrent.futures.ProcessPoolExecutor(
            jobs, mp_context=multiprocessing.get_context("spawn"), initializer=_end_with_parent
        ) as pool,
    ):
        about = f"{len(pieces)} pieces, {jobs} at a time"
        task = bar.add_task(about, total=len(pieces))
        console.print(f"{about}; what they say is in {logs}")
        order = graphlib.TopologicalSorter({name: each.after for name, each in pieces.items()})
        order.prepare()
        begun, found = dict[concurrent.futures.Future, str](), dict[str, Any]()
        while order.is_active():
            for name in order.get_ready():
                begun[pool.submit(_run, pieces[name].call, logs / f"{name}.log")] = name
            ended, _ = concurrent.futures.wait(
                begun, return_when=concurrent.futures.FIRST_COMPLETED
            )
            for future in ended:
                try:
                    returned = future.result()
                except BrokenProcessPool:
                    raise InputError(
                        f"a process of {', '.join(begun.values())} was killed, for want of memory "
                        f"perhaps; see {logs}. The same command continues; fewer jobs need less."
                    ) from None
                except BaseException:
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise
                name = begun.pop(future)
                found[name] = returned
                order.done(name)
                bar.update(task, completed=len(found))
                console.print(f"{name}: done, {len(found)} of {len(pieces)}")
    return found


@contextlib.contextmanager
def _threads(number: int) -> Iterator[None]:
    """So many threads for the TensorFlow of every process that is begun meanwhile."""
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, str(number)))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _end_with_parent() -> None:
    """Ends this process where its parent was killed, so that nobody works on what is begun anew."""

    def wait() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _run(piece: Callable[[], Any], log: Path) -> Any:
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        log.open("a", buffering=1) as file,
        contextlib.redirect_stdout(file),
        contextlib.redirect_stderr(file),
    ):
        return piece()
