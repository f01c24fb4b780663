"""The parts of a study in several processes at once; what they leave, the study then finds done."""

from __future__ import annotations

import concurrent.futures
import contextlib
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import rich.progress
from rich.console import Console

from tfcama.errors import InputError
from tfcama.studies.study import Study

_THREADS = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")


def run_parts(
    study: Study, seeds: Sequence[int], *, jobs: int, console: Console | None = None
) -> None:
    """Runs what `study.run` would, but for its report, as processes that share the processor.

    What a part prints goes to <root>/logs/. A part that fails stops none that has begun; the same
    call goes on where this one stopped.

    Args:
      study: see Study.
      seeds: as of `study.run`.
      jobs: processes at a time; the cores are divided among them.
      console: where to tell what is done; standard error by default.

    Raises:
      InputError: fewer than one process, or what the first part that failed says.
    """
    if jobs < 1:
        raise InputError(f"{jobs} jobs were given; at least 1 is needed.")
    parts = {
        f"seed{seed}" + (f"_{name}" if name else ""): (part, seed)
        for place, seed in enumerate(seeds)
        for name, part in (study.repeated if place else study).parts.items()
    }
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
            jobs, mp_context=multiprocessing.get_context("spawn")
        ) as pool,
    ):
        task = bar.add_task(f"{len(parts)} parts, {jobs} at a time", total=len(parts))
        logs = study.root / "logs"
        begun = {
            pool.submit(_run_part, part, seed, logs / f"{name}.log"): name
            for name, (part, seed) in parts.items()
        }
        console.print(f"{len(parts)} parts, {jobs} at a time; what they say is in {logs}")
        for count, future in enumerate(concurrent.futures.as_completed(begun), start=1):
            try:
                future.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
            bar.update(task, completed=count)
            console.print(f"{begun[future]}: done, {count} of {len(parts)}")


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


def _run_part(part: Study, seed: int, log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        log.open("a", buffering=1) as file,
        contextlib.redirect_stdout(file),
        contextlib.redirect_stderr(file),
    ):
        part.one_seed(seed)
