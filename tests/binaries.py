"""The binaries, called as a shell calls them, without paying for their imports each time.

A server process imports what every binary imports, and runs nothing; each call is a fork of it
with descriptors, arguments and an exit status of its own. `command` is for a process from scratch.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_FORKS = multiprocessing.get_context("forkserver")
# No module of the binaries themselves: each defines its flags in the process that runs it.
_FORKS.set_forkserver_preload(
    [
        "trainers.app",
        "tfcama.serving.redeploy",
        "tfcama.serving.server.server",
        "tfcama.studies.demo",
        "tfcama.studies.mechanisms",
        "tfcama.studies.stream",
    ]
)


def command(module: str, *flags: object) -> list[str]:
    """The words of `python -m module flags`."""
    return [sys.executable, "-m", module, *map(str, flags)]


def call(module: str, *flags: object, timeout: float = 240.0) -> subprocess.CompletedProcess:
    """Status and output of `python -m module flags`.

    Raises:
      subprocess.TimeoutExpired: it did not end.
    """
    words = command(module, *flags)
    with tempfile.TemporaryDirectory() as directory:
        outputs = [Path(directory) / name for name in ("stdout", "stderr")]
        process = _FORKS.Process(target=_run, args=(module, words[3:], *map(str, outputs)))
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(words, timeout)
        return subprocess.CompletedProcess(
            words, process.exitcode, *(output.read_text() for output in outputs)
        )


def _run(module: str, flags: list[str], stdout: str, stderr: str) -> None:
    os.chdir(ROOT)
    for descriptor, path in ((1, stdout), (2, stderr)):
        opened = os.open(path, os.O_CREAT | os.O_WRONLY)
        os.dup2(opened, descriptor)
        os.close(opened)
    sys.argv = [module, *flags]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
